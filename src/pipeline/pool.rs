//! Pool of models: the catalog, the loaded models, and the queue and runners of each.
//!
//! A model is loaded when the first job names it, and kept. The number of loaded models is limited; the least recently used
//! one is evicted for another. A job is tagged by the model it names or not at all.

mod loader;
mod state;
mod timed;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::TaskTracker;

use super::batch;
use super::handoff::Finished;
use super::loaded::LoadedModel;
use super::model_queue::{ModelQueue, Route};
use super::stage::{Ended, guarded};
use super::tag::health::InferenceHealth;
use super::tag::onnx;
use crate::failure::{Code, Failure};
use crate::model::ModelFiles;
use crate::model::catalog::{Alias, Catalog};
use crate::model::repository::Repository;
use crate::model::threshold::Thresholds;
use crate::priority::Priority;
use state::State;
use timed::Load;

/// Settings of loading and running models.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Source of models.
    pub(crate) repository: Repository,
    /// Aliases from the operator.
    pub(crate) aliases: Vec<Alias>,
    /// Settings of sessions.
    pub(crate) onnx: onnx::Settings,
    /// Settings of batching.
    pub(crate) batch: batch::Settings,
    /// Maximum models loaded at a time.
    pub(crate) max_models: usize,
}

/// Models that jobs can name, and the stages of the loaded ones.
pub(crate) struct ModelPool {
    settings: Settings,
    /// Model of jobs that name none.
    default: Arc<str>,
    health: InferenceHealth,
    state: Mutex<State>,
    load: Load,
    /// Slots of loaded models. A model holds one until it is unloaded.
    slots: Arc<Semaphore>,
    /// Notified when another model can be evicted.
    changed: Arc<Notify>,
    /// Held while the repository is read, once at a time.
    refreshing: tokio::sync::Mutex<()>,
    /// Running stages of models.
    stages: TaskTracker,
    /// Receives the reason of a failed stage.
    broken: Sender<String>,
}

/// A model that jobs can name.
pub(crate) struct Listed {
    /// Own name.
    pub(crate) name: Arc<str>,
    /// Aliases.
    pub(crate) aliases: Vec<String>,
    /// `true` if it is the model of jobs that name none.
    pub(crate) is_default: bool,
    /// Thresholds.
    pub(crate) thresholds: Thresholds,
    /// Properties known once it is loaded.
    pub(crate) loaded: Option<Arc<LoadedModel>>,
}

impl ModelPool {
    /// Creates a pool without a loaded model. Its jobs end in `finished`; the receiver of failed stages' reasons is for
    /// [`Self::run`].
    #[must_use]
    pub(super) fn new(
        settings: Settings,
        catalog: Catalog,
        default: &str,
        finished: Sender<Finished>,
    ) -> (Arc<Self>, Receiver<String>) {
        Self::with_loader(onnx::load, settings, catalog, default, finished)
    }

    fn with_loader(
        load: Load,
        settings: Settings,
        catalog: Catalog,
        default: &str,
        finished: Sender<Finished>,
    ) -> (Arc<Self>, Receiver<String>) {
        let (broken, reasons) = mpsc::channel(1);
        let slots = Arc::new(Semaphore::new(settings.max_models));
        let pool = Self {
            settings,
            default: default.into(),
            health: InferenceHealth::default(),
            state: Mutex::new(State::new(catalog, finished)),
            load,
            slots,
            changed: Arc::default(),
            refreshing: tokio::sync::Mutex::default(),
            stages: TaskTracker::new(),
            broken,
        };
        (Arc::new(pool), reasons)
    }

    /// Runs the stages of models until the pool is closed and all of them have ended.
    ///
    /// # Errors
    /// If one of them failed.
    pub(super) async fn run(self: Arc<Self>, mut broken: Receiver<String>) -> Result<(), Ended> {
        tokio::select! {
            biased;
            Some(reason) = broken.recv() => Err(Ended::Broken(reason)),
            () = self.stages.wait() => Ok(()),
        }
    }

