"""Safety switches: every combination gives the same tables, and a crash of the server never leaves half a truth."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from command_line import refusal, run
from places import database, in_database
from test_coordinator import checksums, options

import etl
from etl import config, coordinator, db, ddl, errors, generate, postgres, server, tables, verify
from etl.model import Event

RECORDS = 400
# When indexes are built, and which of them later.
ORDERS = [("after", None), ("before", None), ("deferred", None), ("after", "gin"), ("before", "gin")]
COMBINATIONS = list(itertools.product(("safe", "fast"), ORDERS, (True, False)))

# Every index of a live schema's build: on what, how, whether it is in use and part of its parent's.
INDEXES = """
    select t.relname, regexp_replace(pg_get_indexdef(i.oid), '^.* USING', ''), x.indisunique, x.indisvalid, i.relispartition
    from pg_index x join pg_class i on i.oid = x.indexrelid join pg_class t on t.oid = x.indrelid
    join etl.live l on t.relnamespace = to_regnamespace(l.live_schema || '_b' || l.build)
    where l.live_schema = %s order by 1, 2"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small export, split once."""
    folder = tmp_path_factory.mktemp("switches")
    generate.generate("i12", RECORDS, 5, folder / "i12.json")
    etl.split(str(folder / "i12.json"), store=str(folder / "store"), executor="inline://")
    return str(folder / "store")


@pytest.fixture(scope="module")
def reference(server_dsn: str, template_database: str, store: str) -> Iterator[str]:
    """A database with the export loaded without any switch."""
    with database(server_dsn, template=template_database) as name:
        dsn = in_database(server_dsn, name)
        coordinator.load(options(store, dsn))
        yield dsn


def indexes(dsn: str, schema: str = "game") -> list[Any]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(INDEXES, (schema,)).fetchall()


@pytest.mark.parametrize(("durability", "order", "freeze"), COMBINATIONS)
def test_every_combination_gives_the_same_tables_and_indexes(
    store: str, reference: str, durability: str, order: tuple[str, str | None], freeze: bool
) -> None:
    """A switch changes how a build comes to be, never what it is."""
    when, method = order
    schema = f"s_{durability}_{when}_{method}_{freeze}".lower()
    switches = {"durability": durability, "indexes": when, "defer_indexes": method, "freeze": freeze}
    coordinator.load(options(store, reference, schema=schema, **switches))

    assert checksums(reference, schema) == checksums(reference)
    assert indexes(reference, schema) == indexes(reference)


def test_rows_are_frozen_unless_told_otherwise(store: str, dsn: str) -> None:
    """Frozen pages need no vacuum: they are marked all-visible from the beginning."""
    coordinator.load(options(store, dsn))
    coordinator.load(options(store, dsn, schema="thawed", freeze=False))
    pages = (
        "select sum(c.relallvisible) from pg_class c where c.relkind = 'r' and c.relname like 'powers\\_%%'"
        " and c.relnamespace = to_regnamespace(%s)"
    )
    with psycopg.connect(dsn) as connection:
        frozen, thawed = (connection.execute(pages, (name,)).fetchone() for name in ("game_b1", "thawed_b2"))

    assert frozen
    assert frozen[0] > 0
    assert thawed == (0,)


def start_load(store: str, dsn: str, *more: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "etl", "load", "--store", store, "--dsn", dsn, "--jobs", "1", "--quiet"]
    arguments += ["--retry-timeout", "1", *more]  # these servers do not come back by themselves
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )


def until(ask: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.005)
    return found


@pytest.mark.parametrize("switch", [("--indexes", "deferred"), ("--defer-indexes", "gin")], ids=" ".join)
def test_deferred_indexes_are_built_by_the_next_load_when_the_first_was_killed(
    store: str, reference: str, dsn: str, switch: tuple[str, str]
) -> None:
    """The build is published and read without them meanwhile, verify says what is missing; a broken one is built again."""
    with psycopg.connect(dsn, autocommit=True) as watcher, psycopg.connect(dsn) as reader:
        process = start_load(store, dsn, *switch)
        until(lambda: watcher.execute("select 1 from etl.build where finished_at is not null").fetchone())
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("select 1")  # an old snapshot, for which CREATE INDEX CONCURRENTLY waits
        broken = "select count(*) from pg_index where not indisvalid"
        until(lambda: watcher.execute(broken).fetchone() > (0,))
        assert watcher.execute("select count(*) from game.powers").fetchone() == (RECORDS,)
        process.kill()
        process.communicate()
        reader.rollback()
    lacking = names_of_late_indexes(*switch)
    assert lacking.isdisjoint(index[1] for index in indexes_by_name(dsn))
    found = verify.verify(dsn, executor="inline://")
    assert {finding.message.split()[1] for finding in found.findings} == lacking
    assert all(finding.is_mended_by_load for finding in found.findings)
    result = coordinator.load(options(store, dsn))

    assert result.nothing_to_do
    assert verify.verify(dsn, executor="inline://").findings == ()
    assert indexes(dsn) == indexes(reference)
    assert checksums(dsn) == checksums(reference)


