#!/usr/bin/env python3
"""Makes a model of half precision, and keeps it only if it gives the same tags.

The copy takes and gives what the original does and computes in fp16 between. Both tag the images, as `tagmill tag` does it;
where they differ by more than the tolerance, nothing is written and the exit code is 1. On the CPU this tells what rounding
the weights does; on the device that the model is for (--device cuda) it tells all.

With --tensorrt the copy's graph is the original's, and TensorRT is left to compute it in fp16 (--device tensorrt).

Needs ONNX Runtime, through ORT_DYLIB_PATH, and, but for --tensorrt, onnx and onnxconverter-common."""
import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import warnings

# Operators whose sums lose what fp16 can't hold.
KEPT = ["LayerNormalization", "ReduceMean", "Softmax"]
LABELS = ("*.csv", "*.json", "*.txt")


def convert(source, target, tensorrt=False):
    """The model in `source`, in half precision or for TensorRT to make it so, in the new folder `target`."""
    graph, = [file for file in source.glob("*.onnx") if file.name == "model.onnx" or len(list(source.glob("*.onnx"))) == 1]
    target.mkdir(parents=True)
    if tensorrt:
        # With the weights beside it, where they are.
        for file in source.glob("*.onnx*"):
            shutil.copy(file, target)
    else:
        halve(graph, target / graph.name)
    for pattern in LABELS:
        for file in source.glob(pattern):
            shutil.copy(file, target)
    manifest = source / "tagmill.toml"
    (target / "tagmill.toml").write_text(in_half(manifest.read_text() if manifest.exists() else ""))


def in_half(manifest):
    """The manifest with this precision instead of the one it has, before the first table."""
    top, table, rest = manifest.partition("\n[") if not manifest.startswith("[") else ("", "", manifest)
    return 'precision = "fp16"\n' + re.sub(r"(?m)^precision[ \t]*=.*\n?", "", top) + table + rest


def halve(source, target):
    """Writes the graph with all but its input and output in fp16."""
    import onnx
    from onnxconverter_common import float16

    model = onnx.load(source)
    # The converter calls what it adds after the nodes, and nodes without a name are all called alike.
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
    blocked = float16.DEFAULT_OP_BLOCK_LIST + KEPT
    with warnings.catch_warnings():
        # A line for each weight next to zero; those too large for fp16 are still told.
        warnings.filterwarnings("ignore", message=".* will be truncated to -?1e-07")
        half = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked)
    onnx.save(half, target)


def scores(tagmill, model, device, images, *options):
    """Every score of every image, by label; what `tagmill tag` reports where every label is over its threshold."""
    command = [tagmill, "tag", "--models", model.parent, "--model", model.name, "--device", device]
    thresholds = ["--general-threshold", "0", "--character-threshold", "0"]
    done = subprocess.run([*map(str, command), *thresholds, *options, *map(str, images)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"tagmill could not tag with {model}")
    results = {}
    for line in done.stdout.splitlines():
        result = json.loads(line)
        every = {tag["name"]: tag["score"] for tag in result["tags"]}
        results[result["image"]] = every | result["rating"]
    return results


def agreement(ours, theirs, threshold):
    """The largest difference of a score, the mean one, and the share of tags over the threshold that both have."""
    largest, total, count, both, either = 0.0, 0.0, 0, 0, 0
    for image, expected in theirs.items():
        found = ours[image]
        for label in expected.keys() | found.keys():
            # What has no score here has one that rounds to nothing.
            one, other = found.get(label, 0.0), expected.get(label, 0.0)
            largest, total, count = max(largest, abs(one - other)), total + abs(one - other), count + 1
            both += one > threshold and other > threshold
            either += one > threshold or other > threshold
    return {"largest": largest, "mean": total / max(count, 1), "tags": both / max(either, 1), "compared": either}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="the model's folder")
    parser.add_argument("target", type=pathlib.Path, help="the folder of the new one, which must not be there")
    parser.add_argument("images", nargs="+", help="images, or folders of them, to compare on")
    parser.add_argument("--tensorrt", action="store_true", help="leave the graph as it is, for TensorRT to compute in fp16")
    parser.add_argument("--device", default="auto", help="what to compare on, as tagmill's --device")
    parser.add_argument("--tolerance", type=float, default=0.02, help="what a score may differ by (%(default)s)")
    parser.add_argument("--agreement", type=float, default=0.98, help="share of tags that must be the same (%(default)s)")
    parser.add_argument("--threshold", type=float, default=0.35, help="score of what counts as a tag (%(default)s)")
    parser.add_argument("--tagmill", default="tagmill", help="the program (%(default)s)")
    arguments = parser.parse_args()
    if arguments.target.exists():
        parser.error(f"{arguments.target} is there already")
    if arguments.tensorrt and not arguments.device.startswith("tensorrt"):
        parser.error("--tensorrt is compared with --device tensorrt: nothing else computes that copy in fp16")
    with tempfile.TemporaryDirectory(dir=arguments.target.resolve().parent) as work:
        half = pathlib.Path(work) / arguments.target.name
        convert(arguments.model, half, arguments.tensorrt)
        theirs = scores(arguments.tagmill, arguments.model.resolve(), arguments.device, arguments.images)
        ours = scores(arguments.tagmill, half, arguments.device, arguments.images)
        found = agreement(ours, theirs, arguments.threshold)
        print(
            f"{len(theirs)} images: scores differ by at most {found['largest']:.4f} (mean {found['mean']:.6f});"
            f" {100 * found['tags']:.2f} % of {found['compared']} tags are the same"
        )
        if found["largest"] > arguments.tolerance or found["tags"] < arguments.agreement:
            sys.exit("that is too far: nothing is written")
        half.rename(arguments.target)
    sizes = [sum(file.stat().st_size for file in folder.glob("*.onnx*")) for folder in (arguments.model, arguments.target)]
    print(f"written: {arguments.target}, {sizes[1] / 2**20:.1f} MiB instead of {sizes[0] / 2**20:.1f}")


if __name__ == "__main__":
    main()
