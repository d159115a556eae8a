//! A model on the CPU: rows become numbers in one pass, and run from where they are.

use std::sync::Arc;

use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::value::TensorRef;

use super::interface::Interface;
use super::removal::{self, Simplified};
use super::run_error::RunError;
use super::shared::Shared;
use super::tensor::Encoder;
use crate::failure::Failure;
use crate::model::frame::CHANNELS;
use crate::model::manifest::{self, Manifest};
use crate::model::{ModelFiles, Unusable};
use crate::pipeline::tag::runtime::Runtime;

/// A session, with the tensor its rows are written to.
pub(super) struct CpuRuntime {
    session: Session,
    /// What the session calls that.
    input: String,
    shared: Arc<Shared>,
    encoder: Encoder,
    tensor: Vec<f32>,
}

impl CpuRuntime {
    pub(super) const fn new(session: Session, input: String, shared: Arc<Shared>, encoder: Encoder) -> Self {
        Self { session, input, shared, encoder, tensor: Vec::new() }
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Runs as many rows as the graph takes; a fixed batch is filled up with blanks.
    fn run_chunk(&mut self, rows: &[&[u8]], batch: usize, scores: &mut Vec<Vec<f32>>) -> Result<(), RunError> {
        let shape = self.encoder.encode(rows, batch, &mut self.tensor);
        let tensor = TensorRef::from_array_view((shape, self.tensor.as_slice()))?;
        let inputs = ort::inputs![self.input.as_str() => tensor];
        let outputs = self.session.run_with_options(inputs, &self.shared.options)?;
        let (_, values) = outputs[self.shared.interface.output.as_str()].try_extract_tensor::<f32>()?;
        self.shared.read(values, batch, rows.len(), scores)
    }
}

/// The graph without what the encoder can do in its place. Nothing where there is no such thing, or it does not work: then
/// the whole graph says why.
pub(super) fn simplified(
    builder: impl Fn() -> ort::Result<SessionBuilder>,
    files: &ModelFiles,
    labels: usize,
) -> Option<CpuRuntime> {
    let simplified = removal::simplify(&files.onnx, &files.manifest.input)?;
    let operators = simplified.operators.join(", ");
    match open(builder, files, labels, simplified) {
        Ok(host) => {
            tracing::debug!(model = files.name, operators, "done where pixels are written, not in the graph");
            Some(host)
        }
        Err(reason) => {
            tracing::debug!(model = files.name, operators, reason, "the graph is run whole");
            None
        }
    }
}

/// A session of a simplified graph that has run.
fn open(
    builder: impl Fn() -> ort::Result<SessionBuilder>,
    files: &ModelFiles,
    labels: usize,
    Simplified { model, input, encoder, before: (name, layout), .. }: Simplified,
) -> Result<CpuRuntime, String> {
    let session = builder().and_then(|mut builder| builder.commit_from_memory(&model));
    let session = session.map_err(|error| error.to_string())?;
    let takes =
        manifest::Input { name: Some(input.clone()), layout: Some(encoder.layout()), ..files.manifest.input.clone() };
    let interface = Interface::read(&session, &Manifest { input: takes, ..files.manifest.clone() }, labels)?;
    let blank = vec![0; (interface.side as usize).pow(2) * CHANNELS];
    let shared = super::shared(files, Interface { input: name, layout, ..interface }, labels);
    let mut host = CpuRuntime::new(session, input, shared.map_err(|error| error.to_string())?, encoder);
    host.run(&[&blank]).map_err(|failure| failure.message)?;
    Ok(host)
}

/// The graph as it is.
///
/// # Errors
/// Where the runtime can't load it, or it is no tagger's.
pub(super) fn whole(
    builder: impl Fn() -> ort::Result<SessionBuilder>,
    files: &ModelFiles,
    labels: usize,
) -> Result<CpuRuntime, Unusable> {
    let session = builder().and_then(|mut builder| builder.commit_from_file(&files.onnx));
    let session = session.map_err(|error| super::refused(files, &error))?;
    let interface = Interface::read(&session, &files.manifest, labels).map_err(|reason| files.unusable(reason))?;
    let encoder = Encoder::new(&files.manifest.input, interface.layout, interface.side);
    let input = interface.input.clone();
    Ok(CpuRuntime::new(session, input, super::shared(files, interface, labels)?, encoder))
}

impl Runtime for CpuRuntime {
    fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
        let at_once = self.shared.interface.batch.unwrap_or(rows.len()).max(1);
        let mut scores = Vec::with_capacity(rows.len());
        for rows in rows.chunks(at_once) {
            let run = self.run_chunk(rows, at_once, &mut scores);
            run.map_err(|error| self.shared.failure(&error, rows.len()))?;
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tag::device::Device;
    use crate::pipeline::tag::library;
    use crate::pipeline::tag::onnx::provider::{self, Limits};

    /// A tagger that begins with what can be left out, and how its sessions are built.
    fn tagger() -> (ModelFiles, impl Fn() -> ort::Result<SessionBuilder>) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/families/wd-v3");
        let files = ModelFiles::open(&folder).expect("a model").expect("one that can be used");
        let (library, limits) = (library::load().expect("ONNX Runtime"), Limits { threads: 1, memory: None });
        (files, move || provider::builder(library, Device::Cpu, limits, None))
    }

    #[test]
    fn a_folded_tagger_is_described_as_its_graph_is_and_scores_the_same() {
        let (files, builder) = tagger();
        let labels = files.labels().expect("labels").count();
        let mut simplified = simplified(&builder, &files, labels).expect("it begins with what can be left out");
        let mut whole = whole(&builder, &files, labels).expect("a tagger");
        assert_ne!(simplified.input, whole.input);
        assert_eq!(simplified.shared.interface, whole.shared.interface);
        let row: Vec<u8> = (0..448 * 448 * 3).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect();
        let scores = simplified.run(&[&row, &row]).expect("scores");
        assert_eq!(scores, whole.run(&[&row, &row]).expect("scores"));
    }

    #[test]
    fn what_can_not_be_used_is_left_to_the_whole_graph_to_explain() {
        let (files, builder) = tagger();
        assert!(simplified(&builder, &files, 7).is_none(), "seven labels for four columns");
        let error = whole(&builder, &files, 7).map(drop).expect_err("seven labels").to_string();
        assert!(error.contains("7 labels"), "{error}");
    }
}
