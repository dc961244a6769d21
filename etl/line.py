"""A worker's line to the database: one connection, kept for the run and lent to one task after another.

To connect takes several round trips, as many as half of what a small task waits for in all.
"""

import multiprocessing
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from psycopg.pq import TransactionStatus

from etl import config, db


@contextmanager
def lent() -> Iterator[db.Connection]:
    """Yield a connection in autocommit mode and outside of a transaction; one that the block leaves open is rolled back.

    The next task of this process gets it again, unless the block failed, or the server has ended it meanwhile. So the
    block keeps its settings, locks and temporary tables to its transaction. Where the coordinator does the work itself
    (``inline://``) nothing is kept.

    Raises:
        DatabaseError: any psycopg error that leaves the block is translated, see ``db.connect``.
    """
    where, idle = os.environ[config.DSN_VARIABLE], _idle()
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


@cache
def _idle() -> list[db.Connection]:
    """Return this process's connections that no task has; one at most, since a worker has one task at a time."""
    return []


def _opened(where: str) -> db.Connection:
    connection = db.open_connection(where, name="etl worker")
    connection.prepare_threshold = None  # plans for the ids of each leaf, as a connection of its own would have them
    return connection


def _taken(idle: list[db.Connection]) -> db.Connection | None:
    """Take the idle connection; a server that speaks unasked says good-bye (restart, pg_terminate_backend, time-out)."""
    while idle:
        connection = idle.pop()
        if not connection.closed and not select.select([connection.fileno()], [], [], 0)[0]:
            return connection
        connection.close()
    return None
