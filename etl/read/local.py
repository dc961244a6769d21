"""The first tier: the answers that this process had last, in a bounded number of bytes.

An own LRU: cachetools' TLRUCache takes several times as long for a hit (``scripts/bench.py read`` measures both), and
whether an entry still holds would have to be told from outside.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

import msgspec

from etl.read.stats import Meter

Key = tuple[str, int | str]


class Entry(msgspec.Struct, frozen=True):
    """An answer with the generation it is filed under; ``value`` is None where ``negative``: there is no such thing."""

    token: int
    negative: bool
    value: object
    size: int
    expires: float


class LocalTier:
    """Answers by key, the least used thrown out first; all methods are safe to call from any thread."""

    def __init__(self, budget_bytes: int, meters: Callable[[str], Meter]) -> None:
        self._budget, self._meters = budget_bytes, meters
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = 0
        self._evicted = 0
        self._drops = 0

    def get(self, key: Key, token: int, generation: int, began_ns: int) -> Entry | None:
        """Return the answer that is filed under ``token``, or, if it says that there is none, under ``generation``.

        ``began_ns`` (of ``time.perf_counter_ns``) is when the question came, for the statistics.
        """
        with self._lock:
            entry = self._entries.get(key)
            meter = self._meters(key[0])
            if (
                entry is None
                or entry.token != (generation if entry.negative else token)
                or entry.expires < time.monotonic()
            ):
                meter.misses += 1
                return None
            self._entries.move_to_end(key)
            meter.hit(time.perf_counter_ns() - began_ns)
            return entry

    def drops(self) -> int:
        """Return a number that grows with every ``drop``: what was read before one must not be filed after it."""
        return self._drops

    def put(self, key: Key, entry: Entry, drops: int) -> None:
        """File an answer that was asked for when ``drops()`` was that; one that is too big is left out."""
        with self._lock:
            if drops != self._drops or entry.size > self._budget // 4:
                return
            before = self._entries.pop(key, None)
            if before is not None:
                if before.token > entry.token:  # somebody slower comes with something older
                    self._entries[key] = before
                    return
                self._bytes -= before.size
            self._entries[key] = entry
            self._bytes += entry.size
            while self._bytes > self._budget:
                self._bytes -= self._entries.popitem(last=False)[1].size
                self._evicted += 1

    def drop(self, keys: Iterable[Key] | None, kinds: Iterable[str] = ()) -> None:
        """Forget these keys and everything of these kinds; None: all."""
        with self._lock:
            self._drops += 1
            if keys is None:
                self._entries.clear()
                self._bytes = 0
                return
            unwanted = set(kinds)
            for key in [*keys, *(key for key in self._entries if key[0] in unwanted)]:
                entry = self._entries.pop(key, None)
                if entry is not None:
                    self._bytes -= entry.size

    def size(self) -> dict[str, int]:
        """Return entries, bytes (as estimated), the budget, and how many were thrown out for room."""
        return {
            "entries": len(self._entries),
            "bytes": self._bytes,
            "budget_bytes": self._budget,
            "evicted": self._evicted,
        }
