"""etl beside other loaders, and beside the limit: the same rows into the same columns, with the same indexes.

Every contender is a process of its own, into an empty database; they take turns (A B C A B C). A result whose checksum
is not the reference's does not count and is shown as such. The others are handed the rows that etl computes, as JSON
lines (see ``benches.rows``), etl the raw export.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

from benches import cases, field, report, rows, target
from benches.cases import Case
from benches.common import say
from benches.field import Contender
from benches.process import Failed, run
from etl import tables

_QUICK = {"i12": 20_000, "cod": 2_000}


def contenders(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure, print the table, and with --save write table, picture and figures into docs/."""
    records = min(given.records, _QUICK.get(given.shape, given.records)) if given.quick else given.records
    names = tables_of(given)
    with cases.prepared(given, folder / "case", given.shape, records, names) as found:
        runs = [figure for case in found for figure in compare(case, entrants(given, names), given.runs)]
    summary = report.summarise(runs)
    print(report.table(summary), report.parts(summary), sep="\n\n")
    if given.save:
        report.save(given.shape if names == ["powers"] else f"{given.shape}-all", summary, runs, vars(given))
    return [{"summary": summary, "runs": runs}]


def tables_of(given: argparse.Namespace) -> list[str]:
    """Return the tables to compare: those of one input record each for December, else powers alone."""
    every = given.tables == "all" or (given.tables is None and given.shape == "december")
    return list(tables.LEAF_TABLES) if every else ["powers"]


def entrants(given: argparse.Namespace, names: list[str]) -> list[Contender]:
    """Return who takes part; say who does not, and why."""
    every = field.field(given.memory_limit, given.jobs)
    wanted = [word.strip().lower() for word in given.only.split(",")] if given.only else [""]
    chosen = [one for one in every if one.name == field.LIMIT or any(word in one.name.lower() for word in wanted)]
    found = [one for one in chosen if one.every_table or names == ["powers"]]
    for one in chosen:
        if not field.is_installed(one):
            print(f"{one.name} is left out: module {one.needs} is missing; pip install -e '.[bench]'")
        elif one not in found:
            print(f"{one.name} is left out: it knows table powers alone")
    return [one for one in found if field.is_installed(one)]


def compare(case: Case, entrants: list[Contender], runs: int) -> list[dict[str, Any]]:
    """Let the contenders take turns on one server; a figure for each run."""
    figures = []
    rows.keep_plan(case.ready, target.plan("powers", target.extensions(case.reference)))
    warm(case)
    for number, one in itertools.product(range(runs), entrants):
        figures.append({"server": case.server, "version": case.version, "run": number, **measure(case, one)})
        say(figures[-1])
    return figures


def warm(case: Case) -> None:
    """Read the inputs once, so that nobody pays for the disk."""
    for path in (case.source, *case.ready.folder.iterdir()):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def measure(case: Case, one: Contender) -> dict[str, Any]:
    """Run one contender once; ``seconds`` are scaled to all records where it loads fewer."""
    dsn = cases.fresh(case)
    time.sleep(0.5)  # what the checkpoint before has left to the disk
    figure: dict[str, Any] = {"contender": one.name, "note": one.note}
    try:
        ran = run(one.commands(case, dsn), good=(0, 3) if one.is_ours else (0,))
    except Failed as failed:
        return {**figure, "counts": False, "why": str(failed)}
    loaded = min(one.most, case.ready.rows["powers"]) if one.most else case.ready.rows["powers"]
    scale = case.ready.rows["powers"] / loaded
    why = difference(case, one, dsn, loaded)
    return {
        **figure,
        "seconds": ran.seconds * scale,
        "rows": loaded,
        "rows_per_s": loaded / ran.seconds,
        "peak_mb": round(ran.peak_bytes / 1e6),
        "counts": not why,
        "why": why,
        **({"timings": timings_of(ran.output)} if one.is_ours else {}),
    }


def timings_of(output: str) -> dict[str, float]:
    """Return what a run of etl says its time went to; its result is the line that is JSON."""
    line = next(line for line in reversed(output.splitlines()) if line.startswith("{"))
    return dict(json.loads(line)["timings"])


def difference(case: Case, one: Contender, dsn: str, loaded: int) -> str:
    """Return what is wrong with a result: "" where every table's checksum and indexes are the reference's."""
    for name in case.names:
        wanted, kinds = case.wanted[name], tables.spec(name).columns
        if loaded < wanted[0]:
            ids = ids_of(dsn, one.relations(name))
            wanted = target.checksum(case.reference, [f"game_b1.{name}"], kinds, f"where id = any ('{{{ids}}}')")
        got = target.checksum(dsn, one.relations(name), kinds)
        if got[0] != (loaded if name == "powers" else wanted[0]):
            return f"{name}: {got[0]} rows instead of {wanted[0]}"
        if got != wanted:
            places = target.columns_that_differ(case.reference, f"game_b1.{name}", dsn, one.relations(name), kinds)
            return f"{name}: the rows differ from the reference in {', '.join(places)}"
        indexes = target.indexes(case.reference, f"game_b1.{name}")
        if any(target.indexes(dsn, relation) != indexes for relation in one.relations(name)):
            return f"{name}: other indexes than the reference's"
    return ""


def ids_of(dsn: str, relations: list[str]) -> str:
    found = [target.column(dsn, relation, "id") for relation in relations]
    return ",".join(map(str, itertools.chain.from_iterable(found)))
