"""Which generation counts, and since when each power and powerset is as it is.

A *token* is the generation in which something last changed. It is part of the key of every answer: when an update
changes a power, the power's token grows, and nobody finds what was filed under the old one. The database says what the
token is in the statement that reads the data; this module knows it for look-ups, and is never older than promised.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec
import psycopg

from etl import db
from etl.errors import EtlError
from etl.read import pool

_log = logging.getLogger(__name__)

# So many changed powers are remembered; with more, all powers count as changed in the generation that is then.
_MOST_CHANGES = 50_000
_RECONNECT_S = 1.0
_LONGEST_WAIT_S = 30.0
# How soon the thread notices that it is to end.
_TURN_S = 0.1

_changes = msgspec.json.Decoder(list[tuple[int, int]])


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What was published at the moment ``verified`` (``time.monotonic``).

    ``floor`` is the generation from which on ``powers`` and ``powersets`` tell all changes, by id.
    """

    generation: int
    base: int
    build: int
    origin: str
    published_at: datetime
    floor: int
    powers: Mapping[int, int] = msgspec.field(default_factory=dict)
    powersets: Mapping[int, int] = msgspec.field(default_factory=dict)
    verified: float = 0.0


def read_state(row: pool.Row, before: State | None, asked: float) -> State:
    """Return the state that a row of ``read_state`` tells, which was asked for with what ``before`` knew."""
    generation, base, build, origin, published_at, powers, powersets = row
    since = before if before is not None and before.base == base else None
    floor = since.floor if since else base
    known_powers, known_sets = (dict(since.powers), dict(since.powersets)) if since else ({}, {})
    for known, told in ((known_powers, powers), (known_sets, powersets)):
        for number, changed in _changes.decode(told):
            known[number] = max(changed, known.get(number, 0))
    if len(known_powers) + len(known_sets) > _MOST_CHANGES:
        floor, known_powers, known_sets = generation, {}, {}
    return State(
        generation=generation,
        base=base,
        build=build,
        origin=origin,
        published_at=published_at,
        floor=floor,
        powers=known_powers,
        powersets=known_sets,
        verified=asked,
    )


class Generations:
    """Keeps the state no older than ``max_staleness_s``: by a thread that listens and asks, and by asking at need."""

    def __init__(
        self,
        database: pool.Database,
        max_staleness_s: float,
        on_invalidation: Callable[[str], None],
        on_gap: Callable[[], None],
        on_turn: Callable[[], None],
    ) -> None:
        self._database, self._max_staleness_s = database, max_staleness_s
        self._on_invalidation, self._on_gap, self._on_turn = on_invalidation, on_gap, on_turn
        self._lock = threading.Lock()
        self._state: State | None = None
        self._wanted = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def current(self) -> State:
        """Return a state that held ``max_staleness_s`` ago, or later.

        Raises:
            SchemaError: nothing is published.
            DatabaseError: the database does not tell.
        """
        self._wanted = True
        state = self._state
        if state is not None and time.monotonic() - state.verified <= self._max_staleness_s:
            return state
        return self._ask(time.monotonic() - self._max_staleness_s)

    def doubt(self, generation: int) -> None:
        """Note that a statement has seen this generation: an older state is not used any more."""
        state = self._state
        if state is not None and generation > state.generation:
            self._ask(time.monotonic())

    @property
    def known(self) -> State | None:
        """The state as it is known, however old."""
        return self._state

    def forget(self) -> None:
        """Ask anew, as if nothing had been known."""
        self._state = None

    def close(self) -> None:
        """End the listening thread, at the latest when its connection is closed."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def _ask(self, not_before: float) -> State:
        if not self._max_staleness_s:
            return self._asked()
        with self._lock:
            state = self._state
            if state is not None and state.verified >= not_before:
                return state
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="etl.read generations", daemon=True)
                self._thread.start()
            return self._asked()

    def _asked(self) -> State:
        before, asked = self._state, time.monotonic()
        known = before.generation if before is not None else 0
        row = self._database.ask("read_state", {"known": known})
        return self._learn(row, before, asked)

    def _learn(self, row: pool.Row, before: State | None, asked: float) -> State:
        """Take over what a row tells, unless something newer is known by now."""
        if before is not None and row[3] != before.origin:  # a reset, or another server: what was known means nothing
            row, before = self._database.ask("read_state", {"known": 0}), None
            self._on_gap()
        if before is not None and row[0] < before.generation:  # a replica that is behind another one
            state = msgspec.structs.replace(before, verified=asked)
        else:
            state = read_state(row, before, asked)
        present = self._state
        if present is None or present.origin != state.origin or present.verified <= asked:
            self._state = state
        return state

    def _listen(self) -> None:
        """Listen, and ask at half of the time for which an answer may be used; connect again when that breaks."""
        pause_s = _RECONNECT_S
        told = False
        while not self._closed.is_set():
            try:
                with pool.connect(self._database.dsn) as connection:
                    self._subscribe(connection)
                    self._on_gap_if(told)
                    told, pause_s = False, _RECONNECT_S
                    self._attend(connection)
            except (psycopg.Error, EtlError) as error:
                if self._closed.is_set():
                    return
                if not told:
                    _log.warning("listening for generations broke off, asking instead: %s", str(error).split("\n")[0])
                told = True
                self._closed.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_WAIT_S)

    def _on_gap_if(self, broke: bool) -> None:
        if broke:
            self._on_gap()

    def _subscribe(self, connection: db.Connection) -> None:
        try:
            connection.execute(db.query("listen_generations"))
            connection.execute(db.query("listen_invalidations"))
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.ReadOnlySqlTransaction,
                psycopg.errors.ObjectNotInPrerequisiteState) as error:  # fmt: skip
            _log.info("this server does not notify (a replica), so it is asked: %s", error)

    def _attend(self, connection: db.Connection) -> None:
        interval_s = min(self._max_staleness_s / 2, _LONGEST_WAIT_S)
        query = db.query("read_state", schema=db.identifier(self._database.schema))
        ask_at = 0.0
        while not self._closed.is_set():
            heard = False
            for notice in connection.notifies(timeout=min(interval_s, _TURN_S), stop_after=1):
                heard = notice.channel == "etl_live" and notice.payload.split(" ")[0] == self._database.schema
                if notice.channel == "etl_cache":
                    self._on_invalidation(notice.payload)
            self._on_turn()
            if not (heard or (self._wanted and time.monotonic() >= ask_at)):
                continue
            self._wanted, ask_at = False, time.monotonic() + interval_s
            before, asked = self._state, time.monotonic()
            known = before.generation if before is not None else 0
            row = connection.execute(query, {"known": known}).fetchone()
            if row is not None:
                self._learn(row, before, asked)
