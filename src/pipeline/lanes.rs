//! The loaded models, a lane each: loaded when the first job wants one, kept, and at most so many at a time; the one
//! unused longest makes room. A job is tagged by the model it names or by none.

pub(crate) mod lane;
mod loading;
mod outlets;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Ended;
use super::batch::{self, limit::Limit};
use super::tag::onnx::{self, CannotLoad};
use super::tag::scoring::Scoring;
use super::tag::{self, Loaded, Model};
use crate::failure::{Code, Failure};
use crate::model::catalog::{Alias, Catalog, NoModel};
use crate::model::source::Source;
use crate::model::threshold::Thresholds;
use crate::model::{ModelFiles, Stamp, Unusable};
use crate::telemetry::metrics;
use lane::{Heading, Lane};
use loading::Load;
pub(crate) use outlets::Outlets;
use state::{Open, Running, State};

/// How long a model that could not be loaded is not tried again.
const BROKEN: Duration = Duration::from_secs(10);

/// How models are loaded and run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where models come from.
    pub(crate) source: Source,
    /// The operator's further names.
    pub(crate) aliases: Vec<Alias>,
    /// How a session is made.
    pub(crate) onnx: onnx::Settings,
    /// How rows are gathered.
    pub(crate) batch: batch::Settings,
    /// Models kept at a time.
    pub(crate) max_models: usize,
}

/// The loaded models, and those that can be.
pub(crate) struct Lanes {
    settings: Settings,
    /// The model of jobs that name none.
    default: Arc<str>,
    scoring: Scoring,
    state: Mutex<State>,
    load: Load,
    /// One model is loaded at a time.
    loading: tokio::sync::Mutex<()>,
}

/// Where a job is to go.
pub(crate) enum Destination {
    /// To a loaded model.
    Lane(Heading),
    /// To a model that is not loaded.
    Unloaded(Arc<str>),
}

/// A model that jobs can name.
pub(crate) struct Listed {
    /// Its own name.
    pub(crate) name: Arc<str>,
    /// Its further ones.
    pub(crate) aliases: Vec<String>,
    /// Whether jobs get it that name none.
    pub(crate) is_default: bool,
    /// What counts as a tag.
    pub(crate) thresholds: Thresholds,
    /// What is known of it once it is loaded.
    pub(crate) loaded: Option<Arc<Model>>,
}

impl Lanes {
    /// With no model loaded yet.
    #[must_use]
    pub(crate) fn new(settings: Settings, catalog: Catalog, default: &str) -> (Arc<Self>, Outlets) {
        Self::loading_by(onnx::load, settings, catalog, default)
    }

    fn loading_by(load: Load, settings: Settings, catalog: Catalog, default: &str) -> (Arc<Self>, Outlets) {
        // Only answers get room, so that no stage waits for the broker.
        let (publish, finished) = mpsc::channel(256);
        let (parts, opened) = mpsc::unbounded_channel();
        let state = Mutex::new(State::new(catalog, Open { finished: publish.clone(), parts }));
        let (scoring, loading) = (Scoring::default(), tokio::sync::Mutex::default());
        let lanes = Self { settings, default: default.into(), scoring, state, load, loading };
        (Arc::new(lanes), Outlets { finished, publish, parts: opened })
    }

    /// Whether the loaded models score.
    #[must_use]
    pub(crate) const fn scoring(&self) -> &Scoring {
        &self.scoring
    }

    /// The own name of the model that goes by this name or alias, or of the default one.
    ///
    /// # Errors
    /// `unknown_model`, naming those there are.
    pub(crate) fn own_name(&self, name: Option<&str>) -> Result<Arc<str>, Failure> {
        let Some(name) = name else { return Ok(Arc::clone(&self.default)) };
        let state = self.state();
        state.catalog.find(name).cloned().ok_or_else(|| unknown(name, &state.catalog))
    }

