//! Execution providers of a device.

use ort::editor::{Graph, Model, Node, ONNX_DOMAIN, Opset};
use ort::ep::{self, ArenaExtendStrategy, ExecutionProvider, ExecutionProviderDispatch};
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::value::{Outlet, Shape, SymbolicDimensions, TensorElementType, ValueType};

use super::engines::Engines;
use super::linker;
use super::run_error::summary;
use crate::machine::gpu;
use crate::pipeline::tag::device::Device;
use crate::pipeline::tag::library::Library;

/// Memory of a device that a model's arena leaves free without an operator's limit, as a divisor of the total and a minimum
/// in bytes. CUDA itself needs some hundred megabytes; the rest is for others.
const LEFT: (u64, u64) = (16, 512 << 20);

/// Limits on threads on the CPU and on memory of a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) threads: usize,
    pub(super) memory: Option<u64>,
}

/// Builder of sessions on this device alone.
///
/// # Errors
/// If the library, a provider or one of its dependencies is missing.
pub(super) fn builder(
    library: &Library,
    device: Device,
    limits: Limits,
    engines: Option<&Engines>,
) -> ort::Result<SessionBuilder> {
    // Spinning would take the cores from the decoders between two batches.
    let builder =
        Session::builder(&library.environment)?.with_intra_threads(limits.threads)?.with_intra_op_spinning(false)?;
    // A pattern is a block of the arena for all that a run computes with, one for each batch size, kept beside the pieces
    // that the first run took: up to twice the memory. The time that it saves on a GPU was not measured.
    let builder = if device.number().is_some() { builder.with_memory_pattern(false)? } else { builder };
    Ok(builder.with_execution_providers(providers(device, limits.memory, engines))?)
}

/// Providers in the order in which they are offered the nodes of a graph. The CPU's comes after all of them.
fn providers(device: Device, memory: Option<u64>, engines: Option<&Engines>) -> Vec<ExecutionProviderDispatch> {
    let limit = memory.and_then(|bytes| usize::try_from(bytes).ok());
    let cuda = |number| {
        // No other sizes occur than at the warm-up, so the arena need not grow ahead.
        let cuda =
            ep::CUDA::default().with_device_id(number).with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested);
        limit.into_iter().fold(cuda, ep::CUDA::with_memory_limit).build().error_on_failure()
    };
    match device {
        Device::Auto | Device::Cpu => vec![],
        Device::Cuda(number) => vec![cuda(number)],
        Device::TensorRt(number) => {
            // Its provider has an arena of its own, without a limit. This limit is on the memory that engines compute with.
            let tensorrt = ep::TensorRT::default().with_device_id(number);
            let tensorrt = limit.into_iter().fold(tensorrt, ep::TensorRT::with_max_workspace_size);
            let tensorrt = engines.into_iter().fold(tensorrt, |tensorrt, engines| engines.settings(tensorrt));
            // Nodes that TensorRT does not support go to CUDA.
            vec![tensorrt.build().error_on_failure(), cuda(number)]
        }
    }
}

/// Returns `true` if the library has CUDA's provider, as only one for GPUs does.
pub(super) fn has_cuda() -> bool {
    ep::CUDA::is_available().unwrap_or_default()
}

/// Memory limit of a model's arena: the operator's, otherwise the free memory except for a reserve. Without NVML there is
/// no limit.
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

/// Opens a session of one node that may run nowhere but on the device, so that an error is the device's and not a model's.
///
/// # Errors
/// If that fails, with the message of the runtime, or of the linker if a library could not be loaded.
pub(super) fn try_out(library: &Library, device: Device) -> Result<(), String> {
    if device.number().is_none() {
        return Ok(());
    }
    let limits = Limits { threads: 1, memory: None };
    let tried = builder(library, device, limits, None).and_then(|builder| {
        let builder = builder.with_disable_cpu_fallback()?;
        one_node()?.into_session(&builder)
    });
    tried.map(drop).map_err(|error| {
        let load_error = || linker::load_error(device, &library.path);
        // Other errors come from libraries that were loaded.
        let load_error = error.message().contains("library").then(load_error).flatten();
        load_error.unwrap_or_else(|| summary(error.message()))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

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
