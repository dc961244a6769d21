"""A worker's line to the database: one connection of each thread, kept for the run and lent to one task after another.

To connect takes several round trips, as many as half of what a small task waits for in all.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.pq import TransactionStatus

from etl import config, db


class _Lines(threading.local):
    """A thread's connections that no task has; one at most, since a thread has one task at a time."""

    def __init__(self) -> None:
        self.idle: list[db.Connection] = []


_lines = _Lines()


@contextmanager
def lent() -> Iterator[db.Connection]:
    """Yield a connection in autocommit mode and outside of a transaction; one that the block leaves open is rolled back.

    The next task of this thread gets it again, unless the block failed, or the server has ended it meanwhile. So the
    block keeps its settings, locks and temporary tables to its transaction. Where the coordinator does the work itself
    (``inline://``) nothing is kept.

    Raises:
        DatabaseError: any psycopg error that leaves the block is translated, see ``db.connect``.
    """
    where, idle = os.environ[config.DSN_VARIABLE], _lines.idle
    with db.translated(where):
        connection = _taken(idle) or _opened(where)
        try:
            yield connection
            if connection.info.transaction_status != TransactionStatus.IDLE:
                connection.rollback()
        except BaseException:
            connection.close()
            raise
        if multiprocessing.parent_process() is None:
            connection.close()
        else:
            idle.append(connection)


def _opened(where: str) -> db.Connection:
    connection = db.open_connection(where, name="etl worker")
    connection.prepare_threshold = None  # plans for the ids of each leaf, as a connection of its own would have them
    return connection


def _taken(idle: list[db.Connection]) -> db.Connection | None:
    """Take the idle connection, unless its server has said good-bye."""
    while idle:
        connection = idle.pop()
        if not connection.closed and not db.has_spoken(connection):
            return connection
        connection.close()
    return None
