"""What the database does in the middle of a run heals in the run, and only what is safe is done again."""

import json
import random
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo
from test_coordinator import checksums, options
from test_takeover import AT_GATE, GATE, gate, start_load, until, workers_of

import etl
from etl import coordinator, db, generate, update
from etl.errors import DatabaseError, Refused, SchemaError
from etl.scope import Scope
from etl.verify import verify

sys.path.insert(0, str(Path(__file__).parent / "faults"))
from proxy import proxy

__all__ = ["gate"]  # a fixture

RECORDS = 240

Gate = psycopg.Connection[tuple[Any, ...]]
COORDINATOR = "select pid from pg_stat_activity where application_name like 'etl load into%'"
# Fails with a state of our choice, as often as the sequence is below a number; sequences know no rollback.
FAILING = """
    create sequence tries;
    create function fail() returns trigger language plpgsql as $$ begin
        if new.leaf like 'npc%' and nextval('tries') <= {times} then
            raise exception 'so it goes' using errcode = '{state}';
        end if; return new; end $$;
    create trigger fail before insert on etl.receipt for each row execute function fail();
"""


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A split of six powersets, so that there are few leaves; two of npc."""
    folder = tmp_path_factory.mktemp("recovery")
    generate.generate("i12", 12_000, 5, folder / "all.json")
    sets: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in json.loads((folder / "all.json").read_text()):
        sets[record["PowersetFullName"].lower()].append(record)
    chosen: list[dict[str, Any]] = []
    for category, most in (("blaster_", 40), ("controller_", 80), ("amber_order", 140), ("echoing_court", RECORDS)):
        names = sorted((name for name in sets if name.startswith(category)), key=lambda name: (-len(sets[name]), name))
        chosen += [record for name in names for record in sets[name]][: most - len(chosen)]
    (folder / "i12.json").write_text(json.dumps(chosen))
    assert len(chosen) == RECORDS
    etl.split(str(folder / "i12.json"), store=str(folder / "store"), executor="inline://")
    return str(folder / "store")


@pytest.fixture(scope="session")
def expected(store: str, server_dsn: str, template_database: str) -> Iterator[dict[str, object]]:
    """What an undisturbed load makes of the store."""
    from command_line import new_database

    with new_database(server_dsn, template_database) as dsn:
        coordinator.load(options(store, dsn))
        yield checksums(dsn)


@contextmanager
def muted(dsn: str, after: bytes) -> Iterator[str]:
    """Yield a DSN whose answer to the first COMMIT after some bytes gets lost."""
    parts = conninfo.conninfo_to_dict(dsn)
    with proxy(Path(str(parts["host"]), f".s.PGSQL.{parts.get('port', 5432)}"), mute=after) as between:
        yield conninfo.make_conninfo(dsn, host="127.0.0.1", port=between.port)
        assert between.cuts == 1


def finished(process: Any) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


@pytest.mark.parametrize(
    "who", [AT_GATE, COORDINATOR, "select pid from pg_stat_activity where application_name like 'etl%'"]
)
def test_a_terminated_backend_heals_in_the_run(
    store: str, dsn: str, gate: Gate, expected: dict[str, object], who: str
) -> None:
    """Whether it was a worker's, the coordinator's or everybody's; the log says so."""
    load = start_load(store, dsn)
    until(lambda: gate.execute(AT_GATE).fetchone())
    for (pid,) in gate.execute(f"{who} and datname = current_database()").fetchall():  # type: ignore[call-overload]
        gate.execute("select pg_terminate_backend(%s)", (pid,))
    gate.execute("select pg_advisory_unlock(%s)", (GATE,))
    code, output, errors = finished(load)

    assert code == 0, errors
    assert "trying again in" in errors
    assert f"{RECORDS:,} loaded" in output
    assert checksums(dsn) == expected
    assert gate.execute("select state from etl.run").fetchall() == [("done",)]
    assert gate.execute(
        "select count(*) from (select from etl.leaf_log group by table_name, leaf having count(*) > 1) d"
    ).fetchone() == (0,)


