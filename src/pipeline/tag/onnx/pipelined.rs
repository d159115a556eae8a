//! A model on a device: rows are sent there as bytes, and scores come back. Both are in ordinary memory: ONNX Runtime 1.31
//! with CUDA can't copy scores to page-locked memory (`dst_data != src_data was false`), and rows are not sent any faster
//! from there while another batch runs.
//!
//! Several runners share a session. `ort` lets one thread run it at a time, because ONNX Runtime's `Run` is not safe to
//! call twice at once with every provider. But binding an input is a call of its own, so one runner sends its batch while
//! another's runs. Binding only queues the copy, on a stream from the session's pool, and the run that follows may get
//! another stream, which does not wait for the first. So the runner waits for the copy once it has the session, while
//! nothing else of the session runs. TensorRT's provider can't wait (its `Sync` does nothing). There the copy is queued
//! under the lock too, so that it and the run get the same stream, and nothing overlaps. `run_async` is no alternative: it
//! takes no binding, and borrows the session throughout.

use std::sync::Arc;
use std::thread::ThreadId;

use ort::memory::Allocator;
use ort::session::{IoBinding, Session};
use ort::value::Tensor;
use parking_lot::Mutex;

use super::prepend::INPUT;
use super::run_error::RunError;
use super::shared::Shared;
use crate::failure::Failure;
use crate::model::frame::CHANNELS;
use crate::pipeline::batch::limit::filled_up;
use crate::pipeline::tag::device::Device;
use crate::pipeline::tag::runtime::Runtime;

/// One of the runners that share a session.
pub(super) struct PipelinedRuntime {
    session: Arc<Mutex<Session>>,
    shared: Arc<Shared>,
    /// Buffers by batch size, created with the first batch of the size.
    buffers: Vec<Buffers>,
    /// `true` if the provider can wait for a copy.
    waits: bool,
    /// Maximum rows of a batch. Smaller ones are filled up to a few sizes.
    most: usize,
    /// Thread of the last run.
    thread: Option<ThreadId>,
}

/// Buffers from which batches of one size are sent, and to which their scores come back.
struct Buffers {
    batch: usize,
    rows: Tensor<u8>,
    scores: Tensor<f32>,
    binding: IoBinding,
}

impl PipelinedRuntime {
    pub(super) const fn new(session: Arc<Mutex<Session>>, shared: Arc<Shared>, device: Device, most: usize) -> Self {
        let waits = !matches!(device, Device::TensorRt(_));
        Self { session, shared, buffers: Vec::new(), waits, most, thread: None }
    }

    fn run_chunk(&mut self, rows: &[&[u8]], batch: usize, scores: &mut Vec<Vec<f32>>) -> Result<(), RunError> {
        let Self { session, shared, buffers, waits, thread, .. } = self;
        let place = buffers.iter().position(|buffers| buffers.batch == batch).unwrap_or(buffers.len());
        if place == buffers.len() {
            buffers.push(Buffers::new(&lock(session), shared, batch)?);
        }
        let buffers = &mut buffers[place];
        fill(&mut buffers.rows, rows);
        // CUDA's current device is the thread's own. Only a run sets it; binding does not.
        let here = Some(std::thread::current().id());
        if std::mem::replace(thread, here) != here {
            return plain(&mut lock(session), shared, &buffers.rows, (batch, rows.len()), scores);
        }
        let run = if *waits { buffers.run(session, shared) } else { buffers.run_in_order(session, shared) };
        // Returns the device's copy to the arena.
        buffers.binding.clear_inputs();
        run?;
        shared.read(buffers.scores.extract_tensor().1, batch, rows.len(), scores)
    }
}

/// Runs a batch without bindings.
fn plain(
    session: &mut Session,
    shared: &Shared,
    rows: &Tensor<u8>,
    (batch, images): (usize, usize),
    scores: &mut Vec<Vec<f32>>,
) -> Result<(), RunError> {
    let outputs = session.run_with_options(ort::inputs![INPUT => rows], &shared.options)?;
    let (_, values) = outputs[shared.interface.output.as_str()].try_extract_tensor::<f32>()?;
    shared.read(values, batch, images, scores)
}

