"""The durable schema ``etl``: numbered plain SQL, forward only, each file with its record in one transaction.

docs/migrations.md says why, and what takes the place of a downgrade.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from etl import db, resources
from etl.errors import DatabaseError, SchemaError, UsageError

_HEADER = """\
-- {description}
--
-- This file and its record are one transaction: write no begin, no commit, and nothing that cannot run inside one.
-- Forward only: there is no way back, and once it is released this file is never changed.
-- It meets databases with data in them, PostgreSQL 14 to 18, and readers at work: say "not null" with a default, and do
-- not rewrite a big table. Nothing here may touch the build schemas: a rebuild makes those anew.
-- Bring sql/schema.sql to the same state (tests/test_migrations.py compares the two). See docs/migrations.md.

"""

_REPEATED = "ETL01"
_VERSIONS = "select version from etl.migration order by version"


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One file of ``sql/migrations``: its number, the words of its name, its text."""

    version: int
    name: str
    text: str


def available() -> list[Migration]:
    """Return the migrations that this version of etl brings, in order."""
    found = []
    for path in resources.sql_files("migrations"):
        match = re.fullmatch(r"(?:.*/)?(\d{4})_(\w+)\.sql", path)
        if match:
            found.append(Migration(version=int(match[1]), name=match[2], text=resources.sql_text(path)))
    return sorted(found, key=lambda migration: migration.version)


def applied(connection: db.Connection) -> list[int]:
    """Return the versions that the database has, in order; empty where there is no schema ``etl``."""
    return _applied(connection, _ask_whether_any(connection))


def _ask_whether_any(connection: db.Connection) -> db.Cursor:
    return connection.execute("select to_regclass('etl.migration') is not null")


def _applied(connection: db.Connection, asked: db.Cursor) -> list[int]:
    """Return the versions, if ``asked`` says that there are any."""
    return [version for (version,) in connection.execute(_VERSIONS)] if _is_true(asked) else []


def _is_true(asked: db.Cursor) -> bool:
    """Whether the answer is true; it may be read again."""
    asked.scroll(0, mode="absolute")
    return asked.fetchone() == (True,)


def pending(connection: db.Connection) -> list[Migration]:
    """Return the migrations that the database lacks, in order.

    Raises:
        SchemaError: the database is newer than this program, or its schema ``etl`` belongs to something else.
    """
    with db.together(connection):
        asked = ask(connection)
    _refuse_strangers(asked)
    return _missing(_applied(connection, asked.any))


def _missing(done: Sequence[int]) -> list[Migration]:
    """Return the migrations that are not among the versions ``done``."""
    ours = available()
    newer = [version for version in done if version > ours[-1].version]
    if newer:
        raise SchemaError(
            f"the database has schema version {newer[-1]}, this etl knows up to {ours[-1].version}",
            "install the etl that wrote it, or a newer one: pip install -U hero-etl",
        )
    return [migration for migration in ours if migration.version not in done]


def migrate(connection: db.Connection) -> list[Migration]:
    """Apply what is missing, each in a transaction with its record; return what was applied (maybe nothing).

    Raises:
        DatabaseError: the server refused one; neither its changes nor its record stay, those before it do.
        psycopg.Error: the server went away; run again, it goes on where it was.
        SchemaError: see ``pending``.
    """
    return _apply_all(connection, pending(connection))


def _apply_all(connection: db.Connection, todo: list[Migration]) -> list[Migration]:
    if not todo:
        return []
    if connection.info.transaction_status != TransactionStatus.IDLE:
        raise psycopg.ProgrammingError("inside another transaction, which it would commit")
    if _apply_together(connection, todo):
        return todo
    connection.execute(db.query("create_ledger"))
    for migration in _missing(applied(connection)):
        try:
            _apply(connection, migration)
        except psycopg.Error as error:
            if db.is_transient(error):  # the server went away: it may have come to its end or not
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DatabaseError(
                f"migration {migration.version:04d} {migration.name} was refused, and nothing of it stays: {reason}",
                "etl db status shows what is applied",
            ) from error
    return todo


