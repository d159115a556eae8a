//! The execution providers of a device, and what it means where they can't be had.

use std::fmt::Write;

use ort::editor::{Graph, Model, Node, ONNX_DOMAIN, Opset};
use ort::ep::{self, ArenaExtendStrategy, ExecutionProvider, ExecutionProviderDispatch};
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::value::{Outlet, Shape, SymbolicDimensions, TensorElementType, ValueType};

use super::diagnosis;
use super::engines::Engines;
use super::fault::{ARENA, IN_PARTS, brief, cuda_failure, is_out_of_memory};
use crate::machine::gpu;
use crate::pipeline::tag::device::Device;
use crate::pipeline::tag::library::Library;

/// Of a device's memory, what a model's arena leaves where the operator sets no limit: for CUDA's own needs, which are some
/// hundred megabytes, and for others.
const LEFT: (u64, u64) = (16, 512 << 20);

/// Threads on the CPU, and how much memory of a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) threads: usize,
    pub(super) memory: Option<u64>,
}

/// A builder of sessions on this device and nowhere else.
///
/// # Errors
/// Where the library, a provider or what it needs is missing.
pub(super) fn builder(
    library: &Library,
    device: Device,
    limits: Limits,
    engines: Option<&Engines>,
) -> ort::Result<SessionBuilder> {
    // Spinning would take the cores from the decoders between two batches.
    let builder =
        Session::builder(&library.environment)?.with_intra_threads(limits.threads)?.with_intra_op_spinning(false)?;
    // A pattern is a block of the arena for all a run computes with, one for each size of batch, kept beside the pieces that
    // the first run took: up to twice the memory. What it saves in time on a GPU was not measured.
    let builder = if device.number().is_some() { builder.with_memory_pattern(false)? } else { builder };
    Ok(builder.with_execution_providers(providers(device, limits.memory, engines))?)
}

/// In the order in which they are offered the nodes of a graph; the CPU's comes after all of them.
fn providers(device: Device, memory: Option<u64>, engines: Option<&Engines>) -> Vec<ExecutionProviderDispatch> {
    let limit = memory.and_then(|bytes| usize::try_from(bytes).ok());
    let cuda = |number| {
        // Other sizes than those seen at the warm-up never come, so the arena need not grow ahead.
        let cuda =
            ep::CUDA::default().with_device_id(number).with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested);
        limit.into_iter().fold(cuda, ep::CUDA::with_memory_limit).build().error_on_failure()
    };
    match device {
        Device::Auto | Device::Cpu => vec![],
        Device::Cuda(number) => vec![cuda(number)],
        Device::TensorRt(number) => {
            // Its provider brings an arena of its own, which knows no limit; this one is of what engines compute with.
            let tensorrt = ep::TensorRT::default().with_device_id(number);
            let tensorrt = limit.into_iter().fold(tensorrt, ep::TensorRT::with_max_workspace_size);
            let tensorrt = engines.into_iter().fold(tensorrt, |tensorrt, engines| engines.settings(tensorrt));
            // What TensorRT does not know is CUDA's.
            vec![tensorrt.build().error_on_failure(), cuda(number)]
        }
    }
}

/// Whether the library has CUDA's provider: only one for GPUs does.
pub(super) fn has_cuda() -> bool {
    ep::CUDA::is_available().unwrap_or_default()
}

/// What a model's arena may take: what the operator says, else what is free but for a little. Nothing is known where there
/// is no NVML; then there is no limit.
pub(super) fn memory(device: Device, operator: Option<u64>) -> Option<u64> {
    operator.or_else(|| {
        let memory = gpu::memory(&device.to_string())?;
        Some(left(memory))
    })
}

fn left(memory: gpu::Memory) -> u64 {
    let reserve = (memory.total / LEFT.0).max(LEFT.1);
    memory.free().saturating_sub(reserve).max(memory.free() / 2)
}

/// Makes a session of one node that may run nowhere but on the device. What fails here is the device's fault and no
/// model's, whatever it is called.
///
/// # Errors
/// The reason, and what to do about it.
pub(super) fn try_out(library: &Library, device: Device) -> Result<(), String> {
    let explained = |error: &ort::Error| {
        let of_libraries = || diagnosis::of_libraries(device, &library.path);
        // Other errors come from libraries that were loaded.
        let linker = error.message().contains("library").then(of_libraries).flatten();
        explain(device, linker.as_deref().unwrap_or(error.message()), &library.path.display().to_string())
    };
    let Some(number) = device.number() else { return Ok(()) };
    if let Some(count) = gpu::count()
        && usize::try_from(number).is_ok_and(|number| number >= count)
    {
        return Err(no_such_device(number, Some(count)));
    }
    let limits = Limits { threads: 1, memory: None };
    let tried = builder(library, device, limits, None).and_then(|builder| {
        let builder = builder.with_disable_cpu_fallback()?;
        one_node()?.into_session(&builder)
    });
    tried.map(drop).map_err(|error| explained(&error))
}

