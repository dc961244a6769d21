"""The second tier: Redis, shared by all processes. It is the door to Redis, and Redis may fail in any way it likes.

Every call returns within ``timeout_s``, or at once while the breaker is open; a failure is counted, told once in the log
and never raised. Every key begins with the namespace and the origin of the database, and has a time to live.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from etl.errors import UsageError
from etl.read import envelope
from etl.read.breaker import Breaker
from etl.read.envelope import Marks
from etl.read.mget import ShortWay

_log = logging.getLogger(__name__)
T = TypeVar("T")

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 8.0
_MARK_S = 30 * 24 * 3600
_PROCESS_S = 24 * 3600
_TAKEN_S = 35


class Wanted(msgspec.Struct, frozen=True):
    """A key to look for: a positive answer under ``key``, a negative one under ``absent`` (the same for lists)."""

    key: str
    absent: str
    is_list: bool


class SharedTier:
    """Answers in Redis. ``prefix`` keeps applications, databases and schemas apart."""

    def __init__(
        self,
        url: str,
        prefix: str,
        *,
        timeout_s: float,
        most_bytes: int,
        events: Counter[str],
    ) -> None:
        self._prefix, self._most_bytes, self._events = prefix, most_bytes, events
        self.where = _shown(url)
        self._breaker = Breaker(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._full = Breaker(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        settings: dict[str, Any] = {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "client_name": "etl.read",
        }
        try:
            self._client = redis.Redis.from_url(url, **settings)
            self._short_way = ShortWay(redis.ConnectionPool.from_url(url, **settings))
        except ValueError as error:
            raise UsageError(f"REDIS_URL cannot be understood: {error}", "redis://[:password@]host:6379/0") from None

    def fetch(self, wanted: Sequence[Wanted]) -> tuple[list[tuple[bool, bytes] | None], Marks | None]:
        """Return, in one round trip, for each key (is there such a thing, its JSON), or None where nothing holds.

        The marks are what ``store`` needs for what was missing; None where Redis cannot be asked.
        """
        names = [name for one in wanted for name in ((one.key,) if one.key == one.absent else (one.key, one.absent))]
        asked = [self._name("all"), self._name("lists"), *map(self._name, names)]
        found = self._try(lambda: self._short_way.mget(asked))
        if found is None:
            return [None] * len(wanted), None
        marks = self._marks(found[0], found[1])
        if marks is None:
            return [None] * len(wanted), None
        values = dict(zip(names, found[2:], strict=True))
        rotten: list[str] = []
        answers = [self._read(one, values, marks, rotten) for one in wanted]
        if rotten:
            self._try(lambda: self._client.unlink(*map(self._name, rotten)))
        return answers, marks

    def store(self, items: Iterable[tuple[Wanted, bytes | None, float]], marks: Marks) -> None:
        """File answers (None: no such thing) with their seconds to live, in one round trip."""
        if not self._full.allows():
            return
        sealed: list[tuple[str, bytes, float]] = []
        for wanted, body, ttl_s in items:
            value = envelope.seal(body, marks, wanted.is_list)
            if len(value) <= self._most_bytes:
                sealed.append((wanted.absent if body is None else wanted.key, value, ttl_s))
                self._events["redis_bytes_before"] += len(body or b"")
                self._events["redis_bytes_stored"] += len(value)
        if sealed:
            self._try(lambda: self._set(sealed))

    def forget(self, keys: Sequence[str]) -> bool:
        """Forget these answers, and let all those about many powers be over; return whether Redis did.

        Their places stay taken for as long as a statement may last: what was read before must not be filed there.
        """

        def run() -> bool:
            pipeline = self._client.pipeline(transaction=True)
            pipeline.set(self._name("lists"), os.urandom(envelope.MARK_BYTES), ex=_MARK_S)
            for key in keys:
                pipeline.set(self._name(key), b"", ex=_TAKEN_S)
            pipeline.execute()
            return True

        return bool(self._try(run))

    def forget_all(self) -> bool:
        """Let every answer be over; return whether Redis did."""
        mark = os.urandom(envelope.MARK_BYTES)
        return bool(self._try(lambda: self._client.set(self._name("all"), mark, ex=_MARK_S)))

    def tell(self, process: str, told: bytes) -> None:
        """Keep what a process tells of itself, for a day, and the marks for longer than any answer lives."""

        def run() -> bool:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.set(self._name(f"process:{process}"), told, ex=_PROCESS_S)
            pipeline.zadd(self._name("processes"), {process: time.time()})
            pipeline.zremrangebyscore(self._name("processes"), "-inf", time.time() - _PROCESS_S)
            pipeline.expire(self._name("processes"), _PROCESS_S)
            pipeline.expire(self._name("all"), _MARK_S)
            pipeline.expire(self._name("lists"), _MARK_S)
            answers = pipeline.execute(raise_on_error=False)
            if any(isinstance(answer, redis.ResponseError) for answer in answers):
                self._events["redis_store_errors"] += 1
                self._client.unlink(self._name("processes"))
            return True

        self._try(run)

    def told(self) -> list[bytes] | None:
        """Return what all processes of the last day have told; None where Redis cannot be asked."""

        def run() -> list[bytes]:
            names: Any = self._client.zrange(self._name("processes"), 0, -1)
            values: Any = self._client.mget([self._name(f"process:{name.decode()}") for name in names] or ["none"])
            return [value for value in values if isinstance(value, bytes)]

        return self._try(run)

    def server(self) -> dict[str, Any] | None:
        """Return the server's own figures; None where it cannot be asked."""
        found = self._try(lambda: {**self._client.info(), "keys": self._client.dbsize()})
        names = ("redis_version", "used_memory", "maxmemory", "maxmemory_policy", "evicted_keys", "expired_keys",
                 "keyspace_hits", "keyspace_misses", "connected_clients", "keys")  # fmt: skip
        return None if found is None else {name: found[name] for name in names if name in found}

    @property
    def is_well(self) -> bool:
        """Whether Redis answered when it was last asked."""
        return not self._breaker.is_open

    def close(self) -> None:
        """Close the connections."""
        self._short_way.close()
        self._client.close()

    def _name(self, key: str) -> str:
        return f"{self._prefix}:{key}"

    def _marks(self, everything: Any, lists: Any) -> Marks | None:
        """Return the marks; where Redis has lost one, or somebody else's value is there, draw it anew."""
        if _is_mark(everything) and _is_mark(lists):
            return Marks(everything, lists)

        def run() -> list[Any]:
            pipeline = self._client.pipeline(transaction=True)
            for name, value in (("all", everything), ("lists", lists)):
                if not _is_mark(value):
                    pipeline.set(self._name(name), os.urandom(envelope.MARK_BYTES), ex=_MARK_S, nx=value is None)
                pipeline.get(self._name(name))
            return [value for value in pipeline.execute(raise_on_error=False) if _is_mark(value)]

        drawn = self._try(run)
        if drawn is None or len(drawn) == 2:
            return Marks(*drawn) if drawn else None
        self._events["redis_garbage"] += 1  # something that is no string lies there
        self._try(lambda: self._client.unlink(self._name("all"), self._name("lists")))
        return None

    def _read(self, one: Wanted, values: dict[str, Any], marks: Marks, rotten: list[str]) -> tuple[bool, bytes] | None:
        """Return what holds of a key's values; note in ``rotten`` the names of those that never will."""
        for name in (one.key, one.absent):
            value = values.get(name)
            if not value:  # nothing, or the place where something was forgotten
                continue
            try:
                body = envelope.opened(value, marks, one.is_list)
            except envelope.Garbage:
                self._events["redis_garbage"] += 1
                body = None
            if body is not None:
                return not envelope.is_negative(value), body
            rotten.append(name)
        return None

    def _set(self, sealed: Sequence[tuple[str, bytes, float]]) -> bool:
        pipeline = self._client.pipeline(transaction=False)
        for name, value, ttl_s in sealed:
            pipeline.set(self._name(name), value, px=max(1, round(1000 * ttl_s)), nx=True)
        try:
            pipeline.execute()
        except redis.ResponseError as error:  # full, or read-only: it still answers what it has
            self._events["redis_store_errors"] += 1
            if self._full.failed():
                _log.warning("Redis at %s takes no more answers: %s", self.where, _said(error))
            return False
        if self._full.worked():
            _log.warning("Redis at %s takes answers again", self.where)
        return True

    def _try(self, call: Callable[[], T]) -> T | None:
        """Ask Redis, unless it is being left alone."""
        if not self._breaker.allows():
            self._events["redis_skipped"] += 1
            return None
        try:
            found = call()
        except (redis.RedisError, OSError) as error:
            self._events["redis_errors"] += 1
            self._client.connection_pool.disconnect(inuse_connections=False)
            self._short_way.drop()
            if self._breaker.failed():
                _log.warning("Redis at %s fails, going on without: %s", self.where, _said(error))
            return None
        if self._breaker.worked():
            _log.warning("Redis at %s answers again", self.where)
        return found


def _said(error: Exception) -> str:
    """Return what an error says, without the values of the commands that it repeats."""
    return str(error).rpartition(" caused error: ")[2] or type(error).__name__


def _is_mark(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == envelope.MARK_BYTES


def _shown(url: str) -> str:
    """Return where a URL points to, without its password."""
    parts = urlsplit(url)
    return f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
