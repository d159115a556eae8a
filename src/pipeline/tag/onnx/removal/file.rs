//! An ONNX file, as far as it must be understood to leave nodes out of it: a graph's parts stay the bytes they are, and are
//! read one by one. The numbers of fields are those of `onnx.proto`.

use bytes::Bytes;
use prost::Message;

/// A `ModelProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Model {
    #[prost(int64, optional, tag = "1")]
    pub(super) ir_version: Option<i64>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) producer_name: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(super) producer_version: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(super) domain: Option<Bytes>,
    #[prost(int64, optional, tag = "5")]
    pub(super) version: Option<i64>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub(super) doc_string: Option<Bytes>,
    #[prost(message, optional, tag = "7")]
    pub(super) graph: Option<Graph>,
    #[prost(bytes = "bytes", repeated, tag = "8")]
    pub(super) opset_import: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "14")]
    pub(super) metadata_props: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "25")]
    pub(super) functions: Vec<Bytes>,
}

impl Model {
    /// Nothing where this is no such file, or has anything that would be lost.
    pub(super) fn read(bytes: Bytes) -> Option<Self> {
        let length = bytes.len();
        Self::decode(bytes).ok().filter(|model| model.encoded_len() == length)
    }
}

/// A `GraphProto`: its parts, each as it is written.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Graph {
    /// [`Node`]s, each after those it needs.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) nodes: Vec<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) name: Option<Bytes>,
    /// [`Tensor`]s.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub(super) initializers: Vec<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "10")]
    pub(super) doc_string: Option<Bytes>,
    /// [`Value`]s.
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub(super) inputs: Vec<Bytes>,
    /// [`Value`]s.
    #[prost(bytes = "bytes", repeated, tag = "12")]
    pub(super) outputs: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "13")]
    pub(super) value_info: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "14")]
    pub(super) quantization_annotation: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "15")]
    pub(super) sparse_initializers: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "16")]
    pub(super) metadata_props: Vec<Bytes>,
}

/// Of a `NodeProto`, what it does to what.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(super) inputs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) outputs: Vec<String>,
    #[prost(string, tag = "4")]
    pub(super) operator: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) attributes: Vec<Attribute>,
    /// Whose operator it is; ONNX's own where empty.
    #[prost(string, tag = "7")]
    pub(super) domain: String,
}

impl Node {
    /// The attribute of this name, if it is of this kind.
    pub(super) fn attribute(&self, name: &str, kind: i32) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name && attribute.kind == kind)
    }
}

/// `AttributeProto.AttributeType`.
pub(super) const AN_INTEGER: i32 = 2;
pub(super) const A_TENSOR: i32 = 4;
pub(super) const INTEGERS: i32 = 7;

/// Of an `AttributeProto`, the kinds of value that are looked at.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(int64, tag = "3")]
    pub(super) integer: i64,
    #[prost(message, optional, tag = "5")]
    pub(super) tensor: Option<Tensor>,
    /// A graph, which may use values of the one around it.
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub(super) graph: Option<Bytes>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub(super) integers: Vec<i64>,
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub(super) graphs: Vec<Bytes>,
    /// Which of these it has.
    #[prost(int32, tag = "20")]
    pub(super) kind: i32,
}

/// `TensorProto.DataType`.
pub(super) const FLOAT: i32 = 1;
pub(super) const INT64: i32 = 7;

/// Of a `TensorProto` its name, and whether what is in it is in another file.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Named {
    #[prost(string, tag = "8")]
    pub(super) name: String,
    #[prost(int32, tag = "14")]
    pub(super) location: i32,
}

/// Of a `TensorProto`, floats and integers.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Tensor {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub(super) shape: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(super) kind: i32,
    #[prost(float, repeated, tag = "4")]
    pub(super) floats: Vec<f32>,
    #[prost(int64, repeated, tag = "7")]
    pub(super) integers: Vec<i64>,
    #[prost(string, tag = "8")]
    pub(super) name: String,
    /// In place of the typed values, in little endian.
    #[prost(bytes = "bytes", tag = "9")]
    pub(super) raw: Bytes,
    /// Not 0 where the values are in another file.
    #[prost(int32, tag = "14")]
    pub(super) location: i32,
}

impl Tensor {
    /// As many as the shape says.
    pub(super) fn floats(&self) -> Option<Vec<f32>> {
        let values = either(self.kind == FLOAT, &self.floats, &self.raw, f32::from_le_bytes)?;
        self.is_whole(values.len()).then_some(values)
    }

    /// As many as the shape says.
    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        let values = either(self.kind == INT64, &self.integers, &self.raw, i64::from_le_bytes)?;
        self.is_whole(values.len()).then_some(values)
    }

    fn is_whole(&self, values: usize) -> bool {
        let all = self.shape.iter().try_fold(1_i64, |all, size| all.checked_mul(*size));
        self.location == 0 && all.is_some_and(|all| usize::try_from(all) == Ok(values))
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

/// A `ValueInfoProto` of a tensor.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) of: Option<Type>,
}

/// A `TypeProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Type {
    #[prost(message, optional, tag = "1")]
    pub(super) tensor: Option<TensorType>,
}

/// A `TypeProto.Tensor`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorType {
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<Shape>,
}

/// A `TensorShapeProto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub(super) dimensions: Vec<Dimension>,
}

/// A size, or what it is called where it is open.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Dimension {
    #[prost(int64, optional, tag = "1")]
    pub(super) size: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub(super) symbol: Option<String>,
}
