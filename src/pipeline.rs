//! The stages and the channels between them, in the order of a job's path, and their ends.
//!
//! [`Pipeline::start`] creates all of them except the stages of a model, which [`start_model`] creates for each model that
//! the pool loads. The stages' files follow the same path; `handoff` has the types that they share.

pub(crate) mod accept;
pub mod batch;
pub(crate) mod concurrency;
pub(crate) mod context;
pub mod decode;
pub(crate) mod fetch;
pub(crate) mod handoff;
pub(crate) mod loaded;
pub(crate) mod model_queue;
pub(crate) mod pool;
pub(crate) mod publish;
pub(crate) mod queue;
mod queue_state;
pub(crate) mod stage;
pub mod tag;

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, Sender};
use tokio::task::JoinSet;

use crate::model::catalog::Catalog;
use crate::store::Store;
use crate::telemetry::labels::Stage;
use accept::Incoming;
use batch::limit::Limit;
use concurrency::Estimator;
use handoff::Finished;
use model_queue::ModelQueue;
use pool::ModelPool;
use stage::{Ended, guarded};
use tag::Loaded;
use tag::health::InferenceHealth;

/// Capacity for answers that wait for **publish**, a few kB each. It is large, so that no stage waits for the broker.
const ANSWERS: usize = 256;

/// Error of a stage that ended while the others still ran: the worker cannot continue.
#[derive(Debug, thiserror::Error)]
#[error("the {stage} stage ended: {reason}")]
pub(crate) struct StageEnded {
    stage: &'static str,
    reason: String,
}

/// Settings of every stage.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Settings of `fetch`.
    pub(crate) fetch: fetch::Settings,
    /// Settings of `decode`.
    pub(crate) decode: decode::Settings,
    /// Settings of the models, `batch` and `tag`.
    pub(crate) pool: pool::Settings,
    /// Settings of `publish`.
    pub(crate) publish: publish::Settings,
}

/// The running stages.
pub(crate) struct Pipeline {
    stages: JoinSet<(Stage, Result<(), Ended>)>,
    pool: Arc<ModelPool>,
    estimator: Arc<Estimator>,
}

impl Pipeline {
    /// Starts every stage, without a loaded model. Jobs come in through the returned sender, and the pipeline ends once all
    /// copies of it are dropped.
    #[must_use]
    pub(crate) fn start(
        settings: Settings,
        stores: Vec<Store>,
        catalog: Catalog,
        default: &str,
    ) -> (Sender<Incoming>, Self) {
        let Settings { fetch, decode, pool, publish } = settings;
        let estimator = Arc::new(Estimator::default());
        // Short, because a job that waits in a channel is held from other workers and gains nothing.
        let (to_accept, incoming) = mpsc::channel(1);
        let (to_fetch, accepted) = mpsc::channel(1);
        let (to_decode, fetched) = queue::bounded(1);
        let (to_quarantine, quarantined) = mpsc::channel(1);
        let (to_publish, finished) = mpsc::channel(ANSWERS);
        // decode → batch → tag: a queue, a channel and both stages for each model, created by `start_model`.
        let (pool, broken) = ModelPool::new(pool, catalog, default, to_publish.clone());

        let mut stages = JoinSet::new();
        let accept = accept::Accept { stores, pool: Arc::clone(&pool) };
        stages.spawn(named(Stage::Accept, accept::run(accept, incoming, to_fetch, to_publish.clone())));
        let fetch = fetch::Fetch {
            settings: fetch,
            pool: Arc::clone(&pool),
            estimator: Arc::clone(&estimator),
            decode: to_decode,
            quarantine: to_quarantine,
            quarantined: Arc::new(Semaphore::new(4 * decode.threads)),
            publish: to_publish.clone(),
        };
        stages.spawn(named(Stage::Fetch, fetch::run(fetch, accepted)));
        stages.spawn(named(Stage::Decode, decode::run(decode, fetched, quarantined, to_publish)));
        stages.spawn(named(Stage::Tag, Arc::clone(&pool).run(broken)));
        stages.spawn(named(Stage::Publish, publish::run(publish, finished, Arc::clone(&estimator))));
        (to_accept, Self { stages, pool, estimator })
    }

    /// Pool of the models.
    #[must_use]
    pub(crate) const fn pool(&self) -> &Arc<ModelPool> {
        &self.pool
    }

    /// Estimator of the jobs that must be in flight to keep the models busy.
    #[must_use]
    pub(crate) fn estimator(&self) -> Arc<Estimator> {
        Arc::clone(&self.estimator)
    }

    /// Waits for a stage to end while jobs still come in, which is an error.
    ///
    /// Cancel safe.
    pub(crate) async fn broken(&mut self) -> StageEnded {
        loop {
            return match self.stages.join_next().await {
                Some(Ok((_, Err(Ended::NextGone)))) => continue,
                Some(Ok((stage, Ok(())))) => StageEnded { stage: stage.as_str(), reason: "its input closed".into() },
                Some(Ok((stage, Err(Ended::Broken(reason))))) => StageEnded { stage: stage.as_str(), reason },
                Some(Err(error)) => StageEnded { stage: "unknown", reason: error.to_string() },
                None => StageEnded { stage: "last", reason: "all others had ended".into() },
            };
        }
    }

    /// Waits until every stage has ended, after all senders are dropped.
    ///
    /// # Errors
    /// If a stage ended for another reason than its closed input.
    pub(crate) async fn drained(mut self) -> Result<(), StageEnded> {
        while let Some(ended) = self.stages.join_next().await {
            match ended {
                Ok((_, Ok(()) | Err(Ended::NextGone))) => {}
                Ok((stage, Err(Ended::Broken(reason)))) => return Err(StageEnded { stage: stage.as_str(), reason }),
                Err(error) => return Err(StageEnded { stage: "unknown", reason: error.to_string() }),
            }
        }
        Ok(())
    }
}

/// Stages of one model, to be run until the queue's last sender is dropped.
struct ModelStages {
    queue: Arc<ModelQueue>,
    batch: BoxFuture<'static, Result<(), Ended>>,
    tag: BoxFuture<'static, Result<(), Ended>>,
}

/// Creates the queue, the channel and the stages **batch** and **tag** of a loaded model.
fn start_model(
    batch: batch::Settings,
    loaded: Loaded,
    health: InferenceHealth,
    to_publish: Sender<Finished>,
) -> ModelStages {
    let limit = Limit::new(batch.limit, loaded.fits);
    let (to_batch, ready) = queue::bounded(1);
    // Capacity of a batch for every runner, so that the next one is ready as soon as a device is.
    let (to_tag, work) = mpsc::channel(loaded.runners.len().max(1));
    let queue = ModelQueue::new(Arc::clone(&loaded.model), limit, to_batch, to_tag.clone());
    let batch = batch::run(batch, loaded.model.id.name.clone(), ready, queue.state(), to_tag).boxed();
    let tag = tag::run(loaded, work, queue.state(), to_publish, health).boxed();
    ModelStages { queue, batch, tag }
}

/// Runs a stage as a task of its own. Returns its name with its end.
async fn named(
    stage: Stage,
    run: impl Future<Output = Result<(), Ended>> + Send + 'static,
) -> (Stage, Result<(), Ended>) {
    (stage, guarded(run).await)
}
