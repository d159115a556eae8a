//! Attention as one operator. It is found by its softmax; layouts and factors are followed from there in both directions.
//!
//! The written operator has no bias inside: with one, CUDA's kernels take a pass over queries, keys and values first. A key's bias
//! adds the same to all scores of a query, which softmax takes out again. A value's bias comes out as it is, because the
//! weights of a query add up to 1, and joins the bias of the projection that follows. Only the query's is added.

use super::file::{Attribute, Node};
use super::graph::{Graph, Tally};
use super::linear::{Linear, size, weights};
use super::probe::Facts;
use super::rotation::{self, Rotation};

/// Batch, heads, places, values of a head; and with places before heads.
const SWAP: [i64; 4] = [0, 2, 1, 3];

/// Rewrites every attention that is understood.
pub(super) fn fuse(graph: &mut Graph, facts: &Facts) -> Tally {
    let is_attention =
        |node: &Node| node.is("Softmax") && facts.shape(node.output()).is_some_and(|shape| shape.len() == 4);
    graph.fuse(is_attention, |graph, softmax| {
        let nodes = Attention::find(graph, facts, softmax)?.write(graph)?;
        graph.rewrite(nodes);
        Ok(())
    })
}

/// An attention in pieces.
struct Attention {
    query: Source,
    key: Source,
    value: Source,
    scale: f32,
    heads: i64,
    /// Values of all heads.
    width: i64,
    /// The value of batch, places and width that it produces.
    output: String,
}

/// Origin of queries, keys or values.
#[derive(Debug)]
enum Source {
    /// A product with constant weights, and a bias.
    Product(Linear),
    /// Batch, places, width.
    Whole(String),
    /// A product whose pairs of values are turned by place.
    Rotated(Linear, Rotation),
    /// Batch, heads, places, values of a head.
    Heads(String),
    /// Batch, places, heads, values of a head.
    Places(String),
}

impl Attention {
    fn find(graph: &Graph, facts: &Facts, softmax: &Node) -> Result<Self, &'static str> {
        let axis = softmax.integer("axis").unwrap_or(if graph.opset < 13 { 1 } else { -1 });
        if axis != -1 && axis != 3 {
            return Err("its softmax is not over the last axis");
        }
        let mut scale = 1.0;
        let scores = unscaled(graph, softmax.input(0), &mut scale);
        let product = graph.produced_by(scores, "MatMul").ok_or("something is added to its scores")?;
        let (query, turned) = operand(graph, product.input(0), &mut scale);
        let (key, key_turned) = operand(graph, product.input(1), &mut scale);
        if turned != Turned::No || key_turned == Turned::No {
            return Err("its queries and keys are in another order");
        }
        let after = "its values are in another order";
        let mixed = graph.only_user(softmax.output()).filter(|node| node.is("MatMul")).ok_or(after)?;
        if mixed.input(0) != softmax.output() {
            return Err(after);
        }
        let swapped = graph.only_user(mixed.output()).filter(|node| node.is("Transpose")).ok_or(after)?;
        let joined = graph.only_user(swapped.output()).filter(|node| node.is("Reshape")).ok_or(after)?;
        let shape = facts.shape(product.input(0)).ok_or("its shape is not known")?;
        let &[_, heads, places, head] = &shape[..] else { return Err("its shape is not known") };
        let (width, out) = (heads * head, facts.shape(joined.output()).unwrap_or_default());
        let of = |value: &str, at: usize| {
            facts.shape(value).is_some_and(|shape| shape.len() == 4 && shape[1] == heads && shape[at] == head)
        };
        let same = of(product.input(1), 2) && of(mixed.input(1), 3);
        if swapped.integers("perm") != Some(&SWAP) || out.len() != 3 || out[1..] != [places, width] || !same {
            return Err(after);
        }
        let parts = Parts { graph, facts, width };
        Ok(Self {
            query: parts.source(query, false),
            key: parts.source(key, key_turned == Turned::FromPlaces),
            value: parts.source(mixed.input(1), false),
            scale,
            heads,
            width,
            output: joined.output().to_owned(),
        })
    }

    /// The nodes in its place.
    fn write(self, graph: &mut Graph) -> Result<Vec<Node>, &'static str> {
        let (width, mut nodes) = (self.width, Vec::new());
        let query = input(graph, &self.query, ("query", width), true, &mut nodes)?;
        let key = input(graph, &self.key, ("key", width), false, &mut nodes)?;
        let moved = match &self.value {
            Source::Product(Linear { bias: Some(bias), .. }) => projected(graph, &self.output, bias),
            _ => None,
        };
        let value = input(graph, &self.value, ("value", width), moved.is_none(), &mut nodes)?;
        let attention = Node::microsoft("MultiHeadAttention", &[&query, &key, &value], &self.output);
        let attention = attention.with(Attribute::integer("num_heads", self.heads));
        nodes.push(attention.with(Attribute::number("scale", self.scale)));
        nodes.extend(moved);
        Ok(nodes)
    }
}

