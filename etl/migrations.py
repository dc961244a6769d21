"""The durable schema ``etl``: numbered plain SQL, forward only, each file with its record in one transaction."""

import re
from dataclasses import dataclass

from etl import db, resources
from etl.errors import SchemaError


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
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
    row = connection.execute("select to_regclass('etl.migration')").fetchone()
    if row is None or row[0] is None:
        return []
    return [version for (version,) in connection.execute("select version from etl.migration order by version")]


def pending(connection: db.Connection) -> list[Migration]:
    """Return the migrations that the database lacks, in order.

    Raises:
        SchemaError: the database is newer than this program, or its schema ``etl`` belongs to something else.
    """
    _refuse_strangers(connection)
    done, ours = applied(connection), available()
    newer = [version for version in done if version > ours[-1].version]
    if newer:
        raise SchemaError(
            f"the database has schema version {newer[-1]}, this etl knows up to {ours[-1].version}",
            "install the etl that wrote it, or a newer one: pip install -U hero-etl",
        )
    return [migration for migration in ours if migration.version not in done]


def migrate(connection: db.Connection) -> list[Migration]:
    """Apply what is missing, each in a transaction with its record; return what was applied (maybe nothing)."""
    todo = pending(connection)
    if not todo:
        return []
    connection.execute(db.query("create_ledger"))
    for migration in todo:
        with connection.transaction():
            connection.execute(db.query("lock_ledger"))
            if migration.version in applied(connection):
                continue
            connection.execute(migration.text.encode())
            connection.execute(db.query("record_migration"), (migration.version, migration.name))
    return todo


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


def ensure(connection: db.Connection) -> None:
    """Create the schema in a database that has none; an old one is refused with the command that mends it."""
    if not applied(connection):
        migrate(connection)
    require(connection)


def _refuse_strangers(connection: db.Connection) -> None:
    """Raise SchemaError where schema ``etl`` exists, is not ours, and is not empty."""
    foreign = connection.execute(db.query("foreign_relations_in_ledger")).fetchall()
    if foreign:
        names = ", ".join(name for (name,) in foreign[:5])
        raise SchemaError(
            f"schema etl of this database holds something else ({names})",
            "use another database: --dsn postgresql://…/another_name",
        )
