"""Split and load end to end on a real server: published whole, resumed by receipts, never half seen."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from split_support import i12, save

import etl
from etl import config, coordinator, db, ddl, fill, generate, publish, session, sizing, tables
from etl.errors import DatabaseError, StoreError, UsageError
from etl.model import Event
from etl.plan import Leaf
from etl.verify import verify

RECORDS = 1_500


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A clean flat export."""
    path = tmp_path_factory.mktemp("source") / "i12.json"
    generate.generate("i12", RECORDS, 3, path)
    return str(path)


@pytest.fixture(scope="session")
def store(source: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The export, split once."""
    folder = str(tmp_path_factory.mktemp("store"))
    etl.split(source, store=folder, executor="inline://")
    return folder


def options(store: str, dsn: str, **more: object) -> config.LoadOptions:
    return config.LoadOptions(store=store, dsn=dsn, executor="inline://", **more)  # type: ignore[arg-type]


def checksums(dsn: str, schema: str = "game") -> dict[str, object]:
    """Return rows and a content checksum of every published relation, times left out."""
    found = {}
    with psycopg.connect(dsn) as connection:
        for name in ddl.relations(tables.TABLES):
            columns = connection.execute(
                "select string_agg(format('t.%%I', attname), ', ') from pg_attribute where attrelid = %s::regclass"
                " and attnum > 0 and attname not in ('created_at', 'updated_at')",
                (f"{schema}.{name}",),
            ).fetchone()
            assert columns
            query = f"select count(*), sum(hashtextextended(row({columns[0]})::text, 0)) from {schema}.{name} t"
            found[name] = connection.execute(query).fetchone()  # type: ignore[call-overload]
    return found


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "etl", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[1],
    )


def test_a_load_publishes_every_record_once(store: str, servers: str) -> None:
    """Records = loaded + superseded + rejected, and the tables hold them."""
    result = coordinator.load(options(store, servers))

    assert (result.records, result.loaded, result.superseded, result.rejected) == (RECORDS, RECORDS, 0, 0)
    with psycopg.connect(servers) as connection:
        for name in ("powers", "power_directory", "power_build_summary"):
            assert connection.execute(f"select count(*) from game.{name}").fetchone() == (RECORDS,)  # type: ignore[call-overload]
        logged = "select records_processed, records_imported, errors from game.import_logs"
        assert connection.execute(logged).fetchall() == [(RECORDS, RECORDS, 0)]


def test_a_leaf_that_cannot_be_attached_at_once_is_attached_in_the_end(
    store: str, dsn: str, empty_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody analyzes a parent while leaves are loaded: nobody waits for him until all are there."""
    with psycopg.connect(dsn) as somebody:

        def hold(event: Event) -> None:
            if event.phase == "load" and event.unit == "rows" and not event.done:
                somebody.execute("lock table game_b1.powers in share update exclusive mode")
            if event.phase == "check again":
                somebody.rollback()

        with caplog.at_level("INFO", logger="etl.fill"):
            coordinator.load(options(store, dsn), hold)
    coordinator.load(options(store, empty_dsn))

    assert "attached later: canceling statement due to lock timeout" in caplog.text
    assert checksums(dsn) == checksums(empty_dsn)
    assert not verify(dsn).findings


def test_bytes_on_the_wire_are_reported(store: str, dsn: str) -> None:
    """By the result and by the log, for all tables that COPY filled from workers; a run that does nothing sends nothing."""
    result = coordinator.load(options(store, dsn))
    again = coordinator.load(options(store, dsn))
    with psycopg.connect(dsn) as connection:
        stored = dict(
            connection.execute(
                "select table_name, sum(bytes)::bigint from etl.receipt where bytes > 0 group by 1"
            ).fetchall()
        )
    shown = run_command("log", "--dsn", dsn, "--json")

    assert {name: size for name, size in result.bytes.items() if size} == stored
    assert set(stored) >= {"powers", "power_effects", "power_directory"}
    assert again.bytes == {}
    assert [row["bytes_sent"] for row in json.loads(shown.stdout)] == [sum(result.bytes.values())]


def test_for_a_server_far_away_a_worker_loads_several_leaves_at_once(store: str, dsn: str) -> None:
    """As many as there is memory for, and connections; but nobody's own number is changed."""
    given = config.LoadOptions(store=store, dsn=dsn, executor="process://2", more_when_far=True)
    small, smaller = (replace(given, memory_limit_bytes=size * config.MIB) for size in (400, 320))

    assert sizing.threads(given, 0.001, 90) == 1
    assert sizing.threads(given, 0.04, 90) == 4
    assert sizing.threads(given, 0.04, 14) == 3
    assert sizing.threads(given, 0.04, 1) == 1
    assert sizing.threads(small, 0.04, 90) == 2
    assert sizing.threads(smaller, 0.04, 90) == 1
    assert sizing.threads(replace(given, more_when_far=False), 0.04, 90) == 1


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6])
def test_small_leaves_go_beside_big_ones_where_they_wait(count: int) -> None:
    """Each is there once, the biggest first."""
    sizes = range(count)
    same = {
        "archetype": "npc",
        "archetype_id": 1,
        "lower": None,
        "upper": None,
        "powersets": (),
        "rows": 1,
        "digest": "",
    }
    leaves = [Leaf(**same, name=str(size), bytes=size) for size in sizes]
    near = [leaf.bytes for leaf in fill._in_order(leaves, 1)]
    far = [leaf.bytes for leaf in fill._in_order(leaves, 4)]

    assert near == sorted(sizes, reverse=True)
    assert far == {5: [4, 0, 3, 1, 2], 6: [5, 0, 4, 1, 3, 2]}.get(count, near)


