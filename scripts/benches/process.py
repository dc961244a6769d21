"""Running contenders: processes that start together, their wall time and the peak of their memory."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from benches.common import ROOT

_SAMPLE_S = 0.05
_MOST_SHARE = 0.05  # of the time may go into looking: who has big processes would be slowed down by it


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
    """Adds up the proportional set size of process trees (RSS where the system has no PSS).

    Twenty times a second, unless that takes too long: the kernel walks the page tables of each process.
    """

    def __init__(self, pids: list[int]) -> None:
        super().__init__(daemon=True)
        self._pids = pids
        self._ended = threading.Event()
        self.peak = 0

    def __enter__(self) -> "_Sampler":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.is_set():
            begun = time.perf_counter()
            self.peak = max(self.peak, sum(map(_tree_bytes, self._pids)))
            self._ended.wait(max(_SAMPLE_S, (time.perf_counter() - begun) / _MOST_SHARE))


def _tree_bytes(pid: int) -> int:
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error, OSError):
                total += _bytes(member)
    return total


def _bytes(process: psutil.Process) -> int:
    """One line of the kernel's own sum: psutil's would read every mapping, a hundred times slower."""
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except FileNotFoundError:
        return process.memory_info().rss
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
