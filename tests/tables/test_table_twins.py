"""Every table is two files of one name that agree: the transform's columns and the create statement."""

import re
import subprocess
import sys

import psycopg
import pytest
from psycopg import sql

from etl import db, resources, tables

KINDS = {
    "smallint": "int2",
    "integer": "int4",
    "bigint": "int8",
    "double precision": "float8",
    "boolean": "bool",
    "integer[]": "int4[]",
}
ISSUE_COLUMNS = {
    "powers": "id name internal_name display_name description powerset_id archetype_id level_available"
    " power_type target_type accuracy damage_scale endurance_cost recharge_time activation_time range_feet radius_feet"
    " max_targets effects effect_groups requires_line_of_sight modes_required modes_disallowed ai_report icon_path"
    " display_order display_info allowed_enhancements created_at updated_at",
    "power_prerequisites": "id power_id required_power_id required_level prerequisite_type created_at",
    "power_enhancement_compatibility": "id power_id enhancement_type allowed created_at",
}
VIEW_COLUMNS = (
    "id name internal_name display_name powerset_id powerset_name archetype_id archetype_name level_available"
    " power_type target_type accuracy damage_scale endurance_cost recharge_time activation_time range_feet max_targets"
    " icon_path display_order"
)


def created(name: str) -> dict[str, str]:
    """The columns of the create statement, name -> kind."""
    body = dict(db.sections(f"tables/{name}.sql"))["create"]
    lines = re.findall(r"^    (\w+) ([a-z ]+?(?:\[\])?)(?: not null| default|,|$)", body, flags=re.MULTILINE)
    return {column: KINDS.get(kind, kind) for column, kind in lines}


def required(name: str) -> set[str]:
    """The columns without which a row is refused."""
    body = dict(db.sections(f"tables/{name}.sql"))["create"]
    return set(re.findall(r"^    (\w+) [^,\n]* not null,?$", body, flags=re.MULTILINE))


@pytest.mark.parametrize("name", tables.TABLES)
def test_spec_and_create_statement_agree(name):
    """Every column of COPY exists with its type; what else the table has, the server fills in."""
    columns = created(name)
    spec = tables.spec(name)

    assert spec.name == name
    assert dict(spec.columns).items() <= columns.items()
    assert required(name) <= set(spec.columns)


@pytest.mark.parametrize("name", tables.LEAF_TABLES)
def test_a_partitioned_spec_has_a_partitioned_table(name):
    """What the one calls partitioned is "partition by list" in the other."""
    text = resources.sql_text(f"tables/{name}.sql")

    assert tables.spec(name).partitioned == ("partition by list (archetype_id)" in text)


def test_every_sql_file_has_its_twin():
    """The directory is the one table that no record fills."""
    stems = {path.split("/")[1].removesuffix(".sql") for path in resources.sql_files("tables")}

    assert stems == {*tables.TABLES, "power_directory"}


@pytest.mark.parametrize("name", ISSUE_COLUMNS)
def test_applications_find_their_columns(name):
    """The names that existing applications select."""
    assert set(ISSUE_COLUMNS[name].split()) <= set(created(name))


def test_an_unknown_table_has_no_spec():
    """KeyError, not an import of something else."""
    with pytest.raises(KeyError):
        tables.spec("spec")


def test_importing_the_tables_is_cheap():
    """The coordinator needs names and specs, not 200 MB of libraries."""
    code = "import sys; from etl import tables; [tables.spec(n) for n in tables.TABLES]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert not {"polars", "pyarrow", "msgspec"} & set(loaded)


def test_every_statement_runs_and_the_view_has_its_columns(servers):
    """Tables, indexes and the view on every PostgreSQL at hand, less what needs an extension."""
    names = (*tables.TABLES, "power_directory")
    with psycopg.connect(servers, autocommit=True) as connection:
        connection.execute("create schema game_b1")
        files = [(f"tables/{name}.sql", name) for name in names] + [
            ("views/01_power_build_summary.sql", "power_build_summary")
        ]
        for path, name in files:
            for heading, body in db.sections(path):
                if "-- requires:" not in body:
                    run(connection, name, heading, body)
        connection.execute("refresh materialized view concurrently game_b1.power_build_summary")
        found = connection.execute("select * from game_b1.power_build_summary").description

    assert [column.name for column in found or ()] == VIEW_COLUMNS.split()


def run(connection, table: str, heading: str, body: str) -> None:
    """Run one section with its holes filled."""
    holes = {"schema": sql.Identifier("game_b1")}
    if heading.startswith("index: "):
        holes = {"table": sql.Identifier("game_b1", table), "index": sql.Identifier(heading[7:])}
    connection.execute(sql.SQL(body).format(**holes))
