//! Products in eight bits: weights by column, values by batch as they come. For CPUs; everything else stays in single precision.

use super::file::{FLOAT, INT8, Node, Tensor};
use super::graph::{Graph, Tally};

/// Largest value of a weight. Processors without VNNI add two products in 16 bits, which 127 would exceed.
const LARGEST: f32 = 64.0;

/// Rewrites every product with constant weights.
pub(super) fn convert(graph: &mut Graph) -> Tally {
    graph.fuse(
        |node| node.is("MatMul"),
        |graph, product| {
            let nodes = quantized(graph, product)?;
            graph.rewrite(nodes);
            Ok(())
        },
    )
}

fn quantized(graph: &mut Graph, product: &Node) -> Result<Vec<Node>, &'static str> {
    let weights = graph.constant(product.input(1)).filter(|tensor| tensor.kind == FLOAT && tensor.shape.len() == 2);
    let weights = weights.ok_or("a product of two values")?;
    let shape = weights.shape.clone();
    let columns = usize::try_from(shape[1]).ok().filter(|columns| *columns > 0).ok_or("no weights")?;
    let values = weights.floats().ok_or("no weights")?;
    let (scales, raw) = by_column(&values, columns);
    let scales = graph.add_floats("scales", &[shape[1]], &scales);
    let weights = graph.add("weights", Tensor { shape, kind: INT8, raw: raw.into(), ..Tensor::default() });
    let (bias, output) = bias(graph, product, columns).unwrap_or_else(|| (String::new(), product.output().to_owned()));
    let mut node = Node::microsoft("DynamicQuantizeMatMul", &[product.input(0), &weights, &scales], &output);
    if !bias.is_empty() {
        // In place of the fourth there is none: weights are around 0.
        node.inputs.extend([String::new(), bias]);
    }
    Ok(vec![node])
}

/// The scale of each column, and its weights in eight bits.
fn by_column(values: &[f32], columns: usize) -> (Vec<f32>, Vec<u8>) {
    let mut scales = vec![0.0_f32; columns];
    for row in values.chunks_exact(columns) {
        scales.iter_mut().zip(row).for_each(|(scale, value)| *scale = scale.max(value.abs() / LARGEST));
    }
    // A column of zeros stays one.
    scales.iter_mut().filter(|scale| **scale == 0.0).for_each(|scale| *scale = 1.0);
    let eight_bits = |(value, scale): (&f32, &f32)| {
        #[expect(clippy::cast_possible_truncation, reason = "it is within -64 and 64")]
        let rounded = (value / scale).round() as i8;
        rounded.cast_unsigned()
    };
    let raw = values.chunks_exact(columns).flat_map(|row| row.iter().zip(&scales).map(eight_bits)).collect();
    (scales, raw)
}

/// The bias that is added next, and the sum.
fn bias(graph: &Graph, product: &Node, columns: usize) -> Option<(String, String)> {
    let sum = graph.only_user(product.output()).filter(|node| node.is("Add"))?;
    let (data, constant) = graph.with_constant(sum)?;
    let bias = sum.inputs.iter().find(|input| *input != data)?;
    (constant.shape.len() == 1 && constant.len() == Some(columns)).then(|| (bias.clone(), sum.output().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_has_its_own_scale() {
        let (scales, raw) = by_column(&[64.0, 0.5, 0.0, -32.5, 0.25, 0.0], 3);
        assert_eq!(scales, [1.0, 0.5 / 64.0, 1.0]);
        assert_eq!(raw.iter().map(|byte| byte.cast_signed()).collect::<Vec<_>>(), [64, 64, 0, -33, 32, 0]);
    }
}
