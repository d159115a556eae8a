"""A child process, and what the kernel says it used."""
import os
import pathlib
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")


def busy(cores):
    """Seconds these cores have worked so far, for whomever; a virtual machine's waiting for its host counts."""
    lines = pathlib.Path("/proc/stat").read_text().splitlines()
    fields = [line.split() for line in lines if line.startswith("cpu")]
    # User, nice, system, then idle and waiting for disks, then interrupts and what the host took.
    return sum(sum(map(int, times[:3] + times[5:8])) for name, *times in fields if name[3:] in map(str, cores)) / TICK


class Process:
    """Ended when the `with` block is left."""

    def __init__(self, command, log, environment=None, stdout=None):
        self.log = pathlib.Path(log)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as sink:
            self.child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=stdout or sink,
                stderr=sink,
                # Nothing of the caller's settings.
                env={"PATH": os.environ["PATH"], "ORT_DISABLE_TELEMETRY": "1", **(environment or {})},
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def check(self):
        if self.child.poll() is not None:
            raise SystemExit(f"{self.child.args[0]} ended with {self.child.returncode}:\n{self.log.read_text()[-3000:]}")

    def wait_for(self, what, seconds=60):
        """What `what()` gives as soon as it gives something."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := what():
                return found
            self.check()
            time.sleep(0.02)
        raise SystemExit(f"{self.child.args[0]} does not start:\n{self.log.read_text()[-3000:]}")

    def cpu(self):
        """Seconds of processor time so far, of all its threads."""
        # The name may have spaces in it; what follows it is numbers.
        fields = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def peak_memory(self):
        """The most resident memory so far, in bytes."""
        status = pathlib.Path(f"/proc/{self.child.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
