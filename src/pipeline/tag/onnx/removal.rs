//! What a graph does to its input before it computes - taggers put the colours in order, transpose and scale - is left to the
//! encoder, which writes every value anyway and does it at no cost. ONNX Runtime takes passes over the batch for it: 10 of 13
//! ms an image in a model of 4 MB on one core, 5.5 of them for the `Gather` of single colours.
//!
//! Every byte is put through the same operations in the same order and precision, so what the rest of the graph is given is
//! the same to the last bit. A node that is not known for sure ends it, and everything from there on stays in the graph.

mod file;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use self::file::{A_TENSOR, AN_INTEGER, Graph, INTEGERS, Named, Node, Tensor, Value};
use super::interface;
use super::tensor::Encoder;
use crate::model::frame::CHANNELS;
use crate::model::manifest::{self, Layout};

/// Larger files, in bytes, are left as they are: while a file is simplified it is in memory twice, and then once beside what ONNX
/// Runtime loads. Models of that size take so long that nothing is gained (half a per cent of vit-b's time).
const LARGEST: u64 = 128 << 20;

/// Nodes that are left out at most; taggers begin with four.
const LONGEST: usize = 16;

/// A graph without its beginning.
pub(super) struct Simplified {
    /// The ONNX file.
    pub(super) model: Vec<u8>,
    /// What it takes now.
    pub(super) input: String,
    /// Writes that.
    pub(super) encoder: Encoder,
    /// What the graph calls its input, and how that is laid out.
    pub(super) before: (String, Layout),
    /// What is left out.
    pub(super) operators: Vec<String>,
}

/// Reads a graph and leaves out its beginning; nothing where there is none, or anything about it is not understood.
pub(super) fn simplify(path: &Path, manifest: &manifest::Input) -> Option<Simplified> {
    if std::fs::metadata(path).ok()?.len() > LARGEST {
        return None;
    }
    without_beginning(std::fs::read(path).ok()?.into(), manifest)
}

fn without_beginning(bytes: Bytes, manifest: &manifest::Input) -> Option<Simplified> {
    let mut model = file::Model::read(bytes)?;
    let graph = model.graph.as_mut()?;
    let parts = Parts::of(graph)?;
    let input = parts.input(manifest.name.as_deref())?;
    let (layout, side, _) = interface::image(&shape(input)?, manifest).ok()?;
    let mut encoder = Encoder::new(manifest, layout, side);
    let (mut value, mut cut) = (input.name.clone(), vec![]);
    while cut.len() < LONGEST
        && let Some(node) = parts.only_user(&value)
        && parts.nodes[node].outputs.len() == 1
        && take_over(&parts, &parts.nodes[node], &value, &mut encoder).is_some()
    {
        value.clone_from(&parts.nodes[node].outputs[0]);
        cut.push(node);
    }
    let operators: Vec<String> = cut.iter().map(|node| parts.nodes[*node].operator.clone()).collect();
    if cut.is_empty() || parts.outputs.contains(&value) {
        return None;
    }
    let renamed = renamed(input, &value, layout, encoder.layout())?.encode_to_vec().into();
    let before = (input.name.clone(), layout);
    remove(graph, &parts, &cut);
    graph.inputs.push(renamed);
    Some(Simplified { model: model.encode_to_vec(), input: value, encoder, before, operators })
}

/// What a graph consists of, read.
struct Parts {
    nodes: Vec<Node>,
    /// `TensorProto`s, by name.
    constants: HashMap<String, Bytes>,
    inputs: Vec<Value>,
    /// Their names.
    outputs: Vec<String>,
}

