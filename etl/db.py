"""The door to PostgreSQL: connections, and the statements of ``sql/``."""

import contextlib
import getpass
import os
import re
import select
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
from psycopg import conninfo, sql
from psycopg.pq import PipelineStatus, TransactionStatus

from etl import resources
from etl.errors import DatabaseError, Refused, Transient, UsageError

Connection = psycopg.Connection[tuple[Any, ...]]
Cursor = psycopg.Cursor[tuple[Any, ...]]
Statement = sql.Composed

# The first key of our advisory locks: "etl" in ASCII, so that they cannot meet those of other programs by accident.
LOCK_SPACE = 0x65746C

# What may well succeed in a moment (manual, appendix A): serialization failure, deadlock, too many connections, a lock
# that was not to be had, the server or an administrator ended the session, the server is starting. 53200, the server's
# memory, is worth one more attempt; 53100, the full disk, none.
_TRANSIENT_CLASSES = ("08",)
_TRANSIENT_STATES = frozenset(
    ["40001", "40P01", "53200", "53300", "55P03", "57P01", "57P02", "57P03", "57P05", "25P03"]
)
# Data exceptions, violated constraints, limits of the server (an index row that is too big): the data is at fault.
_REFUSED_CLASSES = ("22", "23", "54")

_FULL = "the disk of the server is full: free space there, then run the same command again; what is loaded is kept"

# A peer that is gone without a word is noticed within a minute; the connection string may say otherwise.
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
_CONNECT_TIMEOUT_S = 10

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 1.0
_LONGEST_PAUSE_S = 0.5


def redact(dsn: str) -> str:
    """Return the connection string without its password, for people to read."""
    try:
        parts: dict[str, Any] = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "(unreadable connection string)"
    parts.pop("password", None)
    parts.pop("sslpassword", None)
    return conninfo.make_conninfo(**parts) or "the PG* environment"


def whoami() -> str:
    """Return user@host of this process, for the ledger."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@contextmanager
def connect(dsn: str, *, name: str = "etl", autocommit: bool = True) -> Iterator[Connection]:
    """Yield a connection that names itself ``name`` to the server, and close it.

    Raises:
        UsageError: the connection string cannot be understood.
        Transient: the server cannot be reached or broke off; the same thing may succeed later.
        Refused: it refused the data.
        DatabaseError: it refused for another reason; any psycopg error that leaves the block is translated.
    """
    with translated(dsn), open_connection(dsn, name=name) as connection:
        connection.autocommit = autocommit
        yield connection


def open_connection(dsn: str, *, name: str) -> Connection:
    """Return a connection in autocommit mode, whose statements end soon after this process does.

    Raises:
        UsageError: the connection string cannot be understood.
        psycopg.OperationalError: the server cannot be reached, or refuses.
    """
    split_secret(dsn)
    given = conninfo.conninfo_to_dict(dsn)
    own: dict[str, Any] = {"connect_timeout": _CONNECT_TIMEOUT_S, **_KEEPALIVE}
    own = {key: value for key, value in own.items() if key not in given}
    # What we send is UTF-8, whatever the environment says: binary COPY would take the same bytes for other characters.
    connection = psycopg.connect(dsn, autocommit=True, application_name=name, client_encoding="UTF8", **own)
    try:
        connection.execute(query("prepare_session"))
    except BaseException:
        connection.close()
        raise
    return connection


def has_spoken(connection: Connection) -> bool:
    """Whether the server has said something unasked: a good-bye (restart, pg_terminate_backend, time-out), or less."""
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))


@contextmanager
def together(connection: Connection) -> Iterator[None]:
    """Send the block's statements without waiting for each; inside such a block they go along with that one's."""
    if connection.pgconn.pipeline_status == PipelineStatus.ON:
        yield
    else:
        with connection.pipeline():
            yield


@contextmanager
def at_once(connection: Connection) -> Iterator[None]:
    """Run the block's statements as one transaction in one round trip: nothing is waited for but what the block fetches.

    The connection is in autocommit mode. No COPY may be in the block, which the protocol forbids. A statement that fails
    may raise its error at a later one, or at the end; nothing is committed then.
    """
    with _sent_ahead(connection):
        connection.execute("begin")
        yield
        connection.execute("commit")


def each_at_once(
    connection: Connection, statements: Iterable[Statement], *, lock_timeout_s: float | None = None
) -> None:
    """Run each statement in a transaction of its own, all in one round trip; after one that fails none is run.

    The connection is in autocommit mode. With ``lock_timeout_s`` nobody's lock is waited for any longer.
    """
    with _sent_ahead(connection):
        for statement in statements:
            connection.execute("begin")
            if lock_timeout_s is not None:
                connection.execute(query("lock_timeout"), {"milliseconds": int(1000 * lock_timeout_s)})
            connection.execute(statement)
            connection.execute("commit")


@contextmanager
def _sent_ahead(connection: Connection) -> Iterator[None]:
    """Send statements without waiting for answers; a transaction that a failure leaves open is rolled back."""
    if connection.closed:
        raise psycopg.OperationalError("the connection is closed")
    if connection.info.transaction_status != TransactionStatus.IDLE:
        raise psycopg.ProgrammingError("inside another transaction, which it would commit")
    try:
        with connection.pipeline():
            yield
    except BaseException:
        undo(connection)
        raise


def undo(connection: Connection) -> None:
    """Roll back what is open, after an error that is to be told: where that fails, the server has done it."""
    with contextlib.suppress(psycopg.Error):
        if not connection.closed:
            connection.rollback()


@contextmanager
def translated(dsn: str) -> Iterator[None]:
    """Let psycopg's errors leave the block as ours, by their SQLSTATE; the password of ``dsn`` is not shown."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(dsn, error) from error


