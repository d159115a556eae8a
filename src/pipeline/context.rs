//! Context of a job that every stage needs.

use crate::delivery::Delivery;
use crate::failure::{Code, Failure};
use crate::job::Job;
use crate::priority::Priority;
use crate::tags::Seconds;

/// A job in the pipeline.
pub(crate) struct JobContext {
    /// The job as received, except its image and its id.
    pub(crate) job: Job,
    /// Name of the image in answers; for an inline image its hash, once it is read.
    pub(crate) image: String,
    /// Time spent in each stage so far.
    pub(crate) seconds: Seconds,
    /// Guard that answers the source.
    pub(crate) delivery: Delivery,
}

impl JobContext {
    /// Priority of the job, from its source.
    #[must_use]
    pub(crate) const fn priority(&self) -> Priority {
        self.delivery.source().priority()
    }

    /// Returns `true` if the job may have ended a worker. It is decoded in a process of its own and runs in a batch of its
    /// own.
    #[must_use]
    pub(crate) const fn is_quarantined(&self) -> bool {
        self.delivery.is_quarantined()
    }

    /// Fails a job whose client no longer waits, before it costs anything.
    ///
    /// # Errors
    /// `overloaded`.
    pub(crate) fn still_wanted(&self) -> Result<(), Failure> {
        if self.delivery.is_wanted() {
            return Ok(());
        }
        Err(Failure::new(Code::Overloaded, "it was not tagged within the time that its caller would wait"))
    }
}