/// Follows multiplications with one number backwards.
fn unscaled<'a>(graph: &'a Graph, mut value: &'a str, scale: &mut f32) -> &'a str {
    while let Some(node) = graph.producer(value).filter(|node| node.is("Mul") || node.is("Div")) {
        let Some((data, _)) = graph.with_constant(node) else { break };
        let divides = node.is("Div");
        if divides && data != node.input(0) {
            break;
        }
        let constant = if data == node.input(0) { node.input(1) } else { node.input(0) };
        let Some(factor) = graph.scalar(constant) else { break };
        *scale = if divides { *scale / factor } else { *scale * factor };
        value = data;
    }
    value
}

/// Order of an operand against batch, heads, places, values of a head.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turned {
    No,
    /// With the last two swapped.
    FromHeads,
    /// From places before heads.
    FromPlaces,
}

/// Follows factors and one transposition backwards.
fn operand<'a>(graph: &'a Graph, value: &'a str, scale: &mut f32) -> (&'a str, Turned) {
    let value = unscaled(graph, value, scale);
    let Some(node) = graph.produced_by(value, "Transpose") else { return (value, Turned::No) };
    let turned = match node.integers("perm") {
        Some([0, 1, 3, 2]) => Turned::FromHeads,
        Some([0, 2, 3, 1]) => Turned::FromPlaces,
        _ => return (value, Turned::No),
    };
    (unscaled(graph, node.input(0), scale), turned)
}

struct Parts<'a> {
    graph: &'a Graph,
    facts: &'a Facts,
    width: i64,
}

impl Parts<'_> {
    /// Origin of a value of four dimensions.
    fn source(&self, value: &str, by_places: bool) -> Source {
        if by_places {
            return self.whole(value);
        }
        if let Some(node) =
            self.graph.produced_by(value, "Transpose").filter(|node| node.integers("perm") == Some(&SWAP))
        {
            return self.whole(node.input(0));
        }
        if let Some(linear) = self.third(value) {
            return Source::Product(linear);
        }
        let rotated =
            rotation::find(self.graph, value).and_then(|(origin, rotation)| Some((self.third(origin)?, rotation)));
        rotated.map_or_else(|| Source::Heads(value.to_owned()), |(linear, rotation)| Source::Rotated(linear, rotation))
    }

    /// Origin of a value of batch, places, heads and values of a head.
    fn whole(&self, value: &str) -> Source {
        let reshape = self.graph.produced_by(value, "Reshape");
        let is_whole = |node: &&Node| {
            self.facts.shape(node.input(0)).is_some_and(|shape| shape.len() == 3 && shape[2] == self.width)
        };
        let Some(node) = reshape.filter(is_whole) else { return Source::Places(value.to_owned()) };
        Linear::find(self.graph, node.input(0)).map_or_else(|| Source::Whole(node.input(0).to_owned()), Source::Product)
    }

    /// One of queries, keys and values that come of a single product.
    fn third(&self, value: &str) -> Option<Linear> {
        let node = self.graph.producer(value)?;
        let (packed, part) = if node.is("Squeeze") {
            let split = self.graph.produced_by(node.input(0), "Split")?;
            let whole = split.integer("axis").unwrap_or(0) == 0 && split.outputs.len() == 3;
            (whole && self.graph.integers(node, 1, "axes")? == [0]).then_some(())?;
            (split.input(0), split.outputs.iter().position(|output| output == node.input(0))?)
        } else {
            let tensor = self.graph.constant(node.input(1)).filter(|_| node.is("Gather"))?;
            let part =
                tensor.integers().filter(|_| tensor.shape.is_empty() && node.integer("axis").unwrap_or(0) == 0)?;
            (node.input(0), usize::try_from(*part.first()?).ok()?)
        };
        let turned = self
            .graph
            .produced_by(packed, "Transpose")
            .filter(|node| node.integers("perm") == Some(&[2, 0, 3, 1, 4]))?;
        let reshape = self.graph.produced_by(turned.input(0), "Reshape")?;
        let shape = self.facts.shape(reshape.output()).filter(|shape| shape.len() == 5 && shape[2] == 3)?;
        (shape[3] * shape[4] == self.width).then_some(())?;
        Linear::find(self.graph, reshape.input(0))?.columns(part, usize::try_from(self.width).ok()?)
    }
}

