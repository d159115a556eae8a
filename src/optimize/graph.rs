//! Graph that is rewritten: nodes in the order they run, with their producers and users by value.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::file::{GraphFile, MICROSOFT, Model, Node, Opset, TENSOR, Tensor, Value};

/// Graph of a model.
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    constants: HashMap<String, Tensor>,
    pub(super) inputs: Vec<Value>,
    pub(super) outputs: Vec<Value>,
    /// Version of ONNX's operators.
    pub(super) opset: i64,
    model: Model,
    producers: HashMap<String, usize>,
    users: HashMap<String, Vec<usize>>,
    made: usize,
}

/// Results of one kind of rewriting: places found that were rewritten, and the reasons of those left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Places rewritten.
    pub(crate) fused: usize,
    /// Places left, by reason.
    pub(crate) left: BTreeMap<&'static str, usize>,
}

impl Tally {
    /// Places found.
    pub(crate) fn found(&self) -> usize {
        self.fused + self.left.values().sum::<usize>()
    }
}

impl Graph {
    /// Takes a file apart. `Constant` nodes become constants, and `Identity` nodes go.
    pub(super) fn new(model: Model, file: GraphFile) -> Self {
        let own = |opset: &&Opset| opset.domain.is_empty() || opset.domain == "ai.onnx";
        let opset = model.opsets.iter().find(own).map_or(0, |opset| opset.version);
        let mut constants: HashMap<String, Tensor> =
            file.constants.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        let mut nodes = file.nodes;
        for node in &mut nodes {
            if node.domain == "ai.onnx" {
                node.domain.clear();
            }
        }
        nodes.retain_mut(|node| {
            let tensor = |node: &mut Node| {
                let value = node.attributes.iter_mut().find(|each| each.name == "value" && each.kind == TENSOR)?;
                value.tensor.take()
            };
            let Some(tensor) = node.is("Constant").then(|| tensor(node)).flatten() else { return true };
            let name = node.output().to_owned();
            constants.insert(name.clone(), Tensor { name, ..tensor });
            false
        });
        // Files of old list their weights among the inputs.
        let inputs = file.inputs.into_iter().filter(|input| !constants.contains_key(&input.name)).collect();
        let (producers, users) = (HashMap::new(), HashMap::new());
        let mut graph =
            Self { nodes, constants, inputs, outputs: file.outputs, opset, model, producers, users, made: 0 };
        graph.index();
        graph.skip_identities();
        graph
    }

    fn skip_identities(&mut self) {
        let is_output: HashSet<String> = self.outputs.iter().map(|output| output.name.clone()).collect();
        let plain = |node: &&Node| node.is("Identity") && !is_output.contains(node.output());
        let pairs: HashMap<String, String> =
            self.nodes.iter().filter(plain).map(|node| (node.output().to_owned(), node.input(0).to_owned())).collect();
        for input in self.nodes.iter_mut().flat_map(|node| &mut node.inputs) {
            while let Some(origin) = pairs.get(input) {
                input.clone_from(origin);
            }
        }
        self.tidy();
    }

    /// The file of this graph.
    pub(super) fn file(&self) -> (Model, GraphFile) {
        let mut model = self.model.clone();
        let used = |opset: &Opset| {
            matches!(&*opset.domain, "" | "ai.onnx") || self.nodes.iter().any(|node| node.domain == opset.domain)
        };
        model.opsets.retain(used);
        let has_microsoft = model.opsets.iter().any(|opset| opset.domain == MICROSOFT);
        if !has_microsoft && self.nodes.iter().any(|node| node.domain == MICROSOFT) {
            model.opsets.push(Opset { domain: MICROSOFT.to_owned(), version: 1 });
        }
        let mut seen = HashSet::new();
        let names = self.nodes.iter().flat_map(|node| &node.inputs).filter(|name| seen.insert(name.as_str()));
        let constants = names.filter_map(|name| self.constants.get(name).cloned()).collect();
        let (nodes, inputs, outputs) = (self.nodes.clone(), self.inputs.clone(), self.outputs.clone());
        let name = Some("tagger".into());
        (model, GraphFile { nodes, name, constants, inputs, outputs, ..GraphFile::default() })
    }

    // === Reading ===

    /// The node that produces a value.
    pub(super) fn producer(&self, value: &str) -> Option<&Node> {
        self.producers.get(value).map(|&at| &self.nodes[at])
    }

    /// The node that produces a value, if it is of this operator.
    pub(super) fn produced_by(&self, value: &str, operator: &str) -> Option<&Node> {
        self.producer(value).filter(|node| node.is(operator))
    }

    /// Nodes that use a value, once for each use.
    pub(super) fn users(&self, value: &str) -> impl Iterator<Item = &Node> {
        self.users.get(value).into_iter().flatten().map(|&at| &self.nodes[at])
    }

    /// The node that uses a value, if it is the only one and the value is no output.
    pub(super) fn only_user(&self, value: &str) -> Option<&Node> {
        let mut users = self.users(value);
        users.next().filter(|_| users.next().is_none() && !self.is_output(value))
    }

    pub(super) fn is_output(&self, value: &str) -> bool {
        self.outputs.iter().any(|output| output.name == value)
    }

    pub(super) fn constant(&self, name: &str) -> Option<&Tensor> {
        self.constants.get(name)
    }

