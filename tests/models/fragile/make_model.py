"""Makes the model beside this script, for tests: it fails in the runtime, with its whole batch, on any image that is black
throughout, and gives every other one the same scores. Needs: pip install onnx numpy.

How: the brightest value of an image picks an element of a list of one; black picks the second, which is not there.
"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 16
LABELS = ["general", "sensitive", "questionable", "explicit", "not_black"]

constants = {
    "half": np.float32(0.5),
    "list": np.ones((1, len(LABELS)), np.float32),
    "scores": np.array([[0.9, 0.1, 0.0, 0.0, 0.8]], np.float32),
}
nodes = [
    helper.make_node("ReduceMax", ["image"], ["brightest"], axes=[1, 2, 3], keepdims=0),
    helper.make_node("Less", ["brightest", "half"], ["black"]),
    helper.make_node("Cast", ["black"], ["which"], to=TensorProto.INT64),
    helper.make_node("Gather", ["list", "which"], ["ones"], axis=0),
    helper.make_node("Mul", ["ones", "scores"], ["probabilities"]),
]
graph = helper.make_graph(
    nodes,
    "fragile",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", SIDE, SIDE, 3])],
    [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(LABELS)])],
    [numpy_helper.from_array(value, name) for name, value in constants.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
here = pathlib.Path(__file__).parent
onnx.save(model, here / "model.onnx")
rows = [f"{n},{name},{9 if n < 4 else 0},0" for n, name in enumerate(LABELS)]
(here / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows]) + "\n")
