"""What answers: the tiers, the flights, the state and the database of one process. A fork gets a new one.

The way of a question: this process's memory, then one flight per key: Redis, then the database. An answer is filed under
the token that came with its data, never under the one that was expected.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from etl.read import questions
from etl.read.flights import Flights
from etl.read.generations import Generations, State
from etl.read.local import Entry, LocalTier
from etl.read.pool import Database, PoolOptions
from etl.read.queries import Loaded, Queries
from etl.read.questions import Question
from etl.read.results import Power
from etl.read.shared import SharedTier
from etl.read.stats import Meters, Process

_log = logging.getLogger(__name__)

_TELL_S = 5.0
_MOST_NAMES = 200_000
# What the values in Redis are made of: raised with it, so that processes of two versions do not meet.
_FORM = 4


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a reader, settled."""

    dsn: str
    schema: str
    redis_url: str | None
    namespace: str
    max_staleness_s: float
    local_bytes: int
    redis_timeout_s: float
    redis_most_bytes: int
    ttl_s: Mapping[str, float]
    pool: PoolOptions = msgspec.field(default_factory=PoolOptions)


class Engine:
    """Answers questions; safe to use from any thread of one process."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.events: Counter[str] = Counter()
        self.meters = {"local": Meters(), "redis": Meters(), "database": Meters()}
        self.local = LocalTier(options.local_bytes, self.meters["local"])
        self.database = Database(options.dsn, options.schema, options.pool, self.events)
        self.queries = Queries(self.database)
        self.generations = Generations(
            self.database, options.max_staleness_s, self._invalidated, self._forget_all, self._tell_now_and_then
        )
        self._flights: Flights[object] = Flights()
        self.names: dict[str, int] = {}
        self._shared: dict[str, SharedTier] = {}
        self._shared_lock = threading.Lock()
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._tell_at = time.monotonic() + _TELL_S

    def shared(self, state: State) -> SharedTier | None:
        """Return the Redis tier of the database that this state is of; None where there is no Redis."""
        if self._options.redis_url is None:
            return None
        found = self._shared.get(state.origin)
        if found is not None:
            return found
        with self._shared_lock:
            return self._shared.setdefault(state.origin, self._new_shared(self._options.redis_url, state.origin))

    def ask(self, question: Question) -> Any:
        """Return the answer to a question from the nearest tier that has it; None: there is no such thing.

        Raises:
            SchemaError: nothing is published.
            DatabaseError: the database cannot be asked.
        """
        began_ns, state = time.perf_counter_ns(), self.generations.current()
        entry = self.local.get(question.key, question.token(state), state.generation, began_ns)
        return entry.value if entry is not None else self.answer(question, state, began_ns)

    def answer(self, question: Question, state: State, began_ns: int) -> object:
        """Return the answer to a question that this process's memory has not; None: there is no such thing.

        Raises:
            DatabaseError: the database cannot be asked.
        """
        not_before = time.monotonic() - self._options.max_staleness_s

        def go() -> tuple[object, float]:
            return self._go(question, state, began_ns)

        return self._flights.fetch(question.key, go, min(not_before, state.verified))

    def power_id(self, name: str) -> int | None:
        """Return the id of a power by its full name; the name keeps it for ever, so it is remembered without a token."""
        uid, drops = name.lower(), self.local.drops()
        number = self.ask(questions.power_name(uid))
        if not isinstance(number, int):
            return None
        if len(self.names) >= _MOST_NAMES:
            self.names.clear()
        if drops == self.local.drops():  # else the database may be another one by now
            self.names[name] = number
        return number

    def powers(self, numbers: Sequence[int], state: State) -> dict[int, Power]:
        """Return those powers that there are, by id: one round trip to each tier for what the one before has not."""
        found: dict[int, Power] = {}
        missing: list[Question] = []
        for number in dict.fromkeys(numbers):
            question = questions.power(number)
            entry = self.local.get(question.key, question.token(state), state.generation, time.perf_counter_ns())
            if entry is None:
                missing.append(question)
            elif not entry.negative:
                found[number] = entry.value  # type: ignore[assignment]  # of this kind the values are powers
        if missing:
            self._fetch_powers(missing, state, found)
        return found

    def forget(self, powers: Sequence[int], powersets: Sequence[int], state: State) -> bool:
        """Forget these powers, the lists of these powersets, and all lists over many sets, in both tiers.

        Returns whether Redis has forgotten as well (True where there is none).
        """
        asked = [
            *(questions.power(number) for number in powers),
            *(make(number) for number in powersets for make in (questions.powerset, questions.summary)),
        ]
        self.local.drop([question.key for question in asked], questions.LIST_KINDS)
        shared = self.shared(state)
        if shared is None:
            return True
        wanted = [question.wanted(question.token(state), state.generation) for question in asked]
        return shared.forget([name for one in wanted for name in (one.key, one.absent)])

    def forget_all(self, state: State) -> bool:
        """Forget everything, in both tiers; return whether Redis has (True where there is none)."""
        self._forget_all()
        shared = self.shared(state)
        return shared is None or shared.forget_all()

    def process(self, generation: int) -> Process:
        """Return what this process has counted."""
        return Process(
            host=socket.gethostname(),
            pid=os.getpid(),
            at=time.time(),
            generation=generation,
            local=self.local.size(),
            tiers={tier: meters.figures() for tier, meters in self.meters.items()},
            events=dict(self.events),
        )

    def file_names(self, ids: Mapping[str, int]) -> None:
        """File ids by the full name of their powers in Redis, if there is one."""
        state = self.generations.current()
        shared = self.shared(state)
        marks = shared.fetch([])[1] if shared is not None else None
        if shared is not None and marks is not None:
            lines = [
                (questions.power_name(uid), Loaded(state.generation, 0, b"%d" % number), 0)
                for uid, number in ids.items()
            ]
            self._store(shared, lines, marks)

    def tell(self) -> None:
        """Leave in Redis what this process has counted, for ``etl cache stats``; nothing where it was asked nothing."""
        self._tell_at = time.monotonic() + _TELL_S
        state = self.generations.known if any(meters.figures() for meters in self.meters.values()) else None
        shared = self.shared(state) if state is not None else None
        if shared is not None and state is not None:
            shared.tell(self._name, msgspec.json.encode(self.process(state.generation)))

    def close(self) -> None:
        """End the thread and close the connections."""
        self.generations.close()
        self.tell()
        self.database.close()
        for shared in self._shared.values():
            shared.close()

    def _new_shared(self, url: str, origin: str) -> SharedTier:
        # The origin is hashed to be short; the schema is part of it by its row in etl.live.
        return SharedTier(
            url,
            f"{self._options.namespace}:{_FORM}:{questions.short(origin)}",
            timeout_s=self._options.redis_timeout_s,
            most_bytes=self._options.redis_most_bytes,
            events=self.events,
        )

    def _go(self, question: Question, state: State, began_ns: int) -> tuple[object, float]:
        """Ask Redis, then the database; return the answer and the moment from which on it held."""
        drops = self.local.drops()
        shared = self.shared(state)
        wanted, marks = question.wanted(question.token(state), state.generation), None
        if shared is not None:
            found, marks = shared.fetch([wanted])
            taken = self._take(question, found[0], state, drops, began_ns)
            if taken is not None:
                return taken.value, state.verified
        asked, asked_ns = time.monotonic(), time.perf_counter_ns()
        loaded = question.load(self.queries)
        self.meters["database"].count(question.kind, time.perf_counter_ns() - asked_ns, hits=1)
        value = self._file(question, loaded, state, drops)
        token = question.filed_under(loaded, state)
        if shared is not None and marks is not None and token is not None:
            self._store(shared, [(question, loaded, token)], marks)
        self.generations.doubt(loaded.generation)
        self._tell_now_and_then()
        return value, asked

    def _take(
        self,
        question: Question,
        found: tuple[bool, bytes] | None,
        state: State,
        drops: int,
        began_ns: int,
        of: int = 1,
    ) -> Entry | None:
        """Return what Redis had, decoded and filed here; None where it had nothing of use.

        ``of`` is how many were asked for at once: in the figures each takes its share of the time.
        """
        entry = None
        if found is not None:
            exists, body = found
            try:
                value, size = question.decode(body) if exists else (None, 0)
                entry = self._entry(question, question.token(state) if exists else state.generation, value, size)
                self.local.put(question.key, entry, drops)
            except msgspec.MsgspecError:
                self.events["redis_garbage"] += 1
        elapsed_ns = (time.perf_counter_ns() - began_ns) // of
        self.meters["redis"].count(question.kind, elapsed_ns, hits=entry is not None, misses=entry is None)
        return entry

    def _file(self, question: Question, loaded: Loaded, state: State, drops: int) -> object:
        """File what the database said in this process; return the answer."""
        value, size = (None, 0) if loaded.body is None else question.decode(loaded.body)
        token = question.filed_under(loaded, state)
        if token is not None:
            self.local.put(question.key, self._entry(question, token, value, size), drops)
        return value

    def _entry(self, question: Question, token: int, value: object, size: int) -> Entry:
        ttl_s = self._options.ttl_s["absent" if value is None else question.kind]
        return Entry(token, value is None, value, size or 500, time.monotonic() + ttl_s)

    def _store(self, shared: SharedTier, lines: Sequence[tuple[Question, Loaded, int]], marks: Any) -> None:
        ttl_s = self._options.ttl_s
        shared.store(
            [
                (
                    question.wanted(token, loaded.generation),
                    loaded.body,
                    ttl_s["absent" if loaded.body is None else question.kind],
                )
                for question, loaded, token in lines
            ],
            marks,
        )

    def _fetch_powers(self, missing: Sequence[Question], state: State, found: dict[int, Power]) -> None:
        drops, shared, marks = self.local.drops(), self.shared(state), None
        if shared is not None:
            began_ns = time.perf_counter_ns()
            wanted = [question.wanted(question.token(state), state.generation) for question in missing]
            values, marks = shared.fetch(wanted)
            left = []
            for question, found_here in zip(missing, values, strict=True):
                entry = self._take(question, found_here, state, drops, began_ns, len(wanted))
                if entry is None:
                    left.append(question)
                elif not entry.negative:
                    found[int(question.ident)] = entry.value  # type: ignore[assignment]  # a power
            missing = left
        if not missing:
            return
        asked_ns = time.perf_counter_ns()
        loaded = self.queries.powers([int(question.ident) for question in missing])
        self.meters["database"].count("power", (time.perf_counter_ns() - asked_ns) // len(missing), hits=len(missing))
        lines = []
        for question in missing:
            one = loaded[int(question.ident)]
            value = self._file(question, one, state, drops)
            token = question.filed_under(one, state)
            if isinstance(value, Power):
                found[value.id] = value
            if token is not None:
                lines.append((question, one, token))
        if shared is not None and marks is not None:
            self._store(shared, lines, marks)
        self.generations.doubt(max(one.generation for one in loaded.values()))

    def _forget_all(self) -> None:
        self.local.drop(None)
        self.names.clear()
        self.queries.forget()

    def _invalidated(self, message: str) -> None:
        """Take part in an invalidation that somebody asked for; the message is his schema, powers and powersets."""
        schema, _, rest = message.partition(" ")
        if schema != self._options.schema:
            return
        try:
            powers, powersets = msgspec.json.decode(rest, type=tuple[list[int], list[int]])
        except msgspec.MsgspecError:
            self._forget_all()
            self.generations.forget()
            return
        keys = [("power", number) for number in powers]
        keys += [(kind, number) for number in powersets for kind in ("powerset", "summary")]
        self.local.drop(keys, questions.LIST_KINDS)

    def _tell_now_and_then(self) -> None:
        if time.monotonic() >= self._tell_at:
            self.tell()