def test_a_second_load_has_nothing_to_do(store: str, dsn: str) -> None:
    """One line, exit 0."""
    coordinator.load(options(store, dsn))
    again = run_command("load", "--store", store, "--dsn", dsn, "--quiet")

    assert again.returncode == 0
    assert again.stdout.startswith("nothing to do")
    assert again.stdout.count("\n") == 1


def test_a_rebuild_gives_equal_tables_and_the_same_ids(store: str, dsn: str) -> None:
    """Ids are durable, and nothing depends on scheduling."""
    coordinator.load(options(store, dsn))
    first = checksums(dsn)
    coordinator.load(config.LoadOptions(store=store, dsn=dsn, executor="process://2", fresh=True))

    assert checksums(dsn) == first


def test_a_failure_between_copy_and_commit_leaves_neither_rows_nor_receipt(store: str, dsn: str) -> None:
    """The founding promise: the receipt and the rows are one transaction."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "create function refuse() returns trigger language plpgsql as $$ begin"
            " if new.leaf like 'npc%' then raise exception 'no receipt for npc'; end if; return new; end $$"
        )
        connection.execute("create trigger refuse before insert on etl.receipt for each row execute function refuse()")
        with pytest.raises(DatabaseError, match="npc_00"):
            coordinator.load(options(store, dsn))
        receipts = "select count(*) from etl.receipt where leaf like 'npc%'"
        leaves = "select count(*) from pg_class where relname like 'powers_npc_0%' and relnamespace = 'game_b1'::regnamespace"
        effects = "select count(*) from game_b1.power_set_categories c join etl.power_key k on k.id = c.power_id where k.uid like 'npc%'"

        assert connection.execute(receipts).fetchone() == (0,)
        assert connection.execute(leaves).fetchone() == (0,)
        assert connection.execute(effects).fetchone() == (0,)
        assert connection.execute("select count(*) from etl.live").fetchone() == (0,)

        connection.execute("drop trigger refuse on etl.receipt")
        result = coordinator.load(options(store, dsn))
        assert result.leaves_kept > 0
        assert result.loaded == RECORDS


def test_a_build_that_lacks_its_last_transaction_alone_is_gone_on_with(store: str, dsn: str, empty_dsn: str) -> None:
    """Its foreign keys and views are there already, and come out the same; who reads its tables is not waited for."""
    coordinator.load(options(store, empty_dsn))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "create function refuse() returns trigger language plpgsql as $$ begin"
            " if new.finished_at is not null then raise exception 'not yet'; end if; return new; end $$"
        )
        connection.execute("create trigger refuse before update on etl.build for each row execute function refuse()")
        with pytest.raises(DatabaseError, match="not yet"):
            coordinator.load(options(store, dsn))
        assert connection.execute("select count(*) from game_b1.power_build_summary").fetchone() == (RECORDS,)
        assert connection.execute("select count(*) from etl.live").fetchone() == (0,)
        connection.execute("drop trigger refuse on etl.build")
    phases: list[str] = []
    with psycopg.connect(dsn) as dump:
        dump.execute("set idle_in_transaction_session_timeout = '30s'")
        dump.execute("select count(*) from game_b1.powers, game_b1.powersets")
        dump.execute("select count(*) from game_b1.power_build_summary")

        def let_go(event: Event) -> None:
            if event.phase == "publish" and "publish" not in phases and not dump.closed:
                phases.append("held" if dump.pgconn.transaction_status == TransactionStatus.INTRANS else "ended")
                dump.rollback()
            phases.append(event.phase)

        result = coordinator.load(options(store, dsn), let_go)

    assert "held" in phases  # else the server has ended it, because the load waited
    assert (result.build, result.leaves_loaded, result.loaded) == (1, 0, RECORDS)
    assert checksums(dsn) == checksums(empty_dsn)
    assert not verify(dsn).findings


def test_a_part_that_changes_while_it_is_read_costs_the_build(store: str, dsn: str, tmp_path: Path) -> None:
    """What was proven before it was read may have passed for data since: nothing of it is kept, or published."""
    own = tmp_path / "store"
    shutil.copytree(store, own)
    part = min(own.rglob("*.arrow"))
    whole = part.read_bytes()

    def spoil(event: Event) -> None:
        if event.phase == "check again":
            part.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])

    with pytest.raises(StoreError, match=f"{part.name}.* damaged.* dropped"):
        coordinator.load(options(str(own), dsn), spoil)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select count(*) from etl.live").fetchone() == (0,)
        assert connection.execute("select to_regnamespace('game_b1')").fetchone() == (None,)
    part.write_bytes(whole)

    assert coordinator.load(options(str(own), dsn)).leaves_kept == 0


def test_a_finished_build_outlives_the_parts_that_it_was_made_of(store: str, dsn: str, tmp_path: Path) -> None:
    """They were proven after the last one was read; what becomes of them before the publication matters to nobody."""
    own = tmp_path / "store"
    shutil.copytree(store, own)
    coordinator.load(options(str(own), dsn))
    again = replace(options(str(own), dsn), fresh=True, publish_timeout_s=0.2)
    with psycopg.connect(dsn) as reader:
        reader.execute("select count(*) from game.powers")
        with pytest.raises(DatabaseError, match="stay open"):
            coordinator.load(again)
    min(own.rglob("*.arrow")).unlink()
    result = coordinator.load(again)

    assert (result.build, result.leaves_loaded) == (2, 0)
    assert result.loaded == RECORDS


def test_a_killed_load_goes_on_where_it_was(store: str, dsn: str, empty_dsn: str) -> None:
    """SIGKILL of the coordinator: finished leaves are kept, and the result is that of an undisturbed run."""
    coordinator.load(options(store, empty_dsn))
    arguments = [sys.executable, "-m", "etl", "load", "--store", store, "--dsn", dsn, "--jobs", "1"]
    process = subprocess.Popen(
        arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1]
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        deadline = time.monotonic() + 60
        while connection.execute("select count(*) from etl.receipt where table_name = 'powers'").fetchone() < (3,):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        done = connection.execute("select count(*) from etl.receipt where table_name = 'powers'").fetchone()
    result = coordinator.load(options(store, dsn))

    assert done and result.leaves_kept >= done[0] >= 3
    assert checksums(dsn) == checksums(empty_dsn)


def test_ctrl_c_drains_and_the_same_command_goes_on(store: str, dsn: str) -> None:
    """Exit code 130, with the way on; nothing was published."""
    arguments = [sys.executable, "-m", "etl", "load", "--store", store, "--dsn", dsn, "--jobs", "1"]
    process = subprocess.Popen(
        arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        while connection.execute("select count(*) from etl.receipt where table_name = 'powers'").fetchone() < (1,):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)

        assert process.returncode == 130
        assert re.search(r"^stopping after \d (leaf|leaves) in flight; press again to stop now$", errors, re.MULTILINE)
        assert "same command" in errors
        assert connection.execute("select count(*) from etl.live").fetchone() == (0,)
        assert connection.execute("select state from etl.run").fetchall() == [("stopped",)]
    assert coordinator.load(options(store, dsn)).leaves_kept > 0


def test_a_second_run_at_the_same_time_says_who_is_at_work(store: str, dsn: str) -> None:
    """Exit code 76."""
    with db.connect(dsn, name="etl load by somebody") as connection:
        session.lock(connection, "game")
        second = run_command("load", "--store", store, "--dsn", dsn, "--quiet")

    assert second.returncode == 76
    assert "etl load by somebody" in second.stderr
    assert "since" in second.stderr


def test_memory_that_is_tight_slows_a_load_down_and_does_not_end_it(
    store: str, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One leaf at a time; the log says why."""
    tight = config.LoadOptions(store=store, dsn=dsn, executor="process://2", memory_limit_bytes=1)
    result = coordinator.load(tight)

    assert result.loaded == RECORDS
    assert caplog.text.count("one leaf at a time") == 1