@contextmanager
def next_in_line(dsn: str) -> Iterator[threading.Event]:
    """Let another session get the coordinator's lock the moment it is free; the thread ends then, the lock with the block."""
    values = {"space": db.LOCK_SPACE, "schema": "game"}

    def take(pid: list[int]) -> None:
        with suppress(psycopg.OperationalError), psycopg.connect(dsn, autocommit=True) as other:
            pid.append(other.info.backend_pid)
            other.execute("select pg_advisory_lock(%(space)s, hashtext(%(schema)s))", values)
            has_it.set()
            may_go.wait(60)

    has_it, may_go = threading.Event(), threading.Event()
    pids: list[int] = []
    thread = threading.Thread(target=take, args=(pids,))
    thread.start()
    with psycopg.connect(dsn, autocommit=True) as watcher:
        waiting = "select pid from pg_stat_activity where pid = %s and wait_event = 'advisory'"
        until(lambda: pids and watcher.execute(waiting, pids).fetchone())
        try:
            yield has_it
        finally:
            may_go.set()
            if not has_it.is_set():
                watcher.execute("select pg_terminate_backend(%s)", pids)
            thread.join()


def test_a_run_whose_lock_was_taken_ends(store: str, dsn: str, gate: Gate) -> None:
    """It does not work beside the other one: exit 76."""
    load = start_load(store, dsn)
    until(lambda: gate.execute(AT_GATE).fetchone())
    with next_in_line(dsn) as has_it:
        gate.execute(f"select pg_terminate_backend(pid) from ({COORDINATOR}) c")  # type: ignore[call-overload]
        assert has_it.wait(60)
        gate.execute("select pg_advisory_unlock(%s)", (GATE,))
        code, _, errors = finished(load)

    assert code == 76, errors
    assert "another run is at work" in errors
    assert gate.execute("select count(*) from etl.live").fetchone() == (0,)


def test_a_run_whose_build_was_taken_over_ends(store: str, dsn: str, gate: Gate) -> None:
    """The other one has come and gone meanwhile: exit 75."""
    load = start_load(store, dsn)
    until(lambda: gate.execute(AT_GATE).fetchone())
    with next_in_line(dsn) as has_it:
        gate.execute(f"select pg_terminate_backend(pid) from ({COORDINATOR}) c")  # type: ignore[call-overload]
        assert has_it.wait(60)
        gate.execute("update etl.build set epoch = epoch + 1")
    gate.execute("select pg_advisory_unlock(%s)", (GATE,))
    code, _, errors = finished(load)

    assert code == 75, errors
    assert "taken over" in errors
    assert gate.execute("select count(*) from etl.live").fetchone() == (0,)


@pytest.mark.parametrize(
    "after",
    [b"insert into etl.build ", b"insert into etl.receipt", b"set finished_at", b"pg_notify"],
    ids=["plan", "leaf", "finish", "flip"],
)
def test_a_commit_whose_answer_was_lost_is_not_done_twice(
    store: str, dsn: str, expected: dict[str, object], after: bytes
) -> None:
    """Receipts, and the row that says what is live, tell that it was done."""
    with muted(dsn, after) as through:
        result = coordinator.load(options(store, through))

    assert (result.loaded, result.generation) == (RECORDS, 1)
    assert checksums(dsn) == expected
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select count(*) from etl.build where dropped_at is null").fetchone() == (1,)


def test_an_update_whose_commit_was_not_answered_is_not_done_twice(
    store: str, dsn: str, expected: dict[str, object]
) -> None:
    """The second time there is nothing left to do."""
    coordinator.load(options(store, dsn))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update game_b1.powers set source_hash = 'old', description = 'old' where id < 20")
    with muted(dsn, b"pg_notify") as through:
        update.update(options(store, through), Scope(archetypes=None, everything=True))

    with psycopg.connect(dsn) as connection:
        generations = connection.execute("select generation from etl.publication order by 1").fetchall()
        states = connection.execute("select state from etl.run order by id").fetchall()
    assert checksums(dsn) == expected
    assert generations[1:2] == [(2,)]
    assert ("running",) not in states