    /// The models that jobs can name, loaded or not, as they are known: nothing is looked at.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<Listed> {
        let state = self.state();
        let usable = state.catalog.models().filter_map(|(name, files)| Some((name, files.as_ref().ok()?)));
        usable.map(|(name, files)| self.listed(&state, name, files)).collect()
    }

    fn listed(&self, state: &State, name: &Arc<str>, files: &ModelFiles) -> Listed {
        let lane = state.loaded.get(name).and_then(|running| running.lane.as_ref());
        let thresholds = || self.settings.onnx.thresholds.clone().or(&files.manifest.thresholds);
        Listed {
            name: Arc::clone(name),
            aliases: state.catalog.aliases_of(name).map(str::to_owned).collect(),
            is_default: *name == self.default,
            thresholds: lane.map_or_else(thresholds, |lane| lane.model.thresholds.clone()),
            loaded: lane.map(|lane| Arc::clone(&lane.model)),
        }
    }

    /// The way to the model of this name or alias, or to the default one, for a job that somebody waits for or not.
    ///
    /// # Errors
    /// `unknown_model`, naming those there are.
    pub(crate) fn find(&self, name: Option<&str>, urgent: bool) -> Result<Destination, Failure> {
        let own = self.own_name(name)?;
        let mut state = self.state();
        Ok(match state.use_lane(&own) {
            Some(lane) => Destination::Lane(Heading::to(&lane, urgent)),
            None => Destination::Unloaded(own),
        })
    }

    /// The lane of a model, which is loaded if it is not and, once it is its turn, `is_wanted`.
    ///
    /// # Errors
    /// Why it is not wanted; `inference_failed` where it can't be loaded, `shutting_down` where no more are.
    pub(crate) async fn load(
        &self,
        name: &Arc<str>,
        mut is_wanted: impl FnMut() -> Result<(), Failure>,
    ) -> Result<Arc<Lane>, Failure> {
        let _one_at_a_time = self.loading.lock().await;
        is_wanted()?;
        if let Some(lane) = self.state().use_lane(name) {
            return Ok(lane);
        }
        let known = self.state().broken.get(name).filter(|(since, _)| since.elapsed() < BROKEN).cloned();
        if let Some((_, reason)) = known {
            return Err(Failure::new(Code::InferenceFailed, reason));
        }
        self.open(name, true).await.map_err(|error| {
            if let CannotLoad::Stopped | CannotLoad::Hung { .. } = error {
                return Failure::new(Code::ShuttingDown, error.to_string());
            }
            let reason = format!("{error}; `tagmill models check` tells more");
            tracing::error!(model = %name, %error, "a model that a job names can't be loaded");
            self.state().broken.insert(Arc::clone(name), (Instant::now(), reason.clone()));
            Failure::new(Code::InferenceFailed, reason)
        })
    }

    /// Loads the default model.
    ///
    /// # Errors
    /// Where it can't be loaded.
    pub(crate) async fn load_default(&self) -> Result<Arc<Lane>, CannotLoad> {
        self.open(&self.default, false).await
    }

    async fn open(&self, name: &Arc<str>, make_room: bool) -> Result<Arc<Lane>, CannotLoad> {
        let files = match self.state().catalog.get(name) {
            Some(Ok(files)) => files.clone(),
            Some(Err(broken)) => return Err(broken.clone().into()),
            None => return Err(Unusable { name: name.to_string(), reason: "it is gone".into() }.into()),
        };
        // What is known not to work pushes out nothing that does.
        loading::check(&files).await?;
        if make_room {
            self.make_room().await;
        }
        let loaded = self.load_files(&files).await?;
        self.start(name, &files, loaded)
    }

    async fn load_files(&self, files: &ModelFiles) -> Result<Loaded, CannotLoad> {
        if self.state().open.is_none() {
            return Err(CannotLoad::Stopped);
        }
        let loaded = loading::load(self.load, files, &self.settings.onnx).await;
        if let Err(hung @ CannotLoad::Hung { .. }) = &loaded {
            self.break_off(hung);
        }
        loaded
    }

    /// Ends the pipeline: what is wrong gets well in another process only.
    fn break_off(&self, reason: &CannotLoad) {
        self.scoring.set(false);
        let reason = reason.to_string();
        // No other model is loaded meanwhile.
        if let Some(open) = self.state().open.take() {
            // Refused only where the pipeline is gone.
            let _ = open.parts.send(async { Err(Ended::Broken(reason)) }.boxed());
        }
    }

    /// Waits until there is room for one more.
    async fn make_room(&self) {
        loop {
            let Some(gone) = self.state().evict(self.settings.max_models) else { return };
            gone.cancelled().await;
        }
    }

    /// Opens a lane for a loaded model; the one there was before finishes what it has.
    fn start(&self, name: &Arc<str>, files: &ModelFiles, loaded: Loaded) -> Result<Arc<Lane>, CannotLoad> {
        let limit = Limit::new(self.settings.batch.limit, loaded.fits);
        // Room for a batch for every runner.
        let (tag, work) = mpsc::channel(loaded.runners.len().max(1));
        let (lane, rows) = Lane::new(Arc::clone(&loaded.model), limit, tag.clone());
        let (stop, gone, model) = (Arc::clone(&loaded.stop), CancellationToken::new(), Arc::clone(&loaded.model));
        let mut state = self.state();
        let Open { finished, parts } = state.open.clone().ok_or(CannotLoad::Stopped)?;
        let batching = batch::run(self.settings.batch, model.id.name.clone(), rows, lane.traffic(), tag);
        let tagging = tag::run(loaded, work, lane.traffic(), finished, self.scoring.clone());
        let ended = gone.clone().drop_guard();
        metrics::model_loaded(&model.id, &model.devices);
        let tagging = async move {
            let result = tagging.await;
            metrics::model_unloaded(&model.id, &model.devices);
            drop(ended);
            result
        };
        // Refused only where the pipeline is gone, and jobs with it.
        let _ = parts.send(batching.boxed());
        let _ = parts.send(tagging.boxed());
        state.retire(name);
        let running =
            Running { lane: Some(Arc::clone(&lane)), stamp: files.stamp.clone(), used: Instant::now(), stop, gone };
        state.loaded.insert(Arc::clone(name), running);
        state.broken.remove(name);
        Ok(lane)
    }

    /// Looks at the folder or bucket again. A loaded model whose files have changed is replaced once its successor has
    /// warmed up; where that is broken the old one stays.
    ///
    /// # Errors
    /// Where it can't be read any more; everything stays as it is.
    pub(crate) async fn refresh(&self) -> Result<(), NoModel> {
        let _one_at_a_time = self.loading.lock().await;
        let catalog = Arc::new(self.settings.source.catalog(&self.settings.aliases).await?);
        let loaded: Vec<(Arc<str>, Stamp)> =
            self.state().loaded.iter().map(|(name, running)| (Arc::clone(name), running.stamp.clone())).collect();
        for (name, stamp) in loaded {
            match catalog.get(&name) {
                Some(Ok(files)) if files.stamp == stamp => {}
                Some(Ok(files)) => {
                    match self.load_files(files).await.and_then(|loaded| self.start(&name, files, loaded)) {
                        Ok(_) => {}
                        // The worker ends, and has said so.
                        Err(CannotLoad::Hung { .. }) => return Ok(()),
                        Err(error) => {
                            tracing::error!(%error, "a model that has changed can't be loaded; the old one stays");
                        }
                    }
                }
                Some(Err(error)) => tracing::error!(%error, "a model that has changed is broken; the old one stays"),
                None if name == self.default => {
                    tracing::error!(model = %name, "the default model is gone from its folder; the loaded one stays");
                }
                None => {
                    tracing::info!(model = %name, "the model is gone from its folder");
                    self.state().retire(&name);
                }
            }
        }
        tracing::info!(models = catalog.names(), "looked at the models again");
        let mut state = self.state();
        state.catalog = catalog;
        state.broken.clear();
        Ok(())
    }

    /// Opens no more lanes, and lets those there are end when their last job is through.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.open = None;
        let names: Vec<_> = state.loaded.keys().cloned().collect();
        for name in names {
            state.retire(&name);
        }
    }

    /// Ends the runs in progress, and opens no more lanes.
    pub(crate) fn stop(&self) {
        let mut state = self.state();
        state.open = None;
        for running in state.loaded.values().chain(&state.retired) {
            (running.stop)();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(name: &str, catalog: &Catalog) -> Failure {
    Failure::new(Code::UnknownModel, format!("no model `{name}`; this worker has {}", catalog.names()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[tokio::test]
    async fn nothing_is_loaded_for_those_who_have_left() {
        let (settings, catalog) = demo();
        let load = |_: &ModelFiles, _: &onnx::Settings| panic!("it is loaded");
        let (lanes, _outlets) = Lanes::loading_by(load, settings, catalog, "demo");
        let left = || Err(Failure::new(Code::Overloaded, "nobody waits"));
        assert_eq!(lanes.load(&"demo".into(), left).await.err().map(|failure| failure.code), Some(Code::Overloaded));
    }

    /// The shipped model, on the CPU.
    pub(super) fn demo() -> (Settings, Catalog) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let catalog = Catalog::read(&folder, &[]).expect("models");
        let onnx = onnx::Settings {
            devices: vec![tag::device::Device::Cpu],
            threads: 1,
            batch: 1,
            thresholds: Thresholds::default(),
            device_memory: None,
            engines: None,
        };
        let batch = batch::Settings { limit: 1, window: Duration::ZERO };
        (Settings { source: Source::Folder(folder), aliases: vec![], onnx, batch, max_models: 1 }, catalog)
    }
}
