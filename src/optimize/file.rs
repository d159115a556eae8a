//! ONNX files, as far as the graphs of taggers use the format. Field numbers are those of `onnx.proto`. Weights stay slices
//! of the file that was read.

use std::io::{self, Write};

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

/// `ModelProto` without its graph.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Model {
    #[prost(int64, optional, tag = "1")]
    pub(super) ir_version: Option<i64>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) producer_name: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(super) producer_version: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "7")]
    pub(super) graph: Option<Bytes>,
    #[prost(message, repeated, tag = "8")]
    pub(super) opsets: Vec<Opset>,
    #[prost(bytes = "bytes", repeated, tag = "14")]
    pub(super) metadata: Vec<Bytes>,
    /// Functions that nodes may call.
    #[prost(bytes = "bytes", repeated, tag = "25")]
    pub(super) functions: Vec<Bytes>,
}

/// `OperatorSetIdProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Opset {
    #[prost(string, tag = "1")]
    pub(super) domain: String,
    #[prost(int64, tag = "2")]
    pub(super) version: i64,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct GraphFile {
    #[prost(message, repeated, tag = "1")]
    pub(super) nodes: Vec<Node>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) name: Option<Bytes>,
    #[prost(message, repeated, tag = "5")]
    pub(super) constants: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub(super) inputs: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    pub(super) outputs: Vec<Value>,
    #[prost(bytes = "bytes", repeated, tag = "14")]
    pub(super) quantized: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "15")]
    pub(super) sparse: Vec<Bytes>,
}

/// `NodeProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(super) inputs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) outputs: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(string, tag = "4")]
    pub(super) operator: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) attributes: Vec<Attribute>,
    /// Owner of the operator; ONNX itself where empty.
    #[prost(string, tag = "7")]
    pub(super) domain: String,
}

/// ONNX Runtime's own operators.
pub(super) const MICROSOFT: &str = "com.microsoft";

impl Node {
    /// A node of ONNX's operators.
    pub(super) fn new(operator: &str, inputs: &[&str], output: &str) -> Self {
        Self {
            name: output.to_owned(),
            operator: operator.to_owned(),
            inputs: inputs.iter().map(ToString::to_string).collect(),
            outputs: vec![output.to_owned()],
            ..Self::default()
        }
    }

    /// A node of ONNX Runtime's operators.
    pub(super) fn microsoft(operator: &str, inputs: &[&str], output: &str) -> Self {
        Self { domain: MICROSOFT.to_owned(), ..Self::new(operator, inputs, output) }
    }

    pub(super) fn with(mut self, attribute: Attribute) -> Self {
        self.attributes.push(attribute);
        self
    }

    /// Returns `true` for this operator of ONNX's.
    pub(super) fn is(&self, operator: &str) -> bool {
        self.domain.is_empty() && self.operator == operator
    }

    /// Its first output.
    pub(super) fn output(&self) -> &str {
        self.outputs.first().map_or("", String::as_str)
    }

    pub(super) fn input(&self, place: usize) -> &str {
        self.inputs.get(place).map_or("", String::as_str)
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        self.attribute(name).filter(|attribute| attribute.kind == INTEGER).map(|attribute| attribute.integer)
    }

    pub(super) fn integers(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).filter(|attribute| attribute.kind == INTEGERS).map(|attribute| &*attribute.integers)
    }
}

/// `AttributeProto.AttributeType`.
const NUMBER: i32 = 1;
const INTEGER: i32 = 2;
const STRING: i32 = 3;
pub(super) const TENSOR: i32 = 4;
const NUMBERS: i32 = 6;
const INTEGERS: i32 = 7;
const STRINGS: i32 = 8;

/// `AttributeProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(float, tag = "2")]
    pub(super) number: f32,
    #[prost(int64, tag = "3")]
    pub(super) integer: i64,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) string: Bytes,
    #[prost(message, optional, tag = "5")]
    pub(super) tensor: Option<Tensor>,
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub(super) numbers: Vec<f32>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub(super) integers: Vec<i64>,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub(super) strings: Vec<Bytes>,
    /// Tells which of these it has.
    #[prost(int32, tag = "20")]
    pub(super) kind: i32,
}