def test_another_schema_is_another_world(store: str, dsn: str) -> None:
    """Two live schemas share the registry and nothing else."""
    coordinator.load(options(store, dsn))
    coordinator.load(options(store, dsn, schema="planner"))

    assert checksums(dsn) == checksums(dsn, "planner")


def test_a_part_of_the_tables_never_takes_the_others_from_readers(store: str, dsn: str) -> None:
    """A build without them would."""
    coordinator.load(options(store, dsn))
    with pytest.raises(UsageError, match="power_effects"):
        coordinator.load(options(store, dsn, tables=("powers",), fresh=True))


def test_one_table_alone_begins_a_build(store: str, dsn: str) -> None:
    """Also one whose indexes need no extension, where others' do."""
    result = coordinator.load(options(store, dsn, tables=("power_effects",)))

    assert result.rows["power_effects"] > 0
    assert set(result.rows) == {"power_effects"}


def test_an_unknown_table_is_refused_with_those_that_exist(store: str, dsn: str) -> None:
    """Before anything is begun."""
    with pytest.raises(UsageError, match="power_set_categories"):
        coordinator.load(options(store, dsn, tables=("powerz",)))


def test_attaching_never_scans_a_leaf(store: str, dsn: str) -> None:
    """The CHECK of both levels proves the bounds."""
    coordinator.load(options(store, dsn))
    notices: list[str] = []
    with psycopg.connect(dsn) as connection:
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        leaf = connection.execute(
            "select c.relname, pg_get_expr(c.relpartbound, c.oid) from pg_class c where c.relname like 'powers_npc_0%'"
            " and c.relkind = 'r' limit 1"
        ).fetchone()
        assert leaf
        connection.execute(f"alter table game_b1.powers_npc detach partition game_b1.{leaf[0]}")
        connection.execute("set client_min_messages = debug1")
        connection.execute(f"alter table game_b1.powers_npc attach partition game_b1.{leaf[0]} {leaf[1]}")

    assert any("implied by existing constraints" in notice for notice in notices)
    assert not any("verifying table" in notice for notice in notices)


