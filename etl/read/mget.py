"""The short way to Redis: MGET on connections that are kept between questions.

``Redis.mget`` takes a connection from its pool for each call, which looks at it first (a system call, with locks and
counters around it). Without, two marks, a row of December and nothing come in 0.18 instead of 0.27 ms
(`scripts/bench.py read`, in turns). A connection that Redis has closed meanwhile is noticed by its error, and the
question is asked again on another. tests/read/test_redis_faults.py has both agree.
"""

import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis


class ShortWay:
    """Asks MGET on connections of a pool that nobody else uses; safe to use from any thread of one process.

    As many connections are kept as there were callers at once; the pool counts them as in use.
    """

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool = pool
        self._kept: deque[Any] = deque()
        self._is_closed = False

    def mget(self, names: Sequence[str]) -> list[Any]:
        """Return the values of these names, as ``Redis.mget`` does: bytes, or None where there is none.

        Raises:
            redis.RedisError: Redis does not answer, or refuses, or there are too many callers for the pool.
        """
        try:
            connection = self._kept.pop()
        except IndexError:
            return self._ask(self._pool.get_connection(), names)
        try:
            return self._ask(connection, names)
        except redis.ConnectionError:  # it was closed while nobody used it, and so were the others, most likely
            self.drop()
            if self._is_closed:
                raise
            return self._ask(self._pool.get_connection(), names)

    def drop(self) -> None:
        """Close the connections that are kept: after one failed, none is to be trusted."""
        while self._kept:
            with contextlib.suppress(IndexError):  # another thread took the last one
                connection = self._kept.pop()
                connection.disconnect()
                self._pool.release(connection)

    def close(self) -> None:
        """Close all connections; whoever still waits for an answer gets an error."""
        self._is_closed = True
        self.drop()
        self._pool.disconnect()

    def _ask(self, connection: Any, names: Sequence[str]) -> list[Any]:
        try:
            connection.send_command("MGET", *names)
            found: list[Any] = connection.read_response()
        except BaseException as error:
            if not isinstance(error, redis.ResponseError):
                connection.disconnect()  # an answer may still be on its way
            self._pool.release(connection)
            raise
        self._kept.append(connection)
        return found
