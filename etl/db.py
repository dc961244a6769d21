"""The door to PostgreSQL: connections, and the statements of ``sql/``."""

import getpass
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
from psycopg import conninfo, sql

from etl import resources
from etl.errors import DatabaseError, UsageError

Connection = psycopg.Connection[tuple[Any, ...]]
Statement = sql.Composed

# The first key of our advisory locks: "etl" in ASCII, so that they cannot meet those of other programs by accident.
LOCK_SPACE = 0x65746C

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
        DatabaseError: the server cannot be reached, refuses, or breaks off; any psycopg error that leaves the block.
    """
    split_secret(dsn)
    try:
        with psycopg.connect(dsn, autocommit=True, application_name=name, connect_timeout=10) as connection:
            connection.execute(query("end_with_client"))
            connection.autocommit = autocommit
            yield connection
    except psycopg.OperationalError as error:
        raise _unreachable(dsn, error) from error
    except psycopg.Error as error:
        raise DatabaseError(f"the database refused: {_first_lines(error)}") from error


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


def _unreachable(dsn: str, error: psycopg.OperationalError) -> DatabaseError:
    """Tell a server that says no from one that says nothing."""
    where, said = redact(dsn), _first_lines(error)
    if error.sqlstate:
        return DatabaseError(f"the database at {where} refused ({error.sqlstate}): {said}")
    if "FATAL:" in said:  # a connection that is refused at its beginning comes without a state
        return DatabaseError(
            f"the database at {where} refused: {said.partition('FATAL:')[2].strip()}",
            "check user, password and name of the database in --dsn, DATABASE_URL or PG*",
        )
    return DatabaseError(
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
            with connection.transaction():
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
    return template(_queries()[statement], holes)


def sections(relative_path: str) -> list[tuple[str, str]]:
    """Return the (heading, statement) pairs of a file in ``sql/``: each begins with ``-- create`` or ``-- index: name``.

    A heading is the comment's text ("create", "index: idx_power_effects", …); further comment lines stay in the body.
    """
    parts = re.split(r"^-- (create|index: \w+|comments)[ \t]*\n", resources.sql_text(relative_path), flags=re.MULTILINE)
    return [(head, body.strip().rstrip(";")) for head, body in zip(parts[1::2], parts[2::2], strict=True)]


def identifier(*names: str) -> sql.Identifier:
    """Return a quoted identifier, dotted where several names are given."""
    return sql.Identifier(*names)
