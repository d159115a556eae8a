//! The parts that run a loaded model.

use std::sync::Arc;
use std::time::Duration;

use super::onnx::interface::Interface;
use crate::failure::Failure;
use crate::pipeline::loaded::LoadedModel;

/// Scores rows: a model's session, or a share of one. It has one owner, and blocks.
pub(crate) trait Runtime: Send {
    /// Scores of each row, one per label.
    ///
    /// # Errors
    /// If the batch as a whole failed; smaller ones may not.
    fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure>;

    /// Why nothing runs on its device any more, once that is so. Its jobs failed with `shutting_down`: another worker may tag
    /// them.
    fn lost(&self) -> Option<&str> {
        None
    }
}

/// A runtime for a thread of its own.
pub(crate) struct Runner {
    /// The device it runs on.
    pub(crate) device: Arc<str>,
    /// The runtime.
    pub(crate) runtime: Box<dyn Runtime>,
    /// Longest time of a run before the device counts as hung; no limit where `None`.
    pub(crate) deadline: Option<Duration>,
}

/// Ends the run in progress, and every later one, with `shutting_down`: a process must not exit under a running model.
pub(crate) type Stopper = Arc<dyn Fn() + Send + Sync>;

/// A loaded model with its sessions.
pub(crate) struct Loaded {
    /// The model.
    pub(crate) model: Arc<LoadedModel>,
    /// Names and shapes of its graph's input and output.
    pub(crate) interface: Interface,
    /// Its runtimes: one for each session on the CPU, several that pipeline on every other device.
    pub(crate) runners: Vec<Runner>,
    /// Images that ran at once in the warm-up.
    pub(crate) fits: usize,
    /// What is suspicious about its output, where that has been logged.
    pub(crate) suspicion: Option<&'static str>,
    /// Stops the sessions.
    pub(crate) stop: Stopper,
}
