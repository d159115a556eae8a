//! A tagger as an ONNX Runtime session: rows of u8 RGB in, one probability per label out.

mod cpu;
mod engines;
pub(crate) mod interface;
mod linker;
mod pipelined;
mod placement;
mod prepend;
mod provider;
mod run_error;
mod shared;
pub mod tensor;
mod warm_up;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ort::ErrorCode;
use ort::session::Session;
use parking_lot::Mutex;

use super::device::Device;
use super::library::{self, Library, NoLibrary};
use super::runtime::{Loaded, Runner, Runtime};
use crate::machine::gpu;
use crate::model::frame::Frame;
use crate::model::threshold::Thresholds;
use crate::model::{ModelFiles, Unusable};
use crate::pipeline::loaded::LoadedModel;
use engines::Engines;
use interface::Interface;
use pipelined::PipelinedRuntime;
use provider::Limits;
use shared::Shared;
use warm_up::WarmUp;

/// Pipelined runners of a device: while one runs its batch, the other copies its own to the device.
const RUNNERS: usize = 2;

/// Causes and remedies of what devices report.
pub(super) const REMEDIES: &str = "docs/gpu.md";

/// Settings of sessions.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Devices, one session each.
    pub(crate) devices: Vec<Device>,
    /// Threads of a run on the CPU.
    pub(crate) threads: usize,
    /// Maximum rows per batch, the size of the warm-up.
    pub(crate) batch: usize,
    /// Thresholds from the operator, which override the model's.
    pub(crate) thresholds: Thresholds,
    /// Maximum bytes of a model's arena on each device; by default most of the free memory.
    pub(crate) device_memory: Option<u64>,
    /// Folder of TensorRT's engines.
    pub(crate) engines: Option<PathBuf>,
}

/// Reasons for a failed load.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotLoad {
    /// ONNX Runtime can't be used.
    #[error(transparent)]
    Library(#[from] NoLibrary),
    /// The requested device can't be used.
    #[error("the device {device} was asked for (--device) and can't be used: {reason}; see {}", REMEDIES)]
    Device {
        /// Requested device.
        device: Device,
        /// Message of the runtime or of the linker.
        reason: String,
    },
    /// A device does not respond.
    #[error(
        "{model} is not loaded on {devices} after {}: the device hangs; see {}",
        humantime::format_duration(*waited), REMEDIES
    )]
    Hung {
        /// Name of the model.
        model: String,
        /// Its devices.
        devices: String,
        /// Time waited.
        waited: Duration,
    },
    /// Loading has stopped.
    #[error("the worker stops")]
    Stopped,
    /// The model's files are invalid.
    #[error(transparent)]
    Model(#[from] Unusable),
}

/// Loads a model on every device and runs blank batches there, so that the first job does not pay for the runtime's one-time
/// work.
///
/// # Errors
/// If the runtime, a device or the model can't be used.
pub(crate) fn load(files: &ModelFiles, settings: &Settings) -> Result<Loaded, CannotLoad> {
    let library = library::load()?;
    let (labels, manifest) = (files.labels()?, &files.manifest);
    let open = |device: &Device| open(files, library, *device, settings, labels.count());
    let opened: Vec<Opened> = settings.devices.iter().map(open).collect::<Result<_, _>>()?;
    let Some(Opened { shared, warm_up, .. }) = opened.first() else {
        return Err(files.unusable("there is no device to run it on").into());
    };
    let (interface, suspicion) = (shared.interface.clone(), warm_up.suspicion);
    let frame = Frame { side: interface.side, fit: manifest.input.fit(), filter: manifest.input.filter };
    let devices = opened.iter().map(|opened| opened.device.to_string()).collect();
    let thresholds = settings.thresholds.clone().or(&manifest.thresholds);
    let model = LoadedModel { id: files.id()?, frame, labels, thresholds, devices };
    tracing::info!(
        model = files.name,
        sha256 = model.id.sha256,
        side = frame.side,
        labels = model.labels.count(),
        device = model.device(),
        onnxruntime = library.version,
        "the model is ready"
    );
    if let Some(reason) = model.without_effect(&manifest.thresholds) {
        tracing::warn!(model = files.name, reason, "a threshold in tagmill.toml has no effect");
    }
    if let Some(suspicion) = suspicion {
        tracing::warn!(model = files.name, "{suspicion}");
    }
    // All devices take the same batches.
    let fits = opened.iter().map(|opened| opened.warm_up.fits).min().unwrap_or(1);
    let shared: Vec<Arc<Shared>> = opened.iter().map(|opened| Arc::clone(&opened.shared)).collect();
    let stop = Arc::new(move || shared.iter().for_each(|shared| shared.stop()));
    let runners = opened.into_iter().flat_map(Opened::runners).collect();
    Ok(Loaded { model: model.into(), interface, runners, fits, suspicion, stop })
}

