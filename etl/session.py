"""The coordinator's session: the one connection that holds the lock of a live schema. It may be lost, and come back."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from etl import db
from etl.errors import Busy

_log = logging.getLogger(__name__)

# A killed run's connection holds the lock for a moment longer: db.open_connection sees to it that this is under a second.
_LOCK_PATIENCE_S = 2.0
_LOCK_PAUSE_S = 0.1


class Session:
    """A connection, opened again where it was lost, with the lock of the live schema once ``lock`` was called.

    ``round_trip_s`` is how long the server's answer to next to nothing takes: the shorter of two, since it may be busy.
    """

    def __init__(self, dsn: str, name: str, live_schema: str) -> None:
        """Connect; ``name`` is what the server calls the session."""
        self._dsn, self._name, self._live_schema = dsn, name, live_schema
        self._wants_lock = False
        self._open()

    def _open(self) -> None:
        self._has_lock = False
        self.connection = db.open_connection(self._dsn, name=self._name)
        self.connection.prepare_threshold = None  # to prepare a statement takes a round trip, and none runs often
        times = [time.perf_counter()]
        for query in (sql.SQL("select"), db.query("own_backend")):
            found = self.connection.execute(query)
            times.append(time.perf_counter())
        self.round_trip_s = min(times[1] - times[0], times[2] - times[1])
        self._backend = found.fetchone() or (0, None)

    def lock(self) -> None:
        """Take the lock of the live schema for the life of the session.

        Raises:
            Busy: another run has it.
        """
        self._wants_lock = True
        lock(self.connection, self._live_schema)
        self._has_lock = True

    def restore(self) -> None:
        """Connect again if the connection was lost, and take the lock again if it was held.

        The server may not have noticed that the old connection is gone: it is ended first.

        Raises:
            Busy: another run has taken the lock meanwhile.
            psycopg.Error: the server does not answer yet.
        """
        if not self._is_alive():
            self.connection.close()
            lost = self._backend
            self._open()
            self.connection.execute(db.query("end_former_self"), {"pid": lost[0], "since": lost[1]})
        if self._wants_lock and not self._has_lock:
            self.lock()

    @contextmanager
    def losing(self) -> Iterator[None]:
        """Note the loss of the connection, instead of raising it, where what is in the block can wait."""
        try:
            yield
        except psycopg.Error as error:
            if not db.is_transient(error):
                raise
            _log.warning("the coordinator lost its connection: %s", error)

    @property
    def is_lost(self) -> bool:
        """Whether the connection is known to be lost."""
        return self.connection.closed

    def close(self) -> None:
        """Close the connection, and give up the lock with it."""
        self.connection.close()

    def _is_alive(self) -> bool:
        try:
            self.connection.execute("select")
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def hold(dsn: str, *, name: str, live_schema: str) -> Iterator[Session]:
    """Yield a session and close it; psycopg's errors leave the block as ``db.connect`` translates them."""
    with db.translated(dsn):
        session = Session(dsn, name, live_schema)
        try:
            yield session
        finally:
            session.close()


def lock(connection: db.Connection, live_schema: str) -> None:
    """Take the coordinator's lock for the life of the connection.

    Raises:
        Busy: another run has it; the message says who and since when.
    """
    values = {"space": db.LOCK_SPACE, "schema": live_schema}
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while time.monotonic() < deadline:
        row = connection.execute(db.query("try_run_lock"), values).fetchone()
        if row and row[0]:
            return
        time.sleep(_LOCK_PAUSE_S)
    holder = connection.execute(db.query("run_lock_holder"), values).fetchone()
    who = (
        f"{holder[0]} (database user {holder[1]}, {holder[2]}), since {holder[3]:%Y-%m-%d %H:%M:%S %Z}"
        if holder
        else ""
    )
    raise Busy(f"another run is at work on schema {live_schema}: {who}", "wait for it, then run the command again")