fn one_node() -> ort::Result<Model> {
    let outlet = |name: &str| {
        let (shape, dimension_symbols) = (Shape::new([1]), SymbolicDimensions::empty(1));
        Outlet::new(name, ValueType::Tensor { ty: TensorElementType::Float32, shape, dimension_symbols })
    };
    let mut graph = Graph::new()?;
    graph.set_inputs([outlet("x")])?;
    graph.set_outputs([outlet("y")])?;
    graph.add_node(Node::new("Relu", ONNX_DOMAIN, "relu", ["x"], ["y"], [])?)?;
    let mut model = Model::new([Opset::new(ONNX_DOMAIN, 14)?])?;
    model.set_graph(graph)?;
    Ok(model)
}

/// What a provider's error means and what to do, with its own words at the end.
pub(super) fn explain(device: Device, error: &str, library: &str) -> String {
    let kind = if matches!(device, Device::TensorRt(_)) { "TensorRT" } else { "CUDA" };
    let mut text = reason(device, error, library, kind);
    let _ = write!(text, " [{}]", brief(error));
    text
}

fn reason(device: Device, error: &str, library: &str, kind: &str) -> String {
    let number = device.number().unwrap_or_default();
    if error.contains("not enabled in this build") || error.contains("not enabled or not available") {
        return format!(
            "the ONNX Runtime at {library} is built without {kind}. Take all libonnxruntime* files of the wheel \
             onnxruntime-gpu instead of onnxruntime's, in one folder, and set ORT_DYLIB_PATH to its libonnxruntime.so.*"
        );
    }
    if let Some(missing) = missing_library(error) {
        return lacking(missing, kind, library);
    }
    match cuda_failure(error) {
        Some(46) => "another process has it for itself, or it is busy: see `nvidia-smi` (compute mode)".to_owned(),
        Some(35) => {
            let version = gpu::driver_version().map(|version| format!(" ({version})")).unwrap_or_default();
            format!("the NVIDIA driver{version} is too old for CUDA 13, or there is none: install 580 or later")
        }
        Some(34 | 803 | 804) => "the NVIDIA driver does not fit this machine or this CUDA: install 580 or later on \
                                 the host, and let the container have the host's libcuda.so.1"
            .to_owned(),
        Some(100) => no_such_device(number, Some(0)),
        Some(101) => no_such_device(number, gpu::count()),
        Some(209) => "the device is too old for this ONNX Runtime, which has no code for it".to_owned(),
        Some(802) => "the devices of this machine are not connected yet: start nvidia-fabricmanager, of the driver's \
                      version, on the host"
            .to_owned(),
        _ if error.contains(ARENA) => {
            "it needs more of the device's memory than it may take: raise --device-memory, or free some".to_owned()
        }
        _ if is_out_of_memory(error) => "others have taken its memory: see `nvidia-smi`".to_owned(),
        _ if error.contains(IN_PARTS) => "TensorRT takes this model only in parts: ask for cuda instead".to_owned(),
        _ => format!("{kind} can't be used"),
    }
}

/// What is wrong with a number where the process sees so many devices, if that is known.
fn no_such_device(number: i32, count: Option<usize>) -> String {
    if count == Some(0) {
        return "there is no NVIDIA device: see whether `nvidia-smi` lists one, whether CUDA_VISIBLE_DEVICES hides it, and \
                whether the container was given it (`--gpus all`)"
            .to_owned();
    }
    let seen = count.map(|count| format!(": devices this process sees: {count}, numbered from 0")).unwrap_or_default();
    format!("there is no device {number}{seen} (`nvidia-smi -L`; CUDA_VISIBLE_DEVICES hides the others)")
}

/// The library that another one, or the program, could not find.
fn missing_library(error: &str) -> Option<&str> {
    // glibc: "libcublas.so.13: cannot open shared object file: No such file or directory".
    let (before, _) = error.split_once(": cannot open shared object file")?;
    before.rsplit([' ', ':', '/']).next().filter(|name| name.contains(".so"))
}

