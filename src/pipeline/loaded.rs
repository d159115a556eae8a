//! A model that is loaded, as the stages know it.

use crate::model::frame::Frame;
use crate::model::labels::Labels;
use crate::model::threshold::Thresholds;
use crate::tags::ModelId;

/// Everything about a loaded model but the sessions that run it.
#[derive(Debug)]
pub(crate) struct LoadedModel {
    /// Its name and hash, as answers have them.
    pub(crate) id: ModelId,
    /// The square it takes.
    pub(crate) frame: Frame,
    /// The meaning of its output.
    pub(crate) labels: Labels,
    /// Thresholds of jobs that set none: the operator's, else the model's own.
    pub(crate) thresholds: Thresholds,
    /// The devices it runs on, one per session.
    pub(crate) devices: Vec<String>,
}

impl LoadedModel {
    /// Its devices, joined with commas.
    #[must_use]
    pub(crate) fn device(&self) -> String {
        self.devices.join(",")
    }

    /// Whether one of its devices prefetches: it copies the next batch while one runs. The CPU has nothing to copy, and an
    /// interactive row can still join a batch that is closed later.
    #[must_use]
    pub(crate) fn prefetches(&self) -> bool {
        self.devices.iter().any(|device| device != "cpu")
    }
}
