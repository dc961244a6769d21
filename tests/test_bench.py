"""The bench itself: what it must never do is to let a wrong result count, or to hide a change."""

import argparse
import importlib
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import short_folder

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def module(name: str) -> Any:
    return importlib.import_module(name)


def run_of(contender: str, turn: int, seconds: float, **more: Any) -> dict[str, Any]:
    known = {
        "server": "system",
        "version": "15.18",
        "note": "",
        "rows_per_s": 1.0,
        "peak_mb": 1,
        "counts": True,
        "why": "",
    }
    return {**known, "contender": contender, "run": turn, "seconds": seconds, **more}


def test_every_sub_command_is_a_function_of_its_module() -> None:
    """The dispatcher names modules that it imports only when asked."""
    bench = module("bench")

    assert all(callable(getattr(module(f"benches.{where}"), name)) for name, where in bench.PASSES.items())


def test_a_sub_command_may_have_defaults_of_its_own() -> None:
    """They are for it alone, and yield to what is given."""
    bench = module("bench")

    assert bench.parse(["settings"]).records < bench.parse(["memory"]).records
    assert bench.parse(["settings", "--records", "7"]).records == 7


def test_a_setting_is_compared_within_its_turn_with_what_it_is_measured_against() -> None:
    """The distance of checkpoints with a server that writes WAL, the others with one that has everything as wanted."""
    settings = module("benches.settings")
    base = {"wal_mb": 1.0, "checkpoints": 0}
    times = {settings.BASE: (1.0, 10.0), settings.REPLICA: (2.0, 20.0), "max_wal_size = 1GB": (3.0, 30.0)}
    runs = [
        {"turn": turn, "setting": name, "seconds": seconds[turn], **base}
        for turn in range(2)
        for name, seconds in times.items()
    ]
    ratios = {figure["setting"]: figure["ratios"] for figure in settings.summary(runs)}

    assert ratios == {settings.BASE: [1.0, 1.0], settings.REPLICA: [2.0, 2.0], "max_wal_size = 1GB": [1.5, 1.5]}


@pytest.mark.parametrize(("only", "names"), [(["max_wal_size"], 4), (["shared_buffers"], 2), ([], 10)])
def test_settings_are_measured_with_what_they_are_compared_with(only: list[str], names: int) -> None:
    """Whatever is picked."""
    settings = module("benches.settings")
    chosen = settings._chosen(only, has_lz4=True)

    assert len(chosen) == names
    assert {settings.CHANGES[name][0] for name in chosen if name != settings.BASE} <= set(chosen)


def test_the_time_of_etl_is_told_by_its_parts() -> None:
    """Medians of its own runs, in the order in which they come; others have none."""
    report = module("benches.report")
    of_two = [{"register": 1.0, "load": 4.0, "worker_send": 3.0}, {"register": 2.0, "load": 6.0, "worker_send": 5.0}]
    runs = [run_of("etl load", turn, 9.0, timings=timings) for turn, timings in enumerate(of_two)]
    lines = report.parts(report.summarise([*runs, run_of("psql", 0, 1.0)])).splitlines()
    told = dict(
        zip(*([cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], lines[2])), strict=True)
    )

    assert len(lines) == 3
    assert (told["seconds"], told["register"], told["load"], told["send (workers)"]) == (
        "system, etl load",
        "1.5",
        "5.0",
        "4.0",
    )
    assert told["leaves loaded"] == "6.5"
    assert report.parts(report.summarise([run_of("psql", 0, 1.0)])) == ""


def test_a_contender_with_one_wrong_result_has_no_figures() -> None:
    """It stands in the table with the reason, and without a time."""
    report, limit = module("benches.report"), module("benches.field").LIMIT
    runs = [
        run_of(limit, 0, 2.0),
        run_of("x", 0, 1.0),
        run_of(limit, 1, 4.0),
        run_of("x", 1, 1.0, counts=False, why="rows"),
    ]
    summary = report.summarise(runs)

    assert [entry["counts"] for entry in summary] == [True, False]
    assert "median_s" not in summary[1]
    assert "does not count: rows" in report.table(summary)


