"""Measures whole workers: NATS, storage and the contenders run here, and take turns.

`make bench` builds and makes all that this needs, and runs everything. One scenario alone, with more rounds:
`.runtime/bench-venv/bin/python benches/end_to_end.py photos-1.6mp --rounds 5`"""
import argparse
import signal
import sys

from harness import lab, report
from harness.scenarios import SCENARIOS


def main():
    # Told to stop, it ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    listed = "\n".join(f"  {name:<16}{' '.join(scenario.__doc__.split())}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n\nscenarios:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="which [default: all]")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (3)")
    parser.add_argument("--scale", type=float, default=1, help="jobs of each run, as a multiple of what is usual (1)")
    parser.add_argument("--cores", type=int, default=2, help="how many everything runs on together (2)")
    parser.add_argument("--write", action="store_true", help="write benches/RESULTS.md from the last run of each scenario")
    options = parser.parse_args()
    unknown = set(options.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    print(f"everything on {lab.use_cores(options.cores)} cores")
    for name in options.scenarios or SCENARIOS:
        scenario = SCENARIOS[name]
        print(f"{name}: {scenario.__doc__}", flush=True)
        standings, ratios = scenario(options)
        report.save(name, standings, ratios, options.scale)
        report.show(ratios)
    if options.write:
        report.write()
        print(f"wrote {report.TARGET.relative_to(lab.ROOT)}")


if __name__ == "__main__":
    main()
