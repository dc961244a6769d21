"""Where the time of a run went: laps of one clock, so that the parts add up to the whole because nothing is between them.

A run's timings are one flat mapping of seconds, as ``--json`` prints and the import log keeps it: phases by their names,
which add up to the wall time; ``worker_…`` what all workers did in the phase "load", which adds up to its seconds times
the tasks that they do at once; ``publish_…`` steps of the phase "publish".
"""

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

PHASES = (
    "imports", "split", "start", "plan", "check", "register", "load", "check again", "finish", "publish",
    "index later", "compare", "question", "stage", "apply", "database away", "end",
)  # fmt: skip
"""Phases of loads and updates in their order, which the import log does not keep. "start" is all before the work: the
manifest, the connection, its lock, what would be in the way; "end" what comes after it: the log, the end of the workers."""

LOAD = "load"
"""The phase that the workers' parts belong to."""

WORKER_PARTS = ("start", "connect", "read", "transform", "encode", "send", "server_wait", "index", "idle")
"""What a worker's time goes to: until its first leaf is there; opening and closing its connection; reading record batches;
making rows of them; rows into COPY's format; writing that to the socket, while the server takes it; waiting for answers
(the end of a COPY, commit, other statements); CHECKs, indexes, ANALYZE; and no leaf, or one that failed."""

_OF_WORKERS, _OF_PUBLISH = "worker_", "publish_"

Span = tuple[float, float]


class Clock:
    """Seconds by kind of work; the kinds add up to the time between the clock's making and its last lap."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.began = self._last = time.perf_counter()

    def lap(self, kind: str) -> Span:
        """Give the time since the last lap to a kind of work; return its begin and end."""
        span = self._last, time.perf_counter()
        self._last = span[1]
        self.seconds[kind] = self.seconds.get(kind, 0.0) + span[1] - span[0]
        return span

    @property
    def total(self) -> float:
        """Return the seconds from the beginning to the last lap."""
        return self._last - self.began


@dataclass(frozen=True, slots=True, kw_only=True)
class Stint:
    """One task of a worker: which process and thread did it, since when (``time.perf_counter``, one for all processes)."""

    worker: tuple[int, int] = field(default_factory=lambda: (os.getpid(), threading.get_ident()))
    began: float
    seconds: Mapping[str, float]


def stint(clock: Clock) -> Stint:
    """Return what this thread has done since the clock was made."""
    return Stint(began=clock.began, seconds=dict(clock.seconds))


def of_workers(stints: Sequence[Stint], spans: Iterable[Span], tasks: int) -> dict[str, float]:
    """Return the seconds of all workers by ``WORKER_PARTS``; they add up to the ``spans`` times the ``tasks`` done at once.

    ``spans`` are the times that the phase lasted, more than one where the database went away meanwhile; each stint lies
    within one of them. What is before a worker's first stint of a span is its start, what is between and after them is
    idle, and so is all time of one that did nothing. A worker that does several tasks at once counts as so many.
    """
    parts = dict.fromkeys(WORKER_PARTS, 0.0)
    for began, ended in spans:
        mine = [stint for stint in stints if began <= stint.began < ended]
        first: dict[tuple[int, int], float] = {}
        for stint in mine:
            first[stint.worker] = min(stint.began, first.get(stint.worker, ended))
            for kind, seconds in stint.seconds.items():
                parts[kind] += seconds
        earliest = sorted(first.values())[:tasks]  # later ones took the place of a worker that died
        starts = sum(start - began for start in earliest)
        busy = sum(sum(stint.seconds.values()) for stint in mine)
        parts["start"] += starts
        parts["idle"] += tasks * (ended - began) - starts - busy
    return parts


def named(workers: Mapping[str, float], publish: Mapping[str, float]) -> dict[str, float]:
    """Return parts of phases under the names that they have among a run's timings."""
    found = {f"{_OF_WORKERS}{kind}": seconds for kind, seconds in workers.items()}
    return {f"{_OF_PUBLISH}{step}": seconds for step, seconds in publish.items()} | found


def phases(timings: Mapping[str, float]) -> dict[str, float]:
    """Return the phases alone, in their order."""
    found = [name for name in timings if not name.startswith((_OF_WORKERS, _OF_PUBLISH))]
    return {
        name: timings[name] for name in sorted(found, key=lambda n: PHASES.index(n) if n in PHASES else len(PHASES))
    }


def workers(timings: Mapping[str, float]) -> dict[str, float]:
    """Return the workers' parts of the phase "load" by ``WORKER_PARTS``; nothing where no leaf was to be loaded."""
    names = {part: f"{_OF_WORKERS}{part}" for part in WORKER_PARTS}
    return {part: timings[name] for part, name in names.items() if name in timings}