    fn spawn(&self, stage: impl Future<Output = Result<(), Ended>> + Send + 'static) {
        let broken = self.broken.clone();
        self.stages.spawn(async move {
            // A stage whose next stage is gone leaves the reason to that stage.
            if let Err(Ended::Broken(reason)) = guarded(stage).await {
                // Fails only if another reason came first.
                let _ = broken.send(reason).await;
            }
        });
    }

    /// Health of the loaded models.
    #[must_use]
    pub(crate) const fn health(&self) -> &InferenceHealth {
        &self.health
    }

    /// Own name of the model with this name or alias, or of the default model.
    ///
    /// # Errors
    /// `unknown_model`, with the names that exist.
    pub(crate) fn own_name(&self, name: Option<&str>) -> Result<Arc<str>, Failure> {
        let Some(name) = name else { return Ok(Arc::clone(&self.default)) };
        let state = self.state.lock();
        state.catalog.find(name).cloned().ok_or_else(|| unknown(name, &state.catalog))
    }

    /// Models that jobs can name, loaded or not. Reads only memory, no folder.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<Listed> {
        let state = self.state.lock();
        let usable = state.catalog.models().filter_map(|(name, files)| Some((name, files.as_ref().ok()?)));
        usable.map(|(name, files)| self.listed(&state, name, files)).collect()
    }

    fn listed(&self, state: &State, name: &Arc<str>, files: &ModelFiles) -> Listed {
        let queue = state.loaded.get(name).and_then(|running| running.queue.as_ref());
        let thresholds = || self.settings.onnx.thresholds.clone().or(&files.manifest.thresholds);
        Listed {
            name: Arc::clone(name),
            aliases: state.catalog.aliases_of(name).map(str::to_owned).collect(),
            is_default: *name == self.default,
            thresholds: queue.map_or_else(thresholds, |queue| queue.model.thresholds.clone()),
            loaded: queue.map(|queue| Arc::clone(&queue.model)),
        }
    }

    /// Queue of the model with this own name, if it is loaded.
    #[must_use]
    pub(crate) fn queue(&self, name: &str) -> Option<Arc<ModelQueue>> {
        self.state.lock().use_queue(name)
    }

    /// Route to the model for a job of this priority, if it is loaded.
    #[must_use]
    pub(crate) fn route(&self, name: &str, priority: Priority) -> Option<Route> {
        self.queue(name).map(|queue| Route::new(&queue, priority))
    }

    /// Stops loading models, and ends the loaded ones after their last job.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.finished = None;
        let names: Vec<_> = state.loaded.keys().cloned().collect();
        for name in names {
            state.retire(&name);
        }
        self.stages.close();
        self.changed.notify_waiters();
    }

    /// Ends the runs in progress, and stops loading models.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.finished = None;
        for running in state.loaded.values().chain(&state.retired) {
            (running.stop)();
        }
        self.stages.close();
        self.changed.notify_waiters();
    }
}

fn unknown(name: &str, catalog: &Catalog) -> Failure {
    Failure::new(Code::UnknownModel, format!("no model `{name}`; this worker has {}", catalog.names()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::pipeline::tag::device::Device;

    #[tokio::test]
    async fn no_model_is_loaded_for_a_client_that_has_left() {
        let (settings, catalog) = demo();
        let load = |_: &ModelFiles, _: &onnx::Settings| panic!("it is loaded");
        let (pool, _broken) = ModelPool::with_loader(load, settings, catalog, "demo", mpsc::channel(1).0);
        let left = || Err(Failure::new(Code::Overloaded, "no client waits"));
        assert_eq!(pool.load(&"demo".into(), left).await.err().map(|failure| failure.code), Some(Code::Overloaded));
    }

    /// The shipped model, on the CPU.
    pub(super) fn demo() -> (Settings, Catalog) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let catalog = Catalog::read(&folder, &[]).expect("models");
        let onnx = onnx::Settings {
            devices: vec![Device::Cpu],
            threads: 1,
            batch: 1,
            thresholds: Thresholds::default(),
            device_memory: None,
            engines: None,
        };
        let batch = batch::Settings { limit: 1, window: Duration::ZERO };
        (Settings { repository: Repository::Folder(folder), aliases: vec![], onnx, batch, max_models: 1 }, catalog)
    }
}
