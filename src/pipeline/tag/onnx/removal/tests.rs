//! Graphs with all kinds of beginnings, run as they are and simplified.

use ort::value::TensorRef;
use proptest::prelude::*;

use super::file::{Attribute, Dimension, FLOAT, INT64, Model, Shape, TensorType, Type};
use super::*;
use crate::model::manifest::Manifest;
use crate::pipeline::tag::device::Device;
use crate::pipeline::tag::library;
use crate::pipeline::tag::onnx::provider::{self, Limits};

/// Pixels of a side of the pictures.
const SIDE: i64 = 2;

/// What a graph does to its input.
#[derive(Clone, Debug)]
enum Step {
    Gather([i64; 3]),
    Transpose,
    /// An operator, its constant, whether that is on the left, and whether a node gives it.
    Arithmetic(&'static str, Vec<f32>, bool, bool),
    /// An operator that is not known.
    Relu,
}

/// A graph as it is put together.
struct Builder {
    graph: Graph,
    layout: Layout,
    last: String,
}

impl Builder {
    fn new(layout: Layout) -> Self {
        Self { graph: Graph { inputs: vec![value("image", layout)], ..Graph::default() }, layout, last: "image".into() }
    }

    fn add(&mut self, operator: &str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        let output = format!("v{}", self.graph.nodes.len());
        let inputs = inputs.iter().map(ToString::to_string).collect();
        let node =
            Node { inputs, outputs: vec![output.clone()], operator: operator.into(), attributes, ..Node::default() };
        self.graph.nodes.push(node.encode_to_vec().into());
        output
    }

    fn constant(&mut self, tensor: Tensor, by_node: bool) -> String {
        if by_node {
            return self.add("Constant", &[], vec![Attribute { tensor: Some(tensor), ..attribute("value", A_TENSOR) }]);
        }
        let name = format!("c{}", self.graph.initializers.len());
        self.graph.initializers.push(Tensor { name: name.clone(), ..tensor }.encode_to_vec().into());
        name
    }

    fn step(mut self, step: &Step) -> Self {
        let last = self.last.clone();
        self.last = match step {
            Step::Gather(order) => {
                let order = self.constant(indices(order), false);
                let axis = Attribute { integer: channel_axis(self.layout), ..attribute("axis", AN_INTEGER) };
                self.add("Gather", &[&last, &order], vec![axis])
            }
            Step::Transpose => {
                let (layout, integers) = match self.layout {
                    Layout::Nhwc => (Layout::Nchw, vec![0, 3, 1, 2]),
                    Layout::Nchw => (Layout::Nhwc, vec![0, 2, 3, 1]),
                };
                self.layout = layout;
                self.add("Transpose", &[&last], vec![Attribute { integers, ..attribute("perm", INTEGERS) }])
            }
            Step::Arithmetic(operator, floats, on_the_left, by_node) => {
                let shape = match (floats.len(), self.layout) {
                    (1, _) => vec![],
                    (_, Layout::Nhwc) => vec![3],
                    (_, Layout::Nchw) => vec![1, 3, 1, 1],
                };
                let tensor = Tensor { shape, kind: FLOAT, floats: floats.clone(), ..Tensor::default() };
                let constant = self.constant(tensor, *by_node);
                let inputs = if *on_the_left { [constant.as_str(), &last] } else { [&last, constant.as_str()] };
                self.add(operator, &inputs, vec![])
            }
            Step::Relu => self.add("Relu", &[&last], vec![]),
        };
        self
    }

    /// The file of a graph whose outputs are these values, each made two-dimensional.
    fn ending_in(mut self, values: &[&str]) -> Bytes {
        for last in values {
            let output = self.add("Flatten", &[last], vec![]);
            self.graph
                .outputs
                .push(Value { name: output, of: Some(of(&[None, Some(SIDE * SIDE * 3)])) }.encode_to_vec().into());
        }
        self.written()
    }

    /// The file of a graph whose output is the last value.
    fn ended(self) -> Bytes {
        let last = self.last.clone();
        self.ending_in(&[&last])
    }

