//! The queue of one loaded model: where ready rows go, and the way there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;

use super::batch::limit::Limit;
use super::handoff::{Ready, Trial, Work};
use super::loaded::LoadedModel;
use super::queue;
use super::queue_state::{Pending, QueueState};
use crate::failure::{Code, Failure};
use crate::priority::Priority;
use crate::telemetry::metrics;

/// The queue of a loaded model.
pub(crate) struct ModelQueue {
    /// The model.
    pub(crate) model: Arc<LoadedModel>,
    /// Takes ready rows.
    pub(crate) rows: queue::Sender<Ready>,
    /// Takes work for the runners.
    work: Sender<Work>,
    state: Arc<QueueState>,
}

/// A job's way to the queue of its model.
pub(crate) struct Route {
    /// The queue.
    pub(crate) queue: Arc<ModelQueue>,
    /// Counts the job as pending there.
    pub(crate) pending: Pending,
}

impl ModelQueue {
    /// A queue whose rows go to `rows` and whose trials go to `work`.
    #[must_use]
    pub(crate) fn new(
        model: Arc<LoadedModel>,
        limit: Limit,
        rows: queue::Sender<Ready>,
        work: Sender<Work>,
    ) -> Arc<Self> {
        metrics::batch_limit(&model.id.name, limit.rows());
        let state = Arc::new(QueueState::new(limit, model.devices.len(), model.prefetches()));
        Arc::new(Self { model, rows, work, state })
    }

    /// Runs so many blank images at once, between two batches; returns how long that took.
    ///
    /// # Errors
    /// The runtime's, or `shutting_down`.
    pub(crate) async fn try_out(&self, rows: usize) -> Result<Duration, Failure> {
        let gone = || Failure::new(Code::ShuttingDown, "the model is being unloaded");
        let (answer, answered) = oneshot::channel();
        self.work.send(Work::Trial(Trial { rows, answer })).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// The state that its batcher decides by.
    #[must_use]
    pub(crate) fn state(&self) -> Arc<QueueState> {
        Arc::clone(&self.state)
    }
}

impl Route {
    /// A route to this queue for a job of this priority.
    #[must_use]
    pub(crate) fn new(queue: &Arc<ModelQueue>, priority: Priority) -> Self {
        Self { queue: Arc::clone(queue), pending: Pending::begin(&queue.state, priority) }
    }

    /// A route for a job that is pending already: for this queue, or for one that it has replaced.
    #[must_use]
    pub(crate) fn with_pending(queue: &Arc<ModelQueue>, pending: Pending) -> Self {
        let pending =
            if pending.is_for(&queue.state) { pending } else { Pending::begin(&queue.state, pending.priority()) };
        Self { queue: Arc::clone(queue), pending }
    }
}