@pytest.mark.parametrize(
    ("condition", "most"),
    [("archetype_id = 1", 10), ("archetype_id = 1 and powerset_id = 5", 2), ("powerset_id = 5", 31)],
)
def test_queries_by_archetype_and_powerset_visit_few_leaves(store: str, dsn: str, condition: str, most: int) -> None:
    """EXPLAIN shows the pruning."""
    coordinator.load(options(store, dsn))
    with psycopg.connect(dsn) as connection:
        plan = connection.execute(f"explain (format json) select id from game.powers where {condition}").fetchone()
        total = connection.execute(
            "select count(*) from pg_inherits i join pg_class c on c.oid = i.inhrelid"
            " where c.relname like 'powers\\_%' and c.relkind = 'r'"
        ).fetchone()
    assert plan and total
    visited = json.dumps(plan[0]).count('"Relation Name"')

    assert visited <= most
    assert visited < total[0]


def test_the_coordinator_imports_neither_polars_nor_pyarrow() -> None:
    """Its start costs little, and so does its memory."""
    code = "import sys, etl.coordinator, etl.cli.load; print({'polars', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])

    assert done.stdout.strip() == "set()", done.stderr


def test_statistics_leave_nested_values_alone(store: str, dsn: str) -> None:
    """ANALYZE of jsonb costs more than building the btree indexes; scalar columns of the same tables have theirs."""
    coordinator.load(options(store, dsn))
    query = (
        "select a.atttypid = 'jsonb'::regtype, count(s.staattnum) > 0 from pg_class c"
        " join pg_attribute a on a.attrelid = c.oid and a.attnum > 0"
        " left join pg_statistic s on s.starelid = c.oid and s.staattnum = a.attnum"
        " where c.relnamespace = 'game_b1'::regnamespace and c.relkind in ('r', 'p') group by 1"
    )
    with psycopg.connect(dsn) as connection:
        has_statistics = dict(connection.execute(query).fetchall())

    assert has_statistics == {True: False, False: True}