    fn written(self) -> Bytes {
        // An OperatorSetIdProto of ONNX's own version 17.
        let opset = Bytes::from_static(&[0x10, 17]);
        let graph = Some(self.graph);
        Model { ir_version: Some(8), opset_import: vec![opset], graph, ..Model::default() }.encode_to_vec().into()
    }
}

fn indices(order: &[i64]) -> Tensor {
    let raw = order.iter().flat_map(|index| index.to_le_bytes()).collect::<Vec<u8>>().into();
    Tensor { shape: vec![3], kind: INT64, raw, ..Tensor::default() }
}

fn number(value: f32) -> Tensor {
    Tensor { kind: FLOAT, floats: vec![value], ..Tensor::default() }
}

fn half() -> Step {
    Step::Arithmetic("Mul", vec![0.5], false, false)
}

fn attribute(name: &str, kind: i32) -> Attribute {
    Attribute { name: name.into(), kind, ..Attribute::default() }
}

fn of(sizes: &[Option<i64>]) -> Type {
    let dimension = |size: &Option<i64>| Dimension { size: *size, symbol: size.is_none().then(|| "batch".into()) };
    let shape = Some(Shape { dimensions: sizes.iter().map(dimension).collect() });
    Type { tensor: Some(TensorType { kind: FLOAT, shape }) }
}

fn value(name: &str, layout: Layout) -> Bytes {
    let sizes = match layout {
        Layout::Nhwc => [None, Some(SIDE), Some(SIDE), Some(3)],
        Layout::Nchw => [None, Some(3), Some(SIDE), Some(SIDE)],
    };
    Value { name: name.into(), of: Some(of(&sizes)) }.encode_to_vec().into()
}

fn graph(layout: Layout, steps: &[Step]) -> Bytes {
    steps.iter().fold(Builder::new(layout), Builder::step).ended()
}

fn manifest(layout: Layout) -> manifest::Input {
    let normalised = "[input]\nscale = 0.5\nmean = [1.0, 2.0, 3.0]\nstd = [0.3, 0.7, 1.1]";
    let input = Manifest::parse(normalised).expect("a manifest").input;
    manifest::Input { layout: Some(layout), ..input }
}

/// What the first output of a graph is for these rows.
fn run(model: &[u8], input: &str, encoder: &Encoder, rows: &[&[u8]]) -> Vec<f32> {
    let library = library::load().expect("ONNX Runtime");
    let builder = provider::builder(library, Device::Cpu, Limits { threads: 1, memory: None }, None);
    let mut session = builder.expect("a builder").commit_from_memory(model).expect("a session");
    let mut tensor = Vec::new();
    let shape = encoder.encode(rows, rows.len(), &mut tensor);
    let tensor = TensorRef::from_array_view((shape, tensor.as_slice())).expect("a tensor");
    let outputs = session.run(ort::inputs![input => tensor]).expect("a run");
    outputs[0].try_extract_tensor::<f32>().expect("floats").1.to_vec()
}

/// What is left out of a graph.
fn left_out(file: Bytes) -> Vec<String> {
    without_beginning(file, &Manifest::default().input).map(|simplified| simplified.operators).unwrap_or_default()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = prop_oneof![Just(0.0_f32), Just(1.0), Just(1.0 / 127.5), -300.0_f32..300.0];
    let constant = prop_oneof![prop::collection::vec(value.clone(), 1), prop::collection::vec(value, 3)];
    let operator = prop_oneof![Just("Add"), Just("Sub"), Just("Mul"), Just("Div")];
    let order = Just([0_i64, 1, 2]).prop_shuffle();
    let step = prop_oneof![
        (order, any::<[bool; 3]>()).prop_map(|(order, from_the_end)| {
            Step::Gather(std::array::from_fn(|place| order[place] - if from_the_end[place] { 3 } else { 0 }))
        }),
        Just(Step::Transpose),
        (operator, constant, any::<bool>(), any::<bool>())
            .prop_map(|(operator, constant, left, node)| Step::Arithmetic(operator, constant, left, node)),
        Just(Step::Relu),
    ];
    prop::collection::vec(step, 1..6)
}

proptest! {
    #[test]
    fn a_folded_graph_gives_the_same_to_the_last_bit(
        layout in prop_oneof![Just(Layout::Nhwc), Just(Layout::Nchw)],
        steps in steps(),
        rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 12), 1..3),
    ) {
        let (file, manifest) = (graph(layout, &steps), manifest(layout));
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        let is_known = |step: &&Step| !matches!(step, Step::Relu | Step::Arithmetic("Div", _, true, _));
        let known = steps.iter().take_while(is_known).count();
        let simplified = without_beginning(file.clone(), &manifest);
        prop_assert_eq!(simplified.as_ref().map_or(0, |simplified| simplified.operators.len()), known);
        if let Some(simplified) = simplified {
            let encoder = Encoder::new(&manifest, layout, 2);
            let whole = run(&file, "image", &encoder, &rows);
            let found = run(&simplified.model, &simplified.input, &simplified.encoder, &rows);
            prop_assert_eq!(whole.len(), found.len());
            for (whole, found) in whole.into_iter().zip(found) {
                // The runtime leaves out an addition of nothing, which makes a difference to the sign of zero.
                let same = whole.to_bits() == found.to_bits() || (whole == 0.0 && found == 0.0);
                prop_assert!(same || (whole.is_nan() && found.is_nan()), "{whole} {found}");
            }
        }
    }

    #[test]
    fn no_file_breaks_it(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        prop_assert!(left_out(bytes.into()).is_empty());
        let mut file = graph(Layout::Nhwc, &[Step::Gather([2, 1, 0]), Step::Transpose, half()]).to_vec();
        for (place, byte) in changes {
            let place = place.index(file.len());
            file[place] = byte;
        }
        file.truncate(cut.map_or(file.len(), |cut| cut.index(file.len())));
        left_out(file.into());
    }
}

