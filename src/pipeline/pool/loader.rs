//! Loads models into the pool, evicts and replaces them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::ModelPool;
use super::state::{ModelSlot, Running};
use super::timed;
use crate::failure::{Code, Failure};
use crate::model::catalog::NoModel;
use crate::model::{ModelFiles, Stamp, Unusable};
use crate::pipeline::model_queue::ModelQueue;
use crate::pipeline::tag::Loaded;
use crate::pipeline::tag::onnx::CannotLoad;
use crate::pipeline::{ModelStages, start_model};
use crate::telemetry::metrics;

/// Time before a failed load is tried again.
const BROKEN: Duration = Duration::from_secs(10);

/// Maximum time for which a newly loaded model is kept. It is kept for as long as its load took, so that jobs of more models
/// than there are slots spend at most half of the time on loads.
const KEPT: Duration = Duration::from_secs(30);

impl ModelPool {
    /// Returns the queue of a model. Loads the model if it is not loaded and `is_wanted` still succeeds when the load can
    /// begin. Different models load concurrently.
    ///
    /// # Errors
    /// Error of `is_wanted`; `inference_failed` if the model can't be loaded, `shutting_down` if loading has stopped.
    pub(crate) async fn load(
        &self,
        name: &Arc<str>,
        mut is_wanted: impl FnMut() -> Result<(), Failure>,
    ) -> Result<Arc<ModelQueue>, Failure> {
        let lock = self.state.lock().lock_of(name);
        let _once = lock.lock().await;
        is_wanted()?;
        if let Some(queue) = self.queue(name) {
            return Ok(queue);
        }
        let known = self.state.lock().broken.get(name).filter(|(since, _)| since.elapsed() < BROKEN).cloned();
        if let Some((_, reason)) = known {
            return Err(Failure::new(Code::InferenceFailed, reason));
        }
        self.open(name).await.map_err(|error| {
            if let CannotLoad::Stopped | CannotLoad::Hung { .. } = error {
                return Failure::new(Code::ShuttingDown, error.to_string());
            }
            let reason = format!("{error}; `tagmill models check` tells more");
            tracing::error!(model = %name, %error, "a model that a job names can't be loaded");
            self.state.lock().broken.insert(Arc::clone(name), (Instant::now(), reason.clone()));
            Failure::new(Code::InferenceFailed, reason)
        })
    }

    /// Loads the default model.
    ///
    /// # Errors
    /// If it can't be loaded.
    pub(crate) async fn load_default(&self) -> Result<Arc<ModelQueue>, CannotLoad> {
        self.open(&self.default).await
    }

    async fn open(&self, name: &Arc<str>) -> Result<Arc<ModelQueue>, CannotLoad> {
        let files = match self.state.lock().catalog.get(name) {
            Some(Ok(files)) => files.clone(),
            Some(Err(broken)) => return Err(broken.clone().into()),
            None => return Err(Unusable { name: name.to_string(), reason: "it is gone".into() }.into()),
        };
        // Checked before another model is evicted for it.
        timed::check(&files).await?;
        let slot = self.slot().await?;
        let began = Instant::now();
        let loaded = self.load_files(&files).await?;
        self.insert(name, &files, loaded, Some(slot), began.elapsed().min(KEPT))
    }

    /// Acquires a slot for one more model. If none is free, evicts the least recently used model, which ends after the rows
    /// in its queue.
    async fn slot(&self) -> Result<ModelSlot, CannotLoad> {
        loop {
            let changed = self.changed.notified();
            if let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() {
                return Ok(ModelSlot { permit: Some(permit), changed: Arc::clone(&self.changed) });
            }
            let evictable_at = {
                let mut state = self.state.lock();
                if state.finished.is_none() {
                    return Err(CannotLoad::Stopped);
                }
                let is_one_ending = state.retired.iter().any(|running| !running.gone.is_cancelled());
                if is_one_ending { None } else { state.evict() }
            };
            match evictable_at {
                Some(at) => drop(tokio::time::timeout_at(at.into(), changed).await),
                None => changed.await,
            }
        }
    }

    async fn load_files(&self, files: &ModelFiles) -> Result<Loaded, CannotLoad> {
        if self.state.lock().finished.is_none() {
            return Err(CannotLoad::Stopped);
        }
        let loaded = timed::load(self.load, files, &self.settings.onnx).await;
        if let Err(hung @ CannotLoad::Hung { .. }) = &loaded {
            self.break_off(hung);
        }
        loaded
    }

