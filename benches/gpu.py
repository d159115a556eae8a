#!/usr/bin/env python3
"""What a GPU does: whether it gives the CPU's tags, how fast it is by precision and batch, and whether a worker feeds it.

For a bare machine: needs Python with numpy and onnx, what `scripts/bench-gpu.sh prepare` leaves in target and .runtime, and by
ORT_DYLIB_PATH ONNX Runtime. Where torch is installed it is measured on the same card, as the peer. Writes its section of benches/RESULTS.md, and the same as a file
(--section). With --device cpu it does all the same on the CPU, to see that it works, and leaves RESULTS.md as it is."""
import argparse
import datetime
import functools
import importlib.util
import json
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benches")]

import agreement  # noqa: E402
import gpu_worker  # noqa: E402
import make_models  # noqa: E402
import sections  # noqa: E402

TAGMILL = os.environ.get("TAGMILL", str(ROOT / "target/release/tagmill"))


def variants(device, model, work, only):
    """What is measured, of such a name: the name, the folder of the model, the device."""
    fp32, fp16 = work / model, work / f"{model}-fp16"
    if device == "cpu":
        found = [("cpu, fp32", fp32, "cpu"), ("cpu, fp16", fp16, "cpu")]
    else:
        number = device.partition(":")[2] or "0"
        # What is missing fails with the reason where it is asked for.
        providers = {"CUDA": "cuda"} | ({"TensorRT": "tensorrt"} if has_tensorrt() or "TensorRT" in only else {})
        found = [
            (f"{shown}, {precision}", model, f"{provider}:{number}")
            for shown, provider in providers.items()
            for precision, model in (("fp32", fp32), ("fp16", fp16))
        ]
    return [one for one in found if only in one[0]] or sys.exit(f"nothing that is measured has {only!r} in its name")


def has_tensorrt():
    """As scripts/bench-gpu.sh looks for it."""
    return importlib.util.find_spec("tensorrt_libs") is not None


def models(arguments, work):
    """The model as PyTorch exports it, and what `tagmill models optimize` makes of it, each alone in a folder of models."""
    model = arguments.model
    if not (work / model / "model.onnx").exists():
        make_models.make(work / model, make_models.MODELS[model])
    if not (work / f"{model}-fp16").exists():
        # On the device itself: what it refuses is not measured, and the reason stands in the section.
        command = [TAGMILL, "models", "optimize", model, "--models", work, "--images", arguments.images, "--device", arguments.device]
        subprocess.run(list(map(str, command)), check=False)


def alone(model, work):
    """A folder that holds this model alone, as --models wants it."""
    folder = work / "alone" / model.name
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / model.name).symlink_to(model.resolve())
    return folder


