//! Activations as one operator. Exporters write the same function in many orders, so it is told by its values: whatever is
//! computed, element by element, from one value and numbers is compared with the functions known.

use super::file::{Attribute, Node};
use super::graph::{Graph, Tally};

/// Nodes that a function consists of at most.
const LONGEST: usize = 10;

/// Points at which functions are compared.
const POINTS: [f32; 12] = [-7.0, -3.1, -2.0, -1.3, -0.7, -0.2, 0.0, 0.3, 0.9, 1.6, 2.4, 6.5];

/// Largest difference of values of the same function.
const SAME: f32 = 2e-4;

/// Rewrites every activation that is known, with the bias before it where its operator takes one.
pub(super) fn fuse(graph: &mut Graph) -> Tally {
    let anchor = |node: &Node| ["Tanh", "Erf", "Sigmoid", "Gelu"].iter().any(|operator| node.is(operator));
    let mut tally = graph.fuse(anchor, |graph, anchor| {
        let (function, input, output) = if anchor.is("Gelu") {
            let tanh = anchor.attribute("approximate").is_some_and(|attribute| &*attribute.string == b"tanh");
            let function = if tanh { Function::TanhGelu } else { Function::Gelu };
            (function, anchor.input(0).to_owned(), anchor.output().to_owned())
        } else {
            find(graph, anchor).ok_or(NO_ACTIVATION)?
        };
        let node = function.node(graph, &input, &output);
        graph.rewrite(vec![node]);
        Ok(())
    });
    // Such as the sigmoid that a tagger ends in.
    tally.left.remove(NO_ACTIVATION);
    tally
}

const NO_ACTIVATION: &str = "no function that is known";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Gelu,
    TanhGelu,
    /// Also called Swish.
    Silu,
    QuickGelu,
}

impl Function {
    const ALL: [Self; 4] = [Self::Gelu, Self::TanhGelu, Self::Silu, Self::QuickGelu];

    fn value(self, x: f32) -> f32 {
        match self {
            Self::Gelu => 0.5 * x * (1.0 + stand_in(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::TanhGelu => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x.powi(3))).tanh()),
            Self::Silu => x * sigmoid(x),
            Self::QuickGelu => x * sigmoid(1.702 * x),
        }
    }

    fn node(self, graph: &Graph, input: &str, output: &str) -> Node {
        let biased = biased(graph, input).filter(|_| matches!(self, Self::Gelu | Self::TanhGelu));
        let quick = |alpha| Node::microsoft("QuickGelu", &[input], output).with(Attribute::number("alpha", alpha));
        match (self, biased) {
            (Self::Gelu, Some((input, bias))) => Node::microsoft("BiasGelu", &[input, bias], output),
            (Self::TanhGelu, Some((input, bias))) => Node::microsoft("FastGelu", &[input, bias], output),
            (Self::Gelu, None) => Node::microsoft("Gelu", &[input], output),
            (Self::TanhGelu, None) => Node::microsoft("FastGelu", &[input], output),
            (Self::Silu, _) => quick(1.0),
            (Self::QuickGelu, _) => quick(1.702),
        }
    }
}

/// A value without the constant of one dimension that was added to it.
fn biased<'a>(graph: &'a Graph, value: &str) -> Option<(&'a str, &'a str)> {
    let node = graph.produced_by(value, "Add")?;
    let (data, constant) = graph.with_constant(node)?;
    let bias = node.inputs.iter().find(|input| *input != data)?;
    (constant.shape.len() == 1 && constant.len() != Some(1)).then_some((data, bias.as_str()))
}

fn is_elementwise(node: &Node) -> bool {
    ["Add", "Sub", "Mul", "Div", "Pow", "Tanh", "Erf", "Sigmoid"].iter().any(|operator| node.is(operator))
}

/// The function an anchor is part of, its input and its output: the last value of a chain after the anchor that fits.
fn find(graph: &Graph, anchor: &Node) -> Option<(Function, String, String)> {
    let input = root(graph, anchor.input(0));
    let (mut last, mut found) = (anchor.output(), None);
    for _ in 0..LONGEST {
        if let Some(function) = function(graph, last, input) {
            found = Some((function, input.to_owned(), last.to_owned()));
        }
        match graph.only_user(last).filter(|node| is_elementwise(node)) {
            Some(node) => last = node.output(),
            None => break,
        }
    }
    found
}

/// The one value that another is computed of, element by element.
fn root<'a>(graph: &'a Graph, mut value: &'a str) -> &'a str {
    while let Some(node) = graph.producer(value).filter(|node| is_elementwise(node)) {
        let operand = match graph.with_constant(node) {
            Some((data, constant)) => (constant.len() == Some(1)).then_some(data),
            None => shared(graph, node),
        };
        let Some(operand) = operand else { break };
        value = operand;
    }
    value
}

/// Of a node's two operands the one that the other is computed of.
fn shared<'a>(graph: &'a Graph, node: &'a Node) -> Option<&'a str> {
    let [left, right] = &node.inputs[..] else { return None };
    let uses = |value: &str, of: &str| {
        let mut open = vec![value.to_owned()];
        for _ in 0..LONGEST {
            let Some(value) = open.pop() else { return false };
            if value == of {
                return true;
            }
            open.extend(
                graph
                    .producer(&value)
                    .filter(|node| is_elementwise(node))
                    .into_iter()
                    .flat_map(|node| node.inputs.clone()),
            );
        }
        false
    };
    if uses(right, left) {
        Some(left)
    } else if uses(left, right) {
        Some(right)
    } else {
        None
    }
}

fn function(graph: &Graph, output: &str, input: &str) -> Option<Function> {
    let values: Vec<f32> = POINTS.iter().map(|x| value(graph, output, input, *x, LONGEST)).collect::<Option<_>>()?;
    let same =
        |function: &Function| POINTS.iter().zip(&values).all(|(x, value)| (function.value(*x) - value).abs() < SAME);
    Function::ALL.into_iter().find(same)
}

/// An element of `output` where that of `input` is `x`.
fn value(graph: &Graph, output: &str, input: &str, x: f32, depth: usize) -> Option<f32> {
    if output == input {
        return Some(x);
    }
    if let Some(number) = graph.scalar(output) {
        return Some(number);
    }
    let node = graph.producer(output).filter(|node| is_elementwise(node) && depth > 0)?;
    let operand = |place| value(graph, node.input(place), input, x, depth - 1);
    let left = operand(0)?;
    Some(match node.operator.as_str() {
        "Tanh" => left.tanh(),
        "Erf" => stand_in(left),
        "Sigmoid" => sigmoid(left),
        "Add" => left + operand(1)?,
        "Sub" => left - operand(1)?,
        "Mul" => left * operand(1)?,
        "Div" => left / operand(1)?,
        "Pow" => left.powf(operand(1)?),
        _ => return None,
    })
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// In place of the error function, on both sides of a comparison: any function will do that is like no other here.
fn stand_in(x: f32) -> f32 {
    x / (1.0 + x.abs())
}
