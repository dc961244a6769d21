"""Leaves are few and even, and queries visit few of them: on the December export, and on generated records."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from places import database, in_database

import etl
from etl import config, coordinator, generate
from etl.plan import target_of

RECORDS = 20_000
WORKERS = 2

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Geometry:
    """A database with one published build, and what its row says of the leaves."""

    dsn: str
    leaves: list[dict[str, object]]

    @property
    def archetypes(self) -> int:
        return len({leaf["archetype"] for leaf in self.leaves})


@pytest.fixture(scope="module", params=["december", "generated"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The real export where it is beside the checkout; as many flat records as matter."""
    if request.param == "december":
        pack: Callable[[str], Path] = request.getfixturevalue("pack")
        return str(pack("codfull-homecoming-20251209.powers"))
    path = tmp_path_factory.mktemp("geometry") / "i12.json"
    generate.generate("i12", RECORDS, 1, path)
    return str(path)


@pytest.fixture(scope="module")
def geometry(
    source: str, server_dsn: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Geometry]:
    """The source, loaded."""
    store = str(tmp_path_factory.mktemp("store"))
    etl.split(source, store=store, executor=f"process://{WORKERS}")
    with database(server_dsn, template=template_database) as name:
        dsn = in_database(server_dsn, name)
        coordinator.load(config.LoadOptions(store=store, dsn=dsn, executor=f"process://{WORKERS}"))
        with psycopg.connect(dsn) as connection:
            row = connection.execute("select plan from etl.build").fetchone()
        assert row
        yield Geometry(dsn=dsn, leaves=row[0])


def leaves_of(connection: psycopg.Connection, table: str) -> int:
    row = connection.execute(
        "select count(*) from pg_partition_tree(%s::regclass) where isleaf", (f"game_b1.{table}",)
    ).fetchone()
    assert row
    return int(row[0])


def visited(connection: psycopg.Connection, query: str) -> set[str]:
    """Return the leaves that the plan of a query reads."""
    row = connection.execute(f"explain (format json) {query}").fetchone()  # type: ignore[call-overload]
    assert row
    found: set[str] = set()
    nodes = [row[0][0]["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        found |= {node[key] for key in ("Relation Name",) if key in node}
    return found


@pytest.mark.parametrize("table", ["powers", "power_effects"])
def test_there_are_at_most_64_leaves(geometry: Geometry, table: str) -> None:
    """Planning of a query without keys takes longer with each of them."""
    with psycopg.connect(geometry.dsn) as connection:
        assert leaves_of(connection, table) == len(geometry.leaves) <= 64


def test_no_leaf_passes_twice_the_budget_unless_it_is_one_powerset(geometry: Geometry) -> None:
    """By the bytes of the records' text."""
    sizes = [int(str(leaf["bytes"])) for leaf in geometry.leaves]
    budget = sum(sizes) // target_of(sizes, WORKERS)
    big = [
        leaf["name"]
        for leaf, size in zip(geometry.leaves, sizes, strict=True)
        if size > 2 * budget and len(leaf["powersets"]) > 1  # type: ignore[arg-type]
    ]

    assert big == []


def test_a_new_powerset_of_every_archetype_has_a_place_without_ddl(geometry: Geometry) -> None:
    """Ids grow, and the last leaf of a branch is open above."""
    new = (
        "insert into game_b1.powers select (jsonb_populate_record(null::game_b1.powers, to_jsonb(p) || jsonb_build_object("
        "'id', 900000000 + p.archetype_id, 'powerset_id', 900000000 + p.archetype_id))).*"
        " from (select distinct on (archetype_id) * from game_b1.powers order by archetype_id, id) p"
    )
    sets = (
        "insert into game_b1.powersets select (jsonb_populate_record(null::game_b1.powersets, to_jsonb(s) || jsonb_build_object("
        "'id', 900000000 + a.id, 'full_name', 'New.Set_' || a.id))).*"
        " from (select * from game_b1.powersets limit 1) s cross join game_b1.archetypes a"
    )
    with psycopg.connect(geometry.dsn) as connection:
        connection.execute(sets)
        inserted = connection.execute(new).rowcount
        connection.rollback()

    assert inserted == geometry.archetypes


def test_a_query_by_archetype_visits_the_leaves_of_that_archetype(geometry: Geometry) -> None:
    """LIST prunes the branches."""
    with psycopg.connect(geometry.dsn) as connection:
        for archetype in {(leaf["archetype_id"], leaf["archetype"]) for leaf in geometry.leaves}:
            own = {f"powers_{leaf['name']}" for leaf in geometry.leaves if leaf["archetype"] == archetype[1]}

            assert visited(connection, f"select * from game.powers where archetype_id = {archetype[0]}") == own


def test_a_query_by_archetype_and_powerset_visits_one_leaf(geometry: Geometry) -> None:
    """RANGE prunes the rest."""
    keys = "select distinct archetype_id, powerset_id from game.power_directory order by 2 limit 50"
    with psycopg.connect(geometry.dsn) as connection:
        for archetype, powerset in connection.execute(keys).fetchall():
            condition = f"archetype_id = {archetype} and powerset_id = {powerset}"

            assert len(visited(connection, f"select * from game.powers where {condition}")) == 1
            assert len(visited(connection, f"select * from game.power_effects where {condition}")) == 1


def test_a_query_by_powerset_visits_one_leaf_per_archetype(geometry: Geometry) -> None:
    """RANGE prunes inside each branch."""
    keys = "select distinct powerset_id from game.power_directory order by 1 desc limit 20"
    with psycopg.connect(geometry.dsn) as connection:
        for (powerset,) in connection.execute(keys).fetchall():
            seen = visited(connection, f"select * from game.powers where powerset_id = {powerset}")

            assert len(seen) == geometry.archetypes < len(geometry.leaves)


def test_a_look_up_by_name_through_the_directory_reads_one_leaf(geometry: Geometry) -> None:
    """The others are pruned when the directory has answered."""
    query = (
        "select p.* from game.power_directory d join game.powers p"
        " on p.archetype_id = d.archetype_id and p.powerset_id = d.powerset_id and p.id = d.id where d.internal_name = %s"
    )
    with psycopg.connect(geometry.dsn) as connection:
        row = connection.execute("select internal_name from game.power_directory order by id limit 1").fetchone()
        assert row
        name = str(row[0]).replace("'", "''")
        plan = connection.execute(
            "explain (analyze, format json) " + query.replace("%s", f"'{name}'")  # type: ignore[call-overload]
        ).fetchone()
        assert plan
        nodes, read = [plan[0][0]["Plan"]], 0
        while nodes:
            node = nodes.pop()
            nodes += node.get("Plans", [])
            read += str(node.get("Relation Name", "")).startswith("powers_") and node["Actual Loops"] > 0

    assert read == 1
    assert json.dumps(plan[0]).count("power_directory") >= 1
