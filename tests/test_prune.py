"""Old builds and splits go when they are asked to; nothing that somebody still needs goes with them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from places import database, in_database

import etl
from etl import builds, config, coordinator, db, generate, storage
from etl.errors import SchemaError
from etl.store import splits

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of five small splits, each different."""
    folder = tmp_path_factory.mktemp("prune")
    for seed in range(5):
        generate.generate("i12", 60, seed, folder / f"{seed}.json")
        etl.split(str(folder / f"{seed}.json"), store=str(folder / "store"), executor="inline://")
    return str(folder / "store")


@pytest.fixture(scope="module")
def loaded(server_dsn: str, template_database: str, original: str) -> Iterator[str]:
    """Name of a database with four builds: of the latest split, and of the first three of the others."""
    first, second, third, _, latest = split_ids(original)
    with database(server_dsn, template=template_database) as name:
        load(original, in_database(server_dsn, name), latest, first, second, third)
        yield name


@pytest.fixture
def store(original: str, tmp_path: Path) -> str:
    """An own copy of the store."""
    shutil.copytree(original, tmp_path / "store")
    return str(tmp_path / "store")


@pytest.fixture
def dsn(server_dsn: str, loaded: str) -> Iterator[str]:
    """DSN of an own copy of the database."""
    with database(server_dsn, template=loaded) as name:
        yield in_database(server_dsn, name)


def split_ids(store: str) -> list[str]:
    """Return the splits of the store, oldest first."""
    return sorted(
        (name for name in storage.names(store) if name != "LATEST"),
        key=lambda name: storage.local_path(storage.join(store, name, "manifest.json")).stat().st_mtime_ns,
    )


def load(store: str, dsn: str, *names: str) -> None:
    for name in names:
        options = config.LoadOptions(store=store, dsn=dsn, split_id=name, executor="inline://", fresh=True)
        coordinator.load(options)


def prune(store: str, dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "etl", "prune", "--store", store, "--dsn", dsn, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), cwd=ROOT)


def test_splits_go_with_the_builds_that_needed_them(store: str, dsn: str) -> None:
    """The live and the previous one stay, the latest one although its build goes, and the one that was never loaded."""
    first, second, third, unknown, latest = split_ids(store)
    done = prune(store, dsn, "--keep", "2", "--yes")

    assert (done.returncode, done.stderr) == (0, "")
    assert "dropped game_b2, game_b1" in done.stdout
    assert f"freed {first}" in done.stdout
    assert "KB" in done.stdout.splitlines()[-1]
    assert split_ids(store) == [second, third, unknown, latest]
    assert prune(store, dsn, "--yes").stdout == "nothing to prune\n"


def test_more_states_keep_more_splits(store: str, dsn: str) -> None:
    """--keep counts published states."""
    first, second, third, *_ = split_ids(store)
    done = prune(store, dsn, "--keep", "3", "--yes")

    assert done.stdout.startswith("dropped game_b1, ")
    assert {first, second, third} <= set(split_ids(store))


def test_without_a_terminal_nothing_goes_unless_told(store: str, dsn: str) -> None:
    """Exit code 2, with the question that nobody could answer."""
    first, *_ = split_ids(store)
    done = prune(store, dsn)

    assert done.returncode == 2
    assert "game_b1" in done.stderr
    assert "--yes" in done.stderr
    assert first in split_ids(store)


def test_the_split_of_another_live_schema_stays(store: str, dsn: str) -> None:
    """One database, two schemas."""
    first, *_ = split_ids(store)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update etl.build set live_schema = 'planner' where split_id = %s", (first,))
        connection.execute("alter schema game_b2 rename to planner_b2")
    prune(store, dsn, "--yes")

    assert first in split_ids(store)


def test_a_split_that_is_being_made_stays(store: str, dsn: str) -> None:
    """Without a manifest it is nobody's yet."""
    first, *_ = split_ids(store)
    storage.delete(storage.join(store, first, "manifest.json"))

    assert splits.prunable(store, {first: False}) == []


def test_the_split_before_an_update_stays(store: str, dsn: str) -> None:
    """It is the way back; the one before that is not."""
    record = (
        "insert into etl.publication (live_schema, generation, kind, build, split_id, previous_split_id)"
        " values ('game', %s, 'update', 4, %s, %s)"
    )
    with db.connect(dsn) as connection:
        connection.execute(record, (5, "u1", "u0"))
        connection.execute(record, (6, "u2", "u1"))
        known = builds.known_splits(connection, 2)

    assert {name: known[name] for name in ("u0", "u1", "u2")} == {"u0": False, "u1": True, "u2": True}


def test_the_split_of_a_part_stays_as_long_as_the_part(store: str, dsn: str) -> None:
    """A part of the live build was renewed from it some states ago; the build's own split had no turn since."""
    record = (
        "insert into etl.publication (live_schema, generation, kind, build, split_id, previous_split_id)"
        " select 'game', %s, 'update', 4, coalesce(%s, split_id), split_id from etl.build where build = 4"
    )
    with db.connect(dsn) as connection:
        for generation, name in ((5, "part"), (6, "other part"), (7, "third part")):
            connection.execute(record, (generation, name))
        mixed = builds.known_splits(connection, 2)
        connection.execute(record, (8, None))
        connection.execute(record, (9, None))
        whole = builds.known_splits(connection, 2)

    assert mixed["part"]
    assert not whole["part"]


OUTSIDE = {
    "view": ("create view public.mine as select name from game_b2.powersets", "view mine"),
    "materialized view": (
        "create materialized view public.mine as select name from game_b2.powersets",
        "materialized view mine",
    ),
    "foreign key": (
        "create table public.mine (powerset integer constraint to_a_build references game_b2.powersets (id))",
        "constraint to_a_build on table mine",
    ),
    "function": (
        "create function public.mine() returns setof game_b2.powersets language sql begin atomic select * from game_b2.powersets; end",
        "function mine()",
    ),
    "row type": ("create table public.mine (powerset game_b2.powersets)", "table mine"),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_what_points_straight_into_a_build_stops_its_pruning(store: str, dsn: str, kind: str) -> None:
    """Named, with what to do; nothing of the build is gone, and after the cause is gone pruning goes on."""
    statement, description = OUTSIDE[kind]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]
        done = prune(store, dsn, "--yes")

        assert done.returncode == 6
        assert f"{description} depends on game_b2.powersets" in done.stderr
        assert "etl.power_key" in done.stderr
        assert connection.execute("select count(*) from game_b2.powersets").fetchone() != (0,)
        with db.connect(dsn) as ours, pytest.raises(SchemaError, match="1 object"):
            builds.prune(ours, "game", 2)
        connection.execute(f"drop {'table' if kind in ('foreign key', 'row type') else kind} public.mine")  # type: ignore[call-overload]
    assert prune(store, dsn, "--yes").returncode == 0


def test_views_over_the_live_schema_do_not_stop_anything(store: str, dsn: str) -> None:
    """They never point into a build."""
    first, *_ = split_ids(store)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create view public.mine as select name from game.powersets")
        connection.execute("create table public.notes (power bigint references etl.power_key (id))")
        load(store, dsn, first)

        assert prune(store, dsn, "--yes").returncode == 0
        assert connection.execute("select count(*) from public.mine").fetchone() != (0,)
