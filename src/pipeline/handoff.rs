//! Types that pass through more than two stages: rows, batches and finished jobs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::context::JobContext;
use super::loaded::LoadedModel;
use super::queue::Queued;
use super::queue_state::Pending;
use crate::delivery::Delivery;
use crate::failure::Failure;
use crate::memory::Reservation;
use crate::priority::Priority;

/// One row of a model's input.
pub(crate) struct Input {
    /// RGB, `side * side * 3` bytes.
    pub(crate) bytes: Box<[u8]>,
    /// Memory reserved for them.
    _reserved: Reservation,
}

impl Input {
    /// Creates a row with the memory reserved for it.
    pub(crate) const fn new(bytes: Box<[u8]>, reserved: Reservation) -> Self {
        Self { bytes, _reserved: reserved }
    }
}

/// A job with its row, from **decode** to **batch**.
pub(crate) struct Ready {
    /// The job.
    pub(crate) context: JobContext,
    /// Counts the job as pending until the batcher receives it.
    pub(crate) pending: Pending,
    /// Row of the job.
    pub(crate) input: Input,
}

impl Queued for Ready {
    fn priority(&self) -> Priority {
        self.context.priority()
    }
}

/// One row of a batch.
pub(crate) struct Row {
    /// The job.
    pub(crate) context: JobContext,
    /// Row of the job.
    pub(crate) input: Input,
    /// Time at which the row was ready.
    pub(crate) ready: Instant,
}

/// Rows that run together, oldest first.
pub(crate) struct Batch {
    /// The rows.
    pub(crate) rows: Vec<Row>,
}

/// Work for the runners of a model, from **batch** to **tag**.
pub(crate) enum Work {
    /// Tags these rows.
    Batch(Batch),
    /// Measures the model.
    Trial(Trial),
}

/// Blank images to run as one batch.
pub(crate) struct Trial {
    /// Number of images.
    pub(crate) rows: usize,
    /// Receives the time of the run, or its failure.
    pub(crate) answer: oneshot::Sender<Result<Duration, Failure>>,
}

/// A job with its scores.
pub(crate) struct Scored {
    /// The job.
    pub(crate) context: JobContext,
    /// Model that scored it.
    pub(crate) model: Arc<LoadedModel>,
    /// Device of the run.
    pub(crate) device: Arc<str>,
    /// Scores, one per label, 0..=1.
    pub(crate) scores: Vec<f32>,
    /// Number of images in the batch.
    pub(crate) batch: usize,
}

/// Completed job, from any stage to **publish**.
pub(crate) enum Finished {
    /// The model has scored it.
    Tagged(Box<Scored>),
    /// A stage failed it.
    Failed(Box<(Delivery, Failure)>),
}

impl Finished {
    /// Creates the end of a job that a stage failed.
    #[must_use]
    pub(crate) fn failed(delivery: Delivery, failure: Failure) -> Self {
        Self::Failed(Box::new((delivery, failure)))
    }
}
