//! Conversion put before a graph on a device: the rows are sent as they are, one byte per value, and the device converts
//! them to numbers. This copies a quarter of the bytes and takes no core.
//!
//! It uses the model editor of ONNX Runtime 1.22 or later. On the CPU, [`super::tensor`] converts the rows: there the
//! graph's own passes over the whole batch (a cast, then a gather of three values each) take longer than one pass by row.
//! Measured on one thread, with a model of a few milliseconds: 19 to 21 ms an image against 13 to 17.

use std::path::Path;

use ort::editor::{Graph, Model, Node, ONNX_DOMAIN, Opset};
use ort::memory::Allocator;
use ort::operator::Attribute;
use ort::session::Session;
use ort::session::builder::{EditableSession, SessionBuilder};
use ort::value::{Outlet, Shape, SymbolicDimensions, Tensor, TensorElementType, ValueType};

use super::interface::Interface;
use crate::model::frame::CHANNELS;
use crate::model::manifest::{self, Channels, Layout};

/// Name of the input that takes rows: `[batch, side, side, 3]`, red, green, blue.
pub(super) const INPUT: &str = "tagmill_rows";

/// `TensorProto.DataType.FLOAT` of ONNX.
const FLOAT: i64 = 1;

/// Reads the interface of a graph before anything of it is prepared for a device.
///
/// # Errors
/// If the graph can't be read, or is not a tagger's.
pub(super) fn interface<E: From<ort::Error>>(
    builder: &mut SessionBuilder,
    file: &Path,
    read: impl FnOnce(&Session) -> Result<Interface, E>,
) -> Result<Interface, E> {
    read(&*builder.edit_from_file(file)?)
}

/// Opens a session of this graph with the conversion before it.
///
/// # Errors
/// If the graph can't be put together, or the device can't take it.
pub(super) fn open(
    builder: &mut SessionBuilder,
    file: &Path,
    interface: &Interface,
    manifest: &manifest::Input,
) -> ort::Result<Session> {
    let mut editable = builder.edit_from_file(file)?;
    let model = conversion(&editable, interface, manifest)?;
    editable.apply_model(&model)?;
    editable.into_session()
}

/// Builds the nodes that make the graph's input of rows, as an addition to it: cast, reorder, scale, shift, transpose; only
/// those that change something.
fn conversion(session: &EditableSession, interface: &Interface, manifest: &manifest::Input) -> ort::Result<Model> {
    let opset = session.opset_for_domain(ONNX_DOMAIN).unwrap_or(1);
    let mut graph = Graph::new()?;
    graph.set_inputs([rows(session, interface)])?;
    let mut steps: Vec<Step> = vec![("Cast", None, vec![Attribute::new("to", FLOAT)?])];
    if manifest.channels == Channels::Bgr {
        constant(&mut graph, "tagmill_order", &[2_i64, 1, 0])?;
        steps.push(("Gather", Some("tagmill_order"), vec![Attribute::new("axis", 3_i64)?]));
    }
    let (scale, shift) = manifest.normalisation();
    if scale.iter().any(|scale| (scale - 1.0).abs() > f32::EPSILON) {
        constant(&mut graph, "tagmill_scale", &scale)?;
        steps.push(("Mul", Some("tagmill_scale"), vec![]));
    }
    if shift.iter().any(|shift| shift.abs() > f32::EPSILON) {
        constant(&mut graph, "tagmill_shift", &shift)?;
        steps.push(("Add", Some("tagmill_shift"), vec![]));
    }
    if interface.layout == Layout::Nchw {
        steps.push(("Transpose", None, vec![Attribute::new("perm", vec![0_i64, 3, 1, 2])?]));
    }
    add(&mut graph, steps, &interface.input)?;
    let mut model = Model::new([Opset::new(ONNX_DOMAIN, opset)?])?;
    model.set_graph(graph)?;
    Ok(model)
}

/// Operator, its constant operand and its attributes.
type Step = (&'static str, Option<&'static str>, Vec<Attribute>);

/// Adds the steps one after the other, from the rows to the graph's own input.
fn add(graph: &mut Graph, steps: Vec<Step>, input: &str) -> ort::Result<()> {
    let last = steps.len() - 1;
    let mut from = INPUT.to_owned();
    for (number, (operator, operand, attributes)) in steps.into_iter().enumerate() {
        let name = format!("tagmill_{}", operator.to_lowercase());
        let to = if number == last { input.to_owned() } else { format!("{name}_out") };
        let inputs: Vec<&str> = std::iter::once(from.as_str()).chain(operand).collect();
        graph.add_node(Node::new(operator, ONNX_DOMAIN, &name, inputs, [&to], attributes)?)?;
        from = to;
    }
    Ok(())
}

/// Input for rows, with the graph's own name for its open batch, so that the runtime treats the two as the same.
fn rows(session: &Session, interface: &Interface) -> Outlet {
    let own = session.inputs().iter().find(|input| input.name() == interface.input);
    let (batch, symbol) = match own.map(Outlet::dtype) {
        Some(ValueType::Tensor { shape, dimension_symbols, .. }) => {
            (shape.first().copied().unwrap_or(-1), dimension_symbols.first().cloned().unwrap_or_default())
        }
        _ => (-1, String::new()),
    };
    let side = i64::from(interface.side);
    let colours = i64::try_from(CHANNELS).unwrap_or_default();
    let dtype = ValueType::Tensor {
        ty: TensorElementType::Uint8,
        shape: Shape::new([batch, side, side, colours]),
        dimension_symbols: SymbolicDimensions::new([symbol, String::new(), String::new(), String::new()]),
    };
    Outlet::new(INPUT, dtype)
}

fn constant<T>(graph: &mut Graph, name: &str, values: &[T]) -> ort::Result<()>
where
    T: ort::value::PrimitiveTensorElementType + std::fmt::Debug + Copy,
{
    let mut tensor = Tensor::<T>::new(&Allocator::default(), [values.len()])?;
    tensor.extract_tensor_mut().1.copy_from_slice(values);
    graph.add_initializer(name, tensor, false)
}
