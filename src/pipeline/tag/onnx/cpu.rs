//! A model on the CPU: rows become numbers in one pass, and run from where they are.

use std::sync::Arc;

use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::value::TensorRef;

use super::interface::Interface;
use super::run_error::RunError;
use super::shared::Shared;
use super::tensor::Encoder;
use crate::failure::Failure;
use crate::model::{ModelFiles, Unusable};
use crate::pipeline::tag::runtime::Runtime;

/// A session, with the tensor its rows are written to.
pub(super) struct CpuRuntime {
    session: Session,
    shared: Arc<Shared>,
    encoder: Encoder,
    tensor: Vec<f32>,
}

impl CpuRuntime {
    const fn new(session: Session, shared: Arc<Shared>, encoder: Encoder) -> Self {
        Self { session, shared, encoder, tensor: Vec::new() }
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Runs as many rows as the graph takes; a fixed batch is filled up with blanks.
    fn run_chunk(&mut self, rows: &[&[u8]], batch: usize, scores: &mut Vec<Vec<f32>>) -> Result<(), RunError> {
        let shape = self.encoder.encode(rows, batch, &mut self.tensor);
        let tensor = TensorRef::from_array_view((shape, self.tensor.as_slice()))?;
        let inputs = ort::inputs![self.shared.interface.input.as_str() => tensor];
        let outputs = self.session.run_with_options(inputs, &self.shared.options)?;
        let (_, values) = outputs[self.shared.interface.output.as_str()].try_extract_tensor::<f32>()?;
        self.shared.read(values, batch, rows.len(), scores)
    }
}

/// Opens the graph.
///
/// # Errors
/// Where the runtime can't load it, or it is no tagger's.
pub(super) fn open(
    builder: impl Fn() -> ort::Result<SessionBuilder>,
    files: &ModelFiles,
    labels: usize,
) -> Result<CpuRuntime, Unusable> {
    let session = builder().and_then(|mut builder| builder.commit_from_file(&files.onnx));
    let session = session.map_err(|error| super::refused(files, &error))?;
    let interface = Interface::read(&session, &files.manifest, labels).map_err(|reason| files.unusable(reason))?;
    let encoder = Encoder::new(&files.manifest.input, interface.layout, interface.side);
    Ok(CpuRuntime::new(session, super::shared(files, interface, labels)?, encoder))
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
