"""Requests that somebody waits for, beside a backlog that nobody does."""
import asyncio
import contextlib
import json
import statistics
import time

from . import lab
from .process import Process
from .queue import Queue


async def measure(contender, images, seconds):
    """Half the time the backlog alone, half with one request after another; a figure of each kind."""
    with lab.nats_server() as (_, url), contextlib.ExitStack() as running:
        queue = await Queue.make(url)
        await queue.submit(images, contender.jobs)
        command = [*contender.command, "--nats-url", url]
        worker = running.enter_context(Process(command, lab.LOGS / "live.log", contender.environment))
        while await queue.finished() < 32:
            worker.check()
            await asyncio.sleep(0.2)
        alone, _ = await rate(queue, seconds / 2, asyncio.sleep(seconds / 2))
        batch = await batch_time(queue)
        asking = ask(queue.client, images, seconds / 2)
        beside, latencies = await rate(queue, seconds / 2, asking)
        if await queue.finished() >= contender.jobs:
            raise SystemExit("the backlog was done before the requests were: raise its jobs")
        await queue.close()
    return {
        "alone": alone,
        "beside": beside,
        "requests": len(latencies) / (seconds / 2),
        "latency": statistics.median(latencies),
        "batch": batch,
    }


async def batch_time(queue):
    """How long a batch of the backlog runs, in the median over some of the results after the first."""
    first, last = 33, await queue.finished()
    if last < first + 32:
        raise SystemExit("too few results to say how long a batch takes: raise --scale")
    some = range(first, last + 1, max(1, (last - first) // 64))
    return statistics.median([(await queue.message("RESULTS", number))[1]["seconds"]["infer"] for number in some])


async def rate(queue, seconds, work):
    """Results a second while something is done, and what that gives."""
    before, began = await queue.finished(), time.monotonic()
    done = await work
    return (await queue.finished() - before) / (time.monotonic() - began), done


async def ask(client, images, seconds):
    """How long each of the requests takes; they are made at moments that have nothing to do with batches."""
    latencies, ended, pause = [], time.monotonic() + seconds, 0.37
    while time.monotonic() < ended:
        began = time.monotonic()
        job = {"image": images[len(latencies) % len(images)]}
        answer = json.loads((await client.request("tagmill.tag", json.dumps(job).encode(), timeout=60)).data)
        if "error" in answer:
            raise SystemExit(f"a request failed: {answer}")
        latencies.append(time.monotonic() - began)
        await asyncio.sleep(pause * (1 + len(latencies) % 7) / 4)
    return latencies