    pub(super) fn floats(&self, name: &str) -> Option<Vec<f32>> {
        self.constant(name)?.floats()
    }

    /// A constant of one number, whatever its shape.
    pub(super) fn scalar(&self, name: &str) -> Option<f32> {
        let tensor = self.constant(name).filter(|tensor| tensor.len() == Some(1))?;
        tensor.floats()?.first().copied()
    }

    /// Integers that are an input from opset 13 on and an attribute before.
    pub(super) fn integers(&self, node: &Node, place: usize, attribute: &str) -> Option<Vec<i64>> {
        match node.inputs.get(place) {
            Some(name) if !name.is_empty() => self.constant(name)?.integers(),
            _ => node.integers(attribute).map(<[i64]>::to_vec),
        }
    }

    /// The operands of a node of two, the constant one last.
    pub(super) fn with_constant<'a>(&'a self, node: &'a Node) -> Option<(&'a str, &'a Tensor)> {
        let [left, right] = &node.inputs[..] else { return None };
        match (self.constant(left), self.constant(right)) {
            (None, Some(constant)) => Some((left, constant)),
            (Some(constant), None) => Some((right, constant)),
            _ => None,
        }
    }

    // === Changing ===

    /// A name that is not taken.
    pub(super) fn fresh(&mut self, purpose: &str) -> String {
        self.made += 1;
        format!("tagmill_{purpose}_{}", self.made)
    }

    /// Adds a constant under a name of its own.
    pub(super) fn add(&mut self, purpose: &str, tensor: Tensor) -> String {
        let name = self.fresh(purpose);
        self.constants.insert(name.clone(), Tensor { name: name.clone(), ..tensor });
        name
    }

    pub(super) fn add_floats(&mut self, purpose: &str, shape: &[i64], values: &[f32]) -> String {
        self.add(purpose, Tensor::of_floats("", shape, values))
    }

    pub(super) fn add_integers(&mut self, purpose: &str, values: &[i64]) -> String {
        let shape = [i64::try_from(values.len()).unwrap_or(i64::MAX)];
        self.add(purpose, Tensor::of_integers("", &shape, values))
    }

    /// Adds nodes that produce values in place of the nodes that did so far.
    pub(super) fn rewrite(&mut self, nodes: Vec<Node>) {
        let produced: HashSet<&str> = nodes.iter().flat_map(|node| &node.outputs).map(String::as_str).collect();
        self.nodes.retain(|node| {
            let replaced = |output: &String| !output.is_empty() && produced.contains(output.as_str());
            !node.outputs.iter().any(replaced)
        });
        self.nodes.extend(nodes);
        self.tidy();
    }

    /// Takes out nodes without use, and puts the others into an order in which they can run.
    pub(super) fn tidy(&mut self) {
        self.index();
        let (mut order, mut state) = (Vec::with_capacity(self.nodes.len()), vec![State::New; self.nodes.len()]);
        for output in &self.outputs {
            self.visit(&output.name, &mut state, &mut order);
        }
        // Of two nodes that could run, the earlier one stays first.
        let mut nodes: Vec<Option<Node>> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
        self.nodes = order.into_iter().filter_map(|at: usize| nodes[at].take()).collect();
        self.index();
    }

    /// Depth-first, without recursion: a graph may be thousands of nodes deep.
    fn visit(&self, value: &str, state: &mut [State], order: &mut Vec<usize>) {
        let mut stack: Vec<usize> = self.producers.get(value).copied().into_iter().collect();
        while let Some(&at) = stack.last() {
            match state[at] {
                State::New => {
                    state[at] = State::Entered;
                    let before = self.nodes[at].inputs.iter().filter_map(|input| self.producers.get(input));
                    stack.extend(before.copied().filter(|&before| state[before] == State::New));
                }
                State::Entered => {
                    state[at] = State::Done;
                    order.push(at);
                    stack.pop();
                }
                State::Done => {
                    stack.pop();
                }
            }
        }
    }

    fn index(&mut self) {
        self.producers.clear();
        self.users.clear();
        for (at, node) in self.nodes.iter().enumerate() {
            for output in node.outputs.iter().filter(|output| !output.is_empty()) {
                self.producers.insert(output.clone(), at);
            }
            for input in node.inputs.iter().filter(|input| !input.is_empty()) {
                self.users.entry(input.clone()).or_default().push(at);
            }
        }
    }

    /// Rewrites every place where a node fits `anchor`, and counts.
    pub(super) fn fuse(
        &mut self,
        anchor: impl Fn(&Node) -> bool,
        fuse: impl Fn(&mut Self, &Node) -> Result<(), &'static str>,
    ) -> Tally {
        let anchors = self.nodes.iter().filter(|node| anchor(node));
        let outputs: Vec<String> = anchors.map(|node| node.output().to_owned()).collect();
        let mut tally = Tally::default();
        for output in outputs {
            // It may be part of a place that was rewritten.
            let Some(node) = self.producer(&output).filter(|node| anchor(node)).cloned() else { continue };
            match fuse(self, &node) {
                Ok(()) => tally.fused += 1,
                Err(reason) => *tally.left.entry(reason).or_default() += 1,
            }
        }
        tally
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Entered,
    Done,
}