/// Session after its warm-up.
struct Opened {
    /// Device of the session.
    device: Device,
    shared: Arc<Shared>,
    runtimes: Vec<Box<dyn Runtime>>,
    warm_up: WarmUp,
}

impl Opened {
    fn runners(self) -> impl Iterator<Item = Runner> {
        let (device, deadline): (Arc<str>, _) = (self.device.to_string().into(), self.warm_up.deadline(self.device));
        self.runtimes.into_iter().map(move |runtime| Runner { device: Arc::clone(&device), runtime, deadline })
    }
}

/// Opens a session on the requested device. `auto` tries CUDA and logs its choice; no other device ever falls back.
fn open(
    files: &ModelFiles,
    library: &Library,
    device: Device,
    settings: &Settings,
    labels: usize,
) -> Result<Opened, CannotLoad> {
    let device = match device {
        Device::Auto => choose(library),
        asked => asked,
    };
    if device == Device::Cpu {
        on_cpu(files, library, settings, labels)
    } else {
        on_gpu(files, library, device, settings, labels)
    }
}

/// Chooses CUDA if it is usable. Never TensorRT, which takes minutes to start.
fn choose(library: &Library) -> Device {
    let first = Device::Cuda(0);
    match provider::try_out(library, first) {
        Ok(()) => {
            tracing::info!(device = %first, "chose the GPU (--device auto)");
            first
        }
        Err(reason) if gpu::count().is_some_and(|count| count > 0) => {
            tracing::warn!(
                device = "cpu",
                reason,
                "chose the CPU (--device auto) although there is a GPU: it can't be used; see {REMEDIES}"
            );
            Device::Cpu
        }
        Err(reason) if provider::has_cuda() => {
            tracing::info!(device = "cpu", reason, "chose the CPU (--device auto): no GPU can be used");
            Device::Cpu
        }
        Err(_) => {
            tracing::info!(device = "cpu", "chose the CPU (--device auto): ONNX Runtime is built for it alone");
            Device::Cpu
        }
    }
}

fn on_cpu(files: &ModelFiles, library: &Library, settings: &Settings, labels: usize) -> Result<Opened, CannotLoad> {
    let (device, limits) = (Device::Cpu, Limits { threads: settings.threads, memory: None });
    let builder = || provider::builder(library, device, limits, None);
    let mut runtime = cpu::open(builder, files, labels)?;
    let shared = Arc::clone(runtime.shared());
    let warm_up = warm_up::run(&mut runtime, shared.interface.side, &[settings.batch])
        .map_err(|reason| files.unusable(reason))?;
    warm_up.log(&files.name, device);
    Ok(Opened { device, shared, runtimes: vec![Box::new(runtime)], warm_up })
}

fn on_gpu(
    files: &ModelFiles,
    library: &Library,
    device: Device,
    settings: &Settings,
    labels: usize,
) -> Result<Opened, CannotLoad> {
    let began = Instant::now();
    let unusable = |reason| CannotLoad::Device { device, reason };
    provider::try_out(library, device).map_err(unusable)?;
    let (session, interface) = session(files, library, device, settings, labels)?;
    let shared = shared(files, interface, labels)?;
    let session = Arc::new(Mutex::new(session));
    let runtime = || PipelinedRuntime::new(Arc::clone(&session), Arc::clone(&shared), device, settings.batch);
    let mut runtimes: Vec<PipelinedRuntime> = std::iter::repeat_with(runtime).take(RUNNERS).collect();
    let failed = |reason: String| {
        if run_error::is_device_error(&reason) { unusable(reason) } else { files.unusable(reason).into() }
    };
    let mut warm_up = warm_up::pipelined(&mut runtimes, shared.interface.side, settings.batch).map_err(failed)?;
    warm_up.check_placement(&session, device).map_err(unusable)?;
    warm_up.log(&files.name, device);
    log_loaded(files, device, began.elapsed());
    let runtimes = runtimes.into_iter().map(|runtime| Box::new(runtime) as Box<dyn Runtime>).collect();
    Ok(Opened { device, shared, runtimes, warm_up })
}

