"""Reading what was loaded, for applications: look-ups through two caches that are never stale.

    >>> from etl.read import PowerReader
    >>> reader = PowerReader("postgresql://app@db.example/game", "redis://cache.example:6379/0")
    >>> power = reader.power_by_name("Blaster_Ranged.Fire_Blast.Fire_Blast")
    >>> power.damage_scale, power.effect_groups[0]["type"]
    >>> [line.display_name for line in reader.build_summary("blaster", max_level=10)]

One reader serves all threads of a process, and goes on in each process that a web server forks. It opens its connections
when it is first asked. Answers come from this process's memory, else from Redis, else from PostgreSQL, and hold what was
published at most ``max_staleness_s`` before the call. Redis may be missing or fail in any way; answers stay right then,
and cost more.
"""

import bisect
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from etl import dsn as dsns
from etl.config import MIB, check_live_schema
from etl.errors import UsageError
from etl.read import questions, stats, warming
from etl.read.engine import Engine, Options
from etl.read.pool import PoolOptions
from etl.read.questions import Question
from etl.read.results import Generation, Power, PowerSummary

__all__ = ["Generation", "PoolOptions", "Power", "PowerReader", "PowerSummary"]

_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


class PowerReader:
    """Look-ups of powers, powersets and build summaries; every method may be called from any thread.

    Methods raise ``etl.EtlError``: SchemaError where nothing is published, DatabaseError where the database cannot tell
    what is published now. Failures of Redis are never raised.
    """

    def __init__(
        self,
        dsn: str | None = None,
        redis_url: str | None = None,
        *,
        schema: str = "game",
        namespace: str = "etl",
        max_staleness_s: float = 1.0,
        local_bytes: int = 64 * MIB,
        ttl_s: Mapping[str, float] | None = None,
        pool: PoolOptions | None = None,
        redis_timeout_s: float = 0.1,
        redis_most_bytes: int = 8 * MIB,
    ) -> None:
        """Settle what to read and how; nothing is opened yet.

        ``dsn`` is the database: DATABASE_URL, PG* or the embedded server where it is None. ``redis_url`` is Redis:
        REDIS_URL where it is None, no Redis where it is empty or neither is given; ``rediss://`` is TLS. ``namespace``
        begins every key. ``max_staleness_s`` 0 asks the database with each call. ``local_bytes`` bounds the answers in
        this process's memory, ``redis_most_bytes`` each value in Redis; ``ttl_s`` changes times to live
        (``questions.TTL_S``). ``redis_timeout_s`` is the longest that Redis can delay a call.

        Raises:
            UsageError: a setting cannot be used.
        """
        check_live_schema(schema)
        if max_staleness_s < 0 or local_bytes < 0 or redis_timeout_s <= 0:
            raise UsageError("max_staleness_s and local_bytes are not below 0, redis_timeout_s is above")
        redis_url = (os.environ.get("REDIS_URL") if redis_url is None else redis_url) or None
        if redis_url is not None and not redis_url.startswith(_REDIS_SCHEMES):
            raise UsageError("REDIS_URL cannot be understood", "write it like redis://[:password@]host:6379/0")
        self._given = dsn
        self._settings: dict[str, Any] = {
            "schema": schema,
            "redis_url": redis_url,
            "namespace": namespace,
            "max_staleness_s": max_staleness_s,
            "local_bytes": local_bytes,
            "redis_timeout_s": redis_timeout_s,
            "redis_most_bytes": redis_most_bytes,
            "ttl_s": questions.times_to_live(ttl_s),
            "pool": pool or PoolOptions(),
        }
        self._engine: Engine | None = None
        self._left_to_parent: list[Engine | None] = []
        self._is_closed = False
        self._lock = threading.Lock()
        _leave_to_parent_at_fork(self)

    def power(self, id: int) -> Power | None:
        """Return the power of an id; None if there is none.

        >>> reader.power(4711)
        """
        began_ns = time.perf_counter_ns()
        engine = self._engine or self._start()
        state = engine.generations.current()
        token = state.powers.get(id, state.floor)
        entry = engine.local.get(("power", id), token, state.generation, began_ns)
        if entry is None:
            return engine.answer(questions.power(id), state, began_ns)  # type: ignore[return-value]  # a power
        return entry.value  # type: ignore[return-value]  # a power

    def power_by_name(self, internal_name: str) -> Power | None:
        """Return the power of a full name, in any spelling of case; None if there is none.

        >>> reader.power_by_name("blaster_ranged.fire_blast.fire_blast")
        """
        engine = self._engine or self._start()
        number = engine.names.get(internal_name)
        if number is None:
            number = engine.power_id(internal_name)
        return None if number is None else self.power(number)

    def powers_by_id(self, ids: Iterable[int]) -> dict[int, Power]:
        """Return those of the powers that there are, by id, in the order asked: one round trip per tier.

        >>> reader.powers_by_id([4711, 4712, 99999999]).keys()
        """
        numbers = list(ids)
        engine = self._engine or self._start()
        found = engine.powers(numbers, engine.generations.current())
        return {number: found[number] for number in numbers if number in found}

    def powers(self, powerset: int | str, max_level: int | None = None) -> tuple[Power, ...] | None:
        """Return the powers of a powerset by level, up to a level; None if there is no such powerset.

        ``powerset`` is an id, a full name (Category.Set), or an own or display name that only one set has.

        >>> reader.powers("Blaster_Ranged.Fire_Blast", max_level=10)

        Raises:
            UsageError: several powersets have that name.
        """
        number = self._powerset_id(powerset)
        found: tuple[Power, ...] | None = None if number is None else self._ask(questions.powerset(number))
        return found if found is None or max_level is None else found[: _up_to(found, max_level)]

    def build_summary(
        self, archetype: str | int | None = None, powerset: int | str | None = None, max_level: int | None = None
    ) -> tuple[PowerSummary, ...]:
        """Return lines of the build summary by level: of an archetype, of a powerset, up to a level; maybe none.

        ``archetype`` is its key ("blaster") or id, ``powerset`` as for ``powers``.

        >>> reader.build_summary("blaster", max_level=20)
        """
        if powerset is None:
            key = archetype.lower() if isinstance(archetype, str) else archetype
            lines: tuple[PowerSummary, ...] = self._ask(questions.summaries(key, max_level))
            return lines
        number = self._powerset_id(powerset)
        lines = () if number is None else self._ask(questions.summary(number))
        if max_level is not None:
            lines = lines[: _up_to(lines, max_level)]
        if isinstance(archetype, str):
            return tuple(line for line in lines if line.archetype_name == archetype.lower())
        return lines if archetype is None else tuple(line for line in lines if line.archetype_id == archetype)

    def search(self, text: str, archetype: str | None = None, limit: int = 20) -> tuple[PowerSummary, ...]:
        """Return powers whose display name holds a text, in any case: equal ones first, then those that begin so.

        >>> [line.display_name for line in reader.search("fire bl")]
        """
        text = " ".join(text.split())
        if not text or "\0" in text or limit < 1:
            return ()
        lines: tuple[PowerSummary, ...] = self._ask(questions.search(text, archetype and archetype.lower(), limit))
        return lines

    def with_effect(
        self, attribute: str, archetype: str | None = None, max_level: int | None = None, limit: int | None = 1000
    ) -> tuple[PowerSummary, ...]:
        """Return powers that have an effect, by level: of a type ("Damage") or on an attribute ("Fire_Dmg").

        The words are those of the source, in its spelling. ``limit`` None: all of them.

        >>> reader.with_effect("Hold", archetype="controller", max_level=20)
        """
        if "\0" in attribute:
            return ()
        key = archetype and archetype.lower()
        lines: tuple[PowerSummary, ...] = self._ask(questions.effect(attribute, key, max_level, limit))
        return lines

    def generation(self) -> Generation:
        """Return which state is published, as of ``max_staleness_s`` ago or later.

        >>> reader.generation().etag
        """
        state = (self._engine or self._start()).generations.current()
        return Generation(
            generation=state.generation,
            build=state.build,
            published_at=state.published_at,
            etag=f'"{questions.short(state.origin)[:8]}-{state.generation}"',
        )

    def forget_power(self, id: int) -> bool:
        """Let every process forget a power and all lists that may hold it; return whether Redis could be told.

        Publications and updates need none of this: it is for rows that somebody has changed by hand.
        """
        engine = self._engine or self._start()
        powerset = engine.queries.powerset_of(id)
        return self._forget([id], [] if powerset is None else [powerset])

    def forget_powerset(self, powerset: int | str) -> bool:
        """Let every process forget a powerset, its powers, and all lists that may hold them."""
        engine, number = self._engine or self._start(), self._powerset_id(powerset)
        return self._forget(engine.queries.members(number), [number]) if number is not None else self._forget([], [])

    def forget_all(self) -> bool:
        """Let every process forget everything that was read from this live schema."""
        engine = self._engine or self._start()
        told = engine.forget_all(engine.generations.current())
        engine.database.run("notify_invalidation", {"message": f"{self._settings['schema']} all"})
        return told

    def stats(self) -> dict[str, Any]:
        """Return what this process has counted: hits, misses, errors and times per tier and kind; entries and bytes."""
        engine = self._engine or self._start()
        return stats.sum_up([engine.process(engine.generations.current().generation)])

    def stats_of_all(self) -> dict[str, Any] | None:
        """Return what all processes of the last day have left in Redis, and Redis' own figures; None without Redis."""
        engine = self._engine or self._start()
        shared = engine.shared(engine.generations.current())
        told, server = (None, None) if shared is None else (shared.told(), shared.server())
        if shared is None or told is None or server is None:
            return None
        return {**stats.sum_up(stats.processes(told)), "redis": {"at": shared.where, **server}}

    def warm(
        self, archetype: str | None = None, *, jobs: int = 4, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, int]:
        """Read powers, powersets and build summaries of an archetype, or of all, so that Redis has them.

        ``progress`` is called with the powersets done and all of them. Returns how many powersets and powers were read.

        Raises:
            UsageError: there is no such archetype.
        """
        return warming.warm(self._engine or self._start(), archetype and archetype.lower(), jobs, progress)

    def close(self) -> None:
        """Close the connections; the reader cannot be used any more."""
        with self._lock:
            self._is_closed, engine, self._engine = True, self._engine, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> "PowerReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: Question) -> Any:
        return (self._engine or self._start()).ask(question)

    def _powerset_id(self, powerset: int | str) -> int | None:
        if isinstance(powerset, int):
            return powerset
        found: tuple[int, ...] | None = self._ask(questions.powerset_name(powerset.lower()))
        if found is not None and len(found) > 1:
            raise UsageError(
                f"{len(found)} powersets are called {powerset}", "write it as Category.Set, or give its id"
            )
        return found[0] if found else None

    def _forget(self, powers: list[int], powersets: list[int]) -> bool:
        engine = self._engine or self._start()
        told = engine.forget(powers, powersets, engine.generations.current())
        for message in questions.invalidations(self._settings["schema"], powers, powersets):
            engine.database.run("notify_invalidation", {"message": message})
        return told

    def _start(self) -> Engine:
        """Return the engine of this process, a new one at first."""
        with self._lock:
            if self._is_closed:
                raise UsageError("this reader is closed", "make a new PowerReader")
            if self._engine is None:
                where = dsns.resolve(self._given)
                self._engine = Engine(Options(dsn=where, **self._settings))
            return self._engine

    def _leave_to_parent(self) -> None:
        """In a forked process: the connections and threads are the parent's; begin anew, and touch none of them."""
        self._left_to_parent.append(self._engine)
        self._engine, self._lock = None, threading.Lock()


def _leave_to_parent_at_fork(reader: PowerReader) -> None:
    """See to it that a fork leaves the reader's engine to its parent; does not keep the reader alive."""
    found = weakref.ref(reader)

    def leave() -> None:
        alive = found()
        if alive is not None:
            alive._leave_to_parent()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=leave)


def _up_to(rows: tuple[Power, ...] | tuple[PowerSummary, ...], max_level: int) -> int:
    """Return how many of the rows, which are in the order of their levels, are available at a level."""
    return bisect.bisect_right(rows, max_level, key=lambda row: row.level_available)