def names_of_late_indexes(option: str, value: str) -> set[str]:
    """Return the published names of the indexes of partitioned and plain tables that a switch leaves for later."""
    deferred = "all" if option == "--indexes" else value
    found = [index for name in tables.LEAF_TABLES for index in ddl.indexes(ddl.table_file(name))]
    return {index.name for index in found if index.waits(deferred) and not index.requires}


def indexes_by_name(dsn: str) -> list[Any]:
    with psycopg.connect(dsn) as connection:
        return connection.execute("select tablename, indexname from pg_indexes where schemaname = 'game_b1'").fetchall()


def test_only_indexes_of_the_method_wait(store: str, reference: str, dsn: str) -> None:
    """When the build is published it has all others; the two of jsonb columns are built while it is read."""
    seen: list[Any] = []

    def watch(event: Event) -> None:
        if event.phase == "index later":
            seen.extend(indexes(dsn))

    result = coordinator.load(options(store, dsn, defer_indexes="gin"), watch)

    assert names_of_late_indexes("--defer-indexes", "gin") == {"idx_power_effects", "idx_power_effect_groups"}
    assert seen == [index for index in indexes(reference) if not index[1].startswith(" gin")]
    assert result.timings["index later"] > 0
    assert indexes(dsn) == indexes(reference)


@pytest.mark.parametrize("given", [{"defer_indexes": "gin"}, {"indexes": "deferred"}], ids=str)
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "then"])
def test_a_stopped_load_is_gone_on_with_by_other_switches(
    store: str, reference: str, dsn: str, given: dict[str, str], is_first: bool
) -> None:
    """What was left for later by one of two runs is there after the second, whichever it was."""
    loaded: list[int] = []
    first, then = (given, {}) if is_first else ({}, given)
    with pytest.raises(errors.Interrupted):
        coordinator.load(
            options(store, dsn, **first),
            lambda event: loaded.append(event.done) if event.phase == "load" else None,
            stop=lambda: len(loaded) > 5,
        )
    result = coordinator.load(options(store, dsn, **then))

    assert result.leaves_kept > 0
    assert result.leaves_loaded > 0
    assert indexes(dsn) == indexes(reference)
    assert checksums(dsn) == checksums(reference)


def test_a_rebuild_defers_as_well(tmp_path: Path, dsn: str) -> None:
    """The command tells how long it took after the publication."""
    generate.generate("i12", 60, 1, tmp_path / "powers.json")
    arguments = ("powers.json", "--dsn", dsn, "--jobs", "1", "--quiet", "--json", "--defer-indexes", "gin")
    for _ in range(2):
        done = run("rebuild", *arguments, cwd=tmp_path)

        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["timings"]["index later"] > 0
    assert verify.verify(dsn, executor="inline://").findings == ()


def test_switches_that_contradict_each_other_are_refused(store: str) -> None:
    """Before anything is done, with what to leave out."""
    arguments = ("load", "--store", store, "--indexes", "deferred", "--defer-indexes", "gin")
    sentence, following = refusal(run(*arguments, environment={"DATABASE_URL": "postgresql:///nowhere"}), 2)

    assert sentence.endswith("--indexes deferred leaves all indexes for later, --defer-indexes gin only some")
    assert following.endswith("leave out one of the two")
    with pytest.raises(errors.UsageError, match="indexes of method brin cannot be deferred alone"):
        config.LoadOptions(defer_indexes="brin")


def test_a_second_load_builds_an_index_that_somebody_dropped(store: str, reference: str, dsn: str) -> None:
    """What is missing is told from the catalog alone."""
    coordinator.load(options(store, dsn))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop index game_b1.idx_power_type_level, game_b1.idx_power_prerequisite_required")
    coordinator.load(options(store, dsn))

    assert indexes(dsn) == indexes(reference)


def start_server(home: Path) -> str:
    """Start a server that writes nothing to the disk before it must."""
    lazy = {"wal_writer_delay": "10s", "bgwriter_lru_maxpages": 0}
    return server.start_with(postgres.find_binaries(), home, lazy)


