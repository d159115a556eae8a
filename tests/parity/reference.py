"""Writes reference.json beside this script: what the demo model says of the sample images when they are prepared with
Pillow, exactly as the WD taggers' own demo prepares them. The tests compare the worker's answers with it.

Needs: pip install onnxruntime==1.31.1 pillow==13.0.0 numpy==2.4.6
"""

import csv
import json
import pathlib

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

from square import square

ROOT = pathlib.Path(__file__).parents[2]
IMAGES = {".jpg", ".png", ".webp"}


def prepare(path, side):
    padded = square(ImageOps.exif_transpose(Image.open(path)), side)
    return np.asarray(padded, dtype=np.float32)[None, :, :, ::-1]


def main():
    folder = ROOT / "models" / "demo"
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    with open(folder / "selected_tags.csv", newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    reference = {}
    for path in sorted((ROOT / "samples").iterdir()):
        if path.suffix in IMAGES:
            scores = session.run(None, {entry.name: np.ascontiguousarray(prepare(path, entry.shape[1]))})[0][0]
            reference[path.name] = {name: round(float(score), 6) for name, score in zip(names, scores)}
    text = json.dumps(reference, indent=1)
    (pathlib.Path(__file__).parent / "reference.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