fn shared(files: &ModelFiles, interface: Interface, labels: usize) -> Result<Arc<Shared>, Unusable> {
    let shared = Shared::new(interface, files.manifest.output.activation, labels);
    shared.map(Arc::new).map_err(|error| files.unusable(error))
}

/// Creates a session whose graph takes rows, and that records the placement of its first runs.
fn session(
    files: &ModelFiles,
    library: &Library,
    device: Device,
    settings: &Settings,
    labels: usize,
) -> Result<(Session, Interface), CannotLoad> {
    let read = |session: &Session| Interface::read(session, &files.manifest, labels).map_err(ort::Error::new);
    let limits = Limits { threads: settings.threads, memory: provider::memory(device, settings.device_memory) };
    let interface = provider::builder(library, Device::Cpu, limits, None)
        .and_then(|mut builder| prepend::interface(&mut builder, &files.onnx, read))
        .map_err(|error| refused(files, &error))?;
    let engines = match device {
        Device::TensorRt(_) => Some(kept(files, settings, &interface)?),
        _ => None,
    };
    tracing::info!(model = files.name, %device, arena_bytes = limits.memory, "loading the model on the device");
    let session = provider::builder(library, device, limits, engines.as_ref())
        .and_then(|builder| Ok(builder.with_profiling(placement::file())?))
        .and_then(|mut builder| prepend::open(&mut builder, &files.onnx, &interface, &files.manifest.input));
    match session {
        Ok(session) => Ok((session, interface)),
        Err(error) if run_error::is_device_error(error.message()) => {
            Err(CannotLoad::Device { device, reason: run_error::summary(error.message()) })
        }
        Err(error) => Err(refused(files, &error).into()),
    }
}

/// Error for a graph that the runtime refused.
fn refused(files: &ModelFiles, error: &ort::Error) -> Unusable {
    let (file, reason) = (files.onnx.display(), run_error::summary(error.message()));
    if let Err(error) = std::fs::File::open(&files.onnx) {
        return files.unusable(format_args!("{file}: {error}"));
    }
    match error.code() {
        ErrorCode::InvalidProtobuf | ErrorCode::NoModel => files.unusable(format_args!(
            "{file} is damaged, or no ONNX model; get it again, such as with `tagmill models pull` [{reason}]"
        )),
        _ => files.unusable(reason),
    }
}

/// Locks the folder of TensorRT's engines for this model.
fn kept(files: &ModelFiles, settings: &Settings, interface: &Interface) -> Result<Engines, Unusable> {
    let mut engines = Engines::new(files, settings.engines.as_deref(), interface, settings.batch)?;
    let folder = engines
        .locked_folder()
        .map_err(|error| files.unusable(format_args!("TensorRT's engines can't be kept (--engine-cache): {error}")))?;
    let folder = folder.map(|folder| folder.display().to_string());
    // Another process may have built them during the wait for the lock.
    if engines.are_there() {
        tracing::info!(model = files.name, folder, "TensorRT has engines from before");
    } else {
        tracing::info!(model = files.name, folder, "TensorRT builds its engines: minutes, this once if they are kept");
    }
    Ok(engines)
}

fn log_loaded(files: &ModelFiles, device: Device, took: Duration) {
    let name = device.to_string();
    tracing::info!(
        model = files.name,
        %device,
        gpu = gpu::model(&name),
        driver = gpu::driver_version(),
        memory_used = gpu::memory(&name).map(|memory| memory.used),
        memory_total = gpu::memory(&name).map(|memory| memory.total),
        seconds = took.as_secs_f64(),
        "the device has the model"
    );
}
