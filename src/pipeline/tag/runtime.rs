//! Parts that run a loaded model.

use std::sync::Arc;
use std::time::Duration;

use super::onnx::interface::Interface;
use crate::failure::Failure;
use crate::pipeline::loaded::LoadedModel;

/// Session of a model, or one of several runners that share it. It has one owner, and runs block.
pub(crate) trait Runtime: Send {
    /// Returns the scores of each row, one per label.
    ///
    /// # Errors
    /// If the batch as a whole failed; smaller ones may succeed.
    fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure>;

    /// Reason, once its device is lost and runs nothing any more. Its jobs fail with `shutting_down`, because another worker
    /// may tag them.
    fn lost(&self) -> Option<&str> {
        None
    }
}

/// Runtime for a dedicated thread.
pub(crate) struct Runner {
    /// Device of the runtime.
    pub(crate) device: Arc<str>,
    /// Runtime itself.
    pub(crate) runtime: Box<dyn Runtime>,
    /// Longest time of a run before the device counts as hung; `None` for no limit.
    pub(crate) deadline: Option<Duration>,
}

/// Ends the run in progress and every later one with `shutting_down`, because a process must not exit during a run.
pub(crate) type Stopper = Arc<dyn Fn() + Send + Sync>;

/// A loaded model with its sessions.
pub(crate) struct Loaded {
    /// The model.
    pub(crate) model: Arc<LoadedModel>,
    /// Names and shapes of the graph's input and output.
    pub(crate) interface: Interface,
    /// Runtimes: one for each session on the CPU, several that pipeline on every other device.
    pub(crate) runners: Vec<Runner>,
    /// Number of images in a batch that succeeded in the warm-up.
    pub(crate) fits: usize,
    /// Suspicious property of its output, if one was logged.
    pub(crate) suspicion: Option<&'static str>,
    /// Stops the sessions.
    pub(crate) stop: Stopper,
}
