//! The way to one loaded model.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;

use crate::failure::{Code, Failure};
use crate::pipeline::batch::limit::Limit;
use crate::pipeline::batch::traffic::{Approach, Traffic};
use crate::pipeline::decode::Ready;
use crate::pipeline::queue;
use crate::pipeline::tag::Model;
use crate::pipeline::tag::work::{Trial, Work};
use crate::telemetry::metrics;

/// Where a model's rows go, and what is on its way there.
pub(crate) struct Lane {
    /// The model.
    pub model: Arc<Model>,
    /// Where ready rows go.
    pub rows: queue::Sender<Ready>,
    /// What comes of them.
    tag: Sender<Work>,
    traffic: Arc<Traffic>,
}

/// A job on its way to a lane.
pub(crate) struct Heading {
    /// Where it goes.
    pub lane: Arc<Lane>,
    /// Counts it as coming.
    pub approach: Approach,
}

impl Lane {
    /// A lane with batches of this size that go to `tag`, and the rows that come out of it.
    #[must_use]
    pub(crate) fn new(model: Arc<Model>, limit: Limit, tag: Sender<Work>) -> (Arc<Self>, queue::Receiver<Ready>) {
        let (rows, ready) = queue::bounded(1);
        metrics::batch_limit(&model.id.name, limit.rows());
        let traffic = Traffic::new(limit, model.devices.len(), model.wants_batches_ahead());
        (Arc::new(Self { model, rows, tag, traffic: Arc::new(traffic) }), ready)
    }

    /// Runs so many blank images at once, between two batches; how long that took.
    ///
    /// # Errors
    /// What the runtime says, or `shutting_down`.
    pub(crate) async fn try_out(&self, rows: usize) -> Result<Duration, Failure> {
        let gone = || Failure::new(Code::ShuttingDown, "the model is being unloaded");
        let (answer, answered) = oneshot::channel();
        self.tag.send(Work::Trial(Trial { rows, answer })).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// What its window decides by.
    #[must_use]
    pub(crate) fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }
}

impl Heading {
    /// Heads for this lane; `urgent` where somebody waits for the job.
    #[must_use]
    pub(crate) fn to(lane: &Arc<Lane>, urgent: bool) -> Self {
        Self { lane: Arc::clone(lane), approach: Approach::begin(&lane.traffic, urgent) }
    }
}
