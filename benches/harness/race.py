"""Contenders take turns; each is measured from its first result to its last, so that its start does not count."""
import asyncio
import contextlib
import dataclasses
import os
import statistics
import time

from . import lab
from .process import Process, busy
from .queue import Queue

# Seconds without a result after which something is wrong.
PATIENCE = 180


@dataclasses.dataclass
class Run:
    """What one run of a contender came to."""

    rate: float  # images per second
    cpu: float  # seconds of processor time per image
    servers: float  # the same, of NATS and storage
    memory: int  # the most bytes resident, of all its processes together
    others: float = 0  # the share of the cores that programs took which have no part in this
    memory_early: int = 0  # the same, when the first twentieth of the jobs was done


@dataclasses.dataclass
class Standing:
    """All runs of one contender."""

    name: str
    settings: str
    runs: list

    def rate(self):
        return statistics.median(run.rate for run in self.runs)

    def row(self):
        median = lambda field: statistics.median(getattr(run, field) for run in self.runs)
        rates = [run.rate for run in self.runs]
        return {
            "name": self.name,
            "settings": self.settings,
            "rate": median("rate"),
            "rates": rates,
            "cpu_ms": 1000 * median("cpu"),
            "servers_ms": 1000 * median("servers"),
            "others": max(run.others for run in self.runs),
            "memory_mib": max(run.memory for run in self.runs) / 2**20,
        }


def paired(ours, theirs):
    """How many times as fast the better of ours is as the better of theirs: of each round, for the machine changes, and then
    the median."""
    best = lambda standings: [max(run.rate for run in each) for each in zip(*(standing.runs for standing in standings))]
    return statistics.median(our / their for our, their in zip(best(ours), best(theirs)))


def race(entries, rounds):
    """Runs every entry in turn, `rounds` times; an entry is a contender, its images and the servers it uses besides NATS."""
    standings = {entry[0].name: Standing(entry[0].name, entry[0].settings(), []) for entry in entries}
    for number in range(rounds):
        for contender, images, servers in entries:
            run = asyncio.run(measure(contender, images, servers))
            standings[contender.name].runs.append(run)
            print(
                f"  {contender.name:<28} {run.rate:8.1f} images/s  {1000 * run.cpu:7.2f} ms CPU an image"
                f" (+{1000 * run.servers:.2f} NATS and storage)  {run.memory / 2**20:6.0f} MiB"
                f"  others took {100 * run.others:.0f} %"
                f"   [{contender.settings()}]",
                flush=True,
            )
    return list(standings.values())


async def measure(contender, images, servers):
    with lab.nats_server() as (nats, url), contextlib.ExitStack() as running:
        queue = await Queue.make(url)
        await queue.submit(images, contender.jobs)
        processes = [
            running.enter_context(
                Process(
                    [*contender.command, "--nats-url", url],
                    lab.LOGS / f"{contender.name.replace(' ', '-')}-{number}.log",
                    contender.environment,
                )
            )
            for number in range(contender.processes)
        ]
        # The start, and a batch that is not full.
        skip = max(contender.jobs // 20, 8)
        before = await used_at(queue, skip, processes, [nats, *servers])
        after = await used_at(queue, contender.jobs, processes, [nats, *servers])
        between = {what: after[what] - before[what] for what in after}
        others = between["busy"] - between["cpu"] - between["servers"] - between["own"]
        run = Run(
            rate=await rate(queue, skip, contender.jobs),
            cpu=between["cpu"] / between["results"],
            servers=between["servers"] / between["results"],
            others=max(0, others / (between["time"] * lab.cores())),
            memory=after["memory"],
            memory_early=before["memory"],
        )
        await queue.close()
        return run


async def used_at(queue, results, processes, servers):
    """Waits for so many results; what was used by then."""
    last, progress = -1, time.monotonic()
    while (count := await queue.finished()) < results:
        if count != last:
            last, progress = count, time.monotonic()
        if time.monotonic() - progress > PATIENCE:
            logs = "\n".join(process.log.read_text()[-2000:] for process in processes)
            raise SystemExit(f"no result for {PATIENCE} s, {count} of {results} done:\n{logs}")
        for process in processes:
            process.check()
        await asyncio.sleep(0.2)
    spent = lambda of: sum(process.cpu() for process in of)
    return {
        "results": count,
        "time": time.monotonic(),
        "cpu": spent(processes),
        "servers": spent(servers),
        "own": time.process_time(),
        "busy": busy(os.sched_getaffinity(0)),
        "memory": sum(process.peak_memory() for process in processes),
    }


async def rate(queue, first, last):
    """Images per second after a result, up to the last. What ran in one batch with the first came with it, in no time."""
    began, result = await queue.message("RESULTS", first)
    same_batch = began + result["seconds"]["infer"] / 2
    following = first + 1
    while (await queue.message("RESULTS", following))[0] < same_batch:
        following += 1
    ended, _ = await queue.message("RESULTS", last)
    return (last - following + 1) / (ended - began)