def test_every_table_has_statistics_of_what_it_may_be_searched_by(store: str, dsn: str) -> None:
    """Leaves, plain tables and the view: each scalar column. Partitioned tables: the columns that btrees are ordered by."""
    coordinator.load(options(store, dsn))
    query = (
        "select c.relname, c.relkind, a.attname, s.staattnum is not null from pg_class c"
        " join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
        " left join pg_statistic s on s.starelid = c.oid and s.staattnum = a.attnum and s.stainherit = (c.relkind = 'p')"
        " where c.relnamespace = 'game_b1'::regnamespace and c.relkind in ('r', 'p', 'm') and c.relname like 'power%'"
        " and a.atttypid not in ('jsonb'::regtype, 'text[]'::regtype, 'bytea'::regtype, 'timestamptz'::regtype)"
        " and a.atttypid <> 'integer[]'::regtype and (c.relkind = 'p' or exists"
        " (select from pg_class filled where filled.oid = c.oid and filled.reltuples > 0))"
    )
    with psycopg.connect(dsn) as connection:
        found = connection.execute(query).fetchall()
    parents = {(name, column) for name, kind, column, known in found if kind == "p" and known}

    assert {(name, kind, column) for name, kind, column, known in found if kind != "p" and not known} == set()
    assert {name for name, kind, _, _ in found if kind == "m"} == {"power_build_summary"}
    for table in ("powers", "power_effects"):
        assert {column for name, column in parents if name == table} >= set(ddl.searched(table))


def test_a_password_is_nowhere_to_be_seen(store: str, dsn: str) -> None:
    """Not in the import log, not in the message."""
    secret = "swordfish-4711"
    result = run_command("load", "--store", store, "--dsn", f"postgresql://nobody:{secret}@127.0.0.1:1/none", "--quiet")

    assert result.returncode == 4
    assert secret not in result.stdout + result.stderr
    assert "no database answers" in result.stderr


def test_a_build_that_will_not_be_finished_is_dropped_by_the_next_load(store: str, dsn: str, tmp_path: Path) -> None:
    """No orphan schema stays."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        with pytest.raises(KeyboardInterrupt):
            coordinator.load(options(store, dsn), stop=_interrupt)
        other = tmp_path / "other.json"
        generate.generate("i12", 100, 4, other)
        etl.split(str(other), store=str(tmp_path / "store"), executor="inline://")
        coordinator.load(options(str(tmp_path / "store"), dsn))
        schemas = "select nspname from pg_namespace where nspname like 'game%' order by 1"

        assert connection.execute(schemas).fetchall() == [("game",), (publish.schema_of("game", 2),)]


def _interrupt() -> bool:
    raise KeyboardInterrupt


def test_a_partitioned_table_has_finer_statistics_than_its_leaves(store: str, dsn: str) -> None:
    """Of the columns that both are searched by; what made them finer does not stay behind in the catalogs."""
    coordinator.load(options(store, dsn))
    with psycopg.connect(dsn) as connection:
        kept = connection.execute(
            "select count(*) from pg_attribute a join pg_class c on c.oid = a.attrelid"
            " where c.relnamespace = 'game_b1'::regnamespace and coalesce(a.attstattarget, -1) > 0"
        ).fetchone()
        bounds = dict(
            connection.execute(
                "select inherited, max(coalesce(array_length(histogram_bounds, 1), 0)) from pg_stats"
                " where schemaname = 'game_b1' and tablename like 'powers%' and attname = 'internal_name' group by 1"
            ).fetchall()
        )

    assert kept == (0,)
    assert 2 < bounds[False] < bounds[True]


def test_texts_do_not_depend_on_the_encoding_of_the_environment(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PGCLIENTENCODING is for programs that read what they are told; a load sends UTF-8."""
    name, text = "Blaster_Ranged.Fire_Blast.Glut\u00f6fen", "Gl\u00fcht \u2014 \u03a9"
    save(tmp_path / "i12.json", [i12(name, DisplayName=text)])
    etl.split(str(tmp_path / "i12.json"), store=str(tmp_path / "store"), executor="inline://")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    coordinator.load(options(str(tmp_path / "store"), dsn))
    monkeypatch.delenv("PGCLIENTENCODING")
    with psycopg.connect(dsn) as connection:
        found = connection.execute("select internal_name, display_name from game.powers").fetchall()

    assert found == [(name, text)]
