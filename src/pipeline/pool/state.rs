//! Which models are loaded, retired or broken.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use crate::model::Stamp;
use crate::model::catalog::Catalog;
use crate::pipeline::handoff::Finished;
use crate::pipeline::model_queue::ModelQueue;
use crate::pipeline::tag::Stopper;

/// The models, by their state.
pub(super) struct State {
    pub(super) catalog: Arc<Catalog>,
    /// Where jobs of new models end; `None` once no more models are loaded.
    pub(super) finished: Option<Sender<Finished>>,
    pub(super) loaded: HashMap<Arc<str>, Running>,
    /// Models that get no more jobs, until their last job is through.
    pub(super) retired: Vec<Running>,
    pub(super) broken: HashMap<Arc<str>, (Instant, String)>,
}

/// A loaded model.
pub(super) struct Running {
    /// `None` where it gets no more jobs.
    pub(super) queue: Option<Arc<ModelQueue>>,
    pub(super) stamp: Stamp,
    pub(super) used: Instant,
    pub(super) stop: Stopper,
    /// Cancelled once the model is unloaded.
    pub(super) gone: CancellationToken,
}

impl State {
    /// With no model loaded yet.
    pub(super) fn new(catalog: Catalog, finished: Sender<Finished>) -> Self {
        let (loaded, retired, broken) = (HashMap::new(), Vec::new(), HashMap::new());
        Self { catalog: Arc::new(catalog), finished: Some(finished), loaded, retired, broken }
    }

    /// The queue of a model, if it is loaded.
    pub(super) fn use_queue(&mut self, name: &str) -> Option<Arc<ModelQueue>> {
        let running = self.loaded.get_mut(name)?;
        running.used = Instant::now();
        running.queue.clone()
    }

    /// Gives a model no more jobs; the token returned is cancelled once it is unloaded.
    pub(super) fn retire(&mut self, name: &str) -> Option<CancellationToken> {
        let running = self.loaded.remove(name)?;
        let gone = running.gone.clone();
        self.retired.retain(|running| !running.gone.is_cancelled());
        self.retired.push(Running { queue: None, ..running });
        Some(gone)
    }

    /// Retires the least recently used model where `max` are loaded; the token returned is cancelled once it is unloaded.
    pub(super) fn evict(&mut self, max: usize) -> Option<CancellationToken> {
        if self.loaded.len() < max {
            return None;
        }
        let oldest = self.loaded.iter().min_by_key(|(_, running)| running.used).map(|(name, _)| Arc::clone(name))?;
        tracing::info!(model = %oldest, "unloading a model to make room for another (--max-models)");
        self.retire(&oldest)
    }
}
