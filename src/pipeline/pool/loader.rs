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

/// How long a model that could not be loaded is not tried again.
const BROKEN: Duration = Duration::from_secs(10);

/// Maximum time for which a model that was just loaded is kept. It is kept for as long as its load took, so that jobs of more
/// models than there are slots spend at most half of the time on loads.
const KEPT: Duration = Duration::from_secs(30);

impl ModelPool {
    /// The queue of a model. Loads the model if it is not loaded and, once its turn has come, still `is_wanted`. Models are
    /// loaded beside one another.
    ///
    /// # Errors
    /// Why it is not wanted; `inference_failed` where it can't be loaded, `shutting_down` where no more models are.
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
        // Before another model is evicted for one that does not work.
        timed::check(&files).await?;
        let slot = self.slot().await?;
        let began = Instant::now();
        let loaded = self.load_files(&files).await?;
        self.insert(name, &files, loaded, Some(slot), began.elapsed().min(KEPT))
    }

    /// A slot for one more model. Where there is none the least recently used model is evicted: it ends after the rows that
    /// are in its queue.
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

    /// Ends the pipeline, for a fault that only another process can recover from.
    fn break_off(&self, reason: &CannotLoad) {
        self.health.set(false);
        // No other model is loaded meanwhile.
        if self.state.lock().finished.take().is_some() {
            // Refused only where another reason came first.
            let _ = self.broken.try_send(reason.to_string());
        }
    }

    /// Starts the stages of a loaded model; those of the one it replaces finish what they have.
    ///
    /// # Errors
    /// `Stopped` where no more models are loaded.
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
        // One that takes another's place takes its slot as well; that may have been evicted meanwhile.
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

    /// Reads the model repository again. A loaded model whose files have changed is replaced once its successor has warmed
    /// up; where that is broken the old one stays.
    ///
    /// # Errors
    /// If the repository can't be read; everything stays as it is.
    pub(crate) async fn refresh(&self) -> Result<(), NoModel> {
        let _one_at_a_time = self.refreshing.lock().await;
        let catalog = Arc::new(self.settings.repository.catalog(&self.settings.aliases).await?);
        let loaded: Vec<(Arc<str>, Stamp)> = {
            let mut state = self.state.lock();
            // From here on models are loaded as they are now.
            state.catalog = Arc::clone(&catalog);
            state.broken.clear();
            state.loaded.iter().map(|(name, running)| (Arc::clone(name), running.stamp.clone())).collect()
        };
        for (name, stamp) in loaded {
            match catalog.get(&name) {
                Some(Ok(files)) if files.stamp == stamp => {}
                Some(Ok(files)) => match self.replace(&name, files).await {
                    // The worker ends, and has logged why.
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

/// Tells that a model is unloaded, when dropped.
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