fn lacking(missing: &str, kind: &str, library: &str) -> String {
    let of = |what: &str, how: &str| {
        format!("{missing} is missing, which is part of {what}. {how}, and set LD_LIBRARY_PATH to the folders it is in")
    };
    match missing {
        "libcuda.so.1" => format!(
            "there is no NVIDIA driver: {missing} is missing. Install driver 580 or later; a container gets it from the \
             host through NVIDIA's container toolkit (`--gpus all`)"
        ),
        _ if missing.starts_with("libonnxruntime_providers") => {
            format!("{missing} is missing, which belongs beside {library}: both are in the wheel onnxruntime-gpu")
        }
        _ if missing.starts_with("libcudnn") => of("cuDNN 9", "Install it (`pip install nvidia-cudnn-cu13`)"),
        _ if missing.starts_with("libnv") && kind == "TensorRT" => {
            of("TensorRT 10", "Install it (`pip install 'tensorrt-cu13-libs<11'`), or ask for cuda instead of tensorrt")
        }
        _ => of(
            "CUDA 13",
            "Install its run-time libraries (`pip install nvidia-cublas nvidia-cuda-runtime nvidia-curand nvidia-cufft`)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_remedy() {
        let loading = |name: &str| {
            format!(
                "Failed to load library /x/libonnxruntime_providers_cuda.so with error: {name}: cannot open shared object file: No such file or directory"
            )
        };
        let cuda = |number: u32, text: &str| {
            format!("CUDA failure {number}: {text} ; GPU=0 ; hostname=h ; expr=cudaSetDevice")
        };
        for (error, named) in [
            ("CUDA execution provider is not enabled in this build.".to_owned(), "onnxruntime-gpu"),
            (loading("libcuda.so.1"), "no NVIDIA driver"),
            (loading("libcublasLt.so.13"), "nvidia-cublas"),
            (loading("libcudnn.so.9"), "nvidia-cudnn-cu13"),
            (loading("/x/libonnxruntime_providers_shared.so"), "belongs beside /lib/ort.so"),
            (cuda(35, "CUDA driver version is insufficient for CUDA runtime version"), "580"),
            (cuda(100, "no CUDA-capable device is detected"), "nvidia-smi"),
            (cuda(101, "invalid device ordinal"), "no device 1"),
            (cuda(2, "out of memory"), "taken its memory"),
            (cuda(46, "CUDA-capable device(s) is/are busy or unavailable"), "another process"),
            (cuda(802, "system not yet initialized"), "nvidia-fabricmanager"),
            ("Available memory of 1 is smaller than requested bytes of 2".to_owned(), "raise --device-memory"),
            ("something new".to_owned(), "something new"),
        ] {
            let text = explain(Device::Cuda(1), &error, "/lib/ort.so");
            assert!(text.contains(named) && text.ends_with(']'), "{error}: {text}");
        }
        let text = explain(Device::TensorRt(0), &loading("libnvinfer.so.10"), "/lib/ort.so");
        assert!(text.contains("TensorRT 10") && text.contains("cuda instead"), "{text}");
        let text = explain(
            Device::TensorRt(0),
            "User needs to provide all the dynamic shape inputs with associated profiles",
            "/lib/ort.so",
        );
        assert!(text.contains("only in parts"), "{text}");
        assert!(!no_such_device(1, None).contains("sees"), "nothing is known of how many there are");
        assert!(no_such_device(0, Some(0)).starts_with("there is no NVIDIA device"), "not one");
    }

    #[test]
    fn a_provider_for_each_device_and_none_for_the_cpu() {
        let names = |device| -> Vec<&str> {
            providers(device, Some(1 << 30), None).iter().map(ExecutionProviderDispatch::name).collect()
        };
        assert!(names(Device::Cpu).is_empty());
        assert_eq!(names(Device::Cuda(1)), ["CUDAExecutionProvider"]);
        assert_eq!(names(Device::TensorRt(0)), ["TensorrtExecutionProvider", "CUDAExecutionProvider"]);
    }

    #[test]
    fn the_operator_sets_the_limit_else_some_memory_is_left() {
        assert_eq!(memory(Device::Cuda(0), Some(3)), Some(3));
        let gib = 1 << 30;
        assert_eq!(left(gpu::Memory { used: 0, total: 16 * gib }), 15 * gib);
        assert_eq!(left(gpu::Memory { used: gib, total: 4 * gib }), 5 * gib / 2);
        assert_eq!(left(gpu::Memory { used: 15 * gib, total: 16 * gib }), gib / 2, "half of what little there is");
    }
}
