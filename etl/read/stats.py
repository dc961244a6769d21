"""Counters and times of both tiers and of the database, per kind of question.

Times are kept in buckets of a quarter octave, so that a percentile is right to within a fifth, and two processes can be
added up.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

# Four for each of the 63 bits of a time in nanoseconds.
_BUCKETS = 256


class Meter:
    """Hits with their times, misses and errors of one tier and kind.

    Counting takes no lock of its own: the local tier counts under its lock, the others in ``Meters.count``.
    """

    __slots__ = ("buckets", "errors", "hits", "misses", "total_ns")

    def __init__(self) -> None:
        self.hits = self.misses = self.errors = self.total_ns = 0
        self.buckets = [0] * _BUCKETS

    def hit(self, nanoseconds: int) -> None:
        """Count an answer that took so long."""
        self.hits += 1
        self.total_ns += nanoseconds
        exponent = nanoseconds.bit_length()
        self.buckets[((exponent << 2) | ((nanoseconds >> (exponent - 3)) & 3)) if exponent > 2 else 0] += 1


class Figures(msgspec.Struct):
    """What was counted of one tier and kind, in a form that can be sent and added up."""

    hits: int = 0
    misses: int = 0
    errors: int = 0
    total_ns: int = 0
    buckets: dict[int, int] = msgspec.field(default_factory=dict)

    def add(self, other: "Figures") -> None:
        """Add another process's figures."""
        self.hits += other.hits
        self.misses += other.misses
        self.errors += other.errors
        self.total_ns += other.total_ns
        self.buckets = dict(Counter(self.buckets) + Counter(other.buckets))

    def percentile_us(self, share: float) -> float | None:
        """Return the time within which that share of the hits was answered, in microseconds, to within a fifth."""
        wanted, seen = share * sum(self.buckets.values()), 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                exponent, quarter = bucket >> 2, bucket & 3
                return (5 + quarter) * 2.0 ** (exponent - 3) / 1000
        return None

    def told(self) -> dict[str, Any]:
        """Return the figures for people: counts, hit rate, mean and 99th percentile in microseconds."""
        asked = self.hits + self.misses
        return {
            "hits": self.hits,
            "misses": self.misses,
            "errors": self.errors,
            "hit_rate": round(self.hits / asked, 4) if asked else None,
            "mean_us": round(self.total_ns / self.hits / 1000, 2) if self.hits else None,
            "p99_us": self.percentile_us(0.99),
        }


class Meters:
    """The meters of one tier, by kind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._meters: dict[str, Meter] = {}

    def __call__(self, kind: str) -> Meter:
        """Return the meter of a kind, a new one where there was none."""
        found = self._meters.get(kind)
        return found if found is not None else self._meters.setdefault(kind, Meter())

    def count(self, kind: str, nanoseconds: int, *, hits: int = 0, misses: int = 0, errors: int = 0) -> None:
        """Count what one step to a tier brought; the time is that of the step."""
        with self._lock:
            meter = self(kind)
            meter.misses += misses
            meter.errors += errors
            for _ in range(hits):
                meter.hit(nanoseconds)

    def figures(self) -> dict[str, Figures]:
        """Return what was counted so far."""
        return {
            kind: Figures(
                hits=meter.hits,
                misses=meter.misses,
                errors=meter.errors,
                total_ns=meter.total_ns,
                buckets={number: count for number, count in enumerate(meter.buckets) if count},
            )
            for kind, meter in list(self._meters.items())
        }


class Process(msgspec.Struct):
    """What one process tells of itself in Redis."""

    host: str
    pid: int
    at: float
    generation: int
    local: dict[str, int]
    tiers: dict[str, dict[str, Figures]]
    events: dict[str, int]


def processes(told: Iterable[bytes]) -> Iterator[Process]:
    """Yield what processes have left in Redis; what cannot be read is left out: an older version, or nothing of ours."""
    for text in told:
        with contextlib.suppress(msgspec.MsgspecError):
            yield msgspec.json.decode(text, type=Process)


def sum_up(processes: Iterable[Process]) -> dict[str, Any]:
    """Return the figures of several processes in one, per tier and kind and per tier in all."""
    tiers: dict[str, dict[str, Figures]] = {}
    events: Counter[str] = Counter()
    local: Counter[str] = Counter()
    listed = list(processes)
    for process in listed:
        events.update(process.events)
        local.update(process.local)
        for tier, kinds in process.tiers.items():
            for kind, figures in kinds.items():
                for name in (kind, "all"):
                    tiers.setdefault(tier, {}).setdefault(name, Figures()).add(figures)
    return {
        "processes": len(listed),
        "generations": sorted({process.generation for process in listed}),
        "tiers": _told(tiers),
        "events": dict(sorted(events.items())),
        "local": dict(local),
    }


def _told(tiers: Mapping[str, Mapping[str, Figures]]) -> dict[str, dict[str, Any]]:
    return {tier: {kind: figures.told() for kind, figures in sorted(kinds.items())} for tier, kinds in tiers.items()}
