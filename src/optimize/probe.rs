//! Facts about a graph, measured by running it: the shape of every value, and the content of those that only shapes decide.
//! Exporters compute sizes and factors in many ways; their results are the same.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionOutputs};
use ort::value::Tensor as Input;

use super::CannotOptimize;
use super::file::{self, Node, Tensor, Value};
use super::graph::Graph;
use crate::model::ModelFiles;
use crate::model::manifest::Layout;
use crate::pipeline::tag::library;
use crate::pipeline::tag::onnx::interface::Interface;

/// Batch sizes that are run where any can be: what differs between them depends on the batch.
const BATCHES: [usize; 2] = [2, 3];

/// Prefix of outputs that are shapes.
const SHAPE: &str = "tagmill_shape_of ";

/// Measured facts, of two runs each.
pub(super) struct Facts {
    shapes: HashMap<String, [Vec<i64>; 2]>,
    /// Of values that do not depend on the pixels and that something uses which does.
    pub(super) values: HashMap<String, [Tensor; 2]>,
    pub(super) interface: Interface,
}

impl Facts {
    /// The shape of a value; -1 stands for a size that depends on the batch.
    pub(super) fn shape(&self, value: &str) -> Option<Vec<i64>> {
        let [one, other] = self.shapes.get(value)?;
        let size = |(one, other): (&i64, &i64)| if one == other { *one } else { -1 };
        (one.len() == other.len()).then(|| one.iter().zip(other).map(size).collect())
    }

    /// The first size of a value in both runs.
    pub(super) fn first_sizes(&self, value: &str) -> Option<[i64; 2]> {
        let [one, other] = self.shapes.get(value)?;
        Some([*one.first()?, *other.first()?])
    }
}

/// Values that do not depend on the graph's inputs, but on their shapes alone or on nothing.
pub(super) fn independent(graph: &Graph) -> HashSet<String> {
    let mut found = HashSet::new();
    for node in &graph.nodes {
        let settled = |input: &String| input.is_empty() || graph.constant(input).is_some() || found.contains(input);
        if node.is("Shape") || (node.inputs.iter().all(settled) && !is_random(node)) {
            found.extend(node.outputs.iter().cloned());
        }
    }
    found
}

fn is_random(node: &Node) -> bool {
    node.operator.starts_with("Random") || node.is("Multinomial") || node.is("Bernoulli")
}

/// Runs the graph on blank images, with a file in `folder` for the time of it.
///
/// # Errors
/// If it can't be loaded or run.
pub(super) fn run(graph: &Graph, files: &ModelFiles, folder: &Path) -> Result<Facts, CannotOptimize> {
    let labels = files.labels()?.count();
    let independent = independent(graph);
    let dependent = || graph.nodes.iter().filter(|node| !independent.contains(node.output()));
    let mut wanted: Vec<String> =
        dependent().flat_map(|node| &node.inputs).filter(|input| independent.contains(*input)).cloned().collect();
    wanted.sort();
    wanted.dedup();
    let (model, mut probe) = graph.file();
    let of_inputs = graph.inputs.iter().map(|input| &input.name);
    let all = dependent().flat_map(|node| &node.outputs).filter(|value| !value.is_empty()).chain(of_inputs);
    let measured: Vec<String> = all.cloned().collect();
    probe.nodes.extend(measured.iter().map(|value| Node::new("Shape", &[value], &format!("{SHAPE}{value}"))));
    let extra = probe.nodes.iter().filter(|node| node.output().starts_with(SHAPE)).map(|node| node.output().to_owned());
    let extra: Vec<Value> = extra.chain(wanted.iter().cloned()).map(|name| Value { name, of: None }).collect();
    probe.outputs.extend(extra);
    let path = folder.join("probe.onnx");
    write(&path, &model, &probe)?;
    let mut session = session(&path)?;
    // The session has read it.
    let _ = std::fs::remove_file(&path);
    let interface = Interface::read(&session, &files.manifest, labels).map_err(|reason| files.unusable(reason))?;
    let batches = interface.batch.map_or(BATCHES, |batch| [batch; 2]);
    let first = once(&mut session, &interface, batches[0], &measured, &wanted)?;
    let second = once(&mut session, &interface, batches[1], &measured, &wanted)?;
    let shapes = pairs(first.0, second.0);
    Ok(Facts { shapes, values: pairs(first.1, second.1), interface })
}

fn pairs<T>(first: HashMap<String, T>, mut second: HashMap<String, T>) -> HashMap<String, [T; 2]> {
    first.into_iter().filter_map(|(name, one)| second.remove(&name).map(|other| (name, [one, other]))).collect()
}

pub(super) fn write(path: &Path, model: &file::Model, graph: &file::GraphFile) -> Result<(), CannotOptimize> {
    let failed = |source| CannotOptimize::Write { path: path.to_owned(), source };
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
    file::write(model, graph, &mut out).and_then(|()| out.flush()).map_err(failed)
}

/// A session that changes nothing about the graph, so that it loads fast.
fn session(path: &Path) -> Result<Session, CannotOptimize> {
    let library = library::load().map_err(|error| CannotOptimize::Load(error.into()))?;
    let session = Session::builder(&library.environment)
        .and_then(|builder| Ok(builder.with_optimization_level(GraphOptimizationLevel::Disable)?))
        .and_then(|builder| Ok(builder.with_intra_op_spinning(false)?))
        .and_then(|mut builder| builder.commit_from_file(path));
    session.map_err(CannotOptimize::Runtime)
}

type Measured = (HashMap<String, Vec<i64>>, HashMap<String, Tensor>);

fn once(
    session: &mut Session,
    interface: &Interface,
    batch: usize,
    measured: &[String],
    wanted: &[String],
) -> Result<Measured, CannotOptimize> {
    let side = interface.side as usize;
    let shape = match interface.layout {
        Layout::Nhwc => [batch, side, side, 3],
        Layout::Nchw => [batch, 3, side, side],
    };
    let blank = vec![0.5_f32; shape.iter().product()];
    let input = Input::from_array((shape, blank)).map_err(CannotOptimize::Runtime)?;
    let outputs = session.run(ort::inputs![interface.input.as_str() => input]).map_err(CannotOptimize::Runtime)?;
    let shape_of = |value: &String| {
        let (_, shape) = outputs[format!("{SHAPE}{value}").as_str()].try_extract_tensor::<i64>().ok()?;
        Some((value.clone(), shape.to_vec()))
    };
    let shapes = measured.iter().filter_map(shape_of).collect();
    let values = wanted.iter().filter_map(|value| Some((value.clone(), content(&outputs, value)?))).collect();
    Ok((shapes, values))
}

/// A value as a constant: only numbers that constants are made of here.
fn content(outputs: &SessionOutputs<'_>, value: &str) -> Option<Tensor> {
    if let Ok((shape, values)) = outputs[value].try_extract_tensor::<i64>() {
        return Some(Tensor::of_integers(value, shape, values));
    }
    let (shape, values) = outputs[value].try_extract_tensor::<f32>().ok()?;
    Some(Tensor::of_floats(value, shape, values))
}
