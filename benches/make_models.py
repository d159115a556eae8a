"""Makes taggers to measure with: vision transformers with the interface of the WD taggers (a batch of NHWC BGR pictures,
0..255 in; probabilities out) and weights drawn from a seed. They know nothing, and cost what real ones of their size cost.

About thirty labels are over their thresholds for a picture, as with a real tagger."""
import argparse
import csv
import dataclasses
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Of wd-*-tagger-v3: ratings, general tags, characters, in the label file's categories.
LABELS = {9: ["general", "sensitive", "questionable", "explicit"], 0: 8106, 4: 2751}
LABEL_COUNT = 10_861


@dataclasses.dataclass
class Shape:
    """A vision transformer's."""

    side: int = 448
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12


MODELS = {
    "vit-b": Shape(),  # as wd-vit-tagger-v3: 378 MB
    "vit-tiny": Shape(width=192, heads=3),  # 31 MB
    "vit-nano": Shape(width=64, depth=1, heads=1, patch=32),  # a few ms an image: what is around it shows
    "feather": Shape(side=64, patch=32, width=16, depth=1, heads=1),  # next to nothing
}


class Graph:
    """Nodes and weights as they are added."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.weights = [], []

    def constant(self, value):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def drawn(self, *shape, spread=0.02):
        return self.constant(self.random.standard_normal(shape, dtype=np.float32) * np.float32(spread))

    def add(self, kind, *inputs, output=None, **attributes):
        output = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def linear(self, x, inputs, outputs):
        product = self.add("MatMul", x, self.drawn(inputs, outputs))
        return self.add("Add", product, self.constant(np.zeros(outputs, np.float32)))

    def norm(self, x, width):
        scale, bias = np.ones(width, np.float32), np.zeros(width, np.float32)
        return self.add("LayerNormalization", x, self.constant(scale), self.constant(bias), axis=-1, epsilon=1e-6)


def patches(graph, shape):
    """The picture as RGB in -1..1, cut into patches: one token each, with its place added."""
    rgb = graph.add("Gather", "input", graph.constant(np.array([2, 1, 0])), axis=3)
    planes = graph.add("Transpose", rgb, perm=[0, 3, 1, 2])
    scaled = graph.add("Mul", planes, graph.constant(np.float32(1 / 127.5)))
    centred = graph.add("Sub", scaled, graph.constant(np.float32(1)))
    kernel = [shape.patch, shape.patch]
    cut = graph.add("Conv", centred, graph.drawn(shape.width, 3, *kernel), kernel_shape=kernel, strides=kernel)
    tokens = (shape.side // shape.patch) ** 2
    flat = graph.add("Reshape", cut, graph.constant(np.array([0, shape.width, tokens])))
    return graph.add("Add", graph.add("Transpose", flat, perm=[0, 2, 1]), graph.drawn(1, tokens, shape.width)), tokens


def attention(graph, x, shape, tokens):
    head = shape.width // shape.heads
    split = graph.constant(np.array([0, tokens, shape.heads, head]))

    def part(order):
        return graph.add("Transpose", graph.add("Reshape", graph.linear(x, shape.width, shape.width), split), perm=order)

    query, key, value = part([0, 2, 1, 3]), part([0, 2, 3, 1]), part([0, 2, 1, 3])
    scores = graph.add("Mul", graph.add("MatMul", query, key), graph.constant(np.float32(head**-0.5)))
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value)
    joined = graph.add("Transpose", mixed, perm=[0, 2, 1, 3])
    joined = graph.add("Reshape", joined, graph.constant(np.array([0, tokens, shape.width])))
    return graph.linear(joined, shape.width, shape.width)


def block(graph, x, shape, tokens):
    x = graph.add("Add", x, attention(graph, graph.norm(x, shape.width), shape, tokens))
    hidden = graph.add("Gelu", graph.linear(graph.norm(x, shape.width), shape.width, 4 * shape.width))
    return graph.add("Add", x, graph.linear(hidden, 4 * shape.width, shape.width))


def tagger(shape, seed):
    graph = Graph(seed)
    x, tokens = patches(graph, shape)
    for _ in range(shape.depth):
        x = block(graph, x, shape, tokens)
    mean = graph.add("ReduceMean", x, graph.constant(np.array([1])), keepdims=0)
    # Logits are then normally distributed around -3 with a spread of 0.9, whatever the shape and the picture.
    head = graph.drawn(shape.width, LABEL_COUNT, spread=0.9 * shape.width**-0.5)
    logits = graph.add("MatMul", graph.norm(mean, shape.width), head)
    biased = graph.add("Add", logits, graph.constant(np.full(LABEL_COUNT, -3, np.float32)))
    graph.add("Sigmoid", biased, output="output")
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", shape.side, shape.side, 3])
    scores = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", LABEL_COUNT])
    made = helper.make_graph(graph.nodes, "tagger", [picture], [scores], graph.weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def labels():
    """The rows of `selected_tags.csv`."""
    for category, names in LABELS.items():
        for name in names if isinstance(names, list) else (f"tag_{category}_{i}" for i in range(names)):
            yield name, category


def make(folder, shape):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "selected_tags.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["tag_id", "name", "category", "count"])
        rows.writerows((number, name, category, 1000) for number, (name, category) in enumerate(labels()))
    part = folder / "model.onnx.part"
    onnx.save(tagger(shape, seed=0), part)
    part.rename(folder / "model.onnx")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=pathlib.Path, help="where models are made, each a folder; what is there stays")
    arguments.add_argument("models", nargs="*", default=list(MODELS), help=", ".join(MODELS))
    arguments = arguments.parse_args()
    for name in arguments.models:
        # Each in a folder of its own besides, for it is then the only one there is.
        target = arguments.folder / name / name
        if not (target / "model.onnx").exists():
            make(target, MODELS[name])
            print(f"made {target}")
