"""Where an update's rows wait: temporary tables of its last transaction.

They are written without WAL, and no commit leaves them: they are gone however it ends, even where the server crashes. What
other temporary tables leave in the catalogs waits for autovacuum then.
"""

from collections.abc import Sequence

from psycopg import sql

from etl import bulkload, db, ddl, keys, ledger, tables
from etl.plan import KINDS, Difference, Staged

SCHEMA = "pg_temp"
"""The session's own schema, where they are."""


def relation(table: str) -> sql.Identifier:
    """Return where the rows of a table wait."""
    return db.identifier(SCHEMA, f"staged_{table}")


def create(connection: db.Connection, schema: str, names: Sequence[str]) -> None:
    """Create the tables for these tables of a build, for its entities, for rejects, and for the names of what is touched."""
    homes = ddl.homes(connection, schema, (*keys.ENTITY_TABLES, *names))
    with connection.pipeline():
        for name, home in homes.items():
            parent = db.identifier(home, name)
            connection.execute(db.query("create_staged", staged=db.identifier(f"staged_{name}"), parent=parent))
        for statement in ("create_staged_reject", "stage_powers_to_touch"):
            connection.execute(db.query(statement))


def touch(connection: db.Connection, schema: str, differences: Sequence[Difference]) -> None:
    """Note which powers are touched, and how. All are in the registry by now."""
    lines = [
        (uid, kind, archetype, powerset)
        for difference in differences
        for kind in KINDS
        for uid, archetype, powerset in getattr(difference, kind)
    ]
    columns = list(zip(*lines, strict=True)) or [(), (), (), ()]
    names = ("uids", "kinds", "archetypes", "powersets")
    values = {name: list(column) for name, column in zip(names, columns, strict=True)}
    connection.execute(db.query("fill_touch", schema=db.identifier(schema)), values)


def put(connection: db.Connection, build: int, staged: Staged) -> None:
    """COPY the rows that a worker made, and note what it set aside.

    Raises:
        MismatchError: the server counted other rows than were sent.
        psycopg.Error: the server refused.
    """
    for name, rows, data in staged.copies:
        bulkload.send(connection, relation(name), tables.spec(name).columns, data, rows)
    for reject in staged.rejects:
        connection.execute(db.query("stage_reject"), {"build": build, "leaf": "update", **ledger.reject_values(reject)})


def resolve(connection: db.Connection, schema: str) -> None:
    """Let references find those of the powers they name that the build has once the update is done."""
    connection.execute(db.query("resolve_staged", schema=db.identifier(schema)))
