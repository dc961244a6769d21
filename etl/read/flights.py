"""One flight per key: of many threads that ask the same at once, one goes and the others wait for what it brings."""

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import msgspec

from etl.errors import DatabaseError

T = TypeVar("T")


class _Flight(msgspec.Struct, Generic[T]):
    done: threading.Event = msgspec.field(default_factory=threading.Event)
    brought: list[tuple[T, float]] = msgspec.field(default_factory=list)
    error: BaseException | None = None


class Flights(Generic[T]):
    """The flights that are on their way, by key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Flight[T]] = {}

    def fetch(self, key: Hashable, go: Callable[[], tuple[T, float]], not_before: float) -> T:
        """Return what ``go`` brings, or what somebody's flight does that is on its way.

        ``go`` returns (answer, the moment from which on it held, of ``time.monotonic``); what held before ``not_before``
        is not good enough, and is asked for again.

        Raises:
            DatabaseError: the flight failed, for whoever went and for all who waited.
        """
        while True:
            with self._lock:
                flight = self._flights.get(key)
                mine = flight is None
                if flight is None:
                    flight = self._flights[key] = _Flight()
            if mine:
                return self._fly(key, flight, go)
            flight.done.wait()
            if flight.error is not None:
                raise DatabaseError(f"{flight.error}") from flight.error
            answer, held = flight.brought[0]
            if held >= not_before:
                return answer

    def _fly(self, key: Hashable, flight: _Flight[T], go: Callable[[], tuple[T, float]]) -> T:
        try:
            brought = go()
            flight.brought.append(brought)
            return brought[0]
        except BaseException as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                del self._flights[key]
            flight.done.set()