def crash(home: Path) -> None:
    """Kill the postmaster and all of its children at once: nothing is written any more."""
    pid = server.status(home).pid
    assert pid
    postmaster = psutil.Process(pid)
    family = [postmaster, *postmaster.children(recursive=True)]
    for process in family:
        os.kill(process.pid, signal.SIGSTOP)
    for process in family:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(family, timeout=10)


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["safe", "fast"])
def test_a_crash_right_after_the_flip_loses_nothing(
    store: str, reference: str, server_home: Path, durability: str
) -> None:
    """All of a build is on the disk before it is published."""
    dsn = start_server(server_home)
    with psycopg.connect(dsn, autocommit=True) as watcher:
        process = start_load(store, dsn, "--durability", durability)
        there = "select to_regclass('etl.live') is not null"
        until(lambda: watcher.execute(there).fetchone() == (True,))
        until(lambda: watcher.execute("select 1 from etl.live").fetchone())
        crash(server_home)
    process.communicate(timeout=120)
    dsn = start_server(server_home)
    after_crash = checksums(dsn)
    again = start_load(store, dsn, "--durability", durability)
    output, _ = again.communicate(timeout=120)

    assert after_crash == checksums(reference)
    assert output.startswith("nothing to do")
    assert again.returncode == 0


def check_receipts(dsn: str) -> int:
    """Prove that every receipt has its rows and every leaf its receipt; return the number of receipts of leaves."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "select table_name, leaf, rows from etl.receipt where leaf not in ('all', 'indexes') order by 1, 2"
        ).fetchall()
        for table, leaf, rows in found:
            if tables.spec(table).partitioned:
                count = f"select count(*) from game_b1.{table}_{leaf}"
            else:
                count = f"select count(*) from game_b1.{table} t join game_b1.powers_{leaf} p on p.id = t.power_id"
            assert connection.execute(count).fetchone() == (rows,), (table, leaf)  # type: ignore[call-overload]
        leaves = connection.execute(
            "select c.relname from pg_class c where c.relnamespace = 'game_b1'::regnamespace and c.relkind = 'r'"
            " and c.relname ~ '^powers_.*_[0-9]+$'"
        ).fetchall()
        assert {name for (name,) in leaves} == {f"powers_{leaf}" for table, leaf, _ in found if table == "powers"}
    return len(found)


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["safe", "fast"])
def test_a_crash_in_the_middle_leaves_no_receipt_without_its_rows(
    store: str, reference: str, server_home: Path, durability: str
) -> None:
    """And the same command goes on to the same tables."""
    dsn = start_server(server_home)
    with psycopg.connect(dsn, autocommit=True) as watcher:
        process = start_load(store, dsn, "--durability", durability)
        there = "select to_regclass('etl.receipt') is not null"
        until(lambda: watcher.execute(there).fetchone() == (True,))
        done = "select count(*) from etl.receipt where table_name = 'powers'"
        until(lambda: watcher.execute(done).fetchone() >= (5,))
        crash(server_home)
    _, errors = process.communicate(timeout=120)
    dsn = start_server(server_home)
    kept = check_receipts(dsn)
    again = start_load(store, dsn, "--durability", durability)
    again.communicate(timeout=120)

    assert process.returncode == 4, errors
    assert kept >= (25 if durability == "safe" else 0)
    assert again.returncode == 0
    assert checksums(dsn) == checksums(reference)


def test_a_worker_takes_one_process_and_at_most_256_mb_of_the_server(dsn: str) -> None:
    """For a transaction, or for the session of what is built later; less is left as it is."""
    told = "select current_setting('maintenance_work_mem'), current_setting('max_parallel_maintenance_workers')"
    with psycopg.connect(dsn) as connection:
        for local, given, most in ((True, "2GB", "256MB"), (True, "8MB", "8MB"), (False, "2GB", "256MB")):
            connection.execute("select set_config('maintenance_work_mem', %s, false)", (given,))
            connection.commit()
            connection.execute(db.query("bound_worker"), {"local": local})
            assert connection.execute(told).fetchone() == (most, "0")
            connection.commit()
            row = connection.execute(told).fetchone()
            assert row and row[0] == (given if local else most)


def test_a_build_that_was_begun_to_be_indexed_later_has_all_indexes_in_the_end(
    store: str, dsn: str, reference: str
) -> None:
    """Also where the run that began it, and that left them out of the parents, had no leaf loaded yet."""
    seen: list[str] = []
    with pytest.raises(errors.Interrupted):
        coordinator.load(
            options(store, dsn, defer_indexes="gin"),
            lambda event: seen.append(event.phase),
            stop=lambda: "check" in seen,
        )
    result = coordinator.load(options(store, dsn))

    with psycopg.connect(dsn) as connection:
        found = connection.execute(INDEXES, ("game",)).fetchall()
    with psycopg.connect(reference) as connection:
        wanted = connection.execute(INDEXES, ("game",)).fetchall()

    assert (result.build, result.leaves_kept) == (1, 0)
    assert found == wanted
    assert not verify.verify(dsn).findings
