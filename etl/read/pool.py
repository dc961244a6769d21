"""The pool of connections that a reader asks through: the door to psycopg_pool.

Each statement stands alone (autocommit): it sees one snapshot, and whatever breaks can be asked again.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
import psycopg
import psycopg_pool
from psycopg import sql
from psycopg.types.string import ByteaBinaryLoader

from etl import db
from etl.errors import DatabaseError, SchemaError, UsageError

_log = logging.getLogger(__name__)
T = TypeVar("T")
Values = Mapping[str, Any]
Row = tuple[Any, ...]

# States after which the same statement may well succeed: broken connections, shutdowns, deadlocks, lock timeouts.
_PASSING = ("08", "40", "55P03", "57P01", "57P02", "57P03")
_TRIES = 3
_PAUSE_S = 0.05


class PoolOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How many connections there are, and how they are looked after.

    ``size`` are kept open, ``overflow`` more may be opened under load; a caller waits ``timeout_s`` for one. ``check``
    asks each connection before it is used (a round trip); without, a broken one is noticed by its error, and the
    statement is asked again. Connections older than ``recycle_s``, or idle for ``idle_s``, are replaced or closed.
    """

    size: int = 1
    overflow: int = 7
    timeout_s: float = 5.0
    check: bool = False
    recycle_s: float = 3600.0
    idle_s: float = 300.0
    statement_timeout_s: float = 30.0


class Database:
    """Asks the statements of ``sql/read.sql``; opens its connections when they are needed."""

    def __init__(self, dsn: str, schema: str, options: PoolOptions, events: Counter[str]) -> None:
        self.dsn, self.schema, self._options, self._events = dsn, schema, options, events
        db.split_secret(dsn)
        self._texts: dict[tuple[str, str], bytes] = {}
        self._pool: psycopg_pool.ConnectionPool[db.Connection] = psycopg_pool.ConnectionPool(
            dsn,
            min_size=options.size,
            max_size=options.size + options.overflow,
            timeout=options.timeout_s,
            max_lifetime=options.recycle_s,
            max_idle=options.idle_s,
            reconnect_timeout=options.timeout_s,
            kwargs={"autocommit": True, "application_name": "etl.read", "connect_timeout": 10},
            configure=self._configure,
            check=psycopg_pool.ConnectionPool.check_connection if options.check else None,
            name="etl.read",
            open=False,
        )
        self._pool.open()

    def ask(self, statement: str, values: Values, variant: str = "", **holes: sql.Composable) -> Row:
        """Return the one row of a named statement; ``variant`` names what fills its holes, where that may differ.

        Raises:
            SchemaError: nothing is published in the live schema.
            DatabaseError: the server cannot be reached or refuses, also after a few tries.
        """
        rows = self.ask_rows(statement, values, variant, **holes)
        if not rows:
            raise SchemaError(f"nothing is published in schema {self.schema}", "etl load")
        return rows[0]

    def ask_rows(self, statement: str, values: Values, variant: str = "", **holes: sql.Composable) -> list[Row]:
        """Return all rows of a named statement."""
        self._events["statements" if statement != "read_state" else "questions_of_state"] += 1
        query = self._text(statement, variant, holes)
        return self._patiently(lambda connection: connection.execute(query, values, prepare=True).fetchall())

    def run(self, statement: str, values: Values) -> None:
        """Run a named statement that returns nothing of interest."""
        self._patiently(lambda connection: connection.execute(db.query(statement), values))

    def close(self) -> None:
        """Close the connections."""
        self._pool.close(timeout=5.0)

    def _text(self, statement: str, variant: str, holes: Mapping[str, sql.Composable]) -> bytes:
        """Return a statement as it is sent; each is put together once, which takes longer than to execute some."""
        key = (statement, variant)
        text = self._texts.get(key)
        if text is None:
            composed = db.query(statement, schema=db.identifier(self.schema), **holes)
            text = self._texts[key] = composed.as_bytes(None)
        return text

    def _configure(self, connection: db.Connection) -> None:
        prepare(connection, self._options.statement_timeout_s)

    def _patiently(self, call: Callable[[db.Connection], T]) -> T:
        for last in (False,) * (_TRIES - 1) + (True,):
            try:
                with self._pool.connection() as connection:
                    return call(connection)
            except psycopg_pool.PoolTimeout as error:
                with db.connect(self.dsn, name="etl.read"):  # which says why, if it is not the pool's size
                    pass
                raise DatabaseError(
                    f"all connections of the reader were busy for {self._options.timeout_s:g} s",
                    "let PoolOptions have more of them, or call it from fewer threads",
                ) from error
            except psycopg.Error as error:
                if last or not _passes(error):
                    raise self._translated(error) from error
                _log.info("asking the database again after: %s", error)
                self._pool.check()
                time.sleep(_PAUSE_S)
        raise AssertionError

    def _translated(self, error: psycopg.Error) -> Exception:
        """Return an error of ours; a missing relation stays, for those who can do without it."""
        said = " ".join(str(error).split("\n")[0].split())
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
            return Missing(f"schema {self.schema} lacks what a reader needs: {said}", "etl db migrate, then etl load")
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            schema = self.schema
            return DatabaseError(
                f"the database refused: {said}",
                f"grant usage on schema {schema} to …; grant select on all tables in schema {schema} to …",
            )
        return DatabaseError(
            f"the database at {db.redact(self.dsn)} failed: {said}", "check that it runs, and ask again"
        )


class Missing(SchemaError):
    """The live schema lacks a relation."""


def prepare(connection: db.Connection, statement_timeout_s: float) -> None:
    """Make a connection ready for reading: JSON comes as its text, a statement does not run for ever."""
    for name in ("json", "jsonb"):
        connection.adapters.register_loader(name, _AsItComes)
    values = {"milliseconds": str(round(1000 * statement_timeout_s))}
    connection.execute(db.query("read_prepare_session"), values)


def connect(dsn: str) -> db.Connection:
    """Return a connection of its own, for listening.

    Raises:
        psycopg.Error: the server cannot be reached.
        UsageError: the connection string cannot be understood.
    """
    try:
        connection = psycopg.connect(dsn, autocommit=True, application_name="etl.read: listening", connect_timeout=10)
    except psycopg.ProgrammingError as error:
        raise UsageError("the connection string of the database cannot be understood") from error
    prepare(connection, 30.0)
    return connection


class _AsItComes(ByteaBinaryLoader):
    """Loads JSON as the bytes that the server sent; in C, because some answers have thousands of values."""

    format = psycopg.pq.Format.TEXT


def _passes(error: psycopg.Error) -> bool:
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate.startswith(_PASSING)