fn lock(session: &Mutex<Session>) -> parking_lot::MutexGuard<'_, Session> {
    session.lock()
}

impl Buffers {
    fn new(session: &Session, shared: &Shared, batch: usize) -> ort::Result<Self> {
        let side = shared.interface.side as usize;
        let rows = Tensor::new(&Allocator::default(), [batch, side, side, CHANNELS])?;
        let mut scores = Tensor::new(&Allocator::default(), [batch, shared.labels()])?;
        let mut binding = session.create_binding()?;
        binding.bind_output(shared.interface.output.as_str(), &mut scores)?;
        Ok(Self { batch, rows, scores, binding })
    }

    /// Sends the rows without the lock, and runs once they have arrived.
    fn run(&mut self, session: &Mutex<Session>, shared: &Shared) -> ort::Result<()> {
        self.binding.bind_input(INPUT, &self.rows)?;
        let mut session = lock(session);
        // With the lock, because otherwise it would wait for another runner's run as well.
        self.binding.synchronize_inputs()?;
        session.run_binding_with_options(&self.binding, &shared.options).map(drop)
    }

    /// Sends the rows and runs, on one stream.
    fn run_in_order(&mut self, session: &Mutex<Session>, shared: &Shared) -> ort::Result<()> {
        let mut session = lock(session);
        self.binding.bind_input(INPUT, &self.rows)?;
        session.run_binding_with_options(&self.binding, &shared.options).map(drop)
    }
}

fn fill(tensor: &mut Tensor<u8>, rows: &[&[u8]]) {
    let mut left = tensor.extract_tensor_mut().1;
    for row in rows {
        let (place, rest) = left.split_at_mut(row.len());
        place.copy_from_slice(row);
        left = rest;
    }
    // Rows that fill up the batch keep their old content, because their scores are not read.
}

impl Runtime for PipelinedRuntime {
    fn run(&mut self, rows: &[&[u8]]) -> Result<Vec<Vec<f32>>, Failure> {
        let at_once = self.shared.interface.batch.unwrap_or_else(|| filled_up(self.most, rows.len())).max(1);
        let mut scores = Vec::with_capacity(rows.len());
        for rows in rows.chunks(at_once) {
            let run = self.run_chunk(rows, at_once, &mut scores);
            run.map_err(|error| self.shared.failure(&error, rows.len()))?;
        }
        Ok(scores)
    }

    fn lost(&self) -> Option<&str> {
        self.shared.lost()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::{Strategy, any};
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    use super::super::cpu::{self, CpuRuntime};
    use super::super::interface::Interface;
    use super::super::provider::{self, Limits};
    use super::super::tensor::Encoder;
    use super::super::{placement, prepend};
    use super::*;
    use crate::model::ModelFiles;
    use crate::pipeline::tag::library;

    const LIMITS: Limits = Limits { threads: 1, memory: None };

    /// A small model of each family, with the manifest that is shipped for it.
    fn families() -> Vec<ModelFiles> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir().expect("a folder").keep();
        let families = ["wd-v3", "wd-v2", "cl-tagger", "pixai", "camie-v2", "joytag", "deepdanbooru", "e621"];
        let open = |family: &str| {
            let copy = folder.join(family);
            std::fs::create_dir(&copy).expect("a folder");
            for from in [root.join("tests/models/families").join(family), root.join("models/families").join(family)] {
                for file in std::fs::read_dir(from).into_iter().flatten().flatten() {
                    std::fs::copy(file.path(), copy.join(file.file_name())).expect("a copy");
                }
            }
            ModelFiles::open(&copy).expect("a model").expect("one that can be used")
        };
        let mut models: Vec<ModelFiles> = families.into_iter().map(open).collect();
        models.push(ModelFiles::open(&root.join("models/demo")).expect("a model").expect("the demo model"));
        models
    }

