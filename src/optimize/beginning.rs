//! The beginning of a tagger: colours put in order, transposed and scaled, then cut into patches. The first convolution takes
//! over what was done to its input, for it multiplies and adds anyway; and one of patches side by side is a product, which
//! takes pictures as they come.

use super::file::{Attribute, Node, Tensor};
use super::graph::Graph;
use super::linear::size;
use super::probe::Facts;
use crate::model::manifest::Layout;

/// Colours of a pixel.
const COLOURS: usize = 3;

/// Removes the nodes before the first convolution; returns their operators.
///
/// # Errors
/// The reason why they stay.
pub(super) fn fuse(graph: &mut Graph, facts: &Facts) -> Result<Vec<String>, &'static str> {
    let mut pixels = Pixels::new(facts.interface.layout);
    let (mut value, mut removed) = (facts.interface.input.clone(), Vec::new());
    let first = loop {
        let node = graph.only_user(&value).ok_or("several nodes take the input")?;
        if node.is("Conv") {
            break node.clone();
        }
        pixels.follow(graph, node, &value).ok_or("there is something else before the first convolution")?;
        removed.push(node.operator.clone());
        value = node.output().to_owned();
    };
    let convolution = Convolution::of(graph, &first).ok_or("the first convolution is of another kind")?;
    let convolution = convolution.after(&pixels).ok_or("the first convolution has padding, or another layout")?;
    let nodes = convolution.write(graph, facts, &first);
    graph.rewrite(nodes);
    Ok(removed)
}

/// Operations on the pixels so far.
struct Pixels {
    layout: Layout,
    /// The channel of the input that each channel is.
    order: [usize; COLOURS],
    scale: [f32; COLOURS],
    shift: [f32; COLOURS],
}

impl Pixels {
    const fn new(layout: Layout) -> Self {
        Self { layout, order: [0, 1, 2], scale: [1.0; COLOURS], shift: [0.0; COLOURS] }
    }

    const fn channel_axis(&self) -> i64 {
        match self.layout {
            Layout::Nhwc => 3,
            Layout::Nchw => 1,
        }
    }

