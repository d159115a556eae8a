//! Jobs that become dead letters one after another. If none is tagged between them, a wrong setting of this worker is
//! likelier than so many bad jobs, and the worker would empty the queue of a whole fleet.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::failure::Code;
use crate::telemetry::rate_limited;

/// Number of such dead letters in a row that are reported as one error.
const REPORTED: u32 = 32;

const MESSAGE: &str = "the last jobs all became dead letters for want of their image, store or model: is this worker set up as \
                    the others are (--store, --models), or do publishers name what is not there?";

/// Number of such dead letters in a row.
#[derive(Debug, Default)]
pub(super) struct RejectStreak(AtomicU32);

impl RejectStreak {
    /// Resets the streak after a job that was tagged, or whose image at least was there.
    pub(super) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Counts a job that became a dead letter.
    pub(super) fn count(&self, code: Code) {
        if !matches!(code, Code::ForbiddenLocation | Code::ImageNotFound | Code::UnknownModel) {
            return self.end();
        }
        let many = (self.0.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(REPORTED);
        if many && rate_limited::is_new(MESSAGE, Some(code)) {
            tracing::error!(jobs = REPORTED, %code, "{MESSAGE}");
        }
    }
}
