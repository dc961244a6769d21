"""The door to the operating system's figures: how much memory this process and its workers use."""

import os
import threading
import time
from contextlib import suppress

import psutil

_INTERVAL_S = 0.2
_MOST_SHARE = 0.01
"""Of the time that may go into exact looks."""


class Memory:
    """What a process and all its children use, in bytes: the sum of their PSS, or RSS where the system has no PSS.

    PSS counts a shared page by halves in two processes, so the sum over processes is what the machine has less.

    For that the kernel walks all page tables of a process, 2 to 3 ms for each of ours, in which that cannot map memory. What
    a process has for itself is two numbers in its statm, and what grows; the rest is libraries, which hardly do. So most
    looks take the rest as the last exact one found it, and do not see children that came since. Pages that a process
    shares with one that it forked count twice until the next exact look; ours fork nothing.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._root = psutil.Process(pid)
        self._known: list[psutil.Process] = []
        self._shared = 0
        self._begun = self._next = time.monotonic()

    def used_bytes(self) -> int:
        """Return what is used now; 0 where the process is gone."""
        now = time.monotonic()
        if now < self._next:
            return sum(map(_private, self._known)) + self._shared
        total = self._exact()
        after = time.monotonic()
        # Processes that have just begun are small, and soon grow: until a second has gone, looks are frequent.
        self._next = after + min((after - now) / _MOST_SHARE, max(_INTERVAL_S, after - self._begun))
        return total

    def _exact(self) -> int:
        self._known, total, private = [], 0, 0
        with suppress(psutil.Error):
            self._known = [self._root, *self._root.children(recursive=True)]
        for process in self._known:
            with suppress(psutil.Error):
                private += _private(process)
                total += _proportional(process)
        self._shared = max(0, total - private)
        return total


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
    """Return what a process has for itself; all that it has where the system does not tell; 0 where it is gone."""
    with suppress(psutil.Error):
        info = process.memory_info()
        return int(max(0, info.rss - getattr(info, "shared", 0)))
    return 0


def _proportional(process: psutil.Process) -> int:
    info = process.memory_full_info()
    return int(getattr(info, "pss", 0) or info.rss)