def test_ratios_are_taken_turn_by_turn() -> None:
    """A machine that was slow for one turn was so for the limit as well."""
    report, limit = module("benches.report"), module("benches.field").LIMIT
    runs = [run_of(limit, 0, 1.0), run_of("x", 0, 2.0), run_of(limit, 1, 10.0), run_of("x", 1, 20.0)]

    assert report.summarise(runs)[1]["ratios"] == [2.0, 2.0]


def test_the_picture_is_well_formed_and_names_everybody() -> None:
    """Also those without a bar; names are escaped."""
    report, picture, limit = module("benches.report"), module("benches.picture"), module("benches.field").LIMIT
    runs = [run_of(limit, 0, 1.0), run_of("a < b", 0, 2.0), run_of("wrong", 0, 2.0, counts=False, why="rows")]
    text = picture.bars("title", report.summarise(runs))
    words = "".join(ET.fromstring(text).itertext())

    assert all(name in words for name in (limit, "a < b", "wrong", "does not count"))


@pytest.mark.parametrize(("ratio", "word"), [(2.1, "as before"), (3.9, "WARNING: slower"), (1.0, "faster")])
def test_the_guard_tells_a_change_from_noise(ratio: float, word: str) -> None:
    """Noise is the range of the committed runs, and a margin."""
    old = {"ratio": 2.0, "ratios": [1.8, 2.0, 2.4]}

    assert module("benches.quick").compared("etl load", {"ratio": ratio}, old).startswith(word)


def test_the_servers_time_is_counted_once_where_sessions_overlap() -> None:
    """Each line of its log says when a statement ended, and how long it took."""
    log = (
        "100.010 LOG:  duration: 10.000 ms  parse <unnamed>: select\n"
        "100.020 LOG:  duration: 15.000 ms  execute <unnamed>: select\n"
        "100.015 LOG:  duration: 1.000 ms\n"
        "100.500 LOG:  checkpoint starting: immediate\n"
        "101.000 LOG:  duration: 100.000 ms  statement: copy\n"
    )

    assert module("benches.startup").at_work(log) == pytest.approx(0.12)


@pytest.fixture(scope="module")
def case() -> Iterator[Any]:
    """A few records with their reference, on the embedded server."""
    sys.path.insert(0, str(SCRIPTS))
    given = argparse.Namespace(server="embedded", file=None)
    with (
        short_folder() as folder,
        module("benches.cases").prepared(given, folder / "c", "i12", 80, ["powers"]) as cases,
    ):
        yield cases[0]
    sys.path.remove(str(SCRIPTS))


def entrant(name: str) -> Any:
    return next(one for one in module("benches.field").field("1GB", 1) if one.name.startswith(name))


@pytest.mark.parametrize("name", ["psql", "etl load"])
def test_a_right_result_counts(case: Any, name: str) -> None:
    """The rows that were written down are those that etl loads: text for COPY gives the reference's checksum."""
    figure = module("benches.contenders").measure(case, entrant(name))

    assert (figure["counts"], figure["why"]) == (True, "")


def test_a_result_with_other_data_does_not_count(case: Any) -> None:
    """One changed letter in one row is enough, and the column is named."""
    path = case.ready.folder / "powers.0.copy"
    rows = path.read_text().split("\n")
    fields = rows[0].split("\t")
    changed = "\t".join([*fields[:3], f"{fields[3]}!", *fields[4:]])
    contenders = module("benches.contenders")
    path.write_text("\n".join([changed, *rows[1:]]))
    try:
        figure = contenders.measure(case, entrant("psql"))
    finally:
        path.write_text("\n".join(rows))

    assert figure["why"] == "powers: the rows differ from the reference in display_name"


def test_a_result_with_an_index_less_does_not_count(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever leaves out an index is not compared."""
    field, target = module("benches.field"), module("benches.target")
    whole = target.plan("powers", [])
    monkeypatch.setattr(field.target, "plan", lambda *_: {**whole, "indexes": whole["indexes"][1:]})

    assert "indexes" in module("benches.contenders").measure(case, entrant("psql"))["why"]