#[test]
fn what_a_tagger_does_first_is_left_out_with_its_constants() {
    let scale = |operator, by_node| Step::Arithmetic(operator, vec![127.5], false, by_node);
    let steps = [Step::Gather([2, 1, 0]), Step::Transpose, scale("Div", true), scale("Sub", false)];
    let simplified = without_beginning(graph(Layout::Nhwc, &steps), &Manifest::default().input).expect("a beginning");
    assert_eq!(simplified.operators, ["Gather", "Transpose", "Div", "Sub"]);
    assert_eq!((simplified.before, simplified.encoder.layout()), (("image".to_owned(), Layout::Nhwc), Layout::Nchw));
    let graph = Model::read(simplified.model.into()).expect("a model").graph.expect("a graph");
    assert_eq!(graph.inputs, [value(&simplified.input, Layout::Nchw)]);
    assert_eq!((graph.nodes.len(), graph.initializers.len()), (1, 0));
}

#[test]
fn what_is_used_elsewhere_too_is_not_left_out() {
    let with = |values: &[&str]| {
        left_out([half(), half()].iter().fold(Builder::new(Layout::Nhwc), Builder::step).ending_in(values))
    };
    assert_eq!(with(&["v1"]), ["Mul", "Mul"]);
    assert_eq!(with(&["v1", "v0"]), ["Mul"], "v0 is used twice");
    assert!(with(&["v1", "image"]).is_empty(), "the input is used twice");
    let mut twice = Builder::new(Layout::Nhwc);
    twice.last = twice.add("Mul", &["image", "image"], vec![]);
    assert!(left_out(twice.ended()).is_empty(), "it is squared");
    for name in ["v0", "image"] {
        let mut given = Builder::new(Layout::Nhwc).step(&half());
        given.graph.outputs.push(value(name, Layout::Nhwc));
        assert!(left_out(given.written()).is_empty(), "{name} is an output");
    }
    let mut within = Builder::new(Layout::Nhwc).step(&half());
    let body = Attribute { graph: Some(Bytes::new()), ..attribute("then_branch", 5) };
    within.add("If", &["c0"], vec![body]);
    assert!(left_out(within.ended()).is_empty(), "a graph within may use it");
}

#[test]
fn a_constant_that_others_use_stays() {
    let mut builder = Builder::new(Layout::Nhwc).step(&half());
    builder.last = builder.add("Relu", &["v0"], vec![]);
    builder.last = builder.add("Mul", &[&builder.last.clone(), "c0"], vec![]);
    let simplified = without_beginning(builder.ended(), &Manifest::default().input).expect("a beginning");
    assert_eq!(simplified.operators, ["Mul"]);
    let rows: [&[u8]; 1] = [&[100; 12]];
    assert_eq!(run(&simplified.model, &simplified.input, &simplified.encoder, &rows), [25.0; 12]);
}

#[test]
fn nothing_is_left_behind_of_what_is_left_out() {
    let mut old = Builder::new(Layout::Nhwc).step(&half()).step(&half());
    // As files of before the fourth version of the format are written, and as tools write shapes that they have inferred.
    old.graph.inputs.push(Value { name: "c0".into(), of: Some(of(&[])) }.encode_to_vec().into());
    old.graph.value_info = ["v0", "v1"].map(|name| value(name, Layout::Nhwc)).into();
    let simplified = without_beginning(old.ended(), &Manifest::default().input).expect("a beginning");
    let graph = Model::read(simplified.model.clone().into()).expect("a model").graph.expect("a graph");
    assert_eq!((graph.inputs.len(), graph.value_info.len(), graph.initializers.len()), (1, 0, 0));
    let rows: [&[u8]; 1] = [&[100; 12]];
    assert_eq!(run(&simplified.model, &simplified.input, &simplified.encoder, &rows), [25.0; 12]);
}

