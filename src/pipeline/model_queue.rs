//! Queue of one loaded model for ready rows, and the routes to it.

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

/// Queue of a loaded model.
pub(crate) struct ModelQueue {
    /// The model.
    pub(crate) model: Arc<LoadedModel>,
    /// Receives ready rows.
    pub(crate) rows: queue::Sender<Ready>,
    /// Receives work for the runners.
    work: Sender<Work>,
    state: Arc<QueueState>,
}

/// Route of a job to the queue of its model.
pub(crate) struct Route {
    /// The queue.
    pub(crate) queue: Arc<ModelQueue>,
    /// Counts the job as pending there.
    pub(crate) pending: Pending,
}

impl ModelQueue {
    /// Creates a queue that sends its rows to `rows` and its trials to `work`.
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

    /// Runs `rows` blank images as one batch, between two others. Returns the time of the run.
    ///
    /// # Errors
    /// The runtime's failure, or `shutting_down`.
    pub(crate) async fn try_out(&self, rows: usize) -> Result<Duration, Failure> {
        let gone = || Failure::new(Code::ShuttingDown, "the model is being unloaded");
        let (answer, answered) = oneshot::channel();
        self.work.send(Work::Trial(Trial { rows, answer })).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// State that its batcher decides by.
    #[must_use]
    pub(crate) fn state(&self) -> Arc<QueueState> {
        Arc::clone(&self.state)
    }
}

impl Route {
    /// Creates a route to this queue for a job of this priority.
    #[must_use]
    pub(crate) fn new(queue: &Arc<ModelQueue>, priority: Priority) -> Self {
        Self { queue: Arc::clone(queue), pending: Pending::begin(&queue.state, priority) }
    }

    /// Creates a route for a job that is already pending at this queue, or at one that it replaces.
    #[must_use]
    pub(crate) fn with_pending(queue: &Arc<ModelQueue>, pending: Pending) -> Self {
        let pending =
            if pending.is_for(&queue.state) { pending } else { Pending::begin(&queue.state, pending.priority()) };
        Self { queue: Arc::clone(queue), pending }
    }
}
