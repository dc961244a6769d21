"""A killed coordinator leaves orphans; the next run ends them, and no two runs collide."""

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
from test_coordinator import RECORDS, checksums, options, source, store

from etl import coordinator

__all__ = ["source", "store"]  # fixtures

GATE = 4711
# A leaf of npc stops in the middle of its transaction, after its rows and before its commit, while the gate is closed; the
# first leaf of all passes.
TRAP = f"""
    create function wait_at_gate() returns trigger language plpgsql as $$ begin
        if new.leaf like 'npc%%' and exists (select from etl.receipt r where r.leaf not in (new.leaf, 'all', 'indexes'))
        then perform pg_advisory_xact_lock_shared({GATE}); end if; return new; end $$;
    create trigger wait_at_gate before insert on etl.receipt for each row execute function wait_at_gate();
"""
AT_GATE = "select pid from pg_stat_activity where application_name like 'etl load npc%%' and wait_event_type = 'Lock'"


def start_load(store: str, dsn: str, *more: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "etl", "load", "--store", store, "--dsn", dsn, "--jobs", "1", "--quiet", *more]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )


def until(ask: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Ask until the answer is something; fail after a time."""
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)
    return found


@pytest.fixture
def gate(dsn: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection that holds the gate closed, until it unlocks it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TRAP.replace("%%", "%"))
        connection.execute("select pg_advisory_lock(%s)", (GATE,))
        yield connection


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def is_gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_an_immediate_second_run_ends_the_orphans_and_succeeds(
    store: str, dsn: str, empty_dsn: str, gate: psycopg.Connection[tuple[Any, ...]]
) -> None:
    """The orphan cannot see that its coordinator is gone; its transaction never commits all the same."""
    coordinator.load(options(store, empty_dsn))
    first = start_load(store, dsn)
    backend = until(lambda: gate.execute(AT_GATE).fetchone())[0]
    orphans = workers_of(first)
    kept = dict(gate.execute("select leaf, worker from etl.receipt where table_name = 'powers'").fetchall())
    for orphan in orphans:
        orphan.suspend()
    first.kill()
    second = start_load(store, dsn)
    try:
        alive = "select from pg_stat_activity where pid = %s"
        until(lambda: gate.execute(alive, (backend,)).fetchone() is None)
        until(lambda: gate.execute(AT_GATE).fetchone())  # the second run's worker is at the gate of the same leaf
        during = dict(gate.execute("select leaf, worker from etl.receipt where table_name = 'powers'").fetchall())
        gate.execute("select pg_advisory_unlock(%s)", (GATE,))
        for orphan in orphans:
            orphan.resume()
        _, errors = second.communicate(timeout=120)
    finally:
        for orphan in orphans:
            if not is_gone(orphan):
                orphan.resume()
    until(lambda: all(map(is_gone, orphans)))
    first.communicate()
    done = dict(gate.execute("select leaf, worker from etl.receipt where table_name = 'powers'").fetchall())

    assert second.returncode == 0, errors
    assert orphans
    assert kept
    assert kept.items() <= during.items() <= done.items()
    assert {leaf for leaf, worker in done.items() if worker in {o.pid for o in orphans}} == set(kept)
    assert checksums(dsn) == checksums(empty_dsn)


def test_a_killed_coordinator_in_the_middle_of_a_statement_does_not_keep_the_lock(store: str, dsn: str) -> None:
    """Its server process notices within a second that nobody is there; an immediate second run waits that long."""
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as watcher:
        holder.execute("lock table etl.archetype_key in access exclusive mode")
        first = start_load(store, dsn)
        waiting = (
            "select pid from pg_stat_activity where application_name like 'etl load into%' and wait_event_type = 'Lock'"
        )
        until(lambda: watcher.execute(waiting).fetchone())
        first.kill()
        second = start_load(store, dsn)
        first.communicate()
        time.sleep(3)  # longer than the second run's patience
        assert second.poll() is None
        holder.rollback()
        output, errors = second.communicate(timeout=120)

    assert second.returncode == 0, errors
    assert f"{RECORDS:,} loaded" in output


def test_two_loads_at_once_do_not_meet(store: str, dsn: str, gate: psycopg.Connection[tuple[Any, ...]]) -> None:
    """The second says who is at work and since when, and ends with 76; the first goes on undisturbed."""
    first = start_load(store, dsn)
    until(lambda: gate.execute(AT_GATE).fetchone())
    second = start_load(store, dsn)
    _, errors = second.communicate(timeout=60)
    gate.execute("select pg_advisory_unlock(%s)", (GATE,))
    output, _ = first.communicate(timeout=120)

    assert second.returncode == 76
    assert "etl load into game by" in errors
    assert "since 20" in errors
    assert first.returncode == 0
    assert f"{RECORDS:,} loaded" in output
    assert gate.execute("select state from etl.run").fetchall() == [("done",)]


def test_a_build_whose_dropping_was_interrupted_is_never_gone_on_with(store: str, dsn: str) -> None:
    """It is forgotten first; a later run drops what is left."""
    with pytest.raises(KeyboardInterrupt):
        coordinator.load(options(store, dsn), stop=_interrupt)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update etl.build set dropped_at = now()")
        connection.execute("drop table game_b1.power_set_categories")
        result = coordinator.load(options(store, dsn))
        schemas = "select nspname from pg_namespace where nspname like 'game%' order by 1"

        assert (result.build, result.loaded) == (2, RECORDS)
        assert connection.execute(schemas).fetchall() == [("game",), ("game_b2",)]


def _interrupt() -> bool:
    raise KeyboardInterrupt


def test_no_worker_outlives_its_coordinator(store: str, dsn: str, gate: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Neither the process nor its place in the database, even where nobody runs etl again."""
    first = start_load(store, dsn)
    until(lambda: gate.execute(AT_GATE).fetchone())
    orphans = workers_of(first)
    committed = "select count(*) from etl.receipt"
    before = gate.execute(committed).fetchone()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    until(lambda: all(map(is_gone, orphans)), 10)
    until(lambda: gate.execute(AT_GATE).fetchone() is None, 10)

    assert orphans
    assert gate.execute(committed).fetchone() == before