impl Parts {
    /// Nothing where it can't be read, a graph in it may use values of it, or part of it is in another file: that would be
    /// looked for in the folder of the process, for the simplified graph has none.
    fn of(graph: &Graph) -> Option<Self> {
        let nodes: Vec<Node> = read(&graph.nodes)?;
        let nested = |node: &Node| node.attributes.iter().any(|each| each.graph.is_some() || !each.graphs.is_empty());
        if nodes.iter().any(nested) {
            return None;
        }
        let mut constants = HashMap::new();
        for tensor in &graph.initializers {
            let Named { name, location } = Named::decode(tensor.clone()).ok()?;
            if location != 0 || constants.insert(name, tensor.clone()).is_some() {
                return None;
            }
        }
        for node in nodes.iter().filter(|node| node.operator == "Constant" && node.domain.is_empty()) {
            if let (Some(tensor), [output]) = (node.attribute("value", A_TENSOR), &node.outputs[..]) {
                let tensor = tensor.tensor.as_ref().filter(|tensor| tensor.location == 0)?;
                if constants.insert(output.clone(), tensor.encode_to_vec().into()).is_some() {
                    return None;
                }
            }
        }
        let outputs = read::<Value>(&graph.outputs)?.into_iter().map(|output| output.name).collect();
        Some(Self { inputs: read(&graph.inputs)?, constants, outputs, nodes })
    }

    /// The input of this name, else the only one.
    fn input(&self, name: Option<&str>) -> Option<&Value> {
        // Old files list their weights among the inputs.
        let real = |input: &Value| !self.constants.contains_key(&input.name);
        let wanted = |input: &Value| name.is_none_or(|name| name == input.name);
        let mut found = self.inputs.iter().filter(|input| real(input) && wanted(input));
        found.next().filter(|_| found.next().is_none())
    }

    /// The node that uses this value, if it is the only one and uses it once.
    fn only_user(&self, value: &str) -> Option<usize> {
        let slots = |each: &Node| each.inputs.iter().filter(|name| *name == value).count();
        let mut users = self.nodes.iter().enumerate().filter(|(_, node)| slots(node) > 0);
        let (only, node) = users.next().filter(|_| users.next().is_none())?;
        (slots(node) == 1 && !self.outputs.iter().any(|output| output == value)).then_some(only)
    }

    fn constant(&self, name: &str) -> Option<Tensor> {
        Tensor::decode(self.constants.get(name)?.clone()).ok()
    }
}

fn read<T: Message + Default>(parts: &[Bytes]) -> Option<Vec<T>> {
    parts.iter().map(|part| T::decode(part.clone()).ok()).collect()
}

fn shape(input: &Value) -> Option<Vec<i64>> {
    let tensor = input.of.as_ref()?.tensor.as_ref().filter(|tensor| tensor.kind == file::FLOAT)?;
    Some(tensor.shape.as_ref()?.dimensions.iter().map(|dimension| dimension.size.unwrap_or(-1)).collect())
}

/// Has the encoder do what a node does to this value; nothing where it can't.
fn take_over(parts: &Parts, node: &Node, value: &str, encoder: &mut Encoder) -> Option<()> {
    if !node.domain.is_empty() {
        return None;
    }
    match (node.operator.as_str(), &node.inputs[..]) {
        ("Gather", [of, indices]) if of == value => {
            let axis = node.attribute("axis", AN_INTEGER)?.integer;
            let indices = parts.constant(indices).filter(|indices| indices.shape.len() == 1)?.integers()?;
            let channels = channel_axis(encoder.layout());
            (axis == channels || axis + 4 == channels).then_some(())?;
            encoder.reorder(permutation(&indices)?);
        }
        ("Transpose", [_]) => {
            let layout = match (encoder.layout(), &node.attribute("perm", INTEGERS)?.integers[..]) {
                (Layout::Nhwc, [0, 3, 1, 2]) => Layout::Nchw,
                (Layout::Nchw, [0, 2, 3, 1]) => Layout::Nhwc,
                _ => return None,
            };
            encoder.transpose(layout);
        }
        // Those of before opset 7 broadcast as their attributes say. What is divided by the value is not known for sure: ONNX
        // Runtime may put it into a multiplication that follows.
        (operator @ ("Add" | "Sub" | "Mul" | "Div"), [left, right])
            if node.attributes.is_empty() && (operator != "Div" || left == value) =>
        {
            let ours = left == value;
            let operand = by_channel(&parts.constant(if ours { right } else { left })?, encoder.layout())?;
            let compute: fn(f32, f32) -> f32 = match operator {
                "Add" => |a, b| a + b,
                "Sub" => |a, b| a - b,
                "Mul" => |a, b| a * b,
                _ => |a, b| a / b,
            };
            encoder.map(|channel, value| {
                let (left, right) = if ours { (value, operand[channel]) } else { (operand[channel], value) };
                compute(left, right)
            });
        }
        _ => return None,
    }
    Some(())
}

