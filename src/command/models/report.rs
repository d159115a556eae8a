//! What models there are, and whether they work.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::catalog::Catalog;
use crate::model::category::RATING;
use crate::model::labels::Labels;
use crate::model::threshold::{Threshold, Thresholds};
use crate::model::{ModelFiles, Unusable};
use crate::pipeline::tag::Loaded;
use crate::pipeline::tag::library;
use crate::pipeline::tag::onnx::{self, CannotLoad};

/// What is said of a model.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    pub(super) ok: bool,
    /// What is odd about its scores.
    pub(super) warning: Option<&'static str>,
    pub(super) error: Option<String>,
    pub(super) sha256: Option<String>,
    pub(super) bytes: Option<u64>,
    pub(super) labels: Option<usize>,
    /// How many labels there are of each category.
    pub(super) categories: serde_json::Map<String, serde_json::Value>,
    /// What counts as a tag, by category.
    pub(super) thresholds: BTreeMap<String, Threshold>,
    /// What the loaded graph takes and gives; only of `check`.
    #[serde(flatten)]
    pub(super) loaded: Option<Interface>,
}

#[derive(Debug, Serialize)]
pub(super) struct Interface {
    pub(super) layout: &'static str,
    pub(super) side: u32,
    /// Images a run takes; any number where null.
    pub(super) batch: Option<usize>,
    pub(super) input: String,
    pub(super) output: String,
    pub(super) device: String,
    pub(super) onnxruntime: String,
}

/// Reports on one model; with settings to load it, also on what it does.
///
/// # Errors
/// Error of the runtime or the device, not of the model.
pub(super) fn report(
    catalog: &Catalog,
    name: &str,
    model: &Result<ModelFiles, Unusable>,
    onnx: Option<&onnx::Settings>,
) -> Result<Report, CannotLoad> {
    let aliases = catalog.aliases_of(name).map(str::to_owned).collect();
    let mut report = Report { name: name.to_owned(), aliases, ..Report::default() };
    let looked = model.as_ref().map_err(|broken| broken.clone().into()).and_then(|files| report.fill(files, onnx));
    match looked {
        Ok(()) => report.ok = true,
        Err(CannotLoad::Model(broken)) => report.error = Some(broken.reason),
        // Not the model's fault, and the same for all of them.
        Err(other) => return Err(other),
    }
    Ok(report)
}

impl Report {
    fn fill(&mut self, files: &ModelFiles, onnx: Option<&onnx::Settings>) -> Result<(), CannotLoad> {
        self.bytes = std::fs::metadata(&files.onnx).ok().map(|metadata| metadata.len());
        let Some(settings) = onnx else {
            self.name_labels(&files.labels()?, &files.manifest.thresholds);
            self.sha256 = Some(files.id()?.sha256);
            return Ok(());
        };
        let Loaded { model, interface, suspicion, .. } = onnx::load(files, settings)?;
        self.warning = suspicion;
        self.sha256 = Some(model.id.sha256.clone());
        self.name_labels(&model.labels, &model.thresholds);
        self.loaded = Some(Interface {
            layout: interface.layout.as_str(),
            side: interface.side,
            batch: interface.batch,
            input: interface.input,
            output: interface.output,
            device: model.device(),
            onnxruntime: library::load()?.version.clone(),
        });
        Ok(())
    }

    fn name_labels(&mut self, labels: &Labels, thresholds: &Thresholds) {
        self.labels = Some(labels.count());
        self.categories = labels.categories().map(|(category, count)| (category.to_owned(), count.into())).collect();
        let tags = labels.categories().filter(|(category, _)| *category != RATING);
        self.thresholds = tags.map(|(category, _)| (category.to_owned(), thresholds.of(category))).collect();
    }
}
