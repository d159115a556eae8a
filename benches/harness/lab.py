"""Where programs, models and pictures are; starts NATS and storage."""
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from .process import Process

ROOT = pathlib.Path(__file__).parents[2]
BENCH = ROOT / "target/bench"
MODELS = BENCH / "models"
IMAGES = BENCH / "images"
LOGS = BENCH / "logs"
PYTHON = sys.executable

# Names for an S3 server that only this benchmark reaches.
KEYS = {"AWS_ACCESS_KEY_ID": "tagmill-bench", "AWS_SECRET_ACCESS_KEY": "tagmill-bench-secret"}


def program(name):
    path = ROOT / "target/release" / name
    if not path.exists():
        raise SystemExit(f"{path} is missing: `make bench` builds it")
    return path


def runtime(pattern):
    found = sorted((ROOT / ".runtime").glob(pattern))
    if not found:
        raise SystemExit(f".runtime/{pattern} is missing: `make bench` installs it")
    return found[-1]


def model(name):
    """The folder to give to `--models`, and the model's own."""
    return MODELS / name, MODELS / name / name


def pictures(folder):
    return sorted(path.name for path in (IMAGES / folder).iterdir())


def use_cores(count):
    """Everything runs on so many cores, this process and its children, and is told so when it asks."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    return cores()


def cores():
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def nats_server():
    """A NATS server with an empty store: its process and address."""
    binary = runtime("nats-server-*")
    with tempfile.TemporaryDirectory(dir=BENCH) as folder:
        command = [binary, "--jetstream", "--addr", "127.0.0.1", "--port", "-1", "--store_dir", folder]
        with Process([*command, "--ports_file_dir", folder], LOGS / "nats.log") as process:
            ports = pathlib.Path(folder) / f"{binary.name}_{process.child.pid}.ports"
            process.wait_for(lambda: ports.exists() and ports.read_text())
            yield process, json.loads(ports.read_text())["nats"][0]


@contextlib.contextmanager
def storage(delay="0s"):
    """An S3 server with the pictures, each folder a bucket: its process and what clients need of it."""
    command = [program("examples/s3-server"), IMAGES, "--delay", delay]
    with Process(command, LOGS / f"storage-{delay}.log", KEYS, stdout=subprocess.PIPE) as process:
        address = process.child.stdout.readline().decode().strip()
        if not address:
            process.child.wait()
            process.check()
        client = {"AWS_ENDPOINT_URL": f"http://{address}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        yield process, KEYS | client | {"AWS_DEFAULT_REGION": "us-east-1"}
