#!/usr/bin/env python3
"""Makes taggers whose graphs look as PyTorch's exporter writes those of timm, wrapped as WD taggers are (NHWC BGR pictures,
0..255 in; probabilities out), and one as tf2onnx writes those of Keras. Needs numpy and onnx alone.

Weights are drawn from a seed and behave as trained ones do: attention is sharp, norms differ by channel, and a few channels
have large gains. A factor of attention that is wrong by 2 moves scores by tenths, so that agreement proves something."""
import argparse
import csv
import dataclasses
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

END = 2**63 - 1  # of a slice


@dataclasses.dataclass
class Shape:
    """A model's sizes."""

    family: str
    mode: str = "sdpa"  # or eager: how PyTorch computes attention
    opset: int = 17
    side: int = 448
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    tags: int = 10_861
    window: int = 4  # of SwinV2, in patches


class Graph:
    """Nodes and weights as they are added."""

    def __init__(self, opset, seed=0):
        self.random = np.random.default_rng(seed)
        self.opset, self.nodes, self.weights = opset, [], []

    def add(self, kind, *inputs, outputs=1, output=None, **attributes):
        names = [output or f"/n{len(self.nodes)}_output_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value, kind=np.int64):
        """As a node, which is how the exporter writes what is no parameter."""
        return self.add("Constant", value=numpy_helper.from_array(np.asarray(value, kind)))

    def number(self, value):
        return self.constant(value, np.float32)

    def parameter(self, value):
        name = f"core_model.p{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def drawn(self, *shape, spread=1.0):
        return self.random.standard_normal(shape, dtype=np.float32) * np.float32(spread)

    # As the exporter writes them.

    def linear(self, x, inputs, outputs, gain=1.0, sharp=0, bias=True):
        weights = self.drawn(inputs, outputs, spread=gain * inputs**-0.5)
        weights[:, :sharp] *= 2
        product = self.add("MatMul", x, self.parameter(weights))
        return self.add("Add", self.parameter(self.drawn(outputs, spread=0.1)), product) if bias else product

    def norm(self, x, width):
        scale = np.clip(1 + self.drawn(width, spread=0.3), 0.2, 3)
        scale[self.random.permutation(width)[:3]] *= 6
        scale, bias = self.parameter(scale), self.parameter(self.drawn(width, spread=0.1))
        if self.opset >= 17:
            return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-6)
        centred = self.add("Sub", x, self.mean(x, -1, 1))
        variance = self.mean(self.add("Pow", centred, self.number(2)), -1, 1)
        root = self.add("Sqrt", self.add("Add", variance, self.number(1e-6)))
        return self.add("Add", self.add("Mul", self.add("Div", centred, root), scale), bias)

    def mean(self, x, axis, keep):
        return self.add("ReduceMean", x, axes=[axis], keepdims=keep)

    def size(self, x, axis):
        """One size of a value, as a list of one."""
        size = self.add("Gather", self.add("Shape", x), self.constant(axis), axis=0)
        return self.add("Unsqueeze", size, self.constant([0]))

    def reshaped(self, x, *sizes):
        """Sizes are numbers, or names of lists of one."""
        sizes = [size if isinstance(size, str) else self.constant([size]) for size in sizes]
        return self.add("Reshape", x, self.add("Concat", *sizes, axis=0))

    def slice(self, x, start, end, axis, step=1):
        return self.add("Slice", x, *(self.constant([each]) for each in (start, end, axis, step)))

    def tanh_gelu(self, x):
        cube = self.add("Mul", x, self.add("Mul", x, x))
        inner = self.add("Add", x, self.add("Mul", self.number(0.044715), cube))
        tanh = self.add("Tanh", self.add("Mul", self.number((2 / np.pi) ** 0.5), inner))
        return self.add("Mul", self.number(0.5), self.add("Mul", x, self.add("Add", self.number(1), tanh)))

    def erf_gelu(self, x):
        erf = self.add("Erf", self.add("Div", x, self.number(2**0.5)))
        return self.add("Mul", self.add("Mul", x, self.add("Add", erf, self.number(1))), self.number(0.5))

    def silu(self, x):
        return self.add("Mul", x, self.add("Sigmoid", x))

    def softmax(self, x):
        return self.add("Softmax", x, axis=-1)


def beginning(graph):
    """The picture as RGB in -1..1, by colour."""
    planes = graph.add("Transpose", "input", perm=[0, 3, 1, 2])
    rgb = graph.slice(planes, -1, -END, 1, -1)
    return graph.add("Sub", graph.add("Div", rgb, graph.number(127.5)), graph.number(1))


