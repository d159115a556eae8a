"""What is measured, and the goals. A new scenario is a function in `SCENARIOS` that gives its standings and its ratios."""
import asyncio
import json
import statistics
import subprocess

from . import contender, lab
from .live import measure as measure_live
from .race import Run, Standing, paired, race

BUCKETS = {"1.6": "photos-1.6mp", "11": "photos-11mp"}


def ratio(what, value, at_least=None, at_most=None):
    """A figure that follows from the standings, and what it should be."""
    if at_least is None and at_most is None:
        return {"what": what, "value": value, "goal": "", "met": None}
    goal = f"at least {at_least:g}" if at_least is not None else f"at most {at_most:g}"
    met = value >= at_least if at_least is not None else value <= at_most
    return {"what": what, "value": value, "goal": goal, "met": met}


def bucket(name):
    """The store of pictures of this name, and the jobs' images."""
    return f"s3://{name}", [f"s3://{name}/{picture}" for picture in lab.pictures(name)]


def jobs(options, count):
    return max(64, int(count * options.scale) // 8 * 8)


def photos(size, counts, goal):
    """With a small model and photos from S3: a worker against the comparison worker in Python."""

    def scenario(options):
        store, images = bucket(BUCKETS[size])
        with lab.storage() as (server, environment):
            theirs = lambda *arguments: contender.python("vit-nano", environment, *arguments, jobs=jobs(options, counts[1]))
            ours = lambda *arguments, **how: contender.tagmill(
                "vit-nano", store, environment, *arguments, **how, jobs=jobs(options, counts[0])
            )
            # What `tagmill bench` recommends for this model.
            advised = ["--window", "2ms", "--device", ",".join(["cpu"] * lab.cores()), "--infer-threads", 1]
            contenders = [
                *(ours(), ours(*advised, batch=1, name="tagmill, a session a core")),
                *(theirs(1), theirs(2), theirs(1, "--draft"), theirs(2, "--draft")),
            ]
            standings = race([(each, images, [server]) for each in contenders], options.rounds)
        us, exact, draft = standings[:2], standings[2:4], standings[4:]
        return standings, [
            ratio("tagmill : Python, each as suits it better", paired(us, exact), at_least=goal),
            ratio("tagmill as it is started : Python, the better", paired(us[:1], exact)),
            ratio("tagmill : Python decoding at a reduced scale (draft), each as suits it better", paired(us, draft)),
        ]

    scenario.__doc__ = f"{photos.__doc__} JPEGs of {size} megapixels, model vit-nano."
    return scenario


def infer(model, count, batches, goal):
    """A model that takes nearly all the time: a worker against ONNX Runtime alone on tensors that are ready."""

    def scenario(options):
        store, images = bucket(BUCKETS["1.6"])
        with lab.storage() as (server, environment), lab.nats_server():
            cores = lab.cores()
            # One session with all threads, waiting or spinning for work, or one for each core.
            ways = [(1, cores, False), (1, cores, True), (cores, 1, False)]
            swept = [raw(model, batch, *way, options) for batch in batches for way in ways]
            best = max(swept, key=lambda run: run["rate"])
            alone = Standing("ONNX Runtime alone", described(best), [])
            # In as many sessions, and with the same batches.
            split = ["--device", ",".join(["cpu"] * best["sessions"]), "--infer-threads", best["threads"]]
            ours = contender.tagmill(model, store, environment, *split, batch=best["batch"], jobs=jobs(options, count))
            rounds = []
            for _ in range(options.rounds):
                rounds += race([(ours, images, [server])], 1)
                # Measured again each time: the machine is not the same from minute to minute.
                again = raw(model, best["batch"], best["sessions"], best["threads"], best["spin"], options)
                alone.runs.append(Run(again["rate"], again["cpu"], servers=0, memory=again["memory"]))
        standing = Standing(ours.name, ours.settings(), [run for each in rounds for run in each.runs])
        what = "tagmill : ONNX Runtime alone at its best batch size"
        return [standing, alone], [ratio(what, paired([standing], [alone]), at_least=goal)]

    scenario.__doc__ = f"{infer.__doc__} JPEGs of 1.6 megapixels from S3, model {model}."
    return scenario


def raw(model, batch, sessions, threads, spin, options):
    _, folder = lab.model(model)
    command = [lab.PYTHON, lab.ROOT / "benches/raw_session.py", folder, "--sessions", sessions, "--threads", threads, "--batch", batch]
    command += ["--seconds", 10 * options.scale, *(["--spin"] if spin else [])]
    answer = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=True)
    run = json.loads(answer.stdout)
    print(f"  {'ONNX Runtime alone':<28} {run['rate']:8.3f} images/s   [{described(run)}]", flush=True)
    return run


