"""benches/RESULTS.md, from what the scenarios wrote down when they last ran."""
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess

import sections

from . import lab
from .scenarios import SCENARIOS

RESULTS = lab.BENCH / "results"
TARGET = lab.ROOT / "benches/RESULTS.md"

HEAD = """# Benchmark results

Written by `make bench`; `benches/end_to_end.py --help` says how to run one scenario. Everything of a scenario (NATS, storage,
the worker) runs on the same cores. Rates are from the first result to the last, with the jobs queued before the worker
starts; contenders take turns, and figures are the median of their runs, ratios of the rounds'. CPU is processor time per
image: of the worker, and of NATS and storage beside it. Others: the most that programs which have no part in this took of
the cores; where that is more than a few hundredths, the machine was not quiet.

The comparison in Python is `benches/python_worker`: nats-py, boto3, Pillow with threads, onnxruntime. Its `draft` variant
decodes JPEGs at a reduced scale, so its pixels are not the WD taggers' own any more; goals are set against the exact one.
"""


def save(name, standings, ratios, scale):
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = [standing.row() for standing in standings]
    result = {"where": where(), "scale": scale, "rows": rows, "ratios": ratios}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1))


def where():
    """The machine, the day and what was measured."""
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=lab.ROOT, capture_output=True, text=True)
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": lab.cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "onnxruntime": version("libonnxruntime.so.*"),
        "nats_server": version("nats-server-*"),
    }


def version(pattern):
    return re.search(r"\d+\.\d+\.\d+$", lab.runtime(pattern).name)[0]


def show(ratios):
    for each in ratios:
        verdict = {None: "", True: "  met", False: "  MISSED"}[each["met"]]
        goal = f" (goal: {each['goal']})" if each["goal"] else ""
        print(f"  => {each['what']}: {figure(each['value'])}{goal}{verdict}", flush=True)


def figure(value):
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 50 else f"{value:.3g}"


def write():
    parts = [HEAD]
    for name, scenario in SCENARIOS.items():
        file = RESULTS / f"{name}.json"
        if file.exists():
            parts.append(section(name, scenario.__doc__, json.loads(file.read_text())))
    pure = RESULTS / "pure.txt"
    if pure.exists():
        day = datetime.date.fromtimestamp(pure.stat().st_mtime)
        parts.append(f"## pure\n\nThe parts without network (`benches/pure.rs`), one thread, {day}:\n\n```text\n{pure.read_text().strip()}\n```\n")
    # Measured elsewhere, by benches/gpu.py.
    kept = sections.find(TARGET.read_text(), "gpu") if TARGET.exists() else ""
    TARGET.write_text("\n".join([*parts, *filter(None, [kept])]))


def section(name, what, result):
    where = result["where"]
    scale = "" if result["scale"] == 1 else f"; {result['scale']:g} times the usual number of jobs"
    lines = [
        f"## {name}\n",
        f"{what}\n",
        f"{where['date']}, commit {where['commit']}; {where['cores']} cores of {where['processor']},"
        f" {where['memory_gib']} GiB, {where['system']}; ONNX Runtime {where['onnxruntime']}, nats-server"
        f" {where['nats_server']}{scale}\n",
        "| | images/s | runs | CPU ms | NATS, storage ms | peak MiB | others | settings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        runs = ", ".join(figure(rate) for rate in row["rates"])
        lines.append(
            f"| {row['name']} | {figure(row['rate'])} | {runs} | {figure(row['cpu_ms'])} | {figure(row['servers_ms'])}"
            f" | {row['memory_mib']:.0f} | {row['others']:.2f} | `{row['settings']}` |"
        )
    lines += ["", "| | figure | goal |", "|---|---|---|"]
    for each in result["ratios"]:
        verdict = {None: "", True: ": met", False: ": **missed**"}[each["met"]]
        lines.append(f"| {each['what']} | {figure(each['value'])} | {each['goal']}{verdict} |")
    return "\n".join([*lines, ""])
