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
    """Give every archetype and powerset its id; return both mappings from uid to id; see ``ask_register``."""
    with connection.pipeline():
        asked = ask_register(connection, archetypes, powersets)
    return registered(asked)


def ask_register(
    connection: db.Connection, archetypes: Sequence[Entity], powersets: Sequence[Entity]
) -> tuple[db.Cursor, db.Cursor]:
    """Give every archetype and powerset its id, and ask for these, maybe beside other questions; for ``registered``.

    Ids are given out in the order of uids, by one transaction at a time, which this is in; a known uid keeps its id.
    """
    archetype_uids = [entity["uid"] for entity in archetypes]
    powerset_uids = [entity["uid"] for entity in powersets]
    connection.execute(db.query("lock_registry"), {"space": db.LOCK_SPACE})
    connection.execute(db.query("register_archetypes"), {"uids": archetype_uids})
    connection.execute(db.query("register_powersets"), {"uids": powerset_uids})
    return connection.execute(db.query("archetype_ids")), powerset_ids(connection, powerset_uids)


def registered(asked: tuple[db.Cursor, db.Cursor]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the ids of archetypes and of powersets, by uid."""
    archetype_ids, powerset_ids = asked
    return dict(archetype_ids.fetchall()), dict(powerset_ids.fetchall())


def powerset_ids(connection: db.Connection, uids: Sequence[str]) -> db.Cursor:
    """Ask for the (uid, id) of those of the powersets that have one."""
    return connection.execute(db.query("powerset_ids"), {"uids": list(uids)})


def begin_enrolment(connection: db.Connection, schema: str) -> None:
    """Let a new build enrol its powers as it loads them (see ``etl.enrol``), if no power has an id yet.

    To be called in the transaction that gave out the ids of archetypes and powersets.
    """
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


def insert_entities(
    connection: db.Connection,
    schema: str,
    rows: EntityRows,
    prefix: str = "",
    names: Collection[str] = ENTITY_TABLES,
) -> dict[str, int]:
    """Insert the rows into ``<prefix>archetypes`` and ``<prefix>powersets``; return the rows per table.

    They go as JSON in one statement for each table, which waits for nothing in a pipeline, as a COPY would.
    """
    counts = {}
    for spec, lines in ((archetype_table.SPEC, rows.archetypes), (powerset_table.SPEC, rows.powersets)):
        if spec.name in names:
            relation = db.identifier(schema, prefix + spec.name)
            columns = sql.SQL(", ").join(map(sql.Identifier, spec.columns))
            connection.execute(
                db.query("insert_rows", relation=relation, columns=columns), {"rows": _as_json(spec, lines)}
            )
            counts[spec.name] = len(lines)
    return counts


def _as_json(spec: TableSpec, lines: Sequence[tuple[object, ...]]) -> str:
    """Return rows as a JSON array of objects; the text of a jsonb column is part of it as it is."""
    is_json = [kind == "jsonb" for kind in spec.columns.values()]
    objects = [
        {
            name: msgspec.Raw(value.encode()) if whether and isinstance(value, str) else value
            for name, value, whether in zip(spec.columns, line, is_json, strict=True)
        }
        for line in lines
    ]
    return msgspec.json.encode(objects).decode()
