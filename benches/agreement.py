"""How far the scores of two models, or of one on two devices, are apart."""
import json
import subprocess
import sys


def scores(tagmill, model, device, images, *options):
    """Every score of every image, by label: what `tagmill tag` reports where every label is over its threshold."""
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
            # A label without a score here has one that rounds to nothing.
            one, other = found.get(label, 0.0), expected.get(label, 0.0)
            largest, total, count = max(largest, abs(one - other)), total + abs(one - other), count + 1
            both += one > threshold and other > threshold
            either += one > threshold or other > threshold
    return {"largest": largest, "mean": total / max(count, 1), "tags": both / max(either, 1), "compared": either}