impl Attribute {
    pub(super) fn integer(name: &str, integer: i64) -> Self {
        Self { name: name.to_owned(), integer, kind: INTEGER, ..Self::default() }
    }

    pub(super) fn number(name: &str, number: f32) -> Self {
        Self { name: name.to_owned(), number, kind: NUMBER, ..Self::default() }
    }

    pub(super) fn integers(name: &str, integers: &[i64]) -> Self {
        Self { name: name.to_owned(), integers: integers.to_vec(), kind: INTEGERS, ..Self::default() }
    }

    /// Returns `true` where nothing of it is lost when it is written again.
    const fn is_whole(&self) -> bool {
        matches!(self.kind, NUMBER | INTEGER | STRING | TENSOR | NUMBERS | INTEGERS | STRINGS)
    }
}

/// `TensorProto.DataType`.
pub(super) const FLOAT: i32 = 1;
pub(super) const INT8: i32 = 3;
pub(super) const INT64: i32 = 7;
pub(super) const FLOAT16: i32 = 10;

/// `TensorProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Tensor {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub(super) shape: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(super) kind: i32,
    #[prost(float, repeated, tag = "4")]
    pub(super) floats: Vec<f32>,
    /// Of all kinds that fit 32 bits.
    #[prost(int32, repeated, tag = "5")]
    pub(super) small: Vec<i32>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub(super) strings: Vec<Bytes>,
    #[prost(int64, repeated, tag = "7")]
    pub(super) integers: Vec<i64>,
    #[prost(string, tag = "8")]
    pub(super) name: String,
    /// In place of the typed values, in little endian.
    #[prost(bytes = "bytes", tag = "9")]
    pub(super) raw: Bytes,
    #[prost(double, repeated, tag = "10")]
    pub(super) doubles: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    pub(super) unsigned: Vec<u64>,
    /// Not 0 where the values are in another file.
    #[prost(int32, tag = "14")]
    pub(super) location: i32,
}

impl Tensor {
    pub(super) fn of_floats(name: &str, shape: &[i64], values: &[f32]) -> Self {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into();
        Self { name: name.to_owned(), shape: shape.to_vec(), kind: FLOAT, raw, ..Self::default() }
    }

    pub(super) fn of_integers(name: &str, shape: &[i64], values: &[i64]) -> Self {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into();
        Self { name: name.to_owned(), shape: shape.to_vec(), kind: INT64, raw, ..Self::default() }
    }

    /// Its values, as many as its shape has; `None` where it is of another type.
    pub(super) fn floats(&self) -> Option<Vec<f32>> {
        let values = either(self.kind == FLOAT, &self.floats, &self.raw, f32::from_le_bytes)?;
        self.is_whole(values.len()).then_some(values)
    }

    /// Its values, as many as its shape has; `None` where it is of another type.
    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        let values = either(self.kind == INT64, &self.integers, &self.raw, i64::from_le_bytes)?;
        self.is_whole(values.len()).then_some(values)
    }

    /// Number of its values.
    pub(super) fn len(&self) -> Option<usize> {
        let all = self.shape.iter().try_fold(1_i64, |all, size| all.checked_mul(*size))?;
        usize::try_from(all).ok()
    }

    fn is_whole(&self, values: usize) -> bool {
        self.location == 0 && self.len() == Some(values)
    }
}

/// The values as they are written, typed or raw.
fn either<T: Copy, const N: usize>(
    is_of_kind: bool,
    typed: &[T],
    raw: &[u8],
    read: impl Fn([u8; N]) -> T,
) -> Option<Vec<T>> {
    match (typed, raw.as_chunks::<N>()) {
        (typed, ([], [])) => is_of_kind.then(|| typed.to_vec()),
        ([], (raw, [])) => is_of_kind.then(|| raw.iter().map(|bytes| read(*bytes)).collect()),
        _ => None,
    }
}

/// `ValueInfoProto`, its type as it is written.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) of: Option<Bytes>,
}

