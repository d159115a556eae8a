//! What the threads that own a model are given to do.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::failure::Failure;
use crate::pipeline::batch::Batch;

/// A piece of it.
pub(crate) enum Work {
    /// Tag these.
    Batch(Batch),
    /// Show what it can do.
    Trial(Trial),
}

/// Blank images to run at once, to see how long that takes.
pub(crate) struct Trial {
    /// How many.
    pub rows: usize,
    /// How long they took, or why they did not run.
    pub answer: oneshot::Sender<Result<Duration, Failure>>,
}
