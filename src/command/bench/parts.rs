//! The model and the decoders alone, and conclusions from them and the whole.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::advice::{self, Rates, Split};
use super::report::Advice;
use super::{Steps, decoding, session, whole};
use crate::command::samples::{self, Broken};
use crate::command::{Failed, how_many};
use crate::machine;
use crate::model::ModelFiles;
use crate::pipeline::loaded::LoadedModel;
use crate::pipeline::tag::device::Device;
use crate::pipeline::tag::{Loaded, onnx};
use crate::settings;

/// Share of the best rate below which larger batches are not tried.
const WORTH: f64 = 0.8;

/// Parameters of the measurement.
pub(super) struct Bench {
    pub(super) files: ModelFiles,
    pub(super) settings: settings::Local,
    pub(super) names: Vec<String>,
    pub(super) encoded: Vec<Bytes>,
    /// In ascending order.
    pub(super) batch_sizes: Vec<usize>,
    pub(super) time: Duration,
    pub(super) steps: Steps,
}

/// Measurements of the model and the decoders alone.
pub(super) struct Parts {
    pub(super) model: String,
    pub(super) device: String,
    /// Images that can't be decoded, with the failure.
    pub(super) unreadable: Vec<String>,
    pub(super) session: Vec<session::Measured>,
    /// On one thread, and on all.
    pub(super) decoding: Vec<decoding::Measured>,
    cores: usize,
    /// Batch size that the model was loaded for.
    loaded_for: usize,
}

/// A model, measurements of its runs, and unreadable images.
type Alone = (Arc<LoadedModel>, Vec<session::Measured>, Vec<String>);

impl Bench {
    /// Measures both parts. Blocks the thread.
    ///
    /// # Errors
    /// If the model can't be loaded or run, or no image can be read.
    pub(super) fn parts(&self) -> Result<Parts, Failed> {
        // On the CPU, the warm-up runs only the smallest size, because the others are measured later. A GPU is prepared for
        // all sizes, and TensorRT builds engines for them.
        let gpu = self.settings.pipeline.pool.onnx.devices.iter().any(|device| device.may_be_a_gpu());
        let (smallest, largest) = (self.batch_sizes.first(), self.batch_sizes.last());
        let loaded_for = if gpu { largest } else { smallest }.copied().unwrap_or(1);
        let mut onnx = onnx::Settings { batch: loaded_for, ..self.settings.pipeline.pool.onnx.clone() };
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let given = Split { sessions: if gpu { 1 } else { onnx.devices.len() }, threads: onnx.threads };
        let (model, mut session, unreadable) = self.alone(&onnx, given)?;
        let apart = Split::apart(cores);
        let cpu = model.devices.iter().all(|device| device == "cpu");
        if cpu && given.threads == cores && apart.sessions > 1 && has_room_for(apart.sessions) {
            onnx.devices = vec![Device::Cpu; apart.sessions];
            onnx.threads = apart.threads;
            // A split that fails is not recommended.
            match self.alone(&onnx, apart) {
                Ok((_, beside, _)) => session.extend(beside),
                Err(error) => tracing::warn!(%error, split = %apart, "the model can't be run in several sessions"),
            }
        }
        let decode = &self.settings.pipeline.decode;
        let mut threads = vec![1, decode.threads];
        threads.dedup();
        let decoding = threads.into_iter().map(|threads| {
            self.steps.begin(format!("decoding alone, on {}", how_many(threads, "thread")));
            decoding::measure(&self.encoded, &decode.picture, model.frame, threads, self.time)
        });
        let (decoding, device) = (decoding.collect(), model.device());
        Ok(Parts { model: model.id.name.clone(), device, unreadable, session, decoding, cores, loaded_for })
    }

