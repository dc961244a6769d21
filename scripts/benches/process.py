"""Running contenders: processes that start together, their wall time and the peak of their memory."""

import dataclasses
import os
import subprocess
import sys
import threading
import time

from benches.common import ROOT
from etl import metrics

_SAMPLE_S = 0.1


class Failed(Exception):
    """A process ended with an error; the message is the end of what it said."""


@dataclasses.dataclass(frozen=True)
class Ran:
    """Seconds from the first start to the last end; peak of the summed PSS of all processes, in bytes."""

    seconds: float
    peak_bytes: int
    output: str


def run(commands: list[list[str]], *, good: tuple[int, ...] = (0,)) -> Ran:
    """Start the commands together, wait for all of them.

    Raises:
        Failed: one ended with a code that is not among the ``good`` ones.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    started = time.perf_counter()
    running = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment
        )
        for command in commands
    ]
    with _Sampler([process.pid for process in running]) as sampler:
        outputs = [process.communicate()[0] for process in running]
        seconds = time.perf_counter() - started
    for process, output in zip(running, outputs, strict=True):
        if process.returncode not in good:
            raise Failed(f"exit code {process.returncode}: {output.strip()[-600:]}")
    return Ran(seconds, sampler.peak, "\n".join(outputs))


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


class _Sampler(threading.Thread):
    """Adds up the memory of process trees, ten times a second."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(daemon=True)
        self._trees = [metrics.Memory(pid) for pid in pids]
        self._ended = threading.Event()
        self.peak = 0

    def __enter__(self) -> "_Sampler":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, sum(tree.used_bytes() for tree in self._trees))
            if self._ended.wait(_SAMPLE_S):
                return
