//! State that all runs of a session share: the interpretation of their outputs, and their early end.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::session::RunOptions;

use super::interface::Interface;
use super::run_error::RunError;
use crate::failure::{Code, Failure};
use crate::model::manifest::Activation;

/// Shared state of a session's runs.
pub(super) struct Shared {
    pub(super) interface: Interface,
    activation: Activation,
    labels: usize,
    pub(super) options: RunOptions,
    stopped: AtomicBool,
    /// Reason why nothing runs any more, once the device is lost.
    lost: OnceLock<String>,
}

impl Shared {
    pub(super) fn new(interface: Interface, activation: Activation, labels: usize) -> ort::Result<Self> {
        let (stopped, lost) = (AtomicBool::new(false), OnceLock::new());
        Ok(Self { interface, activation, labels, options: RunOptions::new()?, stopped, lost })
    }

    /// Appends the scores of the first `images` images of a batch.
    pub(super) fn read(
        &self,
        values: &[f32],
        batch: usize,
        images: usize,
        scores: &mut Vec<Vec<f32>>,
    ) -> Result<(), RunError> {
        if values.len() != batch * self.labels {
            return Err(RunError::Width { batch, values: values.len(), labels: self.labels });
        }
        for values in values.chunks_exact(self.labels).take(images) {
            let mut image = values.to_vec();
            self.activation.apply(&mut image);
            scores.push(image);
        }
        Ok(())
    }

    /// Number of labels of each image.
    pub(super) const fn labels(&self) -> usize {
        self.labels
    }

    /// Converts a run's error to the failure of its jobs.
    pub(super) fn failure(&self, error: &RunError, images: usize) -> Failure {
        if self.stopped.load(Ordering::Acquire) {
            return Failure::new(Code::ShuttingDown, "the worker stops");
        }
        if error.is_device_lost() {
            let reason = self.lost.get_or_init(|| error.to_string());
            return Failure::new(Code::ShuttingDown, format!("the worker stops, for its device is lost: {reason}"));
        }
        let code = if error.is_out_of_memory() { Code::OutOfMemory } else { Code::InferenceFailed };
        Failure::new(code, format!("the runtime failed on {images} images: {error}"))
    }

    pub(super) fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Ends the run in progress and every later one.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        if let Err(error) = self.options.terminate() {
            tracing::warn!(%error, "the run in progress can't be stopped");
        }
    }
}