    /// Ends the pipeline after a fault that only another process can recover from.
    fn break_off(&self, reason: &CannotLoad) {
        self.health.set(false);
        // No other model is loaded from here on.
        if self.state.lock().finished.take().is_some() {
            // Fails only if another reason came first.
            let _ = self.broken.try_send(reason.to_string());
        }
    }

    /// Starts the stages of a loaded model. The stages of the one it replaces finish their jobs.
    ///
    /// # Errors
    /// `Stopped` if loading has stopped.
    fn insert(
        &self,
        name: &Arc<str>,
        files: &ModelFiles,
        loaded: Loaded,
        slot: Option<ModelSlot>,
        kept: Duration,
    ) -> Result<Arc<ModelQueue>, CannotLoad> {
        let (stop, gone, model) = (Arc::clone(&loaded.stop), CancellationToken::new(), Arc::clone(&loaded.model));
        let mut state = self.state.lock();
        let finished = state.finished.clone().ok_or(CannotLoad::Stopped)?;
        // A replacement takes over the slot of the old model, unless that was evicted in the meantime.
        let replaced = || state.loaded.get(name).and_then(|running| running.slot.lock().take());
        let Some(slot) = slot.or_else(replaced) else {
            return Err(files.unusable("it was unloaded meanwhile; the next job loads it").into());
        };
        let ModelStages { queue, batch, tag } = start_model(self.settings.batch, loaded, self.health.clone(), finished);
        let slot = Arc::new(Mutex::new(Some(slot)));
        let ended = Unloaded { gone: gone.clone(), slot: Arc::clone(&slot) };
        metrics::model_loaded(&model.id, &model.devices);
        self.spawn(batch);
        self.spawn(async move {
            let result = tag.await;
            metrics::model_unloaded(&model.id, &model.devices);
            drop(ended);
            result
        });
        state.retire(name);
        let running = Running {
            queue: Some(Arc::clone(&queue)),
            stamp: files.stamp.clone(),
            used: Instant::now(),
            kept_until: Instant::now() + kept,
            stop,
            gone,
            slot,
        };
        state.loaded.insert(Arc::clone(name), running);
        state.broken.remove(name);
        drop(state);
        self.changed.notify_waiters();
        Ok(queue)
    }

    /// Reads the model repository again. Replaces a loaded model with changed files once its successor is warmed up. If the
    /// successor is broken, the old one stays.
    ///
    /// # Errors
    /// If the repository can't be read; then nothing changes.
    pub(crate) async fn refresh(&self) -> Result<(), NoModel> {
        let _one_at_a_time = self.refreshing.lock().await;
        let catalog = Arc::new(self.settings.repository.catalog(&self.settings.aliases).await?);
        let loaded: Vec<(Arc<str>, Stamp)> = {
            let mut state = self.state.lock();
            // From here on, models are loaded from the new catalog.
            state.catalog = Arc::clone(&catalog);
            state.broken.clear();
            state.loaded.iter().map(|(name, running)| (Arc::clone(name), running.stamp.clone())).collect()
        };
        for (name, stamp) in loaded {
            match catalog.get(&name) {
                Some(Ok(files)) if files.stamp == stamp => {}
                Some(Ok(files)) => match self.replace(&name, files).await {
                    // The worker ends, and the reason is logged.
                    Err(CannotLoad::Hung { .. }) => return Ok(()),
                    Err(error) => {
                        tracing::error!(%error, "a model that has changed can't be loaded; the old one stays");
                    }
                    Ok(_) => {}
                },
                Some(Err(error)) => tracing::error!(%error, "a model that has changed is broken; the old one stays"),
                None if name == self.default => {
                    tracing::error!(model = %name, "the default model is gone from its folder; the loaded one stays");
                }
                None => {
                    tracing::info!(model = %name, "the model is gone from its folder");
                    self.state.lock().retire(&name);
                }
            }
        }
        tracing::info!(models = catalog.names(), "read the models again");
        Ok(())
    }

    async fn replace(&self, name: &Arc<str>, files: &ModelFiles) -> Result<Arc<ModelQueue>, CannotLoad> {
        let lock = self.state.lock().lock_of(name);
        let _once = lock.lock().await;
        let loaded = self.load_files(files).await?;
        self.insert(name, files, loaded, None, Duration::ZERO)
    }
}

/// Reports that a model is unloaded, on drop.
struct Unloaded {
    gone: CancellationToken,
    slot: Arc<Mutex<Option<ModelSlot>>>,
}

impl Drop for Unloaded {
    fn drop(&mut self) {
        self.gone.cancel();
        drop(self.slot.lock().take());
    }
}
