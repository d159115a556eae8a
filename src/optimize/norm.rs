//! Layer normalization as one operator, and the sum before it in the same pass.

use super::file::{Attribute, Node};
use super::graph::{Graph, Tally};
use super::probe::Facts;

/// Rewrites normalizations that an exporter wrote in pieces, as those for opsets before 17 do.
pub(super) fn fuse(graph: &mut Graph, facts: &Facts) -> Tally {
    let root = |node: &Node| node.is("Sqrt");
    let mut tally = graph.fuse(root, |graph, root| {
        let node = in_pieces(graph, facts, root).ok_or("a square root of something else")?;
        graph.rewrite(vec![node]);
        Ok(())
    });
    tally.left.clear();
    tally
}

/// `(x - mean(x)) / sqrt(mean((x - mean(x))²) + ε) · γ + β`
fn in_pieces(graph: &Graph, facts: &Facts, root: &Node) -> Option<Node> {
    let guarded = graph.produced_by(root.input(0), "Add")?;
    let (variance, epsilon) = graph.with_constant(guarded)?;
    let epsilon = epsilon.floats()?.first().copied()?;
    let variance = graph.produced_by(variance, "ReduceMean")?;
    let square = graph.producer(variance.input(0))?;
    let squared = (square.is("Pow") && graph.scalar(square.input(1)).is_some_and(|power| is(power, 2.0)))
        || (square.is("Mul") && square.input(0) == square.input(1));
    let quotient = graph.only_user(root.output()).filter(|node| node.is("Div") && node.input(1) == root.output())?;
    let (centred, other) = (graph.produced_by(square.input(0), "Sub")?, graph.produced_by(quotient.input(0), "Sub")?);
    let mean = graph.produced_by(centred.input(1), "ReduceMean")?;
    let other_mean = graph.produced_by(other.input(1), "ReduceMean")?;
    let input = centred.input(0);
    let rank = i64::try_from(facts.shape(input)?.len()).ok()?;
    let last = |node: &Node| {
        let axes = graph.integers(node, 1, "axes");
        axes.is_some_and(|axes| axes == [-1] || axes == [rank - 1]) && node.integer("keepdims") != Some(0)
    };
    let same = other.input(0) == input && mean.input(0) == input && other_mean.input(0) == input;
    if !squared || !same || ![variance, mean, other_mean].into_iter().all(last) {
        return None;
    }
    let scaled = graph.only_user(quotient.output()).filter(|node| node.is("Mul"))?;
    let gamma = operand(graph, scaled, quotient.output())?;
    let shifted = graph.only_user(scaled.output()).filter(|node| node.is("Add"))?;
    let beta = operand(graph, shifted, scaled.output())?;
    let node = Node::new("LayerNormalization", &[input, gamma, beta], shifted.output());
    Some(node.with(Attribute::integer("axis", -1)).with(Attribute::number("epsilon", epsilon)))
}

fn is(value: f32, expected: f32) -> bool {
    (value - expected).abs() < f32::EPSILON
}

/// The name of a node's constant operand of one dimension.
fn operand<'a>(graph: &Graph, node: &'a Node, data: &str) -> Option<&'a str> {
    let name = node.inputs.iter().find(|input| *input != data)?;
    graph.constant(name).filter(|tensor| tensor.shape.len() == 1).map(|_| name.as_str())
}

/// Puts the sum of two values, and of a bias, into the normalization that follows.
pub(super) fn with_sum(graph: &mut Graph, facts: &Facts) -> Tally {
    let anchor = |node: &Node| node.is("LayerNormalization");
    graph.fuse(anchor, |graph, norm| {
        let node = summed(graph, facts, norm)?;
        graph.rewrite(vec![node]);
        Ok(())
    })
}

fn summed(graph: &Graph, facts: &Facts, norm: &Node) -> Result<Node, &'static str> {
    let no_sum = "no sum of two values before it";
    let sum = graph.produced_by(norm.input(0), "Add").ok_or(no_sum)?;
    let (left, right) = (sum.input(0), sum.input(1));
    let shape = facts.shape(sum.output()).filter(|shape| shape.len() == 3).ok_or("not of three dimensions")?;
    if [left, right].iter().any(|value| graph.constant(value).is_some()) {
        return Err(no_sum);
    }
    if [left, right].iter().any(|value| facts.shape(value).as_ref() != Some(&shape)) {
        return Err("the sum of different shapes");
    }
    let rank = i64::try_from(shape.len()).unwrap_or_default();
    let axis = norm.integer("axis").unwrap_or(-1);
    let (gamma, beta) = (norm.input(1), norm.input(2));
    let one_dimension = |name: &str| graph.constant(name).is_some_and(|tensor| tensor.shape.len() == 1);
    if (axis != -1 && axis != rank - 1) || norm.outputs.len() != 1 || !one_dimension(gamma) || !one_dimension(beta) {
        return Err("not over the last axis, or without weights");
    }
    let biased = |value| {
        let node = graph.produced_by(value, "Add").filter(|_| graph.only_user(value).is_some())?;
        let (data, constant) = graph.with_constant(node)?;
        let bias = node.inputs.iter().find(|input| *input != data)?;
        (constant.shape.len() == 1).then(|| (data.to_owned(), bias.clone()))
    };
    let (input, skip, bias) = match (biased(right), biased(left)) {
        (Some((input, bias)), _) => (input, left, bias),
        (None, Some((input, bias))) => (input, right, bias),
        (None, None) => (right.to_owned(), left, String::new()),
    };
    let mut node = Node::microsoft("SkipLayerNormalization", &[&input, skip, gamma, beta, &bias], norm.output());
    if bias.is_empty() {
        node.inputs.pop();
    }
    if graph.users(sum.output()).count() > 1 || graph.is_output(sum.output()) {
        node.outputs.extend([String::new(), String::new(), sum.output().to_owned()]);
    }
    let epsilon = norm.attribute("epsilon").map_or(1e-5, |attribute| attribute.number);
    Ok(node.with(Attribute::number("epsilon", epsilon)))
}
