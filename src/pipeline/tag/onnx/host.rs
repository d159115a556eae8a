//! A model on the CPU: rows become numbers in one pass, and run from where they are.

use std::sync::Arc;

use ort::session::Session;
use ort::value::TensorRef;

use super::fault::RunError;
use super::head::Head;
use super::tensor::Encoder;
use crate::failure::Failure;
use crate::pipeline::tag::Runtime;

/// A session, with the tensor its rows are written to.
pub(super) struct Host {
    session: Session,
    head: Arc<Head>,
    encoder: Encoder,
    tensor: Vec<f32>,
}

impl Host {
    pub(super) const fn new(session: Session, head: Arc<Head>, encoder: Encoder) -> Self {
        Self { session, head, encoder, tensor: Vec::new() }
    }

    /// Runs as many rows as the graph takes; a fixed batch is filled up with blanks.
    fn run_chunk(&mut self, rows: &[&[u8]], batch: usize, scores: &mut Vec<Vec<f32>>) -> Result<(), RunError> {
        let shape = self.encoder.encode(rows, batch, &mut self.tensor);
        let tensor = TensorRef::from_array_view((shape, self.tensor.as_slice()))?;
        let inputs = ort::inputs![self.head.interface.input.as_str() => tensor];
        let outputs = self.session.run_with_options(inputs, &self.head.options)?;
        let (_, values) = outputs[self.head.interface.output.as_str()].try_extract_tensor::<f32>()?;
        self.head.read(values, batch, rows.len(), scores)
    }
}

impl Runtime for Host {
    fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
        let at_once = self.head.interface.batch.unwrap_or(rows.len()).max(1);
        let mut scores = Vec::with_capacity(rows.len());
        for rows in rows.chunks(at_once) {
            let run = self.run_chunk(rows, at_once, &mut scores);
            run.map_err(|error| self.head.failure(&error, rows.len()))?;
        }
        Ok(scores)
    }
}
