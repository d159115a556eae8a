"""Makes two models for tests, each in a folder beside this script. Needs: pip install onnx numpy.

* fragile: it fails in the runtime, with its whole batch, on any image that is black throughout, and gives every other one
  the same scores. The brightest value of an image picks an element of a list of one; black picks the second, which is not
  there.
* hungry: it takes 1 GiB for every image of a batch that is not white throughout. The number of such images decides how
  large a tensor is made, and its largest value (1) is a factor of the scores.
"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).parent
SIDE = 16
RATINGS = ["general", "sensitive", "questionable", "explicit"]


def make(name, tag, constants, nodes):
    labels = [*RATINGS, tag]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(labels)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    rows = [f"{n},{label},{9 if n < 4 else 0},0" for n, label in enumerate(labels)]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows]) + "\n")


make(
    "fragile",
    "not_black",
    {
        "half": np.float32(0.5),
        "list": np.ones((1, len(RATINGS) + 1), np.float32),
        "scores": np.array([[0.9, 0.1, 0.0, 0.0, 0.8]], np.float32),
    },
    [
        helper.make_node("ReduceMax", ["image"], ["brightest"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Less", ["brightest", "half"], ["black"]),
        helper.make_node("Cast", ["black"], ["which"], to=TensorProto.INT64),
        helper.make_node("Gather", ["list", "which"], ["ones"], axis=0),
        helper.make_node("Mul", ["ones", "scores"], ["probabilities"]),
    ],
)
make(
    "hungry",
    "fed",
    {
        "white": np.float32(254.5),
        "axis": np.array([0], np.int64),
        "column": np.array([1], np.int64),
        "floats": np.int64((1 << 30) // 4),
        "one": np.int64(1),
        "value": np.float32(1),
        "zero": np.float32(0),
        "scores": np.array([[0.9, 0.1, 0.0, 0.0, 0.8]], np.float32),
    },
    [
        helper.make_node("ReduceMin", ["image"], ["darkest"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Less", ["darkest", "white"], ["hungry"]),
        helper.make_node("Cast", ["hungry"], ["number"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["number", "axis"], ["total"], keepdims=1),
        helper.make_node("Mul", ["total", "floats"], ["size"]),
        helper.make_node("Add", ["size", "one"], ["shape"]),
        helper.make_node("Expand", ["value", "shape"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["factor"], keepdims=0),
        helper.make_node("Mul", ["darkest", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "factor"], ["ones"]),
        helper.make_node("Unsqueeze", ["ones", "column"], ["rows"]),
        helper.make_node("Mul", ["rows", "scores"], ["probabilities"]),
    ],
)
