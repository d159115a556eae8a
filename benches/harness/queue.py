"""Jobs in, results out, as any client of the wire contract does it."""
import asyncio
import base64
import datetime
import json

import nats
from nats.js import api

DAY = 24 * 60 * 60


class Queue:
    """The streams of one run."""

    @classmethod
    async def make(cls, url):
        """With the streams and the consumer that a worker would make, so that jobs can wait for it."""
        self = cls()
        self.client = await nats.connect(url)
        self.jetstream = self.client.jetstream()
        kinds = {
            "jobs": {"retention": api.RetentionPolicy.WORK_QUEUE, "discard": api.DiscardPolicy.NEW},
            "results": {"max_age": 7 * DAY, "duplicate_window": 120},
            "dead": {"max_age": 30 * DAY},
        }
        for kind, settings in kinds.items():
            name, subjects = f"TAGMILL_{kind.upper()}", [f"tagmill.{kind}", f"tagmill.{kind}.>"]
            await self.jetstream.add_stream(name=name, subjects=subjects, storage=api.StorageType.FILE, **settings)
        workers = api.ConsumerConfig(
            durable_name="workers", ack_policy=api.AckPolicy.EXPLICIT, ack_wait=30, max_ack_pending=20_000
        )
        await self.jetstream.add_consumer("TAGMILL_JOBS", workers)
        return self

    async def submit(self, images, count):
        """Publishes `count` jobs for these images in turn, and sees them stored."""
        for number in range(count):
            job = {"id": str(number), "image": images[number % len(images)]}
            await self.client.publish("tagmill.jobs", json.dumps(job).encode())
            if number % 1000 == 999:
                await self.client.flush()
        await self.client.flush()
        while (await self.info("JOBS"))["state"]["messages"] < count:
            await asyncio.sleep(0.05)

    async def ask(self, subject, request=None):
        answer = await self.client.request(f"$JS.API.{subject}", json.dumps(request or {}).encode(), timeout=30)
        answer = json.loads(answer.data)
        if "error" in answer:
            raise SystemExit(f"{subject}: {answer['error']}")
        return answer

    async def info(self, stream):
        return await self.ask(f"STREAM.INFO.TAGMILL_{stream}")

    async def message(self, stream, sequence):
        """When a message was stored, in seconds, and what it says."""
        message = (await self.ask(f"STREAM.MSG.GET.TAGMILL_{stream}", {"seq": sequence}))["message"]
        return seconds(message["time"]), json.loads(base64.b64decode(message["data"]))

    async def finished(self):
        """How many jobs have their result; a dead letter ends the benchmark."""
        if (await self.info("DEAD"))["state"]["messages"]:
            _, letter = await self.message("DEAD", 1)
            raise SystemExit(f"a job failed: {letter}")
        return (await self.info("RESULTS"))["state"]["messages"]

    async def close(self):
        await self.client.close()


def seconds(time):
    """A time as the server writes it, to the nanosecond, since 1970."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    return datetime.datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")
