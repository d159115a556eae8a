"""What the model alone costs: ONNX Runtime in a tight loop on tensors that are ready, in one session or in several beside
each other, nothing else.

Prints one JSON line: images per second, and what they took."""
import argparse
import concurrent.futures
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


def loop(running, pixels, until, least):
    """Runs until then, and so often at least, however long one takes; how often."""
    name, runs = running.get_inputs()[0].name, 0
    while runs < least or time.monotonic() < until:
        running.run(None, {name: pixels})
        runs += 1
    return runs


def measure(model, sessions, threads, spin, batch, seconds):
    running = [session(model, threads, spin) for _ in range(sessions)]
    shape = running[0].get_inputs()[0].shape[1:]
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *shape)).astype(np.float32)
    with concurrent.futures.ThreadPoolExecutor(sessions) as pool:
        # The first runs pay for what the runtime allocates.
        list(pool.map(lambda each: loop(each, pixels, 0, 1), running))
        began, used = time.monotonic(), time.process_time()
        runs = sum(pool.map(lambda each: loop(each, pixels, began + seconds, 3), running))
    took, images = time.monotonic() - began, runs * batch
    return {
        "rate": images / took,
        "cpu": (time.process_time() - used) / images,  # seconds, of all threads
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "batch": batch,
        "spin": spin,
        "sessions": sessions,
        "threads": threads,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the model's folder")
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--threads", type=int, required=True, help="of each session")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--spin", action="store_true")
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    how = (arguments.sessions, arguments.threads, arguments.spin, arguments.batch)
    print(json.dumps(measure(arguments.model, *how, arguments.seconds)))