/// The value of batch, places and width.
fn input(
    graph: &mut Graph,
    source: &Source,
    (purpose, width): (&str, i64),
    biased: bool,
    nodes: &mut Vec<Node>,
) -> Result<String, &'static str> {
    match source {
        Source::Product(linear) => product(graph, linear, (purpose, width), biased, nodes),
        // Turned, a key's bias depends on the place.
        Source::Rotated(linear, rotation) => {
            let value = product(graph, linear, (purpose, width), true, nodes)?;
            Ok(rotated(graph, &value, rotation, (purpose, width), nodes))
        }
        Source::Whole(value) => Ok(value.clone()),
        Source::Heads(value) => {
            let places = graph.fresh(purpose);
            nodes.push(Node::new("Transpose", &[value], &places).with(Attribute::integers("perm", &SWAP)));
            Ok(joined(graph, &places, (purpose, width), nodes))
        }
        Source::Places(value) => Ok(joined(graph, value, (purpose, width), nodes)),
    }
}

fn product(
    graph: &mut Graph,
    linear: &Linear,
    (purpose, width): (&str, i64),
    biased: bool,
    nodes: &mut Vec<Node>,
) -> Result<String, &'static str> {
    let product = linear.write(graph, purpose, nodes).ok_or("its weights are of another type")?;
    let bias = linear.bias.as_ref().filter(|bias| biased && bias.iter().any(|value| *value != 0.0));
    let Some(bias) = bias else { return Ok(product) };
    let (bias, sum) = (graph.add_floats(purpose, &[width], bias), graph.fresh(purpose));
    nodes.push(Node::new("Add", &[&product, &bias], &sum));
    Ok(sum)
}

fn rotated(
    graph: &mut Graph,
    value: &str,
    rotation: &Rotation,
    (purpose, width): (&str, i64),
    nodes: &mut Vec<Node>,
) -> String {
    let Rotation { cosine, sine, places, pairs } = rotation;
    let shape = [size(*places), size(*pairs)];
    let first = graph.add_integers("places", &[0]);
    let (cosine, sine) = (graph.add_floats("cosine", &shape, cosine), graph.add_floats("sine", &shape, sine));
    let output = graph.fresh(purpose);
    let node = Node::microsoft("RotaryEmbedding", &[value, &first, &cosine, &sine], &output);
    let node = node.with(Attribute::integer("interleaved", 1));
    nodes.push(node.with(Attribute::integer("num_heads", width / (2 * size(*pairs)))));
    output
}

fn joined(graph: &mut Graph, value: &str, (purpose, width): (&str, i64), nodes: &mut Vec<Node>) -> String {
    let (target, output) = (graph.add_integers("shape", &[0, 0, width]), graph.fresh(purpose));
    nodes.push(Node::new("Reshape", &[value, &target], &output));
    output
}

/// The addition of a projection's bias, with the values' bias put through the projection; `None` where there is no such thing.
fn projected(graph: &mut Graph, attention: &str, values: &[f32]) -> Option<Node> {
    let product = graph.only_user(attention).filter(|node| node.is("MatMul") && node.input(0) == attention)?.clone();
    let sum = graph.only_user(product.output()).filter(|node| node.is("Add"))?.clone();
    let (_, own) = graph.with_constant(&sum)?;
    let mut bias = own.floats().filter(|_| own.shape.len() == 1)?;
    let (rows, columns) = weights(graph, &product)?;
    (rows == values.len() && columns == bias.len()).then_some(())?;
    let all = graph.floats(product.input(1))?;
    for (row, value) in all.chunks_exact(columns).zip(values) {
        bias.iter_mut().zip(row).for_each(|(bias, weight)| *bias += value * weight);
    }
    let bias = graph.add_floats("bias", &[size(columns)], &bias);
    Some(Node::new("Add", &[product.output(), &bias], sum.output()))
}
