"""The durable key registry: ids of archetypes and powersets, and the two tables that hold these entities."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from psycopg import sql

from etl import db, ddl
from etl.plan import Leaf
from etl.tables import archetypes as archetype_table
from etl.tables import powersets as powerset_table
from etl.tables.spec import TableSpec

Entity = Mapping[str, Any]

ENTITY_TABLES = ("archetypes", "powersets")
"""The tables of entities; all others come from records."""


def register(
    connection: db.Connection, archetypes: Sequence[Entity], powersets: Sequence[Entity]
) -> tuple[dict[str, int], dict[str, int]]:
    """Give every archetype and powerset its id; return both mappings from uid to id.

    Ids are given out in the order of uids, by one transaction at a time, which this is in; a known uid keeps its id.
    """
    archetype_uids = [entity["uid"] for entity in archetypes]
    powerset_uids = [entity["uid"] for entity in powersets]
    with connection.pipeline():
        connection.execute(db.query("lock_registry"), {"space": db.LOCK_SPACE})
        connection.execute(db.query("register_archetypes"), {"uids": archetype_uids})
        connection.execute(db.query("register_powersets"), {"uids": powerset_uids})
        archetype_ids = connection.execute(db.query("archetype_ids"))
        found = connection.execute(db.query("powerset_ids"), {"uids": powerset_uids})
    return dict(archetype_ids.fetchall()), dict(found.fetchall())


def powerset_ids(connection: db.Connection, uids: Sequence[str]) -> db.Cursor:
    """Ask for the (uid, id) of those of the powersets that have one."""
    return connection.execute(db.query("powerset_ids"), {"uids": list(uids)})


def begin_enrolment(connection: db.Connection, schema: str) -> None:
    """Let a new build enrol its powers as it loads them (see ``etl.enrol``), if no power has an id yet.

    To be called in the transaction that gave out the ids of archetypes and powersets.
    """
    row = connection.execute(db.query("some_power_is_known")).fetchone()
    if row == (False,):
        connection.execute(db.query("create_enrolment", enrolment=db.identifier(schema, "enrolment")))


def ask_enrolment(connection: db.Connection, schema: str) -> db.Cursor:
    """Ask whether a build enrols its powers, and has not done so yet: one row, true or false."""
    return connection.execute(db.query("relation_exists"), {"schema": schema, "name": "enrolment"})


def is_overtaken(connection: db.Connection, schema: str) -> bool:
    """Whether a build enrols the first powers of a database in which others have ids by now."""
    with connection.pipeline():
        enrols = ask_enrolment(connection, schema)
        known = connection.execute(db.query("some_power_is_known"))
    return enrols.fetchone() == known.fetchone() == (True,)


def first_ids(leaves: Sequence[Leaf]) -> list[int]:
    """Return the id of each leaf's first power in a database that had none before."""
    return list(itertools.accumulate((leaf.rows for leaf in leaves), initial=1))[:-1]


class EntityRows(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of the tables ``archetypes`` and ``powersets``, in the order of their specs' columns."""

    archetypes: list[tuple[object, ...]]
    powersets: list[tuple[object, ...]]


def entity_rows(
    archetypes: Sequence[Entity],
    powersets: Sequence[Entity],
    archetype_ids: Mapping[str, int],
    powerset_ids: Mapping[str, int],
) -> EntityRows:
    """Turn the entities of a store into rows."""
    return EntityRows(
        archetypes=[archetype_table.row(entity, archetype_ids) for entity in archetypes],
        powersets=[powerset_table.row(entity, powerset_ids, archetype_ids) for entity in powersets],
    )


def index_entities(connection: db.Connection, schema: str, names: Iterable[str]) -> None:
    """Index those of the entity tables of a build that are named, and gather their statistics."""
    for name in names:
        ddl.create_indexes(connection, schema, name, ddl.table_file(name))
        ddl.analyze(connection, schema, name, name)


def copy_entities(
    connection: db.Connection,
    schema: str,
    rows: EntityRows,
    prefix: str = "",
    names: Collection[str] = ENTITY_TABLES,
) -> dict[str, int]:
    """COPY the rows into ``<prefix>archetypes`` and ``<prefix>powersets``; return the rows per table."""
    counts = {}
    for spec, lines in ((archetype_table.SPEC, rows.archetypes), (powerset_table.SPEC, rows.powersets)):
        if spec.name in names:
            _copy(connection, schema, prefix, spec, lines)
            counts[spec.name] = len(lines)
    return counts


def _copy(
    connection: db.Connection, schema: str, prefix: str, spec: TableSpec, lines: Sequence[tuple[object, ...]]
) -> None:
    names = sql.SQL(", ").join(map(sql.Identifier, spec.columns))
    statement = sql.SQL("copy {} ({}) from stdin").format(db.identifier(schema, prefix + spec.name), names)
    with connection.cursor() as cursor, cursor.copy(statement) as stream:
        for line in lines:
            stream.write_row([_array(value) if isinstance(value, list) and value else value for value in line])


def _array(values: list[Any]) -> object:
    """Return an array of texts as PostgreSQL reads it, all quoted: psycopg looks at each whether it needs to be."""
    if not isinstance(values[0], str):
        return values
    return "{" + ",".join(['"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in values]) + "}"
