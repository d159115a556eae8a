"""The model as an ONNX Runtime session, and its labels."""
import csv
import hashlib
import pathlib

import numpy as np
import onnxruntime

RATING, GENERAL, CHARACTER = 9, 0, 4
NAMES = {GENERAL: "general", CHARACTER: "character"}
THRESHOLDS = {GENERAL: 0.35, CHARACTER: 0.85}


class Tagger:
    def __init__(self, folder, threads):
        folder = pathlib.Path(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin while they wait take the cores from those that decode.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.side = self.session.get_inputs()[0].shape[1]
        with open(folder / "model.onnx", "rb") as file:
            self.model = {"name": folder.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        with open(folder / "selected_tags.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        self.names = [row["name"] for row in rows]
        self.categories = np.array([int(row["category"]) for row in rows])
        self.ratings = np.flatnonzero(self.categories == RATING)
        # A label is a tag where its score is over this: ratings never.
        self.over = np.array([THRESHOLDS.get(category, np.inf) for category in self.categories], np.float32)

    def scores(self, rows):
        """One row of probabilities for each row of pixels."""
        pixels = np.empty((len(rows), self.side, self.side, 3), np.float32)
        for place, row in zip(pixels, rows):
            place[:] = row
        return self.session.run(None, {self.input: pixels})[0]

    def tags(self, scores):
        """What a result says of one picture."""
        over = np.flatnonzero(scores > self.over)
        over = over[np.argsort(-scores[over], kind="stable")]
        tags = [
            {"name": self.names[i], "category": NAMES[self.categories[i]], "score": round(float(scores[i]), 4)}
            for i in over
        ]
        return {
            "rating": {self.names[i]: round(float(scores[i]), 4) for i in self.ratings},
            "tags": tags,
            "text": ", ".join(tag["name"].replace("_", " ") for tag in tags),
        }
