"""What a run's time went to: the parts add up to the whole, whatever the machine does meanwhile."""

import json
import re
import time
from pathlib import Path

import psycopg
import pytest
from command_line import run
from hypothesis import given
from hypothesis import strategies as st

import etl
from etl import config, coordinator, generate, timings

# Sums of some hundred laps of a double of a million seconds (what perf_counter may stand at): 1e-10 each, at the most.
ROUNDING_S = 1e-6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small flat export, split."""
    folder = tmp_path_factory.mktemp("timings")
    generate.generate("i12", 400, 5, folder / "powers.json")
    etl.split(str(folder / "powers.json"), store=str(folder / "store"), executor="inline://")
    return str(folder / "store")


def test_laps_add_up() -> None:
    """Nothing is between them."""
    before = time.perf_counter()
    clock = timings.Clock()
    for kind in ("a", "b", "a"):
        time.sleep(0.001)
        clock.lap(kind)
    after = time.perf_counter()

    assert sum(clock.seconds.values()) == pytest.approx(clock.total, abs=ROUNDING_S)
    assert clock.seconds["a"] >= 0.002
    assert 0.003 <= clock.total <= after - before


@st.composite
def crews(draw: st.DrawFn) -> tuple[list[timings.Stint], list[timings.Span], int]:
    """Stints of several workers, one after another, within one or two spans."""
    workers = draw(st.integers(1, 4))
    spans, stints, now = [], [], draw(st.floats(0, 1e6))
    for _ in range(draw(st.integers(1, 2))):
        began, ends = now, [now]
        for worker in range(draw(st.integers(0, workers))):
            at = began
            for _ in range(draw(st.integers(1, 3))):
                at += draw(st.floats(0, 5))
                seconds = dict(
                    zip(timings.WORKER_PARTS[1:-1], draw(st.lists(st.floats(0, 5), max_size=7)), strict=False)
                )
                stints.append(timings.Stint(worker=(7, worker), began=at, seconds=seconds))
                at += sum(seconds.values())
            ends.append(at)
        ended = max(ends) + draw(st.floats(0.001, 5))
        spans.append((began, ended))
        now = ended + draw(st.floats(0, 5))
    return stints, spans, workers


@given(crews())
def test_the_parts_of_workers_add_up_to_the_phase_times_the_workers(
    crew: tuple[list[timings.Stint], list[timings.Span], int],
) -> None:
    """No stint is lost, none counted twice, and idle is what nobody worked: never less than nothing."""
    stints, spans, workers = crew
    parts = timings.of_workers(stints, spans, workers)

    assert tuple(parts) == timings.WORKER_PARTS
    assert sum(parts.values()) == pytest.approx(workers * sum(end - begin for begin, end in spans), abs=ROUNDING_S)
    assert min(parts.values()) >= -ROUNDING_S
    for kind in timings.WORKER_PARTS[1:-1]:
        assert parts[kind] == pytest.approx(sum(stint.seconds.get(kind, 0.0) for stint in stints), abs=ROUNDING_S)


def test_waiting_before_the_first_stint_is_the_start_and_after_the_last_idle() -> None:
    """Also of a worker that did nothing at all."""
    stints = [
        timings.Stint(worker=(1, 0), began=11.0, seconds={"read": 2.0}),
        timings.Stint(worker=(1, 0), began=14.0, seconds={"read": 1.0}),
    ]
    parts = timings.of_workers(stints, [(10.0, 20.0)], 2)

    assert {kind: seconds for kind, seconds in parts.items() if seconds} == {"start": 1.0, "read": 3.0, "idle": 16.0}


def check(seconds: dict[str, float], wall: float, workers: int) -> None:
    """Assert that what a run tells of its time adds up, on both levels."""
    assert sum(timings.phases(seconds).values()) == pytest.approx(wall, abs=ROUNDING_S)
    parts = timings.workers(seconds)
    assert tuple(parts) == timings.WORKER_PARTS
    assert sum(parts.values()) == pytest.approx(workers * seconds["load"], abs=ROUNDING_S)
    assert min(parts.values()) >= -ROUNDING_S
    for kind in ("connect", "read", "transform", "encode", "send", "server_wait", "index"):
        assert parts[kind] > 0


@pytest.mark.parametrize("executor", ["inline://", "process://2", "process://3"])
def test_a_load_accounts_for_all_of_its_time(store: str, dsn: str, executor: str) -> None:
    """Phases add up to the wall time, the workers' parts to that of loading times the workers."""
    before = time.perf_counter()
    result = coordinator.load(config.LoadOptions(store=store, dsn=dsn, executor=executor))
    outside = time.perf_counter() - before

    check(dict(result.timings), result.seconds, int(executor[-1]) if executor[-1].isdigit() else 1)
    assert result.seconds <= outside
    assert set(timings.phases(result.timings)) <= set(timings.PHASES)


