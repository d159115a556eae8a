//! A tagger as an ONNX Runtime session: rows of u8 RGB in, one probability per label out.

pub mod interface;
pub mod tensor;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::ep::{self, ExecutionProviderDispatch};
use ort::session::builder::SessionBuilder;
use ort::session::{RunOptions, Session};
use ort::value::TensorRef;

use super::device::Device;
use super::library::{self, NoLibrary};
use super::threshold::Thresholds;
use super::{Loaded, Model, Runtime, Stopper};
use crate::failure::{Code, Failure};
use crate::model::manifest::Activation;
use crate::model::{ModelFiles, Unusable};
use crate::pipeline::batch::limit;
use crate::pipeline::decode::fit::{CHANNELS, Frame};
use interface::Interface;
use tensor::Encoder;

/// How models run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// On what.
    pub device: Device,
    /// Threads one run uses on the CPU.
    pub threads: usize,
    /// Rows a batch has at most, which the warm-up runs.
    pub batch: usize,
    /// What the operator counts as a tag, over what the model says.
    pub thresholds: Thresholds,
}

/// Why a model can't be started.
#[derive(Debug, thiserror::Error)]
pub enum CannotLoad {
    /// No ONNX Runtime.
    #[error(transparent)]
    Library(#[from] NoLibrary),
    /// The device that was asked for can't be used.
    #[error("the device {device} was asked for (--device) and can't be used: {reason}")]
    Device {
        /// As asked for.
        device: Device,
        /// What the runtime says.
        reason: String,
    },
    /// No more models are loaded.
    #[error("the worker stops")]
    Stopped,
    /// The model's files are not what they should be.
    #[error(transparent)]
    Model(#[from] Unusable),
}

/// A model's session, with the tensor its rows are written to.
struct Onnx {
    session: Session,
    interface: Interface,
    encoder: Encoder,
    activation: Activation,
    labels: usize,
    tensor: Vec<f32>,
    /// Rows of the largest batch, where batches are filled up to a few sizes.
    filled_up_to: Option<usize>,
    options: Arc<RunOptions>,
    stopped: Arc<AtomicBool>,
}

/// Loads a model and runs a blank batch through it, so that the first job does not pay for what the runtime does once.
///
/// # Errors
/// Where the runtime, the device or the model can't be used.
pub fn load(files: &ModelFiles, settings: &Settings) -> Result<Loaded, CannotLoad> {
    let library = library::load()?;
    let (labels, manifest) = (files.labels()?, &files.manifest);
    let (session, device) = session(files, library, settings)?;
    let unusable = |reason: String| files.unusable(reason);
    let interface = Interface::read(&session, manifest, labels.count()).map_err(unusable)?;
    let options = Arc::new(RunOptions::new().map_err(|error| files.unusable(error))?);
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = stopper(&options, &stopped);
    let frame = Frame { side: interface.side, fit: manifest.input.fit(), filter: manifest.input.filter };
    let mut runtime = Onnx {
        session,
        encoder: Encoder::new(&manifest.input, interface.layout, interface.side),
        interface,
        activation: manifest.output.activation,
        labels: labels.count(),
        tensor: Vec::new(),
        filled_up_to: (device != Device::Cpu.to_string()).then_some(settings.batch),
        options,
        stopped,
    };
    let (fits, oddity) = warm_up(&mut runtime, settings.batch).map_err(unusable)?;
    let thresholds = settings.thresholds.clone().or(&manifest.thresholds);
    let model = Model { id: files.id()?, frame, interface: runtime.interface.clone(), labels, thresholds, device };
    tracing::info!(
        model = files.name,
        sha256 = model.id.sha256,
        side = frame.side,
        labels = runtime.labels,
        device = model.device,
        onnxruntime = library.version,
        "the model is ready"
    );
    if let Some(oddity) = oddity {
        tracing::warn!(model = files.name, "{oddity}");
    }
    Ok(Loaded { model: model.into(), runtime: Box::new(runtime), fits, oddity, stop })
}

/// A session on the device asked for. `auto` tries CUDA and says what it chose; nothing else ever falls back.
fn session(
    files: &ModelFiles,
    library: &library::Library,
    settings: &Settings,
) -> Result<(Session, String), CannotLoad> {
    let open = |device: Device| -> Result<(Session, String), CannotLoad> {
        let builder = builder(library, device, settings.threads)
            .map_err(|error| CannotLoad::Device { device, reason: error.to_string() })?;
        let session = { builder }.commit_from_file(&files.onnx).map_err(|error| files.unusable(error))?;
        Ok((session, device.to_string()))
    };
    if settings.device != Device::Auto {
        return open(settings.device);
    }
    match open(Device::Cuda(0)) {
        Ok(opened) => {
            tracing::info!(device = "cuda:0", "chose the GPU (--device auto)");
            Ok(opened)
        }
        Err(CannotLoad::Device { reason, .. }) => {
            tracing::info!(device = "cpu", reason, "chose the CPU (--device auto): no GPU can be used");
            open(Device::Cpu)
        }
        Err(other) => Err(other),
    }
}

fn builder(library: &library::Library, device: Device, threads: usize) -> ort::Result<SessionBuilder> {
    let providers: Vec<ExecutionProviderDispatch> = match device {
        Device::Auto | Device::Cpu => vec![],
        Device::Cuda(number) => vec![ep::CUDA::default().with_device_id(number).build().error_on_failure()],
        Device::TensorRt(number) => vec![
            ep::TensorRT::default().with_device_id(number).build().error_on_failure(),
            ep::CUDA::default().with_device_id(number).build().error_on_failure(),
        ],
    };
    // Spinning would take the cores from the decoders between two batches.
    let builder = Session::builder(&library.environment)?.with_intra_threads(threads)?.with_intra_op_spinning(false)?;
    Ok(builder.with_execution_providers(providers)?)
}

fn stopper(options: &Arc<RunOptions>, stopped: &Arc<AtomicBool>) -> Stopper {
    let (options, stopped) = (Arc::clone(options), Arc::clone(stopped));
    Arc::new(move || {
        stopped.store(true, Ordering::Release);
        if let Err(error) = options.terminate() {
            tracing::warn!(%error, "the run in progress can't be stopped");
        }
    })
}

/// Runs as many blank images as a batch has at most, or as many as fit; how many, and what is odd about their scores.
fn warm_up(runtime: &mut Onnx, batch: usize) -> Result<(usize, Option<&'static str>), String> {
    let side = runtime.interface.side as usize;
    let row = vec![255; side * side * CHANNELS];
    match runtime.run(&vec![row.as_slice(); batch]) {
        Ok(scores) => Ok((batch, scores.first().and_then(|scores| tensor::oddity(scores)))),
        Err(failure) if failure.code == Code::OutOfMemory && batch > 1 => {
            tracing::warn!(batch, "the device's memory does not hold a batch of this size; trying half of it");
            warm_up(runtime, batch / 2)
        }
        Err(failure) => Err(failure.message),
    }
}

impl Runtime for Onnx {
    fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
        let size = self.filled_up_to.map_or(rows.len(), |most| limit::filled_up(most, rows.len()));
        let at_once = self.interface.batch.unwrap_or(size).max(1);
        let mut scores = Vec::with_capacity(rows.len());
        for rows in rows.chunks(at_once) {
            self.run_chunk(rows, at_once, &mut scores).map_err(|error| {
                if self.stopped.load(Ordering::Acquire) {
                    return Failure::new(Code::ShuttingDown, "the worker stops");
                }
                let code = if error.is_out_of_memory() { Code::OutOfMemory } else { Code::InferenceFailed };
                Failure::new(code, format!("the runtime failed on {} images: {error}", rows.len()))
            })?;
        }
        Ok(scores)
    }
}

impl Onnx {
    /// Runs as many rows as the graph takes; a fixed batch is filled up with blanks.
    fn run_chunk(&mut self, rows: &[&[u8]], batch: usize, scores: &mut Vec<Vec<f32>>) -> Result<(), RunError> {
        let shape = self.encoder.encode(rows, batch, &mut self.tensor);
        let tensor = TensorRef::from_array_view((shape, self.tensor.as_slice()))?;
        let inputs = ort::inputs![self.interface.input.as_str() => tensor];
        let outputs = self.session.run_with_options(inputs, &*self.options)?;
        let (_, values) = outputs[self.interface.output.as_str()].try_extract_tensor::<f32>()?;
        if values.len() != batch * self.labels {
            return Err(RunError::Width { batch, values: values.len(), labels: self.labels });
        }
        for values in values.chunks_exact(self.labels).take(rows.len()) {
            let mut image = values.to_vec();
            self.activation.apply(&mut image);
            scores.push(image);
        }
        Ok(())
    }
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Runtime(#[from] ort::Error),
    #[error("{batch} images have {values} scores, with {labels} labels")]
    Width { batch: usize, values: usize, labels: usize },
}

impl RunError {
    /// The runtime has no code of its own for this: its allocators say so in words, which differ by device.
    fn is_out_of_memory(&self) -> bool {
        let Self::Runtime(error) = self else { return false };
        let words = ["bad_alloc", "Failed to allocate memory", "out of memory", "OUT_OF_MEMORY", "ALLOC_FAILED"];
        words.iter().any(|words| error.message().contains(words))
    }
}