const fn channel_axis(layout: Layout) -> i64 {
    match layout {
        Layout::Nhwc => 3,
        Layout::Nchw => 1,
    }
}

/// Three indices, from the end where they are negative, each another.
fn permutation(indices: &[i64]) -> Option<[usize; CHANNELS]> {
    let index = |index: i64| (-3..3).contains(&index).then(|| usize::try_from(index.rem_euclid(3)).ok()).flatten();
    let &[first, second, third] = indices else { return None };
    let order = [index(first)?, index(second)?, index(third)?];
    (0..CHANNELS).all(|channel| order.contains(&channel)).then_some(order)
}

/// One number for all, or one for each channel, as it is broadcast to an image.
fn by_channel(constant: &Tensor, layout: Layout) -> Option<[f32; CHANNELS]> {
    let values = constant.floats()?;
    let place = 4_usize.checked_sub(constant.shape.len())?;
    let channels = usize::try_from(channel_axis(layout)).ok()?;
    let fits = |(axis, size): (usize, &i64)| *size == 1 || (*size == 3 && axis + place == channels);
    constant.shape.iter().enumerate().all(fits).then_some(())?;
    match values[..] {
        [all] => Some([all; CHANNELS]),
        [first, second, third] => Some([first, second, third]),
        _ => None,
    }
}

/// The input by its new name and in its new layout.
fn renamed(input: &Value, name: &str, from: Layout, to: Layout) -> Option<Value> {
    let mut input = Value { name: name.into(), ..input.clone() };
    let dimensions = &mut input.of.as_mut()?.tensor.as_mut()?.shape.as_mut()?.dimensions;
    match (from, to) {
        (Layout::Nhwc, Layout::Nchw) => dimensions.get_mut(1..4)?.rotate_right(1),
        (Layout::Nchw, Layout::Nhwc) => dimensions.get_mut(1..4)?.rotate_left(1),
        _ => {}
    }
    Some(input)
}

/// Takes nodes out of a graph, the constants which only they use, and what else is said of either.
fn remove(graph: &mut Graph, parts: &Parts, cut: &[usize]) {
    let left = || parts.nodes.iter().enumerate().filter(|(node, _)| !cut.contains(node)).map(|(_, node)| node);
    let unused = |name: &&String| !left().any(|node| node.inputs.contains(name)) && !parts.outputs.contains(name);
    let nodes = || cut.iter().map(|node| &parts.nodes[*node]);
    let mut gone: Vec<&String> = nodes().flat_map(|node| &node.inputs).filter(unused).collect();
    gone.extend(nodes().flat_map(|node| &node.outputs));
    let mut nodes = parts.nodes.iter();
    graph.nodes.retain(|_| nodes.next().is_some_and(|node| !node.outputs.iter().any(|name| gone.contains(&name))));
    let is_left = |name: Option<String>| !name.is_some_and(|name| gone.contains(&&name));
    let value = |value: &Bytes| Value::decode(value.clone()).ok().map(|value| value.name);
    graph.initializers.retain(|tensor| is_left(Named::decode(tensor.clone()).ok().map(|tensor| tensor.name)));
    graph.value_info.retain(|info| is_left(value(info)));
    // Old files list their weights here, too.
    graph.inputs.retain(|input| is_left(value(input)));
}
