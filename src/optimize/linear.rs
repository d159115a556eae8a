//! Products with constant weights.

use std::ops::Range;

use super::file::{FLOAT, Node};
use super::graph::Graph;

/// A product with constant weights, or columns of one.
#[derive(Debug)]
pub(super) struct Linear {
    input: String,
    /// The product as the graph has it.
    product: String,
    /// The columns, if not all, and their number.
    columns: Option<Range<usize>>,
    pub(super) bias: Option<Vec<f32>>,
}

impl Linear {
    pub(super) fn find(graph: &Graph, value: &str) -> Option<Self> {
        let node = graph.producer(value)?;
        let (product, bias) = if node.is("Add") {
            let (data, constant) = graph.with_constant(node)?;
            let bias = constant.floats().filter(|_| constant.shape.len() == 1)?;
            (graph.produced_by(data, "MatMul")?, Some(bias))
        } else {
            (Some(node).filter(|node| node.is("MatMul"))?, None)
        };
        let width = weights(graph, product)?.1;
        let whole = bias.as_ref().is_none_or(|bias| bias.len() == width);
        let (input, product) = (product.input(0).to_owned(), product.output().to_owned());
        whole.then_some(Self { input, product, columns: None, bias })
    }

    pub(super) fn columns(self, part: usize, width: usize) -> Option<Self> {
        let columns = part * width..(part + 1) * width;
        let bias = self.bias.map(|bias| bias.get(columns.clone()).map(<[f32]>::to_vec));
        let bias = bias.map_or(Some(None), |bias| bias.map(Some))?;
        Some(Self { columns: Some(columns), bias, ..self })
    }

    /// The value of the product alone.
    pub(super) fn write(&self, graph: &mut Graph, purpose: &str, nodes: &mut Vec<Node>) -> Option<String> {
        let Some(columns) = self.columns.clone() else { return Some(self.product.clone()) };
        let (rows, width) = weights(graph, graph.producer(&self.product)?)?;
        let all = graph.floats(graph.producer(&self.product)?.input(1))?;
        let part: Vec<f32> = all.chunks_exact(width).flat_map(|row| &row[columns.clone()]).copied().collect();
        let weights = graph.add_floats(purpose, &[size(rows), size(columns.len())], &part);
        let output = graph.fresh(purpose);
        nodes.push(Node::new("MatMul", &[&self.input, &weights], &output));
        Some(output)
    }
}

/// Rows and columns of a product's weights.
pub(super) fn weights(graph: &Graph, product: &Node) -> Option<(usize, usize)> {
    let tensor = graph.constant(product.input(1)).filter(|tensor| tensor.kind == FLOAT)?;
    let &[rows, columns] = &tensor.shape[..] else { return None };
    Some((usize::try_from(rows).ok()?, usize::try_from(columns).ok()?))
}

pub(super) fn size(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
