"""A whole worker on a GPU: photos from S3, jobs and results through NATS; what it did is what its own metrics say."""
import itertools
import json
import os
import subprocess
import time
import urllib.error
import urllib.request

from harness import lab
from harness.process import Process

# Jobs that a worker is given at a time: enough for some seconds of the fastest.
PORTION = 20_000
# Seconds until a worker must be ready: TensorRT builds engines meanwhile.
PATIENCE = 1200


def run(tagmill, models, device, batch, alone, arguments, work):
    """Feeds a worker for so long; what came of it, beside the rate of the model alone."""
    environment = {name: os.environ[name] for name in ("ORT_DYLIB_PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES") if name in os.environ}
    bucket = arguments.images.name
    lab.BENCH.mkdir(parents=True, exist_ok=True)
    with lab.nats_server() as (_, url), lab.storage() as (_, s3):
        command = [tagmill, "worker", "--models", models, "--device", device, "--batch-size", batch]
        command += ["--store", f"s3://{bucket}", "--nats-url", url, "--listen", "127.0.0.1:0"]
        command += ["--engine-cache", work / "engines"]
        with Process(command, lab.LOGS / "gpu-worker.log", environment | s3 | {"HOME": str(work)}) as worker:
            address = worker.wait_for(lambda: listening(worker))
            worker.wait_for(lambda: ready(address), PATIENCE)
            jobs = Jobs(tagmill, url, s3, sorted(path.name for path in arguments.images.iterdir()))
            jobs.submit(PORTION)
            wait_for_images(worker, address, 4 * batch)
            return measured(worker, address, jobs, arguments.worker_seconds) | {"batch": batch, "alone": alone}


class Jobs:
    """Jobs for the same images again and again."""

    def __init__(self, tagmill, url, environment, images):
        self.command = [tagmill, "submit", "--nats-url", url, "-"]
        self.environment = {"PATH": os.environ["PATH"], **environment}
        self.images, self.numbers, self.submitted = itertools.cycle(images), itertools.count(), 0

    def submit(self, count):
        jobs = [json.dumps({"id": str(next(self.numbers)), "image": next(self.images)}) for _ in range(count)]
        subprocess.run([str(part) for part in self.command], input="\n".join(jobs), text=True, env=self.environment, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.submitted += count


def measured(worker, address, jobs, seconds):
    """What the worker did meanwhile, with jobs always there."""
    first, began, cpu = metrics(address), time.monotonic(), worker.cpu()
    busy, memory = [], 0
    while (took := time.monotonic() - began) < seconds:
        worker.check()
        now = metrics(address)
        busy += value(now, "tagmill_device_utilization_ratio")
        memory = max([memory, *value(now, "tagmill_device_memory_used_bytes")])
        if jobs.submitted - total(now, "tagmill_images_tagged_total") < PORTION / 2:
            jobs.submit(PORTION)
        time.sleep(0.5)
    last, took, cpu = metrics(address), time.monotonic() - began, worker.cpu() - cpu
    images = total(last, "tagmill_images_tagged_total") - total(first, "tagmill_images_tagged_total")
    if not images:
        return {"error": "no image was tagged"}
    return {
        "rate": images / took,
        "busy": sum(busy) / len(busy) if busy else None,
        "device_memory": memory,
        "cpu": cpu / images,
        "cores": cpu / took,
    }


def wait_for_images(worker, address, count):
    worker.wait_for(lambda: total(metrics(address), "tagmill_images_tagged_total") >= count, 300)


def listening(worker):
    """The address it says it serves at."""
    for line in worker.log.read_text().splitlines():
        if "serving HTTP" in line:
            return line.rsplit("address=", 1)[1].split()[0].replace("\x1b[0m", "").strip()
    return None


def ready(address):
    try:
        return urllib.request.urlopen(f"http://{address}/readyz", timeout=5).status == 200
    except (urllib.error.URLError, TimeoutError):
        return False


def metrics(address):
    return urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()


def value(text, name):
    """The values of a metric, one for each of its series."""
    lines = (line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    return [float(line.rsplit(" ", 1)[1]) for line in lines]


def total(text, name):
    return sum(value(text, name))