#[test]
fn a_file_that_would_lose_something_stays_whole() {
    let file = || Builder::new(Layout::Nhwc).step(&half());
    assert_eq!(left_out(file().ended()), ["Mul"]);
    let mut unknown = file().ended().to_vec();
    // An empty field of number 20.
    unknown.extend([0xa2, 0x01, 0x00]);
    assert!(left_out(unknown.into()).is_empty(), "a field that is not known");
    let mut elsewhere = file();
    let tensor = Tensor { name: "weights".into(), location: 1, ..number(1.0) };
    elsewhere.graph.initializers.push(tensor.encode_to_vec().into());
    assert!(left_out(elsewhere.ended()).is_empty(), "weights in another file");
    let mut twice = file();
    twice.graph.initializers.push(Tensor { name: "c0".into(), ..number(1.0) }.encode_to_vec().into());
    assert!(left_out(twice.ended()).is_empty(), "two constants of one name");
}

#[test]
fn the_input_is_the_one_that_is_named() {
    let mut two = Builder::new(Layout::Nhwc).step(&half());
    two.graph.inputs.push(value("other", Layout::Nhwc));
    let file = two.ended();
    assert!(left_out(file.clone()).is_empty(), "which one is not said");
    let named = manifest::Input { name: Some("image".into()), ..Manifest::default().input };
    assert_eq!(without_beginning(file, &named).expect("a beginning").operators, ["Mul"]);
}

/// What is left out of a graph of one node with this constant.
fn one(operator: &str, constant: Tensor, attributes: Vec<Attribute>) -> Vec<String> {
    let mut builder = Builder::new(Layout::Nhwc);
    let constant = builder.constant(constant, false);
    builder.last = builder.add(operator, &["image", &constant], attributes);
    left_out(builder.ended())
}

#[test]
fn what_is_not_known_for_sure_is_not_left_out() {
    let axis = |integer| vec![Attribute { integer, ..attribute("axis", AN_INTEGER) }];
    for (order, integer, left) in [
        ([2, 1, 0], 3, 1),
        ([-1, -2, -3], -1, 1),
        ([0, 0, 2], 3, 0),
        ([0, 1, 3], 3, 0),
        ([2, 1, 0], 2, 0),
        ([2, 1, 0], 7, 0),
    ] {
        assert_eq!(one("Gather", indices(&order), axis(integer)).len(), left, "{order:?} of {integer}");
    }
    let floats = Tensor { kind: FLOAT, floats: vec![2.0, 1.0, 0.0], ..indices(&[]) };
    assert!(one("Gather", Tensor { kind: FLOAT, ..indices(&[2, 1, 0]) }, axis(3)).is_empty(), "indices of floats");
    for (shape, left) in [
        (&[][..], 1),
        (&[1, 1, 3], 1),
        (&[1, 1, 1, 1], 1),
        (&[3, 1, 1], 0),
        (&[1, 1, 1, 1, 3], 0),
        (&[2, 2, 3], 0),
        (&[-1, 3], 0),
    ] {
        let all = usize::try_from(shape.iter().product::<i64>()).unwrap_or(3);
        let constant = Tensor { shape: shape.to_vec(), floats: vec![0.5; all], ..number(0.5) };
        assert_eq!(one("Add", constant, vec![]).len(), left, "{shape:?}");
    }
    assert_eq!(one("Add", floats.clone(), vec![]), ["Add"]);
    assert!(
        one("Add", Tensor { shape: vec![], ..floats.clone() }, vec![]).is_empty(),
        "more values than the shape has"
    );
    assert!(one("Add", Tensor { shape: vec![3], ..number(1.0) }, vec![]).is_empty(), "fewer values");
    let raw = Bytes::from_static(&[0; 7]);
    assert!(one("Add", Tensor { raw, floats: vec![], ..number(1.0) }, vec![]).is_empty(), "half a value");
    assert!(one("Add", Tensor { kind: INT64, ..number(1.0) }, vec![]).is_empty(), "no float");
    assert!(one("Pow", number(1.0), vec![]).is_empty());
    assert!(one("Add", number(1.0), vec![attribute("broadcast", AN_INTEGER)]).is_empty(), "of an old opset");
    assert!(left_out(graph(Layout::Nhwc, &[Step::Arithmetic("Div", vec![1.0], true, false)])).is_empty());
}
