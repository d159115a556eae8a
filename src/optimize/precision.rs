//! Half precision from the first node to the last but the probabilities: two casts in the whole graph. Kernels of GPUs
//! accumulate in single precision whatever their operands are, so nothing in between is kept.

use std::collections::HashMap;

use half::f16;

use super::file::{Attribute, FLOAT, FLOAT16, Node, Tensor};
use super::graph::Graph;

/// Operators with inputs that are not in half precision, and these inputs.
const KEPT: [(&str, &[usize]); 1] = [("Resize", &[1, 2])];

/// Has a graph compute in half precision; its inputs and outputs stay as they are.
///
/// # Errors
/// The reason why it can't.
pub(super) fn convert(graph: &mut Graph) -> Result<(), &'static str> {
    let ends: Vec<String> = graph.outputs.iter().map(|output| output.name.clone()).collect();
    let in_single =
        |node: &Node| (node.is("Sigmoid") || node.is("Softmax")) && ends.iter().any(|end| end == node.output());
    let mut nodes = std::mem::take(&mut graph.nodes);
    let mut halves = HashMap::new();
    for node in nodes.iter_mut().filter(|node| !in_single(node)) {
        weights(graph, node, &mut halves)?;
        for attribute in &mut node.attributes {
            typed(&node.operator, attribute)?;
        }
    }
    let mut casts = Vec::new();
    let inputs: Vec<String> = graph.inputs.iter().map(|input| input.name.clone()).collect();
    for input in inputs {
        let half = graph.fresh("half");
        replace(nodes.iter_mut().flat_map(|node| &mut node.inputs), &input, &half);
        casts.push(cast(&input, &half, FLOAT16));
    }
    for node in nodes.iter_mut().filter(|node| in_single(node)) {
        let single = graph.fresh("single");
        casts.push(cast(node.input(0), &single, FLOAT));
        node.inputs[0] = single;
    }
    for end in &ends {
        let Some(at) = nodes.iter().position(|node| node.output() == end && !in_single(node)) else { continue };
        let half = graph.fresh("half");
        nodes[at].outputs[0].clone_from(&half);
        replace(nodes.iter_mut().flat_map(|node| &mut node.inputs), end, &half);
        casts.push(cast(&half, end, FLOAT));
    }
    nodes.extend(casts);
    graph.nodes = nodes;
    graph.tidy();
    Ok(())
}

fn replace<'a>(names: impl Iterator<Item = &'a mut String>, old: &str, new: &str) {
    names.filter(|name| *name == old).for_each(|name| new.clone_into(name));
}

fn cast(from: &str, to: &str, kind: i32) -> Node {
    Node::new("Cast", &[from], to).with(Attribute::integer("to", i64::from(kind)))
}

/// The constants of a node in half precision, each converted once.
fn weights(graph: &mut Graph, node: &mut Node, halves: &mut HashMap<String, String>) -> Result<(), &'static str> {
    let kept = KEPT.iter().find(|(operator, _)| node.is(operator)).map_or(&[][..], |(_, kept)| *kept);
    for (place, input) in node.inputs.iter_mut().enumerate() {
        if kept.contains(&place) {
            continue;
        }
        if let Some(half) = halves.get(input) {
            input.clone_from(half);
        } else if let Some(tensor) = graph.constant(input).filter(|tensor| tensor.kind == FLOAT) {
            let half = converted(tensor)?;
            let half = graph.add("half", half);
            halves.insert(std::mem::replace(input, half.clone()), half);
        }
    }
    Ok(())
}

/// Attributes that name a type or hold numbers of it.
fn typed(operator: &str, attribute: &mut Attribute) -> Result<(), &'static str> {
    if operator == "Cast" && attribute.name == "to" && attribute.integer == i64::from(FLOAT) {
        attribute.integer = i64::from(FLOAT16);
    }
    if let Some(tensor) = attribute.tensor.as_mut().filter(|tensor| tensor.kind == FLOAT) {
        *tensor = converted(tensor)?;
    }
    Ok(())
}

fn converted(tensor: &Tensor) -> Result<Tensor, &'static str> {
    let values = tensor.floats().ok_or("a weight can't be read")?;
    let mut raw = Vec::with_capacity(2 * values.len());
    for value in values {
        let half = f16::from_f32(value);
        if half.is_infinite() && value.is_finite() {
            return Err("a weight is too large for half precision");
        }
        raw.extend(half.to_le_bytes());
    }
    Ok(Tensor { kind: FLOAT16, floats: Vec::new(), raw: raw.into(), shape: tensor.shape.clone(), ..Tensor::default() })
}