def _apply_together(connection: db.Connection, todo: Sequence[Migration]) -> bool:
    """Make the table of migrations and apply some, in one round to the server; whether nothing was in the way.

    Where something was, the ones before it are applied.
    """
    script = db.query("create_ledger").as_bytes(connection)
    try:
        connection.execute(b";\n".join([script, *(_script(connection, migration) for migration in todo)]))
    except psycopg.Error as error:
        if db.is_transient(error):
            raise
        return False
    finally:
        db.undo(connection)  # what did not come to its commit
    return True


def _apply(connection: db.Connection, migration: Migration) -> None:
    """Apply one migration, in one round to the server, unless another migrator was faster."""
    try:
        connection.execute(_script(connection, migration))
    except psycopg.Error as error:
        if error.sqlstate != _REPEATED:
            raise
    finally:
        db.undo(connection)  # what did not come to its commit


def _script(connection: db.Connection, migration: Migration) -> bytes:
    """Return a migration and its record as one transaction."""
    version, name = sql.Literal(migration.version), sql.Literal(migration.name)
    before = sql.SQL("begin;\n{};\n{};\n").format(
        db.query("lock_ledger"), db.query("refuse_repetition", version=version)
    )
    behind = sql.SQL("\n;\n{};\ncommit").format(db.query("record_migration", version=version, name=name))
    return before.as_bytes(connection) + migration.text.encode() + behind.as_bytes(connection)


def create(description: str, folder: Path) -> Path:
    """Write the next migration, empty but for what must be kept in mind; return its place.

    Raises:
        UsageError: the description holds no word that a file name could have.
    """
    words = re.findall(r"[a-z0-9]+", description.lower())
    if not words:
        raise UsageError(f"'{description}' says nothing", 'etl db migration-create "what it changes"')
    taken = [int(path.name[:4]) for path in folder.glob("[0-9][0-9][0-9][0-9]_*.sql")]
    path = folder / f"{max(taken, default=0) + 1:04d}_{'_'.join(words)[:60]}.sql"
    with path.open("x", encoding="utf-8") as stream:
        stream.write(_HEADER.format(description=" ".join(description.split())))
    return path


def require(connection: db.Connection) -> None:
    """Raise SchemaError, with the command that mends it, unless the schema is there and of this version."""
    todo = pending(connection)
    if todo and not applied(connection):
        raise SchemaError("nothing has been loaded into this database yet", "etl load, or etl db migrate")
    if todo:
        raise SchemaError(
            f"the schema of this database is old: {len(todo)} migration(s) behind, next is {todo[0].name}",
            "etl db migrate",
        )


class Asked(msgspec.Struct, frozen=True):
    """What a database was asked of its schema ``etl``: whether there are migrations, and what else it holds if not."""

    any: db.Cursor
    foreign: db.Cursor

    @property
    def is_empty(self) -> bool:
        """Whether there are no migrations."""
        return not _is_true(self.any)


def ask(connection: db.Connection) -> Asked:
    """Ask what there is of the schema, maybe beside other questions; for ``ensure``."""
    return Asked(_ask_whether_any(connection), connection.execute(db.query("foreign_relations_in_ledger")))


def ensure(connection: db.Connection, asked: Asked | None = None) -> None:
    """Create the schema in a database that has none; an old one is refused with the command that mends it."""
    asked = asked or ask(connection)
    done = _applied(connection, asked.any)
    if not done:
        _refuse_strangers(asked)
        _apply_all(connection, _missing(done))
    elif _missing(done):
        require(connection)


def _refuse_strangers(asked: Asked) -> None:
    """Raise SchemaError where schema ``etl`` exists, is not ours, and is not empty."""
    foreign = asked.foreign.fetchall()
    if foreign:
        names = ", ".join(name for (name,) in foreign[:5])
        raise SchemaError(
            f"schema etl of this database holds something else ({names})",
            "use another database: --dsn postgresql://…/another_name",
        )
