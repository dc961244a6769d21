"""The durable key registry: ids of archetypes and powersets, and the two tables that hold these entities."""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import sql

from etl import db, ddl
from etl.tables import archetypes as archetype_table
from etl.tables import powersets as powerset_table
from etl.tables.spec import TableSpec

Entity = Mapping[str, Any]


def register(
    connection: db.Connection, archetypes: Sequence[Entity], powersets: Sequence[Entity]
) -> tuple[dict[str, int], dict[str, int]]:
    """Give every archetype and powerset its id; return both mappings from uid to id.

    Ids are given out in the order of uids; a known uid keeps its id.
    """
    archetype_uids = [entity["uid"] for entity in archetypes]
    powerset_uids = [entity["uid"] for entity in powersets]
    connection.execute(db.query("register_archetypes"), {"uids": archetype_uids})
    connection.execute(db.query("register_powersets"), {"uids": powerset_uids})
    archetype_ids: dict[str, int] = dict(connection.execute(db.query("archetype_ids")).fetchall())
    powerset_ids: dict[str, int] = dict(
        connection.execute(db.query("powerset_ids"), {"uids": powerset_uids}).fetchall()
    )
    return archetype_ids, powerset_ids


def write_entities(
    connection: db.Connection,
    schema: str,
    archetypes: Sequence[Entity],
    powersets: Sequence[Entity],
    archetype_ids: Mapping[str, int],
    powerset_ids: Mapping[str, int],
) -> dict[str, int]:
    """Fill and index the tables ``archetypes`` and ``powersets`` of a build; return their rows."""
    archetype_rows = [archetype_table.row(entity, archetype_ids) for entity in archetypes]
    powerset_rows = [powerset_table.row(entity, powerset_ids, archetype_ids) for entity in powersets]
    _write(connection, schema, archetype_table.SPEC, archetype_rows)
    _write(connection, schema, powerset_table.SPEC, powerset_rows)
    return {archetype_table.SPEC.name: len(archetypes), powerset_table.SPEC.name: len(powersets)}


def _write(connection: db.Connection, schema: str, spec: TableSpec, lines: Sequence[tuple[object, ...]]) -> None:
    """COPY rows of Python values into one small table, then index it."""
    names = sql.SQL(", ").join(map(sql.Identifier, spec.columns))
    statement = sql.SQL("copy {} ({}) from stdin").format(db.identifier(schema, spec.name), names)
    with connection.cursor() as cursor, cursor.copy(statement) as stream:
        for line in lines:
            stream.write_row(line)
    ddl.create_indexes(connection, schema, spec.name, ddl.table_file(spec.name))
    ddl.analyze(connection, schema, spec.name, spec.name)
