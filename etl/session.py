"""The coordinator's session: the one connection that holds the lock of a live schema. It may be lost, and come back."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from etl import db
from etl.errors import Busy

# A killed run's connection holds the lock for a moment longer: db.open_connection sees to it that this is under a second.
_LOCK_PATIENCE_S = 2.0
_LOCK_PAUSE_S = 0.1


def _nothing(_: db.Connection) -> None:
    """Ask nothing."""


class Session:
    """A connection, opened again where it was lost, with the lock of the live schema once ``lock`` was called.

    ``round_trip_s`` is how long the server's answer takes at most: the first one, or a third of what it took to connect, which
    is three answers at least.
    """

    def __init__(self, dsn: str, name: str, live_schema: str, ask: Callable[[db.Connection], None] = _nothing) -> None:
        """Connect; ``name`` is what the server calls the session. What it does ``ask`` goes along with our own question."""
        self._dsn, self._name, self._live_schema = dsn, name, live_schema
        self._wants_lock = False
        self._open(ask)

    def _open(self, ask: Callable[[db.Connection], None] = _nothing) -> None:
        self._has_lock = False
        times = [time.perf_counter()]
        self.connection = db.open_connection(self._dsn, name=self._name)
        self.connection.prepare_threshold = None  # to prepare a statement takes a round trip, and none runs often
        times.append(time.perf_counter())
        with self.connection.pipeline():
            found = self.connection.execute(db.query("own_backend"))
            ask(self.connection)
        times.append(time.perf_counter())
        self.round_trip_s = min((times[1] - times[0]) / 3, times[2] - times[1])
        self._backend = found.fetchone() or (0, None)

    def lock(self, asked: db.Cursor | None = None) -> None:
        """Take the lock of the live schema for the life of the session, if it was not had when it was ``asked`` for.

        Raises:
            Busy: another run has it.
        """
        self._wants_lock = True
        lock(self.connection, self._live_schema, asked)
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

    @property
    def is_lost(self) -> bool:
        """Whether the connection is lost: closed, or its server has spoken unasked, which mostly is a good-bye.

        To be asked between statements, by the thread that runs them.
        """
        if not self.connection.closed and db.has_spoken(self.connection):
            self._is_alive()  # which closes it, or takes in what was said
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
def hold(
    dsn: str, *, name: str, live_schema: str, ask: Callable[[db.Connection], None] = _nothing
) -> Iterator[Session]:
    """Yield a session and close it; psycopg's errors leave the block as ``db.connect`` translates them."""
    with db.translated(dsn):
        session = Session(dsn, name, live_schema, ask)
        try:
            yield session
        finally:
            session.close()


def ask_lock(connection: db.Connection, live_schema: str) -> db.Cursor:
    """Ask for the coordinator's lock: one row, whether it was to be had."""
    return connection.execute(db.query("try_run_lock"), {"space": db.LOCK_SPACE, "schema": live_schema})


def lock(connection: db.Connection, live_schema: str, asked: db.Cursor | None = None) -> None:
    """Take the coordinator's lock for the life of the connection; ``asked`` is a first try, which may have got it.

    Raises:
        Busy: another run has it; the message says who and since when.
    """
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while time.monotonic() < deadline:
        row = (asked or ask_lock(connection, live_schema)).fetchone()
        if row and row[0]:
            return
        asked = None
        time.sleep(_LOCK_PAUSE_S)
    values = {"space": db.LOCK_SPACE, "schema": live_schema}
    holder = connection.execute(db.query("run_lock_holder"), values).fetchone()
    who = (
        f"{holder[0]} (database user {holder[1]}, {holder[2]}), since {holder[3]:%Y-%m-%d %H:%M:%S %Z}"
        if holder
        else ""
    )
    raise Busy(f"another run is at work on schema {live_schema}: {who}", "wait for it, then run the command again")
