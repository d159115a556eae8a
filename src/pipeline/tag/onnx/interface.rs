//! What a graph takes and gives: read from the graph itself where it says so, else from the manifest.

use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use crate::model::manifest::{self, Layout, MAX_SIZE, Manifest};

/// What a graph takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// The input's name.
    pub input: String,
    /// The order of its dimensions.
    pub layout: Layout,
    /// Its width and height.
    pub side: u32,
    /// Images a run takes, neither more nor fewer; any number where `None`.
    pub batch: Option<usize>,
    /// The output's name.
    pub output: String,
}

impl Interface {
    /// Reads a session's interface, of a model with so many labels.
    ///
    /// # Errors
    /// Where it is no tagger's, or contradicts the manifest.
    pub(crate) fn read(session: &Session, manifest: &Manifest, labels: usize) -> Result<Self, String> {
        let input = choose_input(session.inputs(), manifest.input.name.as_deref())?;
        let shape = tensor(input).ok_or_else(|| format!("its input `{}` is not of float32", input.name()))?;
        let about = |reason: String| format!("its input `{}` is {shape:?}: {reason}", input.name());
        let (layout, side, batch) = image(shape, &manifest.input).map_err(about)?;
        let output = choose_output(session.outputs(), &manifest.output, labels)?;
        Ok(Self { input: input.name().to_owned(), layout, side, batch, output: output.name().to_owned() })
    }
}

fn tensor(outlet: &Outlet) -> Option<&[i64]> {
    match outlet.dtype() {
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } => Some(shape),
        _ => None,
    }
}

fn names(values: &[Outlet]) -> String {
    let shown = values.iter().map(|value| format!("`{}` {:?}", value.name(), tensor(value).unwrap_or_default()));
    shown.collect::<Vec<_>>().join(", ")
}

fn choose_input<'a>(inputs: &'a [Outlet], name: Option<&str>) -> Result<&'a Outlet, String> {
    match (name, inputs) {
        (None, [only]) => Ok(only),
        (None, _) => {
            Err(format!("it has {} inputs ({}); name one under [input] in tagmill.toml", inputs.len(), names(inputs)))
        }
        (Some(name), _) => {
            let found = inputs.iter().find(|input| input.name() == name);
            found.ok_or_else(|| format!("it has no input `{name}`, only {}", names(inputs)))
        }
    }
}

/// Layout, side and fixed batch of an input of this shape, where -1 stands for any number.
fn image(shape: &[i64], manifest: &manifest::Input) -> Result<(Layout, u32, Option<usize>), String> {
    let &[batch, second, third, fourth] = shape else {
        return Err(format!("it has {} dimensions, not four", shape.len()));
    };
    let layout = match (manifest.layout, second, fourth) {
        (Some(layout), ..) => layout,
        (None, _, 3) => Layout::Nhwc,
        (None, 3, _) => Layout::Nchw,
        _ => return Err("no dimension is the three colours; set layout under [input] in tagmill.toml".into()),
    };
    let (height, width, colours) = match layout {
        Layout::Nhwc => (second, third, fourth),
        Layout::Nchw => (third, fourth, second),
    };
    if colours != 3 && colours >= 0 {
        return Err(format!("it takes {colours} colours, not three"));
    }
    let agrees = |size: u32| [height, width].iter().all(|side| *side < 0 || *side == i64::from(size));
    let side = match manifest.size {
        Some(size) if agrees(size) => size,
        Some(size) => return Err(format!("size under [input] in tagmill.toml is {size}")),
        None if height < 0 || width < 0 => {
            return Err("its size is open; set size under [input] in tagmill.toml".into());
        }
        None if height != width || height == 0 => return Err("it is not a square".into()),
        None => u32::try_from(height).unwrap_or(u32::MAX),
    };
    if side > MAX_SIZE {
        return Err(format!("a side over {MAX_SIZE} is not supported"));
    }
    let fixed = usize::try_from(batch).ok();
    match (fixed, manifest.batch) {
        (Some(graph), Some(ours)) if graph != ours => Err(format!("batch under [input] in tagmill.toml is {ours}")),
        (Some(0), _) => Err("it takes no images".into()),
        (graph, ours) => Ok((layout, side, graph.or(ours))),
    }
}

fn choose_output<'a>(outputs: &'a [Outlet], manifest: &manifest::Output, labels: usize) -> Result<&'a Outlet, String> {
    let columns = |outlet: &Outlet| tensor(outlet).filter(|shape| shape.len() == 2).map(|shape| shape[1]);
    // An open width is seen when the model is run for the first time.
    let fits =
        |outlet: &&Outlet| columns(outlet).is_some_and(|width| width < 0 || usize::try_from(width) == Ok(labels));
    let mismatch = || format!("its label file has {labels} labels, and its outputs are {}", names(outputs));
    let named = match (&manifest.name, manifest.index) {
        (Some(name), _) => outputs.iter().find(|output| output.name() == name),
        (None, Some(index)) => outputs.get(index),
        (None, None) => return outputs.iter().find(fits).ok_or_else(mismatch),
    };
    let named = named.ok_or_else(|| format!("it has no such output as tagmill.toml names, only {}", names(outputs)))?;
    Some(named).filter(fits).ok_or_else(mismatch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(shape: &[i64], input: &str) -> Result<(Layout, u32, Option<usize>), String> {
        let manifest = Manifest::parse(&format!("[input]\n{input}")).expect("a manifest");
        image(shape, &manifest.input)
    }

    #[test]
    fn what_the_graph_says_need_not_be_written() {
        assert_eq!(read(&[-1, 448, 448, 3], ""), Ok((Layout::Nhwc, 448, None)));
        assert_eq!(read(&[1, 448, 448, 3], ""), Ok((Layout::Nhwc, 448, Some(1))));
        assert_eq!(read(&[-1, 3, 512, 512], ""), Ok((Layout::Nchw, 512, None)));
        assert_eq!(read(&[-1, -1, -1, 3], "size = 384"), Ok((Layout::Nhwc, 384, None)));
        assert_eq!(
            read(&[-1, -1, -1, -1], "size = 384\nlayout = \"nchw\"\nbatch = 2"),
            Ok((Layout::Nchw, 384, Some(2)))
        );
    }

    #[test]
    fn what_is_no_image_or_contradicts_the_manifest_is_refused() {
        for (shape, input, named) in [
            (&[-1, 448, 448][..], "", "3 dimensions"),
            (&[-1, 448, 448, 4], "", "three colours"),
            (&[-1, 448, 448, 4], "layout = \"nhwc\"", "4 colours"),
            (&[-1, 448, 224, 3], "", "not a square"),
            (&[-1, -1, -1, 3], "", "set size"),
            (&[-1, 448, 448, 3], "size = 512", "512"),
            (&[1, 448, 448, 3], "batch = 8", "batch"),
            (&[-1, 100_000, 100_000, 3], "", "4096"),
        ] {
            let error = read(shape, input).expect_err(input);
            assert!(error.contains(named), "{shape:?} {input}: {error}");
        }
    }
}
