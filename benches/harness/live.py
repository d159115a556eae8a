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
        asking = ask(queue.client, images, seconds / 2)
        beside, answers = await rate(queue, seconds / 2, asking)
        if await queue.finished() >= contender.jobs:
            raise SystemExit("the backlog was done before the requests were: raise its jobs")
        await queue.close()
    latencies, batches = zip(*answers)
    return {
        "alone": alone,
        "beside": beside,
        "requests": len(answers) / (seconds / 2),
        "latency": statistics.median(latencies),
        "batch": statistics.median(batches),
    }


async def rate(queue, seconds, work):
    """Results a second while something is done, and what that gives."""
    before, began = await queue.finished(), time.monotonic()
    done = await work
    return (await queue.finished() - before) / (time.monotonic() - began), done


async def ask(client, images, seconds):
    """How long each of the requests takes, and how long its batch ran; at moments that have nothing to do with batches."""
    answers, ended, pause = [], time.monotonic() + seconds, 0.37
    while time.monotonic() < ended:
        began = time.monotonic()
        job = {"image": images[len(answers) % len(images)]}
        answer = json.loads((await client.request("tagmill.tag", json.dumps(job).encode(), timeout=60)).data)
        if "error" in answer:
            raise SystemExit(f"a request failed: {answer}")
        answers.append((time.monotonic() - began, answer["seconds"]["infer"]))
        await asyncio.sleep(pause * (1 + len(answers) % 7) / 4)
    return answers