    /// Follows one node; `None` where it does something else.
    fn follow(&mut self, graph: &Graph, node: &Node, value: &str) -> Option<()> {
        match node.operator.as_str() {
            _ if !node.domain.is_empty() => return None,
            "Transpose" => {
                self.layout = match (self.layout, node.integers("perm")?) {
                    (Layout::Nhwc, [0, 3, 1, 2]) => Layout::Nchw,
                    (Layout::Nchw, [0, 2, 3, 1]) => Layout::Nhwc,
                    _ => return None,
                };
            }
            "Gather" => {
                let indices = graph.constant(node.input(1)).filter(|indices| indices.shape.len() == 1)?.integers()?;
                self.is_of_channels(node.integer("axis").unwrap_or(0))?;
                self.reorder(&indices)?;
            }
            "Slice" => {
                let one = |place| {
                    graph.constant(node.input(place))?.integers().filter(|all| all.len() == 1).map(|all| all[0])
                };
                let (start, end, axis, step) = (one(1)?, one(2)?, one(3)?, one(4)?);
                self.is_of_channels(axis)?;
                (step == -1 && (start == -1 || start >= 2) && end < -3).then_some(())?;
                self.reorder(&[2, 1, 0])?;
            }
            operator @ ("Add" | "Sub" | "Mul" | "Div") => {
                let ours = node.input(0) == value;
                let operand = self.by_channel(graph.constant(node.input(usize::from(ours)))?)?;
                for (channel, operand) in operand.into_iter().enumerate() {
                    let (scale, shift) = (&mut self.scale[channel], &mut self.shift[channel]);
                    (*scale, *shift) = match (operator, ours) {
                        ("Add", _) => (*scale, *shift + operand),
                        ("Mul", _) => (*scale * operand, *shift * operand),
                        ("Sub", true) => (*scale, *shift - operand),
                        ("Sub", false) => (-*scale, operand - *shift),
                        ("Div", true) => (*scale / operand, *shift / operand),
                        _ => return None,
                    };
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn is_of_channels(&self, axis: i64) -> Option<()> {
        (axis == self.channel_axis() || axis + 4 == self.channel_axis()).then_some(())
    }

    fn reorder(&mut self, indices: &[i64]) -> Option<()> {
        let index = |index: &i64| (-3..3).contains(index).then(|| usize::try_from(index.rem_euclid(3)).ok()).flatten();
        let order: [usize; COLOURS] = indices.iter().map(index).collect::<Option<Vec<_>>>()?.try_into().ok()?;
        self.order = order.map(|channel| self.order[channel]);
        self.scale = order.map(|channel| self.scale[channel]);
        self.shift = order.map(|channel| self.shift[channel]);
        Some(())
    }

    /// One number for all, or one for each channel, as it is broadcast to pictures.
    fn by_channel(&self, constant: &Tensor) -> Option<[f32; COLOURS]> {
        let values = constant.floats()?;
        let place = 4_usize.checked_sub(constant.shape.len())?;
        let channels = usize::try_from(self.channel_axis()).ok()?;
        let fits = |(axis, size): (usize, &i64)| *size == 1 || (*size == 3 && axis + place == channels);
        constant.shape.iter().enumerate().all(fits).then_some(())?;
        match values[..] {
            [all] => Some([all; COLOURS]),
            [first, second, third] => Some([first, second, third]),
            _ => None,
        }
    }
}

/// A convolution of pictures.
struct Convolution {
    weights: Vec<f32>,
    bias: Vec<f32>,
    /// Height and width.
    kernel: [usize; 2],
    is_padded: bool,
    /// Neither overlapping nor apart.
    is_of_patches: bool,
}

impl Convolution {
    fn of(graph: &Graph, node: &Node) -> Option<Self> {
        let tensor = graph.constant(node.input(1))?;
        let size = |axis: usize| tensor.shape.get(axis).and_then(|size| usize::try_from(*size).ok());
        let (outputs, colours, kernel) = (size(0)?, size(1)?, [size(2)?, size(3)?]);
        let bias = match node.inputs.get(2) {
            Some(bias) => graph.floats(bias)?,
            None => vec![0.0; outputs],
        };
        let all = |name: &str, wanted: &[i64]| node.integers(name).is_none_or(|values| values == wanted);
        let square = [i64::try_from(kernel[0]).ok()?, i64::try_from(kernel[1]).ok()?];
        let auto = node.attribute("auto_pad").map(|attribute| attribute.string.clone());
        let is_padded = !node.integers("pads").is_none_or(|pads| pads.iter().all(|pad| *pad == 0))
            || auto.is_some_and(|auto| &*auto != b"NOTSET" && &*auto != b"VALID");
        let is_of_patches = !is_padded
            && all("dilations", &[1, 1])
            && node.integers("strides") == Some(&square)
            && kernel[0] == kernel[1];
        let of_colours = colours == COLOURS && node.integer("group").unwrap_or(1) == 1;
        of_colours.then_some(Self { weights: tensor.floats()?, bias, kernel, is_padded, is_of_patches })
    }

    /// The same on pixels as they come.
    fn after(mut self, pixels: &Pixels) -> Option<Self> {
        if pixels.layout != Layout::Nchw || (self.is_padded && pixels.shift.iter().any(|shift| *shift != 0.0)) {
            return None;
        }
        let area = self.kernel[0] * self.kernel[1];
        for (output, bias) in self.weights.chunks_exact_mut(COLOURS * area).zip(&mut self.bias) {
            let before = output.to_vec();
            let mut shifted = f64::from(*bias);
            for (channel, weights) in before.chunks_exact(area).enumerate() {
                shifted += weights.iter().map(|weight| f64::from(weight * pixels.shift[channel])).sum::<f64>();
                let target = &mut output[pixels.order[channel] * area..][..area];
                target.iter_mut().zip(weights).for_each(|(target, weight)| *target = weight * pixels.scale[channel]);
            }
            #[expect(clippy::cast_possible_truncation, reason = "back to what it was")]
            {
                *bias = shifted as f32;
            }
        }
        Some(self)
    }

    /// The nodes from the input on, up to the convolution's output or what is made of that next.
    fn write(self, graph: &mut Graph, facts: &Facts, node: &Node) -> Vec<Node> {
        match Target::of(graph, facts, node).filter(|_| self.is_of_patches) {
            Some(target) => self.product(graph, facts, &target),
            None => self.convolution(graph, facts, node),
        }
    }

    fn convolution(self, graph: &mut Graph, facts: &Facts, node: &Node) -> Vec<Node> {
        let [height, width] = self.kernel.map(size);
        let outputs = size(self.bias.len());
        let weights = graph.add_floats("weights", &[outputs, size(COLOURS), height, width], &self.weights);
        let bias = graph.add_floats("bias", &[outputs], &self.bias);
        let mut nodes = Vec::new();
        let mut input = facts.interface.input.clone();
        if facts.interface.layout == Layout::Nhwc {
            let planes = graph.fresh("planes");
            nodes.push(Node::new("Transpose", &[&input], &planes).with(Attribute::integers("perm", &[0, 3, 1, 2])));
            input = planes;
        }
        nodes.push(Node { inputs: vec![input, weights, bias], ..node.clone() });
        nodes
    }

    /// One product of all patches and the weights.
    fn product(&self, graph: &mut Graph, facts: &Facts, target: &Target) -> Vec<Node> {
        let (side, outputs) = (self.kernel[0], self.bias.len());
        let across = facts.interface.side as usize / side;
        let (patch, places) = (COLOURS * side * side, across * across);
        // Patches by row and column, then their pixels by row, column and colour, or by colour, row and column.
        let (apart, order): (Vec<usize>, &[i64]) = match facts.interface.layout {
            Layout::Nhwc => (vec![0, across, side, across, side * COLOURS], &[0, 1, 3, 2, 4]),
            Layout::Nchw => (vec![0, COLOURS, across, side, across, side], &[0, 2, 4, 1, 3, 5]),
        };
        let mut weights = vec![0.0; self.weights.len()];
        for (output, row) in self.weights.chunks_exact(patch).enumerate() {
            for (place, weight) in row.iter().enumerate() {
                let (colour, pixel) = (place / (side * side), place % (side * side));
                let place = if facts.interface.layout == Layout::Nhwc { pixel * COLOURS + colour } else { place };
                weights[place * outputs + output] = *weight;
            }
        }
        let weights = graph.add_floats("weights", &[size(patch), size(outputs)], &weights);
        let (bias, end) = target.bias(graph, &self.bias, places);
        let apart = graph.add_integers("shape", &apart.into_iter().map(size).collect::<Vec<_>>());
        let flat = graph.add_integers("shape", &[0, size(places), size(patch)]);
        let [cut, turned, patches, product] =
            ["cut", "turned", "patches", "product"].map(|purpose| graph.fresh(purpose));
        let mut nodes = vec![
            Node::new("Reshape", &[&facts.interface.input, &apart], &cut),
            Node::new("Transpose", &[&cut], &turned).with(Attribute::integers("perm", order)),
            Node::new("Reshape", &[&turned, &flat], &patches),
            Node::new("MatMul", &[&patches, &weights], &product),
        ];
        if target.is_flat {
            nodes.push(Node::new("Add", &[&product, &bias], &end));
        } else {
            let (sum, shape) =
                (graph.fresh("sum"), graph.add_integers("shape", &[0, size(across), size(across), size(outputs)]));
            nodes.push(Node::new("Add", &[&product, &bias], &sum));
            nodes.push(Node::new("Reshape", &[&sum, &shape], &end));
        }
        nodes
    }
}

/// The value that a product of patches gives: channels last.
struct Target {
    value: String,
    /// Batch, places, channels; else batch, rows, columns, channels.
    is_flat: bool,
}

impl Target {
    /// Follows a convolution to where channels come last.
    fn of(graph: &Graph, facts: &Facts, convolution: &Node) -> Option<Self> {
        let kernel = facts.shape(convolution.output())?;
        let &[_, channels, rows, columns] = &kernel[..] else { return None };
        let next = graph.only_user(convolution.output())?;
        if next.is("Transpose") && next.integers("perm") == Some(&[0, 2, 3, 1]) {
            return Some(Self { value: next.output().to_owned(), is_flat: false });
        }
        let is_flat = facts
            .shape(next.output())
            .is_some_and(|shape| shape.len() == 3 && shape[1..] == [channels, rows * columns]);
        let turned = graph.only_user(next.output()).filter(|node| node.is("Transpose"))?;
        let fits = (next.is("Reshape") || next.is("Flatten")) && is_flat && turned.integers("perm") == Some(&[0, 2, 1]);
        fits.then(|| Self { value: turned.output().to_owned(), is_flat: true })
    }

    /// Term added to the product, and the resulting value: places that a tagger adds next are added with it.
    fn bias(&self, graph: &mut Graph, bias: &[f32], places: usize) -> (String, String) {
        let alone = |graph: &mut Graph| (graph.add_floats("bias", &[size(bias.len())], bias), self.value.clone());
        let next = graph.only_user(&self.value).filter(|node| node.is("Add") && self.is_flat);
        let whole = [1, size(places), size(bias.len())];
        let Some((sum, all)) = next.and_then(|node| {
            let (_, constant) = graph.with_constant(node).filter(|(_, constant)| constant.shape == whole)?;
            Some((node.output().to_owned(), constant.floats()?))
        }) else {
            return alone(graph);
        };
        let all: Vec<f32> =
            all.chunks_exact(bias.len()).flat_map(|place| place.iter().zip(bias).map(|(a, b)| a + b)).collect();
        (graph.add_floats("places", &whole, &all), sum)
    }
}
