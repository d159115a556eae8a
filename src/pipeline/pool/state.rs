//! State of the models: loaded, retired or broken.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::mpsc::Sender;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::model::Stamp;
use crate::model::catalog::Catalog;
use crate::pipeline::handoff::Finished;
use crate::pipeline::model_queue::ModelQueue;
use crate::pipeline::tag::Stopper;

/// Models by their state.
pub(super) struct State {
    pub(super) catalog: Arc<Catalog>,
    /// Receives the jobs of new models; `None` once loading has stopped.
    pub(super) finished: Option<Sender<Finished>>,
    pub(super) loaded: HashMap<Arc<str>, Running>,
    /// Models that get no more jobs, until their last job is through.
    pub(super) retired: Vec<Running>,
    pub(super) broken: HashMap<Arc<str>, (Instant, String)>,
    /// Locks of models being loaded: each is loaded once, concurrently with others.
    loading: HashMap<Arc<str>, Weak<tokio::sync::Mutex<()>>>,
}

/// A loaded model.
pub(super) struct Running {
    /// `None` if it gets no more jobs.
    pub(super) queue: Option<Arc<ModelQueue>>,
    pub(super) stamp: Stamp,
    pub(super) used: Instant,
    /// Earliest time of its eviction.
    pub(super) kept_until: Instant,
    pub(super) stop: Stopper,
    /// Cancelled once the model is unloaded.
    pub(super) gone: CancellationToken,
    /// Slot among the loaded models, until it is unloaded or replaced.
    pub(super) slot: Arc<Mutex<Option<ModelSlot>>>,
}

/// Slot among the models that can be loaded at a time. On drop, wakes those who wait for one.
pub(super) struct ModelSlot {
    pub(super) permit: Option<OwnedSemaphorePermit>,
    pub(super) changed: Arc<Notify>,
}

impl Drop for ModelSlot {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.changed.notify_waiters();
    }
}

impl State {
    /// Creates the state without a loaded model.
    pub(super) fn new(catalog: Catalog, finished: Sender<Finished>) -> Self {
        Self {
            catalog: Arc::new(catalog),
            finished: Some(finished),
            loaded: HashMap::new(),
            retired: Vec::new(),
            broken: HashMap::new(),
            loading: HashMap::new(),
        }
    }

    /// Returns the queue of a model, if it is loaded, and marks it as used.
    pub(super) fn use_queue(&mut self, name: &str) -> Option<Arc<ModelQueue>> {
        let running = self.loaded.get_mut(name)?;
        running.used = Instant::now();
        running.queue.clone()
    }

    /// Ends the flow of jobs to a model.
    pub(super) fn retire(&mut self, name: &str) {
        let Some(running) = self.loaded.remove(name) else { return };
        self.retired.retain(|running| !running.gone.is_cancelled());
        self.retired.push(Running { queue: None, ..running });
    }

    /// Lock to hold while this model is loaded.
    pub(super) fn lock_of(&mut self, name: &Arc<str>) -> Arc<tokio::sync::Mutex<()>> {
        self.loading.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = self.loading.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        self.loading.insert(Arc::clone(name), Arc::downgrade(&lock));
        lock
    }

    /// Retires the least recently used evictable model. If none is evictable, returns the earliest time at which one is.
    pub(super) fn evict(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let evictable = self.loaded.iter().filter(|(_, running)| running.kept_until <= now);
        let Some(oldest) = evictable.min_by_key(|(_, running)| running.used).map(|(name, _)| Arc::clone(name)) else {
            return self.loaded.values().map(|running| running.kept_until).min();
        };
        tracing::info!(model = %oldest, "unloading a model to make room for another (--max-models)");
        self.retire(&oldest);
        None
    }
}