def convolution(graph, x, inputs, outputs, kernel, stride, group=1, pads=0):
    weights = graph.parameter(graph.drawn(outputs, inputs // group, kernel, kernel, spread=(inputs // group * kernel**2) ** -0.5))
    bias = graph.parameter(graph.drawn(outputs, spread=0.1))
    sizes = dict(kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pads] * 4, dilations=[1, 1])
    return graph.add("Conv", x, weights, bias, group=group, **sizes)


def tokens(graph, x):
    """Patches in a row: batch, places, channels."""
    sizes = graph.add("Slice", graph.add("Shape", x), *(graph.constant([each]) for each in (0, 2, 0)))
    flat = graph.add("Reshape", x, graph.add("Concat", sizes, graph.constant([-1]), axis=0))
    return graph.add("Transpose", flat, perm=[0, 2, 1])


def head(graph, x, shape, width):
    weights = graph.parameter(graph.drawn(shape.tags, width, spread=0.9 * width**-0.5))
    logits = graph.add("Gemm", x, weights, graph.parameter(np.full(shape.tags, -3)), alpha=1.0, beta=1.0, transB=1)
    return graph.add("Sigmoid", logits, output="output")


def parts(graph, packed, x, heads, head):
    """Queries, keys and values of a packed product: batch, heads, places, values."""
    apart = graph.reshaped(packed, graph.size(x, 0), graph.size(x, 1), 3, heads, head)
    turned = graph.add("Transpose", apart, perm=[2, 0, 3, 1, 4])
    split = graph.add("Split", turned, graph.constant([1, 1, 1]), outputs=3, axis=0)
    return [graph.add("Squeeze", each, graph.constant([0])) for each in split]


def mixed(graph, query, key, value, shape, head):
    """Attention between heads, as scaled_dot_product_attention is exported, or as timm writes it."""
    swapped = lambda: graph.add("Transpose", key, perm=[0, 1, 3, 2])  # noqa: E731
    if shape.mode == "sdpa":
        size = graph.add("Slice", graph.add("Shape", query), graph.constant([-1]), graph.constant([END]))
        root = graph.add("Sqrt", graph.add("Cast", size, to=TensorProto.FLOAT))
        scale = graph.add("Cast", graph.add("Div", graph.constant([1], np.float32), root), to=TensorProto.FLOAT)
        keys = swapped()
        query = graph.add("Mul", query, graph.add("Sqrt", scale))
        product = graph.add("MatMul", query, graph.add("Mul", keys, graph.add("Sqrt", scale)))
    else:
        query = graph.add("Mul", query, graph.number(head**-0.5))
        product = graph.add("MatMul", query, swapped())
    return graph.add("MatMul", graph.softmax(product), value)


def joined(graph, x, like, width):
    turned = graph.add("Transpose", x, perm=[0, 2, 1, 3])
    return graph.reshaped(turned, graph.size(like, 0), graph.size(like, 1), width)


def vit(graph, shape):
    width, head_width = shape.width, shape.width // shape.heads
    x = tokens(graph, convolution(graph, beginning(graph), 3, width, shape.patch, shape.patch))
    x = graph.add("Add", x, graph.parameter(graph.drawn(1, (shape.side // shape.patch) ** 2, width, spread=0.5)))
    for _ in range(shape.depth):
        y = graph.norm(x, width)
        packed = graph.linear(y, width, 3 * width, sharp=2 * width)
        y = joined(graph, mixed(graph, *parts(graph, packed, y, shape.heads, head_width), shape, head_width), y, width)
        x = graph.add("Add", x, graph.linear(y, width, width, gain=0.5))
        y = graph.tanh_gelu(graph.linear(graph.norm(x, width), width, 4 * width))
        x = graph.add("Add", x, graph.linear(y, 4 * width, width, gain=0.5))
    return head(graph, graph.mean(graph.norm(x, width), 1, 0), shape, width)


def rotated(graph, x, sine, cosine):
    """Pairs of values turned by the angle of their place; the class token stays."""
    first, rest = graph.slice(x, 0, 1, 2), graph.slice(x, 1, END, 2)
    straight = graph.add("Mul", rest, graph.constant(cosine, np.float32))
    odd = graph.add("Unsqueeze", graph.add("Neg", graph.slice(rest, 1, END, 3, 2)), graph.constant([-1]))
    even = graph.add("Unsqueeze", graph.slice(rest, 0, END, 3, 2), graph.constant([-1]))
    pairs = graph.add("Concat", odd, even, axis=-1)
    crossed = graph.reshaped(pairs, *(graph.size(rest, axis) for axis in range(4)))
    turned = graph.add("Add", straight, graph.add("Mul", crossed, graph.constant(sine, np.float32)))
    return graph.add("Concat", first, turned, axis=2)


def angles(across, head_width):
    """Sine and cosine by place and value: half of the pairs turn by row, the others by column."""
    bands = 1 / 10_000 ** (np.arange(head_width // 4) / (head_width // 4))
    place = np.arange(across) * (16 / across)
    row, column = np.meshgrid(place, place, indexing="ij")
    angle = np.concatenate([axis.reshape(-1, 1) * bands for axis in (row, column)], axis=1)
    return np.repeat(np.sin(angle), 2, axis=1), np.repeat(np.cos(angle), 2, axis=1)


def eva02(graph, shape):
    width, head_width, across = shape.width, shape.width // shape.heads, shape.side // shape.patch
    x = tokens(graph, convolution(graph, beginning(graph), 3, width, shape.patch, shape.patch))
    batch = graph.add("Concat", graph.size(x, 0), graph.constant([-1]), graph.constant([-1]), axis=0)
    ones = graph.add("ConstantOfShape", graph.add("Shape", batch), value=helper.make_tensor("value", TensorProto.INT64, [1], [1]))
    open_sizes = graph.add("Equal", batch, graph.add("Mul", ones, graph.constant(-1)))
    token = graph.add("Expand", graph.parameter(graph.drawn(1, 1, width, spread=0.5)), graph.add("Where", open_sizes, ones, batch))
    x = graph.add("Concat", token, x, axis=1)
    x = graph.add("Add", x, graph.parameter(graph.drawn(1, across**2 + 1, width, spread=0.5)))
    turns = angles(across, head_width)
    hidden = int(width * 8 / 3) // 16 * 16
    for _ in range(shape.depth):
        y = graph.norm(x, width)
        query, key, value = parts(graph, graph.linear(y, width, 3 * width, sharp=2 * width), y, shape.heads, head_width)
        query, key = rotated(graph, query, *turns), rotated(graph, key, *turns)
        y = joined(graph, mixed(graph, query, key, value, shape, head_width), y, width)
        x = graph.add("Add", x, graph.linear(y, width, width, gain=0.5))
        both = graph.linear(graph.norm(x, width), width, 2 * hidden)
        last = graph.add("Gather", graph.add("Shape", both), graph.constant([-1]), axis=0)
        half = graph.add("Div", graph.add("Add", last, graph.constant([1])), graph.constant([2]))
        ends = [graph.add("Mul", half, graph.constant([n])) for n in (1, 2)]
        gate = graph.add("Slice", both, graph.constant([0]), ends[0], graph.constant([-1]))
        other = graph.add("Slice", both, ends[0], ends[1], graph.constant([-1]))
        y = graph.add("Mul", graph.silu(gate), other)
        x = graph.add("Add", x, graph.linear(y, hidden, width, gain=0.5))
    mean = graph.mean(graph.slice(x, 1, END, 1), 1, 0)
    return head(graph, graph.norm(mean, width), shape, width)


def swinv2(graph, shape):
    """One stage: windows, each second block with them shifted, attention by cosine with a bias by place, norms at the end."""
    width, head_width, across, window = shape.width, shape.width // shape.heads, shape.side // shape.patch, shape.window
    count, area = across // window, window**2
    x = graph.add("Transpose", convolution(graph, beginning(graph), 3, width, shape.patch, shape.patch), perm=[0, 2, 3, 1])
    x = graph.norm(x, width)

    def rolled(x, by):
        for axis in (1, 2):
            parts = [graph.slice(x, by, END, axis), graph.slice(x, 0, by, axis)]
            x = graph.add("Concat", *parts, axis=axis)
        return x

    for block in range(shape.depth):
        y = rolled(x, window // 2) if block % 2 else x
        y = graph.reshaped(y, graph.size(y, 0), count, window, count, window, width)
        y = graph.reshaped(graph.add("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), -1, area, width)
        query, key, value = parts(graph, graph.linear(y, width, 3 * width), y, shape.heads, head_width)

        def unit(x):
            length = graph.add("ReduceL2", x, axes=[-1], keepdims=1)
            length = graph.add("Clip", length, graph.number(1e-12), "")
            return graph.add("Div", x, graph.add("Expand", length, graph.add("Shape", x)))

        product = graph.add("MatMul", unit(query), graph.add("Transpose", unit(key), perm=[0, 1, 3, 2]))
        product = graph.add("Mul", product, graph.parameter(np.full((shape.heads, 1, 1), 10.0)))
        places = graph.parameter(graph.drawn(1, shape.heads, area, area))
        product = graph.add("Add", product, places)
        y = joined(graph, graph.add("MatMul", graph.softmax(product), value), y, width)
        y = graph.linear(y, width, width)
        y = graph.reshaped(y, -1, count, count, window, window, width)
        y = graph.reshaped(graph.add("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), -1, across, across, width)
        y = rolled(y, across - window // 2) if block % 2 else y
        x = graph.add("Add", x, graph.norm(y, width))
        y = graph.linear(graph.erf_gelu(graph.linear(x, width, 4 * width)), 4 * width, width, gain=0.5)
        x = graph.add("Add", x, graph.norm(y, width))
    x = graph.norm(x, width)
    return head(graph, graph.add("ReduceMean", x, axes=[1, 2], keepdims=0), shape, width)


def convnext(graph, shape):
    width = shape.width
    x = convolution(graph, beginning(graph), 3, width, shape.patch, shape.patch)

    def plane_norm(x):
        return graph.add("Transpose", graph.norm(graph.add("Transpose", x, perm=[0, 2, 3, 1]), width), perm=[0, 3, 1, 2])

    x = plane_norm(x)
    for _ in range(shape.depth):
        y = graph.add("Transpose", convolution(graph, x, width, width, 7, 1, group=width, pads=3), perm=[0, 2, 3, 1])
        y = graph.linear(graph.tanh_gelu(graph.linear(graph.norm(y, width), width, 4 * width)), 4 * width, width)
        y = graph.add("Mul", graph.add("Transpose", y, perm=[0, 3, 1, 2]), graph.parameter(graph.drawn(1, width, 1, 1, spread=0.3)))
        x = graph.add("Add", y, x)
    x = graph.add("GlobalAveragePool", x)
    x = graph.add("Transpose", graph.norm(graph.add("Transpose", x, perm=[0, 2, 3, 1]), width), perm=[0, 3, 1, 2])
    return head(graph, graph.add("Flatten", x, axis=1), shape, width)


def keras(graph, shape):
    """A ViT for one picture at a time, as tf2onnx writes it: sizes are constants, norms and products in other pieces."""
    width, head_width = shape.width, shape.width // shape.heads
    places = (shape.side // shape.patch) ** 2

    def norm(x):
        scale = graph.parameter(np.clip(1 + graph.drawn(width, spread=0.3), 0.2, 3))
        mean = graph.mean(x, 2, 1)
        difference = graph.add("Sub", x, mean)
        variance = graph.mean(graph.add("Mul", difference, difference), 2, 1)
        root = graph.add("Sqrt", graph.add("Add", variance, graph.parameter(1e-6)))
        factor = graph.add("Mul", graph.add("Reciprocal", root), scale)
        shift = graph.add("Sub", graph.parameter(graph.drawn(width, spread=0.1)), graph.add("Mul", mean, factor))
        return graph.add("Add", graph.add("Mul", x, factor), shift)

    def heads(x, sharp, order):
        x = graph.linear(x, width, width, sharp=sharp)
        return graph.add("Transpose", graph.add("Reshape", x, graph.constant([1, places, shape.heads, head_width])), perm=order)

    rgb = graph.add("Slice", "input", *(graph.constant([each]) for each in (-1, -END, 3, -1)))
    scaled = graph.add("Sub", graph.add("Mul", rgb, graph.parameter(1 / 127.5)), graph.parameter(1.0))
    planes = graph.add("Transpose", scaled, perm=[0, 3, 1, 2])
    x = graph.add("Transpose", convolution(graph, planes, 3, width, shape.patch, shape.patch), perm=[0, 2, 3, 1])
    x = graph.add("Reshape", x, graph.constant([1, places, width]))
    x = graph.add("Add", x, graph.parameter(graph.drawn(1, places, width, spread=0.5)))
    for _ in range(shape.depth):
        y = norm(x)
        query, key, value = heads(y, width, [0, 2, 1, 3]), heads(y, width, [0, 2, 3, 1]), heads(y, 0, [0, 2, 1, 3])
        product = graph.add("Mul", graph.add("MatMul", query, key), graph.parameter(head_width**-0.5))
        y = graph.add("Transpose", graph.add("MatMul", graph.softmax(product), value), perm=[0, 2, 1, 3])
        y = graph.add("Reshape", y, graph.constant([1, places, width]))
        x = graph.add("Add", x, graph.linear(y, width, width, gain=0.5))
        y = graph.linear(norm(x), width, 4 * width)
        erf = graph.add("Erf", graph.add("Mul", y, graph.parameter(0.5**0.5)))
        y = graph.add("Mul", graph.add("Mul", graph.add("Add", erf, graph.parameter(1.0)), y), graph.parameter(0.5))
        x = graph.add("Add", x, graph.linear(y, 4 * width, width, gain=0.5))
    return head(graph, graph.mean(norm(x), 1, 0), shape, width)


FAMILIES = {"vit": vit, "eva02": eva02, "swinv2": swinv2, "convnext": convnext, "keras": keras}


def tagger(shape, seed=0):
    """The model."""
    graph = Graph(shape.opset, seed)
    FAMILIES[shape.family](graph, shape)
    batch = 1 if shape.family == "keras" else "batch_size"
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, shape.side, shape.side, 3])
    scores = helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, shape.tags])
    made = helper.make_graph(graph.nodes, "main_graph", [picture], [scores], graph.weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", shape.opset)], ir_version=8)


def make(folder, shape):
    """The model's folder, with labels: four ratings, then general tags and characters, three to one."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "model.onnx.part"
    onnx.save(tagger(shape), part)
    part.rename(folder / "model.onnx")
    ratings = ["general", "sensitive", "questionable", "explicit"]
    with open(folder / "selected_tags.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["tag_id", "name", "category", "count"])
        for number in range(shape.tags):
            name = ratings[number] if number < 4 else f"tag_{number}"
            rows.writerow([number, name, 9 if number < 4 else 0 if number < 0.75 * shape.tags else 4, 1000])


TINY = dict(side=32, patch=8, width=32, depth=2, heads=2, tags=40)
MODELS = {
    # As large as wd-vit-tagger-v3, 378 MB, and wd-eva02-large-tagger-v3, 1,260 MB.
    "vit-b": Shape("vit"),
    "vit-b-eager": Shape("vit", "eager", 14),
    "eva02-large": Shape("eva02", patch=14, width=1024, depth=24, heads=16),
    "vit-tiny": Shape("vit", width=192, heads=3),  # 31 MB
    "vit-nano": Shape("vit", width=64, depth=1, heads=1, patch=32),  # a few ms an image: what is around it shows
    "feather": Shape("vit", side=64, patch=32, width=16, depth=1, heads=1),  # next to nothing
    "eva02-tiny": Shape("eva02", patch=14, width=192, heads=3),
    "swinv2-tiny": Shape("swinv2", width=192, heads=6, window=14, depth=6),
    "convnext-tiny": Shape("convnext", width=192, depth=9),
    "keras-tiny": Shape("keras", width=192, heads=3),
}
# Those of the tests.
SMALL = {
    "vit-sdpa-17": Shape("vit", **TINY),
    "vit-eager-14": Shape("vit", "eager", 14, **TINY),
    "eva02-eager-17": Shape("eva02", "eager", **TINY),
    "eva02-sdpa-14": Shape("eva02", "sdpa", 14, **TINY),
    "swinv2-sdpa-17": Shape("swinv2", window=2, **TINY),
    "convnext-17": Shape("convnext", **TINY),
    "v2-tensorflow": Shape("keras", opset=13, **TINY),
}


BENCHMARKS = ["vit-b", "vit-tiny", "vit-nano", "feather"]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path, help="where models are made, each a folder; what is there stays")
    arguments.add_argument("models", nargs="*", default=BENCHMARKS, help=f"{', '.join(MODELS)}; or tests, for those of the tests")
    arguments = arguments.parse_args()
    tests = arguments.models == ["tests"]
    for name, shape in SMALL.items() if tests else [(name, MODELS[name]) for name in arguments.models]:
        # Each of the benchmarks' in a folder of its own besides, for it is then the only one there is.
        target = arguments.folder / name if tests else arguments.folder / name / name
        if not (target / "model.onnx").exists():
            make(target, shape)
            print(f"made {target}")