    /// One model in a runtime for the CPU and in one for a device, for batches of up to four.
    fn both(files: &ModelFiles) -> (CpuRuntime, PipelinedRuntime) {
        let library = library::load().expect("ONNX Runtime");
        let labels = files.labels().expect("labels").count();
        let builder = || provider::builder(library, Device::Cpu, LIMITS, None).expect("a builder");
        let host = cpu::open(|| Ok(builder()), files, labels).expect("a session");
        let (shared, manifest) = (host.shared(), &files.manifest.input);
        let edited =
            prepend::open(&mut builder(), &files.onnx, &shared.interface, manifest).expect("an edited session");
        let runtime = PipelinedRuntime::new(Arc::new(Mutex::new(edited)), Arc::clone(shared), Device::Cpu, 4);
        (host, runtime)
    }

    #[test]
    fn rows_that_are_converted_in_the_graph_score_as_those_that_are_not() {
        let mut random = TestRunner::deterministic();
        for files in families() {
            let (mut host, mut runtime) = both(&files);
            let image = (runtime.shared.interface.side as usize).pow(2) * CHANNELS;
            let row = proptest::collection::vec(any::<u8>(), image);
            // The first run has no binding; then the same buffers again, others, and a batch that is filled up.
            for batch in [2, 2, 1, 3, 4, 2] {
                let rows = proptest::collection::vec(row.clone(), batch).new_tree(&mut random).expect("rows").current();
                let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
                let (expected, found) = (host.run(&rows).expect("scores"), runtime.run(&rows).expect("scores"));
                assert_eq!(found.len(), batch);
                for (expected, found) in expected.concat().into_iter().zip(found.concat()) {
                    assert!(
                        (expected - found).abs() < 1e-4,
                        "{} in batches of {batch}: {expected} {found}",
                        files.name
                    );
                }
            }
        }
    }

    #[test]
    fn runners_of_one_session_do_not_disturb_each_other() {
        let files = families().remove(0);
        let (mut host, first) = both(&files);
        // One that waits for its copy, and one that copies under the lock.
        let second = PipelinedRuntime::new(Arc::clone(&first.session), Arc::clone(&first.shared), Device::Cpu, 4);
        let second = PipelinedRuntime { waits: false, ..second };
        let image = (first.shared.interface.side as usize).pow(2) * CHANNELS;
        std::thread::scope(|scope| {
            for (mut runtime, colour) in [(first, 10), (second, 200)] {
                let row = vec![colour; image];
                let expected = host.run(&[&row]).expect("scores");
                scope.spawn(move || {
                    for _ in 0..50 {
                        assert_eq!(runtime.run(&[&row]).expect("scores"), expected);
                    }
                });
            }
        });
    }

    #[test]
    fn a_session_on_the_cpu_is_not_taken_for_one_on_a_gpu() {
        let files = families().remove(0);
        let library = library::load().expect("ONNX Runtime");
        let mut session = provider::builder(library, Device::Cpu, LIMITS, None)
            .and_then(|builder| builder.with_profiling(placement::file())?.commit_from_file(&files.onnx))
            .expect("a session");
        let labels = files.labels().expect("labels").count();
        let interface = Interface::read(&session, &files.manifest, labels).expect("an interface");
        let encoder = Encoder::new(&files.manifest.input, interface.layout, interface.side);
        let image = (interface.side as usize).pow(2) * CHANNELS;
        let profile = {
            let mut tensor = Vec::new();
            let shape = encoder.encode(&[&vec![0; image]], 1, &mut tensor);
            let tensor = Tensor::from_array((shape, tensor)).expect("a tensor");
            session.run(ort::inputs![interface.input.as_str() => tensor]).map(drop).expect("a run");
            session.end_profiling().expect("a profile")
        };
        let placement = placement::read(profile.as_ref()).expect("a profile");
        assert!(placement.is_on(Device::Cpu).is_ok(), "{}", placement.shown());
        let error = placement.is_on(Device::Cuda(0)).expect_err("it ran on the CPU");
        assert!(error.contains("CPUExecutionProvider"), "{error}");
        assert!(!std::path::Path::new(&profile).exists(), "it is removed");
    }
}
