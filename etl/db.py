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
from etl.errors import DatabaseError

Connection = psycopg.Connection[tuple[Any, ...]]

# The first key of our advisory locks: "etl" in ASCII, so that they cannot meet those of other programs by accident.
LOCK_SPACE = 0x65746C

_FIRST_WAIT_MS = 50
_LONGEST_WAIT_MS = 1_000
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
        DatabaseError: the server cannot be reached, refuses, or breaks off; any psycopg error that leaves the block.
    """
    try:
        with psycopg.connect(dsn, autocommit=autocommit, application_name=name, connect_timeout=10) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise _unreachable(dsn, error) from error
    except psycopg.Error as error:
        raise DatabaseError(f"the database refused: {_first_lines(error)}") from error


def _unreachable(dsn: str, error: psycopg.OperationalError) -> DatabaseError:
    where = redact(dsn)
    if error.sqlstate:
        return DatabaseError(f"the database at {where} refused ({error.sqlstate}): {_first_lines(error)}")
    return DatabaseError(
        f"no database answers at {where}: {_first_lines(error)}",
        "check --dsn or DATABASE_URL, or run `etl db start` for the embedded server",
    )


def _first_lines(error: psycopg.Error) -> str:
    text = re.sub(r"password=\S+", "password=…", str(error).strip())
    return " ".join(text.splitlines()[:2]) or type(error).__name__


def patiently(connection: Connection, statement: sql.Composed, deadline: float) -> None:
    """Run one DDL statement in a transaction of its own, never queueing for its lock for long.

    ``lock_timeout`` starts at 50 ms and doubles after each miss up to 1 s, because readers queue behind a waiting
    exclusive lock; ``deadline`` is a value of ``time.monotonic()``.

    Raises:
        DatabaseError: somebody held the lock past the deadline; nothing has changed.
    """
    wait_ms = _FIRST_WAIT_MS
    while True:
        try:
            with connection.transaction():
                connection.execute(query("lock_timeout"), {"milliseconds": str(wait_ms)})
                connection.execute(statement)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if time.monotonic() >= deadline:
                raise DatabaseError(
                    "somebody holds a lock for too long; nothing has changed",
                    "end the long transaction, or run the same command again",
                ) from error
            time.sleep(min(wait_ms / 1000, _LONGEST_PAUSE_S))
            wait_ms = min(2 * wait_ms, _LONGEST_WAIT_MS)


def template(text: str, holes: Mapping[str, sql.Composable] | None = None) -> sql.Composed:
    """Return a statement of ``sql/`` with its ``{holes}`` filled by identifiers or literals, never by plain text."""
    return sql.SQL(text).format(**(holes or {}))


@cache
def _queries() -> dict[str, str]:
    """Return the named queries of ``sql/queries.sql``."""
    parts = re.split(r"^-- name: (\w+)[^\n]*\n", resources.sql_text("queries.sql"), flags=re.MULTILINE)
    return {name: body.strip().rstrip(";") for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def query(statement: str, /, **holes: sql.Composable) -> sql.Composed:
    """Return the named query of ``sql/queries.sql``, its holes filled."""
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
