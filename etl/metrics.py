"""The door to the operating system's figures: how much memory this process and its workers use."""

import threading
from contextlib import suppress

import psutil

_INTERVAL_S = 0.5


def proportional_bytes() -> int:
    """Return the memory of this process and all its children (PSS where the system tells, else RSS), in bytes.

    PSS counts a shared page by halves in two processes, so the sum over processes is what the machine has less.
    """
    me = psutil.Process()
    total = 0
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):
            info = process.memory_full_info()
            total += getattr(info, "pss", 0) or info.rss
    return total


class PeakMemory:
    """Watches the memory of this process and its children while the block runs.

    ``peak_bytes`` is the highest seen, ``now_bytes`` what it was at the last look, twice a second.
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
        while True:
            self.now_bytes = proportional_bytes()
            self.peak_bytes = max(self.peak_bytes, self.now_bytes)
            if self._stop.wait(_INTERVAL_S):
                return