/// Reads a model's file.
///
/// # Errors
/// The reason why it can't be rewritten.
pub(super) fn read(bytes: Bytes) -> Result<(Model, GraphFile), &'static str> {
    let mut model = Model::decode(bytes).map_err(|_| "it is damaged, or no ONNX model")?;
    let graph = GraphFile::decode(model.graph.take().ok_or("it has no graph")?);
    let graph = graph.map_err(|_| "it is damaged, or no ONNX model")?;
    if graph.constants.iter().any(|tensor| tensor.location != 0) {
        return Err("its weights are in another file");
    }
    if !model.functions.is_empty() || !graph.sparse.is_empty() || !graph.quantized.is_empty() {
        return Err("it has functions, sparse weights or quantized ones");
    }
    if !graph.nodes.iter().flat_map(|node| &node.attributes).all(Attribute::is_whole) {
        return Err("it has graphs inside its graph");
    }
    Ok((model, graph))
}

/// Writes a model's file, one part after the other: the whole of it is never in memory a second time.
///
/// # Errors
/// As the writer's.
pub(super) fn write(model: &Model, graph: &GraphFile, out: &mut dyn Write) -> io::Result<()> {
    let mut buffer = model.encode_to_vec();
    encode_key(GRAPH, WireType::LengthDelimited, &mut buffer);
    encode_varint(graph.encoded_len() as u64, &mut buffer);
    out.write_all(&buffer)?;
    let GraphFile { nodes, name, constants, inputs, outputs, .. } = graph;
    let small = GraphFile {
        nodes: nodes.clone(),
        name: name.clone(),
        inputs: inputs.clone(),
        outputs: outputs.clone(),
        ..GraphFile::default()
    };
    out.write_all(&small.encode_to_vec())?;
    for tensor in constants {
        buffer.clear();
        let header = Tensor { raw: Bytes::new(), ..tensor.clone() };
        encode_key(CONSTANT, WireType::LengthDelimited, &mut buffer);
        encode_varint(tensor.encoded_len() as u64, &mut buffer);
        header.encode(&mut buffer).map_err(io::Error::other)?;
        if !tensor.raw.is_empty() {
            encode_key(RAW, WireType::LengthDelimited, &mut buffer);
            encode_varint(tensor.raw.len() as u64, &mut buffer);
        }
        out.write_all(&buffer)?;
        out.write_all(&tensor.raw)?;
    }
    Ok(())
}

/// `ModelProto.graph`, `GraphProto.initializer`, `TensorProto.raw_data`.
const GRAPH: u32 = 7;
const CONSTANT: u32 = 5;
const RAW: u32 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_part_by_part_is_read_as_it_was() {
        let graph = GraphFile {
            nodes: vec![Node::new("Relu", &["x"], "y").with(Attribute::integers("a", &[1, 0, -3]))],
            constants: vec![Tensor::of_floats("w", &[2], &[1.5, -2.0]), Tensor::of_integers("i", &[], &[7])],
            inputs: vec![Value { name: "x".into(), of: None }],
            ..GraphFile::default()
        };
        let model = Model {
            ir_version: Some(8),
            opsets: vec![Opset { domain: String::new(), version: 17 }],
            ..Model::default()
        };
        let mut file = Vec::new();
        write(&model, &graph, &mut file).expect("memory");
        let (read_model, read_graph) = read(file.into()).expect("a model");
        assert_eq!((read_model, read_graph), (model, graph));
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        let refused = |graph: GraphFile| {
            let model = Model { graph: Some(graph.encode_to_vec().into()), ..Model::default() };
            read(model.encode_to_vec().into()).expect_err("refused")
        };
        let elsewhere = Tensor { location: 1, ..Tensor::default() };
        assert!(refused(GraphFile { constants: vec![elsewhere], ..GraphFile::default() }).contains("another file"));
        let nested = Attribute { kind: 5, ..Attribute::default() };
        let branching = Node::new("If", &["x"], "y").with(nested);
        assert!(refused(GraphFile { nodes: vec![branching], ..GraphFile::default() }).contains("graphs inside"));
        assert!(read(Bytes::from_static(b"no model")).is_err());
    }
}