def described(run):
    spinning = "spinning" if run["spin"] else "not spinning"
    return f"batches of {run['batch']}, sessions: {run['sessions']}, threads of each: {run['threads']}, {spinning}"


def latency(options):
    """Storage that is 100 ms away against storage that is near. JPEGs of 1.6 megapixels, model vit-nano."""
    store, images = bucket(BUCKETS["1.6"])
    count = jobs(options, 1200)
    with lab.storage() as (near, environment), lab.storage("100ms") as (far, distant):
        entries = [
            (contender.tagmill("vit-nano", store, environment, name="tagmill, near", jobs=count), images, [near]),
            (contender.tagmill("vit-nano", store, distant, name="tagmill, 100 ms away", jobs=count), images, [far]),
        ]
        standings = race(entries, options.rounds)
    near, far = standings
    return standings, [ratio("100 ms away : near", paired([far], [near]), at_least=0.95)]


def thumbs(options, count, rounds, *arguments):
    """The standings of workers on pictures of 64x64 from a folder, one for each of these lists of arguments."""
    store, count = (lab.IMAGES / "thumbs").as_uri(), jobs(options, count)
    ours = [
        contender.tagmill("feather", store, {}, *each, name=" ".join(["tagmill", *map(str, each)]), jobs=count)
        for each in arguments
    ]
    return race([(each, lab.pictures("thumbs"), []) for each in ours], rounds)


def small(options):
    """Many small jobs: pictures of 64x64 from a folder and a model that costs next to nothing, one process."""
    standings = thumbs(options, 60_000, options.rounds, [], ["--infer-threads", 1])
    rate = max(standing.rate() for standing in standings)
    return standings, [ratio("jobs per second, as suits it better", rate, at_least=3000)]


def live(model, seconds):
    """Requests over NATS, one after another, beside a backlog of 10,000 jobs."""

    def scenario(options):
        store, images = bucket(BUCKETS["1.6"])
        with lab.storage() as (_, environment):
            ours = contender.tagmill(model, store, environment, jobs=10_000)
            figures = [asyncio.run(measure_live(ours, images, seconds * options.scale)) for _ in range(options.rounds)]
        median = lambda what: statistics.median(what(each) for each in figures)
        return [], [
            ratio("a request's median latency : the time of a batch of the backlog", median(lambda each: each["latency"] / each["batch"]), at_most=2.5),
            ratio("jobs and requests a second : jobs alone", median(lambda each: (each["beside"] + each["requests"]) / each["alone"]), at_least=0.95),
            ratio("median latency of a request, in seconds", median(lambda each: each["latency"])),
            ratio("time of a batch of the backlog, in seconds", median(lambda each: each["batch"])),
        ]

    scenario.__doc__ = f"{live.__doc__} JPEGs of 1.6 megapixels, model {model}."
    return scenario


BUDGET = 256  # MiB


def memory_queue(options):
    """Memory with 100,000 jobs queued: pictures of 64x64 from a folder, a memory budget of 256 MiB."""
    standings = thumbs(options, 100_000, 1, ["--memory-budget", f"{BUDGET}MiB"])
    return standings, memory("feather", standings)


def memory_photos(options):
    """Memory over 20,000 copies of a photo of 11 megapixels, model vit-nano, a memory budget of 256 MiB."""
    store, images = bucket(BUCKETS["11"])
    with lab.storage() as (server, environment):
        settings = ["--memory-budget", f"{BUDGET}MiB"]
        ours = contender.tagmill("vit-nano", store, environment, *settings, jobs=jobs(options, 20_000))
        standings = race([(ours, images[:1], [server])], 1)
    return standings, memory("vit-nano", standings)


def memory(model, standings):
    """What is resident besides the model and the budget, and what comes to it as jobs go by."""
    weights = (lab.model(model)[1] / "model.onnx").stat().st_size / 2**20
    run = standings[0].runs[0]
    over = run.memory / 2**20 - weights - BUDGET
    growth = (run.memory - run.memory_early) / 2**20
    return [
        ratio(f"MiB resident at most, over the model's {weights:.0f} and the budget's {BUDGET}", over, at_most=100),
        ratio("MiB that the most resident grew after the first twentieth of the jobs", growth, at_most=50),
    ]


SCENARIOS = {
    "infer-vit-b": infer("vit-b", 64, [1, 2], goal=0.97),
    "infer-vit-tiny": infer("vit-tiny", 240, [1, 2, 4, 8], goal=0.92),
    "photos-1.6mp": photos("1.6", (1200, 480), goal=3),
    "photos-11mp": photos("11", (400, 120), goal=6),
    "latency": latency,
    "small": small,
    "live-vit-nano": live("vit-nano", 30),
    "live-vit-tiny": live("vit-tiny", 120),
    "memory-queue": memory_queue,
    "memory-photos": memory_photos,
}