@pytest.mark.parametrize("state", ["40001", "40P01", "53300", "55P03"])
def test_a_transient_state_is_tried_again(store: str, dsn: str, state: str) -> None:
    """A few times, until it succeeds."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(FAILING.format(times=3, state=state))
        result = coordinator.load(options(store, dsn))

        assert result.loaded == RECORDS
        assert connection.execute("select last_value > 3 from tries").fetchone() == (True,)


def test_a_full_disk_is_not_tried_again(store: str, dsn: str) -> None:
    """Nobody frees it by trying; the message says what to do."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(FAILING.format(times=1_000, state="53100"))
        with pytest.raises(DatabaseError, match="npc_00") as raised:
            coordinator.load(options(store, dsn))
        leaves = connection.execute(
            "select count(*) from etl.build, jsonb_array_elements(plan) l where l->>'name' like 'npc%'"
        ).fetchone()

        assert "disk of the server is full" in str(raised.value.hint)
        assert connection.execute("select last_value from tries").fetchone() == leaves


def test_a_leaf_that_kills_its_worker_twice_is_named(
    store: str, dsn: str, gate: Gate, expected: dict[str, object]
) -> None:
    """The rest is loaded, nothing is published, exit 1; the same command goes on."""
    gate.execute(
        "create or replace function wait_at_gate() returns trigger language plpgsql as $$ begin"
        f" if new.leaf = 'npc_00' then perform pg_advisory_xact_lock_shared({GATE}); end if; return new; end $$"
    )
    load = start_load(store, dsn)
    seen: set[int] = set()
    for _ in range(2):
        until(lambda: {w.pid for w in workers_of(load)} - seen and gate.execute(AT_GATE).fetchone())
        for worker in workers_of(load):
            if worker.pid not in seen:
                seen.add(worker.pid)
                worker.kill()
        until(lambda: gate.execute(AT_GATE).fetchone() is None)
    code, _, errors = finished(load)

    assert code == 1, errors
    assert "1 of the leaves failed (npc_00)" in errors
    assert "died twice" in errors
    assert gate.execute("select count(*) from etl.live").fetchone() == (0,)
    done = gate.execute("select count(*) from etl.receipt where table_name = 'powers'").fetchone()
    planned = gate.execute("select jsonb_array_length(plan) - 1 from etl.build").fetchone()
    assert done == planned
    gate.execute("select pg_advisory_unlock(%s)", (GATE,))
    coordinator.load(options(store, dsn))
    assert checksums(dsn) == expected


