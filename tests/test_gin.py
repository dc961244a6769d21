"""The two jsonb indexes serve containment on effects and on effect groups: as people write it, and as the reader asks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_line import new_database
from psycopg import sql
from test_coordinator import options

import etl
from etl import coordinator, db, generate
from etl.read import PowerReader

FORMS = {
    "i12": [
        ("effect_groups", '[{"type": "Damage"}]'),
        ("effects", '[{"DamageType": "Fire"}]'),
        ("effects", '[{"AttributeModifiers": [{"Attribute": "Fire_Dmg"}]}]'),
    ],
    "cod": [
        ("effect_groups", '[{"type": "Damage"}]'),
        ("effects", '[{"templates": [{"attribs": ["Fire_Dmg"]}]}]'),
    ],
}


@pytest.fixture(scope="module", params=list(FORMS))
def loaded(
    request: pytest.FixtureRequest, server_dsn: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """A shape of records, and the DSN of a database with some of them."""
    folder: Path = tmp_path_factory.mktemp("gin")
    generate.generate(request.param, 600, 3, folder / "powers.json")
    etl.split(str(folder / "powers.json"), store=str(folder / "store"), executor="inline://")
    with new_database(server_dsn, template_database) as dsn:
        coordinator.load(options(str(folder / "store"), dsn))
        yield request.param, dsn


def index_scans(connection: psycopg.Connection[Any], statement: sql.Composable | str) -> set[str]:
    """Return the indexed columns that a statement finds rows by, where reading whole tables is the last resort."""
    connection.execute("set enable_seqscan = off; set enable_indexscan = off")
    text = statement if isinstance(statement, str) else statement.as_string(connection)
    (plan,) = connection.execute(f"explain (format json) {text}".encode()).fetchone() or ()
    names = {node["Index Name"] for node in nodes(plan[0]["Plan"]) if node["Node Type"] == "Bitmap Index Scan"}
    found = "select indexdef from pg_indexes where indexname = any (%s) and indexdef like '%% USING gin %%'"
    definitions = connection.execute(found, (list(names),)).fetchall()
    return {definition.partition(" USING gin ")[2] for (definition,) in definitions}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def test_containment_finds_rows_by_the_index_of_its_column(loaded: tuple[str, str]) -> None:
    """Through the views that applications read; what it finds is what a scan finds."""
    shape, dsn = loaded
    with psycopg.connect(dsn, autocommit=True) as connection:
        for column, value in FORMS[shape]:
            query = f"select id from game.powers where {column} @> '{value}' order by id"
            scans = index_scans(connection, query)
            by_index = connection.execute(query.encode()).fetchall()
            connection.execute("set enable_seqscan = on; set enable_bitmapscan = off")
            by_scan = connection.execute(query.encode()).fetchall()
            connection.execute("reset all")

            assert scans == {f"({column} jsonb_path_ops)"}
            assert by_index == by_scan
            assert by_index


def test_the_readers_question_is_served_by_both(loaded: tuple[str, str]) -> None:
    """`PowerReader.with_effect` asks for types and attributes at once."""
    _, dsn = loaded
    values = {"type": '[{"type": "Damage"}]', "level": None, "limit": 5}
    values |= {f"form_{place}": '[{"DamageType": "Fire"}]' for place in range(3)}
    holes = {"columns": sql.SQL("b.id"), "condition": sql.SQL("true"), "schema": db.identifier("game")}
    with psycopg.connect(dsn, autocommit=True) as connection:
        text = psycopg.ClientCursor(connection).mogrify(db.query("read_with_effect", **holes), values)

        assert index_scans(connection, text) == {"(effects jsonb_path_ops)", "(effect_groups jsonb_path_ops)"}
    with PowerReader(dsn) as reader:
        assert reader.with_effect("Damage")