def test_the_command_prints_the_table_and_the_log_keeps_it(store: str, dsn: str) -> None:
    """Phases in their order, the workers below "load"; ``--json`` and the import log carry the same."""
    printed = run("load", "--store", store, "--dsn", dsn, "--jobs", "2", "--timings").stdout
    table = re.findall(r"^ +(\d+\.\d{3}) +([\d.]+)%  (.*)$", printed, re.MULTILINE)
    names = [name for _, _, name in table]
    of_workers = [f"  workers: {part.replace('_', ' ')}" for part in timings.WORKER_PARTS]
    phases = [name for name in names if name in timings.PHASES]
    logged = json.loads(run("log", "--dsn", dsn, "--json").stdout)[0]["timings"]
    shown = run("log", "--dsn", dsn, "--timings").stdout

    first = names.index("load") + 1
    assert names == [*phases[:first], *of_workers, *phases[first:], "in all"]
    assert phases == sorted(phases, key=timings.PHASES.index)
    assert sum(float(share) for _, share, name in table if name in timings.PHASES) == pytest.approx(100, abs=1)
    assert sum(float(share) for _, share, name in table if "workers:" in name) == pytest.approx(100, abs=1)
    assert set(phases) == {*timings.phases(logged)}
    assert tuple(timings.workers(logged)) == timings.WORKER_PARTS
    assert {f"publish_{step}" for step in ("widen", "wait", "flip", "settle")} <= logged.keys()
    assert "workers: server wait" in shown
    assert f"{logged['load']:.3f}" in shown


def test_a_rebuild_counts_its_split_and_its_imports(tmp_path: Path, dsn: str) -> None:
    """So that the seconds are those of the whole command."""
    generate.generate("i12", 60, 1, tmp_path / "powers.json")
    done = run(
        "rebuild", tmp_path / "powers.json", "--store", tmp_path / "store", "--dsn", dsn, "--jobs", "1", "--json"
    )
    result = json.loads(done.stdout)

    assert result["timings"]["split"] > 0
    assert result["timings"]["imports"] > 0
    check(result["timings"], result["seconds"], 1)


def test_a_load_that_fails_leaves_its_times(store: str, dsn: str) -> None:
    """The import log has what was done up to then."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "create function fail() returns event_trigger language plpgsql as $$ begin raise 'no'; end $$;"
            "create event trigger failing on ddl_command_end when tag in ('CREATE MATERIALIZED VIEW') execute function fail()"
        )
        with pytest.raises(etl.EtlError):
            coordinator.load(config.LoadOptions(store=store, dsn=dsn, executor="inline://"))
        row = connection.execute("select state, timings from etl.run").fetchone()

    assert row
    assert row[0] == "failed"
    assert {"plan", "load", "finish", "worker_read"} <= set(row[1])


def test_a_part_that_is_renewed_tells_its_times(store: str, dsn: str) -> None:
    """``etl load --only`` goes the way of an update; its phases add up as well."""
    assert run("load", "--store", store, "--dsn", dsn, "--jobs", "1").returncode == 0
    with psycopg.connect(dsn) as connection:
        key = connection.execute("select name from game.archetypes order by id limit 1").fetchone()
    assert key
    renew = ("load", "--store", store, "--dsn", dsn, "--jobs", "1", "--only", f"archetype={key[0]}")
    printed, result = run(*renew, "--timings").stdout, json.loads(run(*renew, "--json").stdout)

    assert "  apply\n" in printed
    assert sum(timings.phases(result["timings"]).values()) == pytest.approx(result["seconds"], abs=ROUNDING_S)
