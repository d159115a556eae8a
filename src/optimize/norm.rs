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

/// `(x - mean(x)) / sqrt(mean((x - mean(x))²) + ε) · γ + β`, in this order or with `γ / sqrt(…)` as one factor.
fn in_pieces(graph: &Graph, facts: &Facts, root: &Node) -> Option<Node> {
    let guarded = graph.produced_by(root.input(0), "Add")?;
    let (variance, epsilon) = graph.with_constant(guarded)?;
    let epsilon = epsilon.floats()?.first().copied()?;
    let variance = graph.produced_by(variance, "ReduceMean")?;
    let square = graph.producer(variance.input(0))?;
    let squared = (square.is("Pow") && graph.scalar(square.input(1)).is_some_and(|power| is(power, 2.0)))
        || (square.is("Mul") && square.input(0) == square.input(1));
    let centred = Centred::of(graph, square.input(0))?;
    let rank = facts.shape(centred.input)?.len();
    if !squared || ![variance, centred.mean].into_iter().all(|node| is_over_last_axis(graph, node, rank)) {
        return None;
    }
    let (gamma, beta, output) = divided(graph, root, &centred, rank).or_else(|| factored(graph, root, &centred))?;
    let node = Node::new("LayerNormalization", &[centred.input, gamma, beta], output);
    Some(node.with(Attribute::integer("axis", -1)).with(Attribute::number("epsilon", epsilon)))
}

/// A value less its mean.
struct Centred<'a> {
    input: &'a str,
    mean: &'a Node,
}

impl<'a> Centred<'a> {
    fn of(graph: &'a Graph, value: &str) -> Option<Self> {
        let node = graph.produced_by(value, "Sub")?;
        let mean = graph.produced_by(node.input(1), "ReduceMean").filter(|mean| mean.input(0) == node.input(0))?;
        Some(Self { input: node.input(0), mean })
    }
}

fn is_over_last_axis(graph: &Graph, node: &Node, rank: usize) -> bool {
    let last = i64::try_from(rank).unwrap_or_default() - 1;
    let axes = graph.integers(node, 1, "axes");
    axes.is_some_and(|axes| axes == [-1] || axes == [last]) && node.integer("keepdims") != Some(0)
}

/// Scale, shift and result of a division by the root.
fn divided<'a>(
    graph: &'a Graph,
    root: &Node,
    centred: &Centred<'_>,
    rank: usize,
) -> Option<(&'a str, &'a str, &'a str)> {
    let quotient = graph.only_user(root.output()).filter(|node| node.is("Div") && node.input(1) == root.output())?;
    let dividend = Centred::of(graph, quotient.input(0)).filter(|dividend| dividend.input == centred.input)?;
    is_over_last_axis(graph, dividend.mean, rank).then_some(())?;
    let scaled = graph.only_user(quotient.output()).filter(|node| node.is("Mul"))?;
    let shifted = graph.only_user(scaled.output()).filter(|node| node.is("Add"))?;
    Some((operand(graph, scaled, quotient.output())?, operand(graph, shifted, scaled.output())?, shifted.output()))
}

/// Scale, shift and result of `x · factor + (β - mean(x) · factor)`, where the factor is `γ / root`.
fn factored<'a>(graph: &'a Graph, root: &Node, centred: &Centred<'_>) -> Option<(&'a str, &'a str, &'a str)> {
    let reciprocal = graph.only_user(root.output()).filter(|node| node.is("Reciprocal"))?;
    let factor = graph.only_user(reciprocal.output()).filter(|node| node.is("Mul"))?;
    let gamma = operand(graph, factor, reciprocal.output())?;
    let times = |value: &str| {
        graph.users(factor.output()).find(|node| node.is("Mul") && node.inputs.iter().any(|input| input == value))
    };
    let (scaled, less) = (times(centred.input)?, times(centred.mean.output())?);
    let shift = graph.only_user(less.output()).filter(|node| node.is("Sub") && node.input(1) == less.output())?;
    let shifted = graph.only_user(shift.output()).filter(|node| node.is("Add"))?;
    shifted.inputs.iter().any(|input| input == scaled.output()).then_some(())?;
    Some((gamma, operand(graph, shift, less.output())?, shifted.output()))
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