def bench(model, device, sizes, seconds, images, work):
    """What `tagmill bench` measures, and how long the model took to load, building included."""
    command = [TAGMILL, "bench", "--json", "--models", alone(model, work), "--device", device]
    command += ["--batch-sizes", ",".join(map(str, sizes)), "--time", f"{seconds}s"]
    # How long a model took to load is said at this level.
    environment = os.environ | {"RUST_LOG": "info"}
    done = subprocess.run([*map(str, command), str(images)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    log = done.stderr
    if done.returncode:
        said = [line for line in log.splitlines() if line.startswith(("tagmill: ", "error: "))]
        return {"error": said[-1] if said else f"exit code {done.returncode}"}
    return json.loads(done.stdout) | {"loading": loading_seconds(log)}


def loading_seconds(log):
    """As the log says of the first load; None on the CPU."""
    for line in log.splitlines():
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
        found = re.search(r"the device has the model.*\bseconds=([0-9.]+)", plain)
        if found:
            return float(found[1])
    return None


def correctness(reference, others, images, work):
    """How far each variant's scores are from the CPU's, fp32."""
    expected = agreement.scores(TAGMILL, reference, "cpu", [images], "--batch-size", "4")
    rows = {}
    for name, model, device in others:
        rows[name] = or_error(lambda: agreement.agreement(agreement.scores(TAGMILL, model, device, [images]), expected, 0.35))
    return rows


def or_error(measure):
    """What came of it, or why nothing did: one failure does not cost what others have measured."""
    try:
        return measure()
    except (SystemExit, OSError, subprocess.CalledProcessError) as failed:
        return {"error": (str(failed).strip() or repr(failed)).splitlines()[0]}


def or_nothing(measure):
    """Lines that were measured; none where that failed, which is shown as it happens."""
    try:
        return measure()
    except (OSError, subprocess.CalledProcessError, ValueError) as failed:
        print(f"  {failed}", flush=True)
        return []


@functools.cache
def machine(device):
    """Where this ran; asked once, for the section itself makes a checkout dirty."""
    processor = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    gpu = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(gpu, stdout=subprocess.PIPE, text=True).stdout.strip().replace("\n", "; ")
    except FileNotFoundError:
        gpu = "no nvidia-smi"
    library = re.search(r"\d+\.\d+\.\d+$", os.environ.get("ORT_DYLIB_PATH", ""))
    return (
        f"{datetime.date.today().isoformat()}, commit {commit()}; {gpu if device != 'cpu' else 'no GPU: a trial on the CPU'};"
        f" {len(os.sched_getaffinity(0))} cores of {processor[1] if processor else platform.machine()};"
        f" ONNX Runtime {library[0] if library else 'unknown'}"
    )


def commit():
    named = os.environ.get("COMMIT")
    if named:
        return named
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def peer(arguments, work):
    """What torch does on the same card: lines of benches/gpu_peer.py; nothing where it is not installed."""
    if arguments.device == "cpu" or importlib.util.find_spec("torch") is None:
        return []
    sizes = ",".join(str(size) for size in arguments.batch_sizes if size >= 32)
    command = [sys.executable, ROOT / "benches/gpu_peer.py", work / arguments.model, arguments.model, "--batch-sizes", sizes]
    done = subprocess.run([*map(str, command), "--seconds", str(arguments.seconds)], stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def peer_row(lines, sizes):
    rates = {line["batch"]: line["rate"] for line in lines if "rate" in line}
    return " | ".join([f"{rates[size]:.1f}" if size in rates else "" for size in sizes] + ["", ""])


def written(arguments, agreed, benched, fed, peers=()):
    """The section."""
    sizes = arguments.batch_sizes
    absent = "" if arguments.device == "cpu" or has_tensorrt() else " TensorRT's wheel was not there."
    lines = [
        f"## {arguments.name}\n",
        f"A model of {arguments.model}'s size ({make_models.MODELS[arguments.model]}), by device, precision and batch. The rate"
        " of the model alone is of the turns that share a session, rows ready in memory. The worker reads the pictures of"
        f" {arguments.images.name} from S3 and jobs from NATS on the same machine. Each figure is of one run:"
        f" {arguments.seconds:g} s a batch size, {arguments.worker_seconds:g} s a worker.{absent}\n",
        f"{machine(arguments.device)}\n",
        "Against the CPU's scores in fp32, on the same images:\n",
        "| | largest difference of a score | mean | tags that are the same |",
        "|---|---|---|---|",
    ]
    for name, row in agreed.items():
        if "error" in row:
            lines.append(f"| {name} | {row['error']} | | |")
        else:
            lines.append(f"| {name} | {row['largest']:.4f} | {row['mean']:.6f} | {100 * row['tags']:.2f} % of {row['compared']} |")
    lines += [
        "\nThe model alone, images per second by batch size:\n",
        "| | " + " | ".join(map(str, sizes)) + " | the most device memory, MiB | loaded in, s |",
        "|---" * (len(sizes) + 3) + "|",
    ]
    for name, report in benched.items():
        lines.append(f"| {name} | {bench_row(report, sizes)} |")
    if peers:
        lines.append(f"| torch {peers[0]['torch']}, fp16, compiled | {peer_row(peers, sizes)} |")
    lines += [
        "\nA whole worker:\n",
        "| | batch | images/s | : the model alone | GPU busy | device memory, MiB | CPU ms an image | cores used | cores to feed the model alone |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {name} | {worker_row(run)} |" for name, run in fed.items()]
    lines.append(f"\n`scripts/bench-gpu.sh run {shlex.join(sys.argv[1:])}`\n")
    return "\n".join(lines)


def bench_row(report, sizes):
    if "error" in report:
        return " | ".join([report["error"], *[""] * (len(sizes) + 1)])
    rates = {each["batch"]: each["rate"] for each in chosen(report)}
    memory = max((each["device_memory"] or 0 for each in report["session"]), default=0)
    shown = [f"{rates[size]:.1f}" if rates.get(size) else "does not fit" for size in sizes]
    loading = f"{report['loading']:.1f}" if report["loading"] else ""
    return " | ".join([*shown, f"{memory / 2**20:.0f}" if memory else "", loading])


def chosen(report):
    """The runs of the model alone in as many sessions as are recommended."""
    return [each for each in report["session"] if each["sessions"] == report["advice"]["sessions"]]


def worker_row(run):
    if "error" in run:
        return " | ".join([run["error"], *[""] * 7])
    busy = f"{100 * run['busy']:.0f} %" if run["busy"] is not None else ""
    memory = f"{run['device_memory'] / 2**20:.0f}" if run["device_memory"] else ""
    return (
        f"{run['batch']} | {run['rate']:.1f} | {run['rate'] / run['alone']:.2f} | {busy} | {memory}"
        f" | {1000 * run['cpu']:.2f} | {run['cores']:.1f} | {run['cpu'] * run['alone']:.1f}"
    )


def fastest(report):
    """The smallest batch that is as good as the best one, and its rate."""
    return report["advice"]["batch_size"], next(
        each["rate"] for each in chosen(report) if each["batch"] == report["advice"]["batch_size"]
    )


def largest(report):
    """The largest batch that fits, and its rate."""
    return max((each["batch"], each["rate"]) for each in report["session"] if each["rate"])


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a trial (%(default)s)")
    parser.add_argument("--model", default="vit-b", help="its size, of benches/make_models.py (%(default)s)")
    parser.add_argument("--batch-sizes", type=lambda text: [int(size) for size in text.split(",")], default=[1, 8, 32, 64, 128, 256])
    parser.add_argument("--only", default="", help="only those of such a name, as 'TensorRT' or 'fp16': the section has no others then")
    parser.add_argument("--seconds", type=float, default=2, help="for each batch size (%(default)s)")
    parser.add_argument("--worker-seconds", type=float, default=20, help="for each worker (%(default)s)")
    parser.add_argument("--images", type=pathlib.Path, default=ROOT / "target/bench/images/photos-1.6mp")
    parser.add_argument("--name", default="gpu", help="the section's (%(default)s)")
    parser.add_argument("--section", type=pathlib.Path, help="where to write the section besides")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for the models and engines, kept for the next time")
    return parser.parse_args()


def main():
    arguments = parsed()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.keep or pathlib.Path(temporary)
        those = variants(arguments.device, arguments.model, work, arguments.only)
        work.mkdir(parents=True, exist_ok=True)
        print(f"making {arguments.model}", flush=True)
        models(arguments, work)
        # Engines are built once: for the largest batch, whichever command is the first to need them.
        os.environ |= {"TAGMILL_ENGINE_CACHE": str(work / "engines"), "TAGMILL_BATCH_SIZE": str(max(arguments.batch_sizes))}
        measure(arguments, those, work)


def measure(arguments, those, work):
    """All of it; the section is written after each part."""
    agreed, benched, fed, peers = {}, {}, {}, []
    for name, model, device in those:
        print(f"{name}: the model alone", flush=True)
        benched[name] = or_error(lambda: bench(model, device, arguments.batch_sizes, arguments.seconds, arguments.images, work))
        print(f"  {bench_row(benched[name], arguments.batch_sizes)}", flush=True)
        keep(arguments, agreed, benched, fed)
    peers += or_nothing(lambda: peer(arguments, work))
    print("against the CPU", flush=True)
    agreed = or_error(lambda: correctness(work / arguments.model, those, arguments.images, work))
    if "error" in agreed:
        agreed = {"all": agreed}
    keep(arguments, agreed, benched, fed, peers)
    for name, model, device in those:
        if "error" not in benched[name]:
            print(f"{name}: a whole worker", flush=True)
            # TensorRT's engines are built for the largest batch.
            batch, rate = fastest(benched[name]) if "tensorrt" not in device else largest(benched[name])
            fed[name] = or_error(lambda: gpu_worker.run(TAGMILL, alone(model, work), device, batch, rate, arguments, work))
            print(f"  {worker_row(fed[name])}", flush=True)
            keep(arguments, agreed, benched, fed, peers)
    print(written(arguments, agreed, benched, fed, peers))


def keep(arguments, agreed, benched, fed, peers=()):
    """Writes what is known so far."""
    section = written(arguments, agreed, benched, fed, peers)
    if arguments.section:
        arguments.section.parent.mkdir(parents=True, exist_ok=True)
        arguments.section.write_text(section)
    # A trial is no result.
    if arguments.device != "cpu":
        results = ROOT / "benches/RESULTS.md"
        results.write_text(sections.put(results.read_text(), arguments.name, section))


if __name__ == "__main__":
    main()