    /// Measures the model in batches of every size, up to the first that does not fit or is not worthwhile. Uses one device,
    /// while the measurement of the whole uses all of them.
    fn alone(&self, onnx: &onnx::Settings, split: Split) -> Result<Alone, Failed> {
        let Loaded { model, mut runners, .. } = onnx::load(&self.files, onnx)?;
        let Some(device) = runners.first().map(|runner| Arc::clone(&runner.device)) else {
            return Err(Failed::settings(self.files.unusable("no device")));
        };
        runners.retain(|runner| runner.device == device);
        let picture = &self.settings.pipeline.decode.picture;
        let (rows, broken) = samples::rows(&self.encoded, picture, model.frame);
        let named = |(place, failure): &Broken| format!("{}: {failure}", self.names[*place]);
        let unreadable: Vec<String> = broken.iter().map(named).collect();
        if let (true, Some(first)) = (rows.is_empty(), unreadable.first()) {
            return Err(Failed::running(anyhow::anyhow!("not one of the images can be read; the first is {first}")));
        }
        let mut session = Vec::new();
        for &batch in &self.batch_sizes {
            self.steps.begin(format!("the model alone, {split}, in batches of {batch}"));
            let measured = session::measure(&mut runners, &rows, (split, batch), self.time).map_err(Failed::running)?;
            let rate = measured.rate;
            session.push(measured);
            let best = session.iter().filter_map(|measured| measured.rate).fold(0.0, f64::max);
            if rate.is_none_or(|rate| rate < WORTH * best) {
                break;
            }
        }
        Ok((model, session, unreadable))
    }
}

/// Returns `true` if memory suffices for `sessions` sessions, one of them already loaded. Each holds its own copy of the
/// weights.
fn has_room_for(sessions: usize) -> bool {
    machine::resident_memory().is_some_and(|one| one.saturating_mul(sessions as u64) < machine::available_memory())
}

impl Parts {
    /// Returns `true` if the model runs on the processor, in any number of sessions.
    pub(super) fn is_on_cpu(&self) -> bool {
        self.device.split(',').all(|device| device == "cpu")
    }

    /// Best split of the processor.
    pub(super) fn split(&self) -> Result<Split, Failed> {
        let fitting = self.session.iter().filter_map(|measured| Some((measured.split, measured.rate?)));
        advice::split(fitting).ok_or_else(|| Failed::running(anyhow::anyhow!("no batch size fits the device's memory")))
    }

    /// Batch sizes that fit the device's memory, in ascending order.
    pub(super) fn fitting(&self, split: Split) -> Vec<usize> {
        let fitting = self.session.iter().filter(|measured| measured.split == split && measured.rate.is_some());
        fitting.map(|measured| measured.batch).collect()
    }

    /// Batch size to load the model for if it is to run `batch` images at once. TensorRT has engines for the largest size
    /// and would build others.
    pub(super) fn prepared(&self, batch: usize, devices: &[Device]) -> usize {
        let tensorrt = devices.iter().any(|device| matches!(device, Device::TensorRt(_)));
        if tensorrt { self.loaded_for } else { batch }
    }

    pub(super) fn advice(&self, split: Split, whole: &[whole::Measured]) -> Advice {
        let rates: Vec<(usize, f64)> = whole.iter().map(|measured| (measured.batch, measured.rate)).collect();
        let (batch, whole) = advice::batch_size(&rates).expect("at least one size was measured");
        let session = self.session.iter().find(|measured| (measured.split, measured.batch) == (split, batch));
        let model = session.and_then(|measured| measured.rate).unwrap_or_default();
        let run = session.and_then(|measured| measured.seconds).map_or(0.0, |seconds| seconds.p50);
        let alone = |measured: Option<&decoding::Measured>| measured.map_or(0.0, |measured| measured.rate);
        let (one, all) = (alone(self.decoding.first()), alone(self.decoding.last()));
        let shared = self.is_on_cpu();
        Advice {
            bound: Rates { model, decoding: all, whole, shared }.bound(),
            batch_size: batch,
            window: advice::window(batch, whole, run),
            decode_threads: advice::decode_threads(one, model, shared, self.cores),
            sessions: split.sessions,
            infer_threads: shared.then_some(split.threads),
        }
    }
}
