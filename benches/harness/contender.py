"""What is measured, with the settings it is measured with."""
import dataclasses

from . import lab


@dataclasses.dataclass
class Contender:
    """A program that works on the queue."""

    name: str
    # The settings, as a user would write them.
    arguments: list
    command: list
    environment: dict
    processes: int = 1
    # Jobs of a run: enough for a quarter of a minute.
    jobs: int = 1000

    def settings(self):
        return " ".join(map(str, self.arguments)) or "defaults"


def tagmill(model, store, environment, *arguments, name="tagmill", batch=8, jobs):
    models, _ = lab.model(model)
    command = [lab.program("tagmill"), "worker", "--store", store, "--models", models, "--listen", "127.0.0.1:0"]
    environment = environment | {"ORT_DYLIB_PATH": str(lab.runtime("libonnxruntime.so.*"))}
    arguments = ["--batch-size", batch, *arguments]
    return Contender(name, arguments, [*command, *arguments], environment, jobs=jobs)


def python(model, environment, processes, *arguments, jobs):
    _, folder = lab.model(model)
    command = [lab.PYTHON, lab.ROOT / "benches/python_worker/worker.py", "--model", folder]
    # The cores shared out among the processes.
    cores = max(1, lab.cores() // processes)
    arguments = ["--batch-size", 8, "--threads", 2 * cores, "--infer-threads", cores, *arguments]
    draft = ", draft" if "--draft" in arguments else ""
    name = f"Python, {processes} process{'es' if processes > 1 else ''}{draft}"
    return Contender(name, arguments, [*command, *arguments], environment, processes, jobs)
