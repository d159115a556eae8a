//! A WD14-style model as an ONNX Runtime session: rows of u8 RGB in, one probability per label out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::ep::{self, ExecutionProviderDispatch};
use ort::session::builder::SessionBuilder;
use ort::session::{RunOptions, Session};
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};

use super::device::Device;
use super::labels::Labels;
use super::library::{self, NoLibrary};
use super::{Loaded, Model, Runtime, Stopper};
use crate::failure::{Code, Failure};
use crate::job::Thresholds;
use crate::model::{ModelFiles, Unusable};
use crate::pipeline::decode::fit::CHANNELS;

/// How models run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// On what.
    pub device: Device,
    /// Threads one run uses on the CPU.
    pub threads: usize,
    /// Rows a batch has at most, which the warm-up runs.
    pub batch: usize,
    /// What the operator counts as a tag.
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
    /// The model's files are not what they should be.
    #[error(transparent)]
    Model(#[from] Unusable),
}

/// A model's session, with the tensor its rows are written to.
struct Onnx {
    session: Session,
    input: String,
    output: String,
    side: usize,
    fixed_batch: Option<usize>,
    tensor: Vec<f32>,
    options: Arc<RunOptions>,
    stopped: Arc<AtomicBool>,
}

/// Loads a model and runs a blank batch through it, so that the first job does not pay for what the runtime does once.
///
/// # Errors
/// Where the runtime, the device or the model can't be used.
pub fn load(files: &ModelFiles, settings: &Settings) -> Result<Loaded, CannotLoad> {
    let library = library::load()?;
    let labels = files.labels()?;
    let (session, device) = session(files, library, settings)?;
    let (side, fixed_batch, input) = input(&session).map_err(|reason| files.unusable(reason))?;
    let output = output(&session, labels.count()).map_err(|reason| files.unusable(reason))?;
    let options = Arc::new(RunOptions::new().map_err(|error| files.unusable(error))?);
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = stopper(&options, &stopped);
    let mut runtime = Onnx { session, input, output, side, fixed_batch, tensor: Vec::new(), options, stopped };
    warm_up(&mut runtime, settings.batch, &labels).map_err(|reason| files.unusable(reason))?;
    let side = u32::try_from(side).map_err(|_| files.unusable("its input is impossibly large"))?;
    tracing::info!(
        model = files.name, side, labels = labels.count(), %device, onnxruntime = library.version, "the model is ready"
    );
    let model = Model { id: files.id()?, side, labels, thresholds: settings.thresholds, device };
    Ok(Loaded { model: model.into(), runtime: Box::new(runtime), stop })
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

fn tensor_shape(outlet: &Outlet) -> Option<&[i64]> {
    match outlet.dtype() {
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } => Some(shape),
        _ => None,
    }
}

/// The input's side, batch where fixed, and name.
fn input(session: &Session) -> Result<(usize, Option<usize>, String), String> {
    let [input] = session.inputs() else { return Err(format!("it has {} inputs, not one", session.inputs().len())) };
    let shape = tensor_shape(input).ok_or_else(|| format!("its input `{}` is not of float32", input.name()))?;
    let &[batch, height, width, 3] = shape else {
        return Err(format!("its input `{}` is {shape:?}, not [batch, side, side, 3]", input.name()));
    };
    let side = usize::try_from(height).ok().filter(|side| *side > 0 && height == width);
    let side =
        side.ok_or_else(|| format!("its input `{}` is {shape:?}, not a square of a fixed side", input.name()))?;
    Ok((side, usize::try_from(batch).ok(), input.name().to_owned()))
}

/// The name of the first output that has a column per label.
fn output(session: &Session, labels: usize) -> Result<String, String> {
    let width = |outlet: &Outlet| tensor_shape(outlet).and_then(|shape| shape.last().copied());
    let wanted = i64::try_from(labels).unwrap_or(i64::MAX);
    let outputs = session.outputs();
    let found = outputs.iter().find(|outlet| width(outlet) == Some(wanted));
    let found = found.ok_or_else(|| {
        let widths: Vec<_> =
            outputs.iter().map(|outlet| format!("`{}` {:?}", outlet.name(), tensor_shape(outlet))).collect();
        format!("its label file has {labels} labels, and no output has as many columns: {}", widths.join(", "))
    })?;
    Ok(found.name().to_owned())
}

fn warm_up(runtime: &mut Onnx, batch: usize, labels: &Labels) -> Result<(), String> {
    let row = vec![255; runtime.side * runtime.side * CHANNELS];
    let scores = runtime.run(&vec![row.as_slice(); batch]).map_err(|failure| failure.message)?;
    match scores.first() {
        Some(first) if first.len() == labels.count() => Ok(()),
        _ => Err(format!("a blank image has {} scores, not {}", scores.first().map_or(0, Vec::len), labels.count())),
    }
}

impl Runtime for Onnx {
    fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
        let at_once = self.fixed_batch.unwrap_or(rows.len()).max(1);
        let mut scores = Vec::with_capacity(rows.len());
        for rows in rows.chunks(at_once) {
            self.run_chunk(rows, at_once, &mut scores).map_err(|error| {
                if self.stopped.load(Ordering::Acquire) {
                    return Failure::new(Code::ShuttingDown, "the worker stops");
                }
                Failure::new(Code::InferenceFailed, format!("the runtime failed on {} images: {error}", rows.len()))
            })?;
        }
        Ok(scores)
    }
}

impl Onnx {
    /// Runs as many rows as the graph takes; a fixed batch is filled up with blanks.
    fn run_chunk(&mut self, rows: &[&[u8]], batch: usize, scores: &mut Vec<Vec<f32>>) -> ort::Result<()> {
        self.tensor.clear();
        for row in rows {
            self.tensor.extend(row.chunks_exact(CHANNELS).flat_map(|rgb| [rgb[2], rgb[1], rgb[0]]).map(f32::from));
        }
        let shape = [batch, self.side, self.side, CHANNELS];
        self.tensor.resize(shape.iter().product(), 255.0);
        let tensor = TensorRef::from_array_view((shape, self.tensor.as_slice()))?;
        let inputs = ort::inputs![self.input.as_str() => tensor];
        let outputs = self.session.run_with_options(inputs, &*self.options)?;
        let (_, values) = outputs[self.output.as_str()].try_extract_tensor::<f32>()?;
        let width = values.len() / batch;
        scores.extend(values.chunks_exact(width.max(1)).take(rows.len()).map(<[f32]>::to_vec));
        Ok(())
    }
}
