"""Patience with a database that goes away: what may succeed in a moment is done again, with growing pauses.

``plan = wanted - receipts`` makes this safe. A step that failed is not gone on with where it broke: the caller comes
back (a new connection, the lock, the receipts) and does what is still wanted.
"""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg

from etl import db
from etl.errors import EtlError, Interrupted, Transient

T = TypeVar("T")

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_STOP_CHECK_S = 0.1
# The server's memory ran out: lessons say once.
_ONCE = frozenset({"53200"})


class Patience:
    """How long one keeps trying: ``timeout_s`` from the first failure after the last progress."""

    def __init__(self, timeout_s: float, stop: Callable[[], bool] = lambda: False) -> None:
        self._timeout_s, self._stop = timeout_s, stop
        self._since: float | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._seen: set[str] = set()
        self.waits = 0

    def progress(self) -> None:
        """Note that something was achieved: the next failure begins a new trouble."""
        self._since, self._pause_s = None, _FIRST_PAUSE_S
        self._seen.clear()

    def bear(self, error: Exception) -> None:
        """Wait for a moment, longer each time; raise the error if it is of no use, or was borne for too long.

        Raises:
            Interrupted: the user does not want to wait.
        """
        now = time.monotonic()
        self._since = self._since or now
        left = self._since + self._timeout_s - now
        if not is_transient(error) or self._is_twice(error) or left <= 0:
            raise error
        pause_s = min(self._pause_s * random.uniform(0.5, 1.0), left)
        facts = {"action": "retry", "pause_s": round(pause_s, 3), "left_s": round(left, 1)}
        _log.warning("%s; trying again in %.1f s", _sentence(error), pause_s, extra=facts)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self.waits += 1
        end = now + pause_s
        while (now := time.monotonic()) < end:
            if self._stop():
                raise Interrupted("stopped; what is finished is kept", "the same command goes on from here") from error
            time.sleep(min(_STOP_CHECK_S, end - now))

    def _is_twice(self, error: Exception) -> bool:
        state = getattr(error, "sqlstate", None) or ""
        twice = state in _ONCE and state in self._seen
        self._seen.add(state)
        return twice


def is_transient(error: BaseException) -> bool:
    """Whether the same thing may succeed in a moment."""
    return isinstance(error, Transient) or (isinstance(error, psycopg.Error) and db.is_transient(error))


def persist(step: Callable[[], T], come_back: Callable[[], object], patience: Patience) -> T:
    """Return what ``step`` returns; after a transient failure call ``come_back`` and do the step again.

    Both must be repeatable. ``come_back`` calls ``patience.progress`` where it finds that something was achieved.

    Raises:
        Exception: the first failure that is not transient, or the last one when patience is over.
    """
    while True:
        try:
            return step()
        except (EtlError, psycopg.Error) as error:
            failure: Exception = error
        while True:
            patience.bear(failure)
            try:
                come_back()
                break
            except (EtlError, psycopg.Error) as error:
                failure = error


def _sentence(error: Exception) -> str:
    text = error.message if isinstance(error, EtlError) else str(error) or type(error).__name__
    return " ".join(text.split())[:300]
