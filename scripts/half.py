#!/usr/bin/env python3
"""Makes a model of half precision, and keeps it only if it gives the same tags.

The copy takes and gives what the original does and computes in fp16 between. Both tag the images, as `tagmill tag` does it;
where they differ by more than the tolerance, nothing is written and the exit code is 1. On the CPU this tells what rounding
the weights does; on the device that the model is for (--device cuda) it tells all.

Needs onnx, onnxconverter-common and, through ORT_DYLIB_PATH, ONNX Runtime."""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

# Operators whose sums lose what fp16 can't hold.
KEPT = ["LayerNormalization", "ReduceMean", "Softmax"]
LABELS = ("*.csv", "*.json", "*.txt")


def convert(source, target):
    """The model in `source`, in half precision, in the new folder `target`."""
    import onnx
    from onnxconverter_common import float16

    graph, = [file for file in source.glob("*.onnx") if file.name == "model.onnx" or len(list(source.glob("*.onnx"))) == 1]
    model = onnx.load(graph)
    # The converter calls what it adds after the nodes, and nodes without a name are all called alike.
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
    blocked = float16.DEFAULT_OP_BLOCK_LIST + KEPT
    half = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked)
    target.mkdir(parents=True)
    onnx.save(half, target / graph.name)
    for pattern in LABELS:
        for file in source.glob(pattern):
            shutil.copy(file, target)
    manifest = source / "tagmill.toml"
    text = manifest.read_text() if manifest.exists() else ""
    # Before the first table.
    (target / "tagmill.toml").write_text('precision = "fp16"\n' + text)


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
    parser.add_argument("--device", default="auto", help="what to compare on, as tagmill's --device")
    parser.add_argument("--tolerance", type=float, default=0.02, help="what a score may differ by (%(default)s)")
    parser.add_argument("--agreement", type=float, default=0.98, help="share of tags that must be the same (%(default)s)")
    parser.add_argument("--threshold", type=float, default=0.35, help="score of what counts as a tag (%(default)s)")
    parser.add_argument("--tagmill", default="tagmill", help="the program (%(default)s)")
    arguments = parser.parse_args()
    if arguments.target.exists():
        parser.error(f"{arguments.target} is there already")
    with tempfile.TemporaryDirectory(dir=arguments.target.resolve().parent) as work:
        half = pathlib.Path(work) / arguments.target.name
        convert(arguments.model, half)
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
