"""Makes the demo model beside this script: model.onnx and selected_tags.csv, a few kB. Needs: pip install onnx numpy.

It has the interface of the WD taggers (NHWC, BGR, 0..255 in; one probability per label out; any batch size), and computes
what can be read off pixels without having learnt anything: which colours there are, whether the picture is dark or
bright, colourful or grey. Of ratings it knows nothing: they are constants.

How: every pixel is shared out among twelve colours. How colourful it is (its saturation and brightness) decides between
black, grey and white and the hues; among the hues the direction of its chroma decides. Rows and columns that are white
throughout are padding and do not count. A tag's score is a logistic curve over the share of its colour.
"""

import csv
import math
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 128
RATINGS = {"general": 0.97, "sensitive": 0.02, "questionable": 0.01, "explicit": 0.0}
HUES = {"red": 0, "orange": 30, "yellow": 56, "green": 115, "cyan": 180, "blue": 222, "purple": 278, "pink": 328}
GREYS = ["black", "grey", "white"]
COLOURS = [*HUES, "brown", *GREYS]
WARM = ["red", "orange", "yellow", "brown", "pink"]
COOL = ["green", "cyan", "blue", "purple"]
# tag: (what it looks at, where its score is one half, how wide the curve is; negative: less is more)
OTHERS = {
    "dark": ("luma", 0.30, -0.05),
    "bright": ("luma", 0.68, 0.05),
    "colorful": ("saturation", 0.45, 0.06),
    "greyscale": ("saturation", 0.07, -0.015),
    "warm_colors": ("warm", 0.50, 0.07),
    "cool_colors": ("cool", 0.50, 0.07),
}
SHARE_HALF, SHARE_WIDTH = 0.13, 0.04


class Graph:
    """Nodes and constants, added one by one."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, value, dtype=np.float32):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind, *inputs, **attributes):
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [name], **attributes))
        return name

    def over(self, axes, kind, value, keep=1):
        if kind == "ReduceSum":
            return self.op(kind, value, self.constant(axes, np.int64), keepdims=keep)
        return self.op(kind, value, axes=axes, keepdims=keep)

    def curve(self, value, half, width):
        """Logistic: one half at `half`, rising over about `width`."""
        return self.op("Sigmoid", self.op("Div", self.op("Sub", value, half), width))


def build():
    g = Graph()
    pixels = g.op("Div", "input", 255.0)
    # Padding is white throughout; what is left counts with weight one.
    dark = g.over([3], "ReduceMin", pixels)
    not_white = lambda axis: g.op("Cast", g.op("Less", g.over([axis], "ReduceMin", dark), 0.99), to=TensorProto.FLOAT)
    weight = g.op("Mul", not_white(1), not_white(2))
    count = g.op("Add", g.over([1, 2], "ReduceSum", weight), 1e-6)
    mean = lambda value: g.op("Div", g.over([1, 2], "ReduceSum", g.op("Mul", value, weight)), count)

    blue, green, red = (g.op("Gather", pixels, g.constant([i], np.int64), axis=3) for i in range(3))
    value = g.over([3], "ReduceMax", pixels)
    spread = g.op("Sub", value, dark)
    saturation = g.op("Div", spread, g.op("Add", value, 0.02))
    luma = g.op("Add", g.op("Add", g.op("Mul", red, 0.299), g.op("Mul", green, 0.587)), g.op("Mul", blue, 0.114))

    # The direction of the chroma, compared with each hue's; the softmax makes the nearest win without a hard edge.
    alpha = g.op("Sub", red, g.op("Mul", g.op("Add", green, blue), 0.5))
    beta = g.op("Mul", g.op("Sub", green, blue), math.sqrt(3) / 2)
    length = g.op("Sqrt", g.op("Add", g.op("Add", g.op("Mul", alpha, alpha), g.op("Mul", beta, beta)), 1e-6))
    angles = [math.radians(angle) for angle in HUES.values()]
    across = g.op("Add", g.op("Mul", alpha, [math.cos(a) for a in angles]), g.op("Mul", beta, [math.sin(a) for a in angles]))
    hues = g.op("Softmax", g.op("Mul", g.op("Div", across, length), 60.0), axis=3)

    coloured = g.op("Mul", g.curve(saturation, 0.25, 0.04), g.curve(value, 0.18, 0.03))
    hues = g.op("Mul", hues, coloured)
    plain = g.op("Sub", 1.0, coloured)
    # Dark orange is brown; the other hues keep their names at any brightness.
    is_brown = g.op("Mul", g.op("Sub", 1.0, g.curve(value, 0.62, 0.04)), [float(hue in ("orange",)) for hue in HUES])
    brown = g.over([3], "ReduceSum", g.op("Mul", hues, is_brown))
    hues = g.op("Mul", hues, g.op("Sub", 1.0, is_brown))
    white = g.op("Mul", plain, g.curve(value, 0.80, 0.04))
    black = g.op("Mul", plain, g.op("Sub", 1.0, g.curve(value, 0.22, 0.03)))
    grey = g.op("Sub", g.op("Sub", plain, white), black)
    shares = mean(g.op("Concat", hues, brown, black, grey, white, axis=3))

    total = lambda names: g.op("ReduceSum", g.op("Mul", shares, [float(c in names) for c in COLOURS]), g.constant([3], np.int64))
    looked_at = {"luma": mean(luma), "saturation": mean(saturation), "warm": total(WARM), "cool": total(COOL)}
    scores = [g.curve(shares, SHARE_HALF, SHARE_WIDTH)]
    scores += [g.curve(looked_at[what], half, width) for what, half, width in OTHERS.values()]
    # A rating's constant, once per image of the batch.
    ratings = g.op("Add", g.op("Mul", mean(luma), 0.0), list(RATINGS.values()))
    g.op("Concat", ratings, *scores, axis=3)
    width = len(RATINGS) + len(COLOURS) + len(OTHERS)
    g.nodes.append(helper.make_node("Reshape", [g.nodes[-1].output[0], g.constant([0, width], np.int64)], ["output"]))

    interface = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch_size", *shape])
    graph = helper.make_graph(g.nodes, "tagmill_demo", [interface("input", [SIDE, SIDE, 3])], [interface("output", [width])], g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tagmill")
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    folder = pathlib.Path(__file__).parent
    onnx.save(build(), folder / "model.onnx")
    with open(folder / "selected_tags.csv", "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["tag_id", "name", "category", "count"])
        for number, name in enumerate([*RATINGS, *COLOURS, *OTHERS]):
            rows.writerow([number, name, 9 if name in RATINGS else 0, 0])