def translate(dsn: str, error: psycopg.Error) -> DatabaseError:
    """Return what a psycopg error means: ``Transient``, ``Refused``, or another ``DatabaseError``."""
    state, said = error.sqlstate, _first_lines(error)
    if is_transient(error):
        return Transient(*_unreachable(dsn, error), state)
    if state and state[:2] in _REFUSED_CLASSES:
        return Refused(f"the database refused ({state}): {said}")
    if isinstance(error, psycopg.OperationalError):
        return DatabaseError(*_unreachable(dsn, error))
    return DatabaseError(f"the database refused: {said}")


def is_transient(error: psycopg.Error) -> bool:
    """Whether the same thing may succeed in a moment; an OperationalError without SQLSTATE is a lost connection."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate in _TRANSIENT_STATES or error.sqlstate[:2] in _TRANSIENT_CLASSES


def split_secret(dsn: str) -> tuple[str, str | None]:
    """Return the connection string without its password, and the password.

    Raises:
        UsageError: the connection string cannot be understood; the message does not show it.
    """
    try:
        parts: dict[str, Any] = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise UsageError(
            "the connection string of the database cannot be understood",
            "write --dsn or DATABASE_URL like postgresql://user@host:5432/database",
        ) from None
    password = parts.pop("password", None)
    return conninfo.make_conninfo(**parts), password


def _unreachable(dsn: str, error: psycopg.Error) -> tuple[str, str | None]:
    """Tell a server that says no from one that says nothing; return the message and the next step."""
    where, said = redact(dsn), _first_lines(error)
    if error.sqlstate:
        hint = _FULL if error.sqlstate == "53100" else None
        return f"the database at {where} refused ({error.sqlstate}): {said}", hint
    if "FATAL:" in said:  # a connection that is refused at its beginning comes without a state
        return (
            f"the database at {where} refused: {said.partition('FATAL:')[2].strip()}",
            "check user, password and name of the database in --dsn, DATABASE_URL or PG*",
        )
    return (
        f"no database answers at {where}: {said}",
        "check --dsn or DATABASE_URL, or run `etl db start` for the embedded server",
    )


def _first_lines(error: psycopg.Error) -> str:
    text = re.sub(r"password=\S+", "password=…", str(error).strip())
    return " ".join(" ".join(text.splitlines()[:2]).split()) or type(error).__name__


def patiently(
    connection: Connection, statement: Statement, deadline: float, *, longest_wait_s: float = _LONGEST_WAIT_S
) -> None:
    """Run one DDL statement in a transaction of its own, never queueing for its lock for long.

    ``lock_timeout`` starts at 50 ms and doubles after each miss up to ``longest_wait_s``, because readers queue behind
    a waiting exclusive lock; ``deadline`` is a value of ``time.monotonic()``.

    Raises:
        DatabaseError: somebody held the lock past the deadline; nothing has changed.
    """
    wait_s = min(_FIRST_WAIT_S, longest_wait_s)
    while True:
        try:
            with at_once(connection):
                connection.execute(query("lock_timeout"), {"milliseconds": str(max(1, round(wait_s * 1000)))})
                connection.execute(statement)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if time.monotonic() >= deadline:
                raise DatabaseError(
                    "somebody holds a lock for too long; nothing has changed",
                    "end the long transaction, or run the same command again",
                ) from error
            time.sleep(min(wait_s, _LONGEST_PAUSE_S))
            wait_s = min(2 * wait_s, longest_wait_s)


def template(text: str, holes: Mapping[str, sql.Composable] | None = None) -> sql.Composed:
    """Return a statement of ``sql/`` with its ``{holes}`` filled by identifiers or literals, never by plain text."""
    return sql.SQL(text).format(**(holes or {}))


@cache
def _queries() -> dict[str, str]:
    """Return the named queries of ``sql/queries.sql`` and of ``sql/read.sql``, those of readers."""
    found: dict[str, str] = {}
    for name in ("queries.sql", "read.sql"):
        parts = re.split(r"^-- name: (\w+)[^\n]*\n", resources.sql_text(name), flags=re.MULTILINE)
        found |= {name: body.strip().rstrip(";") for name, body in zip(parts[1::2], parts[2::2], strict=True)}
    return found


def query(statement: str, /, **holes: sql.Composable) -> sql.Composed:
    """Return the named query of ``sql/queries.sql`` or ``sql/read.sql``, its holes filled."""
    return template(_queries()[statement], holes) if holes else _without_holes(statement)


@cache
def _without_holes(statement: str) -> sql.Composed:
    return template(_queries()[statement])


def sections(relative_path: str) -> list[tuple[str, str]]:
    """Return the (heading, statement) pairs of a file in ``sql/``: each begins with ``-- create`` or ``-- index: name``.

    A heading is the comment's text ("create", "index: idx_power_effects", …); further comment lines stay in the body.
    """
    return _sections(resources.sql_text(relative_path))


@cache
def _sections(text: str) -> list[tuple[str, str]]:
    parts = re.split(r"^-- (create|index: \w+|comments)[ \t]*\n", text, flags=re.MULTILINE)
    return [(head, body.strip().rstrip(";")) for head, body in zip(parts[1::2], parts[2::2], strict=True)]


def identifier(*names: str) -> sql.Identifier:
    """Return a quoted identifier, dotted where several names are given."""
    return sql.Identifier(*names)


def type_name(name: str) -> sql.SQL:
    """Return the name of a type as the server's own ``format_type`` has quoted it."""
    return sql.SQL(name)
