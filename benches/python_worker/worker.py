"""What tagmill is compared with: the worker a competent Python programmer writes for the same jobs from the usual
libraries. Jobs are pulled ahead from JetStream, threads fetch and decode them (boto3 and Pillow let go of the interpreter
lock while they work), a thread of its own runs the model, one batch assembled while the last one runs; a job is
acknowledged after its result was confirmed. More than one process of it share the queue.

It leaves out what does not show in a benchmark: progress acknowledgements, waiting out a store that is down, metrics."""
import argparse
import asyncio
import base64
import concurrent.futures
import json
import os
import socket
import time

import boto3
import botocore.config
import nats

from pictures import row
from tagger import Tagger


class Worker:
    def __init__(self, arguments, jetstream, created):
        self.arguments, self.jetstream, self.created = arguments, jetstream, created
        self.tagger = Tagger(arguments.model, arguments.infer_threads)
        # Clients are safe to share between threads, and keep their connections.
        config = botocore.config.Config(max_pool_connections=arguments.threads, s3={"addressing_style": "path"})
        self.s3 = boto3.client("s3", config=config)
        self.loaders = concurrent.futures.ThreadPoolExecutor(arguments.threads)
        self.model = concurrent.futures.ThreadPoolExecutor(1)
        # Enough for one batch that runs, one that is ready and one that is loaded.
        self.room = asyncio.Semaphore(arguments.batch_size * arguments.batches_in_flight)
        self.ready = asyncio.Queue()
        self.tasks = set()
        self.name = f"{socket.gethostname()}-{os.getpid()}"

    def spawn(self, coroutine):
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)  # Else it might be collected while it runs.
        task.add_done_callback(self.tasks.discard)

    async def pull(self, subscription):
        """Takes as many jobs as there is room for."""
        while True:
            await self.room.acquire()
            count = 1
            while count < self.arguments.batch_size and not self.room.locked():
                await self.room.acquire()
                count += 1
            try:
                messages = await subscription.fetch(count, timeout=5)
            except nats.errors.TimeoutError:
                messages = []
            for _ in range(count - len(messages)):
                self.room.release()
            for message in messages:
                self.spawn(self.load(message))

    async def load(self, message):
        try:
            job = json.loads(message.data)
            loop = asyncio.get_running_loop()
            pixels, seconds = await loop.run_in_executor(self.loaders, self.pixels, job["image"])
        except Exception as error:
            await self.reject(message, error)
        else:
            await self.ready.put((message, job, pixels, seconds, time.monotonic()))

    def pixels(self, image):
        """In a thread: the image from its bucket, decoded and made to fit."""
        began = time.monotonic()
        bucket, key = image.removeprefix("s3://").split("/", 1)
        data = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        fetched = time.monotonic()
        pixels = row(data, self.tagger.side, self.arguments.draft)
        return pixels, {"fetch": fetched - began, "decode": time.monotonic() - fetched}

    async def batch(self):
        """Runs batches as they are full, or as their first image has waited long enough; answers while the next runs."""
        while True:
            items = [await self.ready.get()]
            deadline = items[0][-1] + self.arguments.window
            while len(items) < self.arguments.batch_size:
                try:
                    timeout = max(0, deadline - time.monotonic())
                    items.append(await asyncio.wait_for(self.ready.get(), timeout))
                except TimeoutError:
                    break
            began = time.monotonic()
            loop = asyncio.get_running_loop()
            scores = await loop.run_in_executor(self.model, self.tagger.scores, [item[2] for item in items])
            infer = time.monotonic() - began
            for (message, job, _, seconds, waited), score in zip(items, scores):
                seconds |= {"wait": began - waited, "infer": infer}
                self.spawn(self.answer(message, job, score, len(items), seconds))

    async def answer(self, message, job, scores, batch, seconds):
        metadata = message.metadata
        seconds["queue"] = max(0, time.time() - metadata.timestamp.timestamp() - sum(seconds.values()))
        result = {
            "id": job.get("id", f"TAGMILL_JOBS-{metadata.sequence.stream}"),
            "image": job["image"],
            "model": self.tagger.model,
            **self.tagger.tags(scores),
            "meta": job.get("meta"),
            "worker": self.name,
            "attempt": metadata.num_delivered,
            "batch": batch,
            "seconds": {stage: round(took, 6) for stage, took in seconds.items()},
        }
        await self.publish(message, "results", result)
        await message.ack()
        self.room.release()

    async def reject(self, message, error):
        try:
            job = {"job": json.loads(message.data)}
        except ValueError:
            job = {"job": {"base64": base64.b64encode(message.data).decode()}}
        letter = {"subject": message.subject, **job, "error": {"code": "image_undecodable", "message": str(error)}}
        await self.publish(message, "dead", letter)
        await message.term()
        self.room.release()

    async def publish(self, message, kind, answer):
        subject = message.subject.replace("tagmill.jobs", f"tagmill.{kind}", 1)
        sequence = message.metadata.sequence.stream
        headers = {"Nats-Msg-Id": f"TAGMILL_JOBS-{self.created}-{sequence}"}
        # Returns once the stream has it.
        await self.jetstream.publish(subject, json.dumps(answer).encode(), headers=headers)


async def main(arguments):
    client = await nats.connect(arguments.nats_url)
    jetstream = client.jetstream()
    stream = await jetstream.stream_info("TAGMILL_JOBS")
    worker = Worker(arguments, jetstream, int(stream.created.timestamp()))
    subscription = await jetstream.pull_subscribe_bind("workers", "TAGMILL_JOBS")
    await asyncio.gather(worker.pull(subscription), worker.batch())


if __name__ == "__main__":
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--nats-url", required=True)
    parser.add_argument("--model", required=True, help="the model's folder")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches-in-flight", type=int, default=3, help="pulled and not yet answered")
    parser.add_argument("--window", type=float, default=0.025, help="seconds an image waits for its batch to fill")
    parser.add_argument("--threads", type=int, default=2 * cores, help="that fetch and decode")
    parser.add_argument("--infer-threads", type=int, default=cores)
    parser.add_argument("--draft", action="store_true", help="decode JPEGs no larger than needed")
    asyncio.run(main(parser.parse_args()))