def begin(store: str, dsn: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Begin a build and stop; return a connection that can change its tables."""
    with pytest.raises(KeyboardInterrupt):
        coordinator.load(options(store, dsn), stop=_interrupt)
    return psycopg.connect(dsn, autocommit=True)


def _interrupt() -> bool:
    raise KeyboardInterrupt


def refuse(connection: psycopg.Connection[tuple[Any, ...]], store: str) -> list[str]:
    """Let the server refuse some records; return their names."""
    names = [record["uid"] for record in _records(store)][20:240:60]
    connection.execute("create function refuses(text) returns boolean immutable language sql as"
                       f" $$ select lower($1) = any ('{{{','.join(names)}}}') $$")  # fmt: skip
    connection.execute("alter table game_b1.powers add constraint not_these check (not refuses(internal_name))")
    return names


def test_renewed_tables_get_no_rows_of_records_that_were_set_aside(store: str, servers: str) -> None:
    """Nor do references find them; what was rejected stays so."""
    with begin(store, servers) as connection:
        names = refuse(connection, store)
        coordinator.load(options(store, servers))
        before = checksums(servers)
        some = ("power_effects", "power_prerequisites", "power_set_categories")
        renewed = update.update(options(store, servers), Scope(tables=some, everything=True))
        rejected = connection.execute("select uid from etl.reject order by uid").fetchall()

    assert (renewed.renewed, renewed.new) == (RECORDS - len(names), ())
    assert checksums(servers) == before
    assert [uid for (uid,) in rejected] == sorted(names)
    assert verify(servers, store=store, executor="inline://").findings == ()


def test_a_record_that_the_server_refuses_becomes_a_reject(store: str, servers: str) -> None:
    """With its place, its reason and its text; all others are loaded."""
    with begin(store, servers) as connection:
        names = refuse(connection, store)
        result = coordinator.load(options(store, servers))
        rows = connection.execute(
            "select uid, code, reason, raw, stage, source, ordinal from etl.reject order by uid"
        ).fetchall()
        directory = connection.execute("select count(*) from game.power_directory").fetchone()

    assert (result.loaded, result.rejected, dict(result.reject_codes)) == (
        RECORDS - len(names),
        len(names),
        {"server_refused": len(names)},
    )
    assert [row[0] for row in rows] == sorted(names)
    assert all(row[1] == "server_refused" and "not_these" in row[2] and "23514" in row[2] for row in rows)
    assert [json.loads(row[3])["InternalName"].lower() for row in rows] == sorted(names)
    assert all(row[4] == "load" and row[5].endswith("i12.json") for row in rows)
    assert directory == (RECORDS - len(names),)
    assert verify(servers, store=store, executor="inline://").findings == ()


def _records(store: str) -> list[dict[str, str]]:
    from etl.store import manifest, parts

    found = manifest.read(store)
    return [row for batch in parts.read_runs(store, found, found.partitions) for row in batch.to_pylist()]


def test_an_index_row_that_is_too_big_becomes_a_reject(tmp_path: Path, dsn: str) -> None:
    """A limit of the server that shows only when the index is built: 54000."""
    path = tmp_path / "powers.json"
    generate.generate("i12", 60, 9, path)
    records = json.loads(path.read_text())
    records[7]["Description"] = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=8_000))
    path.write_text(json.dumps(records))
    etl.split(str(path), store=str(tmp_path / "store"), executor="inline://")
    with begin(str(tmp_path / "store"), dsn) as connection:
        # An administrator wants to look descriptions up; leaves get the index with the parent's constraints.
        connection.execute("create function index_too() returns event_trigger language plpgsql as $$ declare r record; begin"
                           " for r in select * from pg_event_trigger_ddl_commands() where object_identity ~ '^game_b1.powers_.*_[0-9]+$' loop"
                           " execute format('create index on %s (description)', r.object_identity); end loop; end $$")  # fmt: skip
        connection.execute(
            "create event trigger index_too on ddl_command_end when tag in ('CREATE TABLE') execute function index_too()"
        )
        try:
            result = coordinator.load(options(str(tmp_path / "store"), dsn))
        finally:
            connection.execute("drop event trigger index_too")
        reject = connection.execute("select uid, reason from etl.reject").fetchall()

    assert (result.loaded, result.rejected) == (59, 1)
    assert reject[0][0] == records[7]["InternalName"].lower()
    assert "54000" in reject[0][1]


def test_a_table_that_refuses_everything_is_no_matter_of_records(store: str, dsn: str) -> None:
    """Nothing is published, and nothing is blamed on them."""
    with begin(store, dsn) as connection:
        connection.execute("alter table game_b1.powers add constraint never check (id < 0)")
        with pytest.raises(Refused, match="never"):
            coordinator.load(options(store, dsn))

        assert connection.execute("select count(*) from etl.live").fetchone() == (0,)


def test_the_log_of_a_run_that_was_killed_after_its_publication_is_closed(store: str, dsn: str) -> None:
    """By the next one, although it has nothing to do."""
    coordinator.load(options(store, dsn))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update etl.run set state = 'running', completed_at = null")

        assert coordinator.load(options(store, dsn)).nothing_to_do
        assert connection.execute("select state from etl.run").fetchall() == [("stopped",)]


def test_views_of_a_first_publication_that_was_killed_are_ours(store: str, dsn: str) -> None:
    """They were there before the flip; a stranger's table under our name is still refused."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        coordinator.load(options(store, dsn))
        connection.execute(
            "delete from etl.publication; delete from etl.live; update etl.build set published_at = null"
        )
        result = coordinator.load(options(store, dsn))
        connection.execute(
            "delete from etl.publication; delete from etl.live; update etl.build set published_at = null"
        )
        connection.execute("drop view game.powers cascade; create table game.powers ()")

        assert result.loaded == RECORDS
        with pytest.raises(SchemaError, match="powers"):
            coordinator.load(options(store, dsn))
