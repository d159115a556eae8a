"""What the model alone costs: ONNX Runtime in a tight loop on tensors that are ready, nothing else.

Prints one JSON line: images per second, and what they took."""
import argparse
import json
import resource
import time

import numpy as np
import onnxruntime


def session(model, threads, spin):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    return onnxruntime.InferenceSession(f"{model}/model.onnx", options, ["CPUExecutionProvider"])


def measure(model, threads, spin, batch, seconds):
    running = session(model, threads, spin)
    source = running.get_inputs()[0]
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *source.shape[1:])).astype(np.float32)
    running.run(None, {source.name: pixels})
    began, used, runs = time.monotonic(), time.process_time(), 0
    # At least three, however long one takes.
    while runs < 3 or time.monotonic() - began < seconds:
        running.run(None, {source.name: pixels})
        runs += 1
    took, images = time.monotonic() - began, runs * batch
    return {
        "rate": images / took,
        "cpu": (time.process_time() - used) / images,  # seconds, of all threads
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "batch": batch,
        "spin": spin,
        "threads": threads,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the model's folder")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--spin", action="store_true")
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.model, arguments.threads, arguments.spin, arguments.batch, arguments.seconds)))
