"""The door to the operating system's figures: how much memory this process and its workers use."""

import os
import threading
import time
from contextlib import suppress

import psutil

_INTERVAL_S = 0.2
_EXACT_S = 1.0


class Memory:
    """What a process and all its children use, in bytes: the sum of their PSS, or RSS where the system has no PSS.

    PSS counts a shared page by halves in two processes, so the sum over processes is what the machine has less.

    For that the kernel walks all page tables of a process, some milliseconds for each of ours, in which that cannot map
    memory. So it is asked once a second; in between, what a process has got for itself is added, by two numbers that are
    ready. What it has mapped since of files, libraries and parts of a store, is seen with the next exact look, and so are
    children that came since.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._root = psutil.Process(pid)
        self._known: list[psutil.Process] = []
        self._more = 0  # than each has for itself; below 0 where a process shares what it has with one that it forked
        self._begun = self._next = time.monotonic()

    def used_bytes(self) -> int:
        """Return what is used now; 0 where the process is gone."""
        if time.monotonic() >= self._next:
            self._look()
        return max(0, sum(map(_private, self._known)) + self._more)

    def _look(self) -> None:
        """Look at all processes, and at what they have more than each for itself."""
        self._known, self._more = [], 0
        with suppress(psutil.Error):
            self._known = [self._root, *self._root.children(recursive=True)]
        for process in self._known:
            self._more += _proportional(process) - _private(process)
        now = time.monotonic()
        # Processes that have just begun map their libraries.
        self._next = now + min(_EXACT_S, max(_INTERVAL_S, now - self._begun))


class PeakMemory:
    """Watches the memory of this process and its children while the block runs.

    ``peak_bytes`` is the highest seen, ``now_bytes`` what it was at the last look, five times a second.
    """

    def __init__(self) -> None:
        self.peak_bytes = self.now_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        memory = Memory(os.getpid())
        while True:
            self.now_bytes = memory.used_bytes()
            self.peak_bytes = max(self.peak_bytes, self.now_bytes)
            if self._stop.wait(_INTERVAL_S):
                return


def _private(process: psutil.Process) -> int:
    """Return what a process has for itself; all that it has in memory where the system does not tell; 0 where it is gone."""
    with suppress(psutil.Error):
        info = process.memory_info()
        return int(info.rss - getattr(info, "shared", 0))
    return 0


def _proportional(process: psutil.Process) -> int:
    """Return the PSS of a process; what it has in memory where the system does not tell, or not to us; 0 where it is gone."""
    with suppress(psutil.Error):
        info = process.memory_full_info()
        return int(getattr(info, "pss", 0) or info.rss)
    with suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0
