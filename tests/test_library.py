import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from command_line import ROOT, run

import etl
from etl import generate
from etl.errors import InputError, UsageError

RECORDS = 300
# What two runs of the same thing may differ in.
CHANGING = {"seconds", "timings", "peak_bytes", "run", "build", "generation"}


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small export with some bad records."""
    path = tmp_path_factory.mktemp("library") / "powers.json"
    generate.generate("cod", RECORDS, 5, path, dirty=0.08)
    return path


def phases(events: list[etl.Event]) -> list[str]:
    return list(dict.fromkeys(event.phase for event in events))


def test_the_passes_are_functions_that_tell_how_far_they_are(dirty: Path, tmp_path: Path, dsn: str) -> None:
    """Progress never goes back within a phase, and ends at the total."""
    events: list[etl.Event] = []
    store = str(tmp_path / "store")
    manifest = etl.split(str(dirty), store=store, jobs=1, on_progress=events.append)
    result = etl.load(store=store, dsn=dsn, executor="inline://", on_progress=events.append)

    assert phases(events)[:1] == ["split"]
    assert phases(events)[-1] == "publish"
    assert "load" in phases(events)
    for phase in ("split", "load"):
        counted = [event for event in events if event.phase == phase and event.total]
        assert [event.done for event in counted] == sorted(event.done for event in counted)
        assert counted[-1].done == counted[-1].total
    assert result.split_id == manifest.split_id
    assert result.records == RECORDS == result.loaded + result.superseded + result.rejected


def test_the_results_are_those_that_the_commands_print(dirty: Path, tmp_path: Path, dsn: str, empty_dsn: str) -> None:
    """The same fields with the same values, but for times and numbers of runs."""
    manifest = etl.split(str(dirty), store=str(tmp_path / "one"), jobs=1)
    result = etl.load(store=str(tmp_path / "one"), dsn=dsn, executor="inline://")
    split = run("split", dirty, "--store", tmp_path / "two", "--json", "--quiet", "--jobs", "1")
    load = run("load", "--store", tmp_path / "two", "--dsn", empty_dsn, "--json", "--quiet", "--executor", "inline://")

    told, printed = json.loads(split.stdout), json.loads(load.stdout)
    for name in ("split_id", "format", "records", "rows", "superseded", "notes"):
        assert told[name] == json.loads(json.dumps(getattr(manifest, name)))
    assert told["rejected"] == manifest.rejects
    assert told["reject_codes"] == dict(manifest.reject_codes)
    assert printed.keys() == set(result.__struct_fields__)
    for name in printed.keys() - CHANGING - {"reject_paths"}:
        assert printed[name] == json.loads(json.dumps(getattr(result, name))), name
    assert [Path(path).name for path in printed["reject_paths"]] == [Path(path).name for path in result.reject_paths]
    assert (split.returncode, load.returncode) == (3, 3)


def test_rebuild_is_both_at_once_into_a_fresh_build(dirty: Path, tmp_path: Path, dsn: str) -> None:
    """Also where the same split is published already."""
    store = str(tmp_path / "store")
    first = etl.rebuild(str(dirty), store=store, dsn=dsn, jobs=1)
    second = etl.rebuild(str(dirty), store=store, dsn=dsn, jobs=1)

    assert (first.build, second.build) == (1, 2)
    assert not second.nothing_to_do
    assert second.rows == first.rows


def test_a_second_load_tells_that_there_was_nothing_to_do(dirty: Path, tmp_path: Path, dsn: str) -> None:
    """With the counts of what is published."""
    store = str(tmp_path / "store")
    etl.split(str(dirty), store=store, executor="inline://")
    first = etl.load(store=store, dsn=dsn, executor="inline://")
    second = etl.load(store=store, dsn=dsn, executor="inline://")

    assert second.nothing_to_do
    assert (second.build, second.loaded, second.rejected, second.rows) == (
        first.build,
        first.loaded,
        first.rejected,
        first.rows,
    )


SCRIPT = """
import etl

def main():
    phases = []
    result = etl.rebuild({source!r}, store={store!r}, dsn={dsn!r}, jobs=2, on_progress=lambda e: phases.append(e.phase))
    print(result.loaded, result.superseded, result.rejected, "split" in phases, "load" in phases)

if __name__ == "__main__":
    main()
"""


def test_a_script_may_call_it_with_worker_processes(dirty: Path, tmp_path: Path, dsn: str) -> None:
    """Workers are spawned, so they import the script once more, without running it."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(source=str(dirty), store=str(tmp_path / "store"), dsn=dsn))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
                          env={"PYTHONPATH": str(ROOT)})  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    loaded, superseded, rejected, *seen = done.stdout.split()
    assert int(loaded) + int(superseded) + int(rejected) == RECORDS
    assert seen == ["True", "True"]


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: etl.split("missing.json", store="nowhere"), InputError),
        (lambda: etl.split(store="nowhere"), UsageError),
        (lambda: etl.split("x.json", format="csv", store="nowhere"), UsageError),
        (lambda: etl.split("x.json", chunk_size="much", store="nowhere"), UsageError),
        (lambda: etl.load(store="nowhere"), InputError),
        (lambda: etl.load(store="nowhere", schema="pg_toast"), UsageError),
    ],
)
def test_what_is_wrong_is_raised_as_an_error_of_ours(call: Callable[[], object], kind: type[etl.EtlError]) -> None:
    """One base class, with the exit code that the command would have had."""
    with pytest.raises(kind) as caught:
        call()

    assert caught.value.message
    assert caught.value.exit_code in (2, 5)


def test_what_a_load_says_is_what_readers_find(dirty: Path, tmp_path: Path, dsn: str) -> None:
    """Rows per table, counted in the database."""
    result = etl.rebuild(str(dirty), store=str(tmp_path / "store"), dsn=dsn, jobs=1)
    with psycopg.connect(dsn) as connection:
        for table, rows in result.rows.items():
            assert connection.execute(f"select count(*) from game.{table}").fetchone() == (rows,)  # type: ignore[call-overload]
