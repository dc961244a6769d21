"""The commands that look something up in the published build: power, powerset."""

from typing import Any

import click
from psycopg import sql
from psycopg.rows import dict_row

from etl import db, dsn, migrations
from etl.cli import common
from etl.errors import SchemaError, UsageError

_SHOWN = (
    "id", "internal_name", "display_name", "powerset_name", "archetype_name", "level_available", "power_type",
    "target_type", "activation_kind", "accuracy", "damage_scale", "endurance_cost", "recharge_time",
    "activation_time", "range_feet", "radius_feet", "max_targets", "description",
)  # fmt: skip


@click.command()
@click.argument("name_or_id")
@common.DSN
@common.SCHEMA
@common.JSON
def power(name_or_id: str, dsn: str | None, schema: str, as_json: bool) -> None:
    """Show one power: by its full name (Category.Set.Power, any case), its id, or its own name if that is unique.

    \b
    Example: etl power blaster_ranged.fire_blast.fire_blast
    """
    with _published(dsn, schema) as connection:
        number = _power_id(connection, schema, name_or_id)
        cursor = connection.cursor(row_factory=dict_row)
        place = cursor.execute(_query("place_of_power", schema), {"id": number}).fetchone()
        row = place and cursor.execute(_query("power_in_place", schema), {**place, "id": number}).fetchone()
    if row is None:
        raise UsageError(f"no power has the id {number}", "etl power NAME")
    row.pop("source_hash", None)
    if as_json:
        common.emit(row)
        return
    for name in _SHOWN:
        if row.get(name) not in (None, ""):
            click.echo(f"{name.replace('_', ' '):16} {common.harmless(row[name])}")
    click.echo(f"{'effects':16} {row['effect_groups'] and _groups(row['effect_groups'])}")


@click.command()
@click.argument("name")
@click.option("--level", type=int, help="Only powers available at this level.")
@common.DSN
@common.SCHEMA
@common.JSON
def powerset(name: str, level: int | None, dsn: str | None, schema: str, as_json: bool) -> None:
    """Show the powers of a powerset: by its full name (Category.Set, any case), or its own name if that is unique.

    \b
    Example: etl powerset blaster_ranged.fire_blast --level 10
    """
    with _published(dsn, schema) as connection:
        found = connection.execute(_query("powersets_called", schema), {"name": name}).fetchall()
        exact = [row for row in found if row[1].lower() == name.lower()] or found
        if not found:
            raise UsageError(f"there is no powerset {name}", "write it as Category.Set")
        if len(exact) > 1:
            names = ", ".join(str(row[1]) for row in exact[:20])
            raise UsageError(f"{len(exact)} powersets are called {name}: {names}", "write it as Category.Set")
        cursor = connection.cursor(row_factory=dict_row)
        values = {"powerset": exact[0][0], "level": level}
        rows = cursor.execute(_query("powers_of_set", schema), values).fetchall()
    if as_json:
        common.emit({"powerset": exact[0][1], "id": exact[0][0], "powers": rows})
        return
    header = ["id", "level", "name", "type", "target", "accuracy", "damage", "endurance", "recharge"]
    keys = ["id", "level_available", "display_name", "power_type", "target_type", "accuracy", "damage_scale",
            "endurance_cost", "recharge_time"]  # fmt: skip
    click.echo(f"{exact[0][1]}: {len(rows)} powers")
    click.echo(common.table(header, [[row[key] for key in keys] for row in rows]))


def _published(where: str | None, schema: str) -> Any:
    """Return a connection to a database that has a published build."""
    from contextlib import contextmanager

    @contextmanager
    def opened() -> Any:
        with db.connect(dsn.resolve(where), name="etl look-up") as connection:
            migrations.require(connection)
            if connection.execute(db.query("live"), {"schema": schema}).fetchone() is None:
                raise SchemaError(f"nothing is published in schema {schema}", "etl load")
            yield connection

    return opened()


def _query(name: str, schema: str) -> sql.Composed:
    return db.query(name, schema=db.identifier(schema))


def _power_id(connection: db.Connection, schema: str, name_or_id: str) -> int:
    """Return the id of a power, or say which powers were meant."""
    if name_or_id.isdigit():
        return int(name_or_id)
    row = connection.execute(_query("power_id_by_name", schema), {"name": name_or_id.lower()}).fetchone()
    if row is not None:
        return int(row[0])
    found = [str(name) for (name,) in connection.execute(_query("powers_called", schema), {"name": name_or_id})]
    if len(found) == 1:
        return _power_id(connection, schema, found[0])
    if found:
        raise UsageError(f"several powers are called {name_or_id}: {', '.join(found)}", "write the full name")
    raise UsageError(f"there is no power {name_or_id}", "write it as Category.Set.Power, or give its id")


def _groups(groups: list[dict[str, Any]]) -> str:
    return ", ".join(f"{group['type']} ×{group['summary']['count']}" for group in groups)
