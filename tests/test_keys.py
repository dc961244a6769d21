"""The rows of archetypes and powersets arrive as they are."""

import psycopg
import pytest

from etl import keys
from etl.tables import powersets as powerset_table

TRICKY = ["", "NULL", "plain", "a,b", "{c}", 'd"e', "f\\g", "\\", '"', " h ", "i\tj\nk", "é–中", "'", "\\N", "\\\\."]


@pytest.mark.parametrize("texts", [TRICKY, TRICKY[::-1], [], ["only"]])
def test_lists_of_texts_arrive_as_they_are(empty_dsn: str, texts: list[str]) -> None:
    """Whatever is in them, in COPY's text format; numbers beside them too."""
    entity = {
        "uid": "a.b",
        "name": "b",
        "full_name": "a.b",
        "archetype": "a",
        "power_order": texts,
        "available_levels": [1, 50],
    }
    row = powerset_table.row(entity, {"a.b": 7}, {"a": 3})
    kinds = {"int4": "integer", "int4[]": "integer[]", "text[]": "text[]", "text": "text"}
    made = ", ".join(f"{name} {kinds[kind]}" for name, kind in powerset_table.SPEC.columns.items())
    with psycopg.connect(empty_dsn) as connection:
        connection.execute(f"create temporary table one_powersets ({made})".encode())
        keys.insert_entities(
            connection, "pg_temp", keys.EntityRows(archetypes=[], powersets=[row]), "one_", ["powersets"]
        )

        assert connection.execute("select * from one_powersets").fetchone() == row
