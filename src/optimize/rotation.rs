//! Rotary embedding in pieces: pairs of values turned by angles that depend on the place, but for a class token.

use super::file::Node;
use super::graph::Graph;

/// Cosine and sine of each pair, by place.
#[derive(Debug)]
pub(super) struct Rotation {
    pub(super) cosine: Vec<f32>,
    pub(super) sine: Vec<f32>,
    pub(super) places: usize,
    /// Pairs of a head.
    pub(super) pairs: usize,
}

/// Finds what a value of batch, heads, places, values is turned from.
pub(super) fn find<'a>(graph: &'a Graph, value: &'a str) -> Option<(&'a str, Rotation)> {
    let (turned, input) = match graph.produced_by(value, "Concat") {
        // The class token first, as it is.
        Some(node) if matches!(node.integer("axis"), Some(2 | -2)) && node.inputs.len() == 2 => {
            let token = Slice::of(graph, node.input(0)).filter(|slice| slice.is(2, 0, Some(1), 1))?;
            (node.input(1), Some(token.input))
        }
        _ => (value, None),
    };
    let sum = graph.produced_by(turned, "Add")?;
    let straight = |place: usize| {
        let (straight, crossed) =
            (graph.produced_by(sum.input(place), "Mul")?, graph.produced_by(sum.input(1 - place), "Mul")?);
        let (rest, cosine) = graph.with_constant(straight)?;
        let (pairs, sine) = graph.with_constant(crossed)?;
        (crossed_from(graph, pairs)? == rest).then_some((rest, cosine, sine))
    };
    let (rest, cosine, sine) = straight(0).or_else(|| straight(1))?;
    if let Some(input) = input {
        Slice::of(graph, rest).filter(|slice| slice.is(2, 1, None, 1) && slice.input == input)?;
    }
    let &[places, width] = &cosine.shape[..] else { return None };
    (sine.shape == cosine.shape).then_some(())?;
    let (places, pairs) = (usize::try_from(places).ok()?, usize::try_from(width / 2).ok()?);
    let (mut cosine, mut sine) = (by_pair(&cosine.floats()?)?, by_pair(&sine.floats()?)?);
    if input.is_some() {
        cosine.splice(0..0, vec![1.0; pairs]);
        sine.splice(0..0, vec![0.0; pairs]);
    }
    let places = places + usize::from(input.is_some());
    Some((input.unwrap_or(rest), Rotation { cosine, sine, places, pairs }))
}

/// The value that another is made of by swapping each pair and negating its first.
fn crossed_from<'a>(graph: &'a Graph, value: &str) -> Option<&'a str> {
    let reshape = graph.produced_by(value, "Reshape")?;
    let pairs =
        graph.produced_by(reshape.input(0), "Concat").filter(|node| matches!(node.integer("axis"), Some(-1 | 4)))?;
    let part = |place: usize| {
        let apart = graph.produced_by(pairs.input(place), "Unsqueeze")?;
        (graph.integers(apart, 1, "axes")? == [-1] || graph.integers(apart, 1, "axes")? == [4])
            .then_some(apart.input(0))
    };
    let odd = graph.produced_by(part(0)?, "Neg")?;
    let odd = Slice::of(graph, odd.input(0)).filter(|slice| slice.is(3, 1, None, 2))?;
    let even = Slice::of(graph, part(1)?).filter(|slice| slice.is(3, 0, None, 2))?;
    (pairs.inputs.len() == 2 && odd.input == even.input).then_some(odd.input)
}

/// One of each two values, which are equal.
fn by_pair(values: &[f32]) -> Option<Vec<f32>> {
    let pairs = values.as_chunks::<2>().0;
    pairs.iter().map(|[one, other]| ((one - other).abs() < 1e-6).then_some(*one)).collect()
}

/// A slice along one axis.
struct Slice<'a> {
    input: &'a str,
    start: i64,
    end: i64,
    axis: i64,
    step: i64,
}

impl<'a> Slice<'a> {
    fn of(graph: &'a Graph, value: &str) -> Option<Self> {
        let node: &Node = graph.produced_by(value, "Slice")?;
        let one =
            |place: usize| graph.constant(node.input(place))?.integers().filter(|all| all.len() == 1).map(|all| all[0]);
        let step = if node.inputs.len() > 4 { one(4)? } else { 1 };
        Some(Self { input: node.input(0), start: one(1)?, end: one(2)?, axis: one(3)?, step })
    }

    /// Returns `true` if it is of this axis of four; to the last value where `end` is `None`.
    fn is(&self, axis: i64, start: i64, end: Option<i64>, step: i64) -> bool {
        let to = end.map_or(self.end >= i64::from(i32::MAX), |end| self.end == end);
        (self.axis == axis || self.axis + 4 == axis) && self.start == start && self.step == step && to
    }
}
