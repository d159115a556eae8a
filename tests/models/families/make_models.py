"""Makes, beside this script, a small model of the shape of each tagger family: input, outputs and label file are as the
family has them, and what it computes can be foretold. Needs: pip install onnx numpy.

Each undoes its family's normalisation and gives the mean of each colour over the picture, 0..1, as the scores of three
labels called red, green and blue (logits where the family gives logits). So an input that is made otherwise than the family
wants it shows in the scores.
"""

import json
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).parent
HALF = ([0.5] * 3, [0.5] * 3)
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
BYTES = ([0.0] * 3, [1 / 255] * 3)
UNIT = ([0.0] * 3, [1.0] * 3)

WD_CSV = "tag_id,name,category,count\n1,general,9,1\n2,red,0,1\n3,green,4,1\n4,blue,0,1\n"
NAMES = ["general", "red", "green", "blue"]

# name: (labels file, its text, labels, ratings first, layout, side, batch, channels, normalisation, outputs, and whether the
# graph itself begins with putting the colours in order, transposing and normalising)
# outputs: (name, what: "probabilities", "logits", "embedding" or "rough", which is wrong on purpose)
FAMILIES = {
    "wd-v3": ("selected_tags.csv", WD_CSV, NAMES, "nhwc", 448, "n", "bgr", BYTES, [("output", "probabilities")], True),
    "wd-v2": ("selected_tags.csv", WD_CSV, NAMES, "nhwc", 448, 1, "bgr", BYTES, [("predictions_sigmoid", "probabilities")]),
    "cl-tagger": (
        "tag_mapping.json",
        json.dumps(
            {
                str(index): {"tag": name, "category": "Rating" if name == "general" else "General"}
                for index, name in reversed(list(enumerate(NAMES)))
            }
        ),
        NAMES, "nchw", 448, "n", "bgr", HALF, [("output", "logits")],
    ),
    "pixai": (
        "selected_tags.csv",
        'id,tag_id,name,category,count,ips\n0,1,red,0,1,[]\n1,2,green,4,1,"[""x""]"\n2,3,blue,0,1,[]\n',
        NAMES[1:], "nchw", 448, "n", "rgb", HALF,
        [("embedding", "embedding"), ("logits", "logits"), ("prediction", "probabilities")],
    ),
    "camie-v2": (
        "camie-tagger-v2-metadata.json",
        json.dumps(
            {
                "model_info": {"img_size": 512},
                "dataset_info": {
                    "total_tags": 4,
                    "tag_mapping": {
                        "idx_to_tag": {str(index): name for index, name in enumerate(NAMES)},
                        "tag_to_category": {"general": "rating", "red": "general", "green": "character", "blue": "year"},
                    },
                },
            }
        ),
        NAMES, "nchw", 512, "n", "rgb", IMAGENET, [("initial_predictions", "rough"), ("refined_predictions", "logits")],
    ),
    "joytag": ("top_tags.txt", "red\ngreen\nblue\n", NAMES[1:], "nchw", 448, "n", "rgb", CLIP, [("tags", "logits")]),
    "deepdanbooru": (
        "tags.txt", "red\ngreen\nblue\nrating:safe\n", ["red", "green", "blue", "general"],
        "nhwc", 512, "n", "rgb", UNIT, [("activation", "probabilities")],
    ),
    "e621": (
        "tags-selected.csv", "id,name,category,post_count\n1,red,0,1\n2,green,5,1\n3,blue,7,1\n", NAMES[1:],
        "nhwc", 448, 1, "bgr", BYTES, [("predictions_sigmoid", "probabilities")],
    ),
}


def graph(labels, layout, side, batch, channels, normalisation, outputs, normalises=False):
    nodes, constants = [], []

    def constant(value):
        constants.append(numpy_helper.from_array(np.asarray(value, np.float32), f"c{len(constants)}"))
        return constants[-1].name

    def op(kind, *inputs, name=None, **attributes):
        name = name or f"n{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    shape = [batch, side, side, 3] if layout == "nhwc" else [batch, 3, side, side]
    image = "image"
    if normalises:
        constants.append(numpy_helper.from_array(np.array([2, 1, 0]), "rgb"))
        image = op("Transpose", op("Gather", image, "rgb", axis=3), perm=[0, 3, 1, 2])
        image = op("Sub", op("Div", image, constant(127.5)), constant(1.0))
        layout, channels, normalisation = "nchw", "rgb", HALF
    mean, std = normalisation
    means = op("ReduceMean", image, axes=[1, 2] if layout == "nhwc" else [2, 3], keepdims=0)
    colours = op("Add", op("Mul", means, constant(std)), constant(mean))
    # From the family's order of channels to the labels' order of colours; the rating is a constant.
    pick = np.zeros((3, len(labels)))
    for column, label in enumerate(labels):
        if label != "general":
            channel = ["red", "green", "blue"].index(label)
            pick[2 - channel if channels == "bgr" else channel, column] = 1
    rating = [0.9 if label == "general" else 0.0 for label in labels]
    probabilities = op("Clip", op("Add", op("MatMul", colours, constant(pick)), constant(rating)), constant(1e-6), constant(1 - 1e-6))
    logits = op("Sub", op("Log", probabilities), op("Log", op("Sub", constant(1.0), probabilities)))
    made = {
        "probabilities": probabilities,
        "logits": logits,
        "rough": op("Neg", logits),
        "embedding": op("Concat", means, means, axis=1),
    }
    for name, what in outputs:
        op("Identity", made[what], name=name)
    width = {"embedding": 6}
    return helper.make_graph(
        nodes,
        "family",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, width.get(what, len(labels))])
            for name, what in outputs
        ],
        constants,
    )


for family, (file, text, labels, *interface) in FAMILIES.items():
    folder = HERE / family
    folder.mkdir(exist_ok=True)
    model = helper.make_model(graph(labels, *interface), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / ("camie-tagger-v2.onnx" if family == "camie-v2" else "model.onnx"))
    (folder / file).write_text(text)
