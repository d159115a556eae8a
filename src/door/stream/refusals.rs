//! Jobs that become dead letters one after another. Where none is tagged between them it is more likely that this worker is
//! set up otherwise than those who publish think, and it would empty the queue of a whole fleet.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::failure::Code;

/// So many in a row are said to be odd.
const ODD: u32 = 32;

/// How many there were in a row.
#[derive(Debug, Default)]
pub(super) struct Refusals(AtomicU32);

impl Refusals {
    /// A job was tagged.
    pub(super) fn tagged(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// A job became a dead letter.
    pub(super) fn refused(&self, code: Code) {
        let elsewhere = matches!(code, Code::ForbiddenLocation | Code::ImageNotFound | Code::UnknownModel);
        if elsewhere && self.0.fetch_add(1, Ordering::Relaxed) + 1 == ODD {
            tracing::error!(
                jobs = ODD,
                %code,
                "all of the last jobs became dead letters; see that this worker has the stores and models of the others (--store, --models)"
            );
        }
    }
}
