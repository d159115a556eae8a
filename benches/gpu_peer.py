#!/usr/bin/env python3
"""The peer on the same card: a ViT of benches/make_models.py in torch, with its weights, in half precision with torch's own
attention, compiled. Prints a line of JSON with the rate for each batch, and how far its scores are from single precision.

For machines with torch; a process of its own, for it takes what memory it likes."""
import argparse
import json
import pathlib
import time

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

import make_models


class Vit(torch.nn.Module):
    """Weights come in the order in which they were made."""

    def __init__(self, model, shape, kind):
        super().__init__()
        self.shape, self.kind = shape, kind
        weights = (torch.from_numpy(numpy_helper.to_array(each).copy()).to("cuda", kind) for each in model.graph.initializer)
        pair = lambda: (next(weights), next(weights))  # noqa: E731
        turned = lambda: ((linear := pair())[0].t().contiguous(), linear[1])  # noqa: E731
        self.patches, self.places = pair(), next(weights)
        self.blocks = [(pair(), turned(), turned(), pair(), turned(), turned()) for _ in range(shape.depth)]
        self.norm, self.head = pair(), pair()

    def forward(self, rows):
        shape = self.shape
        norm = lambda x, weights: functional.layer_norm(x, (shape.width,), *weights, 1e-6)  # noqa: E731
        x = rows.permute(0, 3, 1, 2).to(self.kind) / 127.5 - 1.0
        x = functional.conv2d(x, *self.patches, stride=shape.patch).flatten(2).transpose(1, 2) + self.places
        for before, packed, out, after, wide, narrow in self.blocks:
            y = functional.linear(norm(x, before), *packed).unflatten(2, (3, shape.heads, -1))
            y = functional.scaled_dot_product_attention(*y.permute(2, 0, 3, 1, 4).unbind(0))
            x = x + functional.linear(y.transpose(1, 2).flatten(2), *out)
            y = functional.gelu(functional.linear(norm(x, after), *wide), approximate="tanh")
            x = x + functional.linear(y, *narrow)
        return torch.sigmoid(functional.linear(norm(x, self.norm).mean(1), *self.head).float())


def rate(run, rows, seconds):
    for _ in range(3):
        run(rows)
    torch.cuda.synchronize()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(4):
            run(rows)
        torch.cuda.synchronize()
        count += 4 * len(rows)
    return count / (time.perf_counter() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path, help="the model's folder")
    parser.add_argument("name", help="of benches/make_models.py")
    parser.add_argument("--batch-sizes", type=lambda text: [int(size) for size in text.split(",")], default=[32, 128])
    parser.add_argument("--seconds", type=float, default=2)
    arguments = parser.parse_args()
    model, shape = onnx.load(arguments.model / "model.onnx"), make_models.MODELS[arguments.name]
    rows = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (8, shape.side, shape.side, 3), np.uint8)).cuda()
    with torch.inference_mode():
        exact, half = Vit(model, shape, torch.float32), Vit(model, shape, torch.float16)
        apart = float((exact(rows) - half(rows)).abs().max())
        print(json.dumps({"torch": torch.__version__, "largest": apart}), flush=True)
        compiled = torch.compile(half, mode="max-autotune-no-cudagraphs", dynamic=False)
        for size in arguments.batch_sizes:
            batch = rows.repeat((size + 7) // 8, 1, 1, 1)[:size].contiguous()
            print(json.dumps({"batch": size, "rate": rate(compiled, batch, arguments.seconds)}), flush=True)


if __name__ == "__main__":
    main()
