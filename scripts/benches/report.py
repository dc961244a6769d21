"""Summaries of runs: medians, ranges and ratios, as a table, as JSON and as a picture in docs/."""

import json
import statistics
from typing import Any

from benches import picture
from benches.common import ROOT, SETTINGS, machine
from benches.field import LIMIT

DOCS = ROOT / "docs"


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry per server and contender, in the order of their turns: median, range, ratio, memory.

    The ratio to the limit is the median of the ratios of the turns, each to the limit of the same turn: the machine
    may grow slower or faster from turn to turn. A contender with any result that does not count has no figures.
    """
    keys = dict.fromkeys((run["server"], run["contender"]) for run in runs)
    limits = {
        (run["server"], run["run"]): run["seconds"] for run in runs if run["contender"] == LIMIT and run["counts"]
    }
    return [_entry([run for run in runs if (run["server"], run["contender"]) == key], limits) for key in keys]


def _entry(runs: list[dict[str, Any]], limits: dict[tuple[str, int], float]) -> dict[str, Any]:
    entry = {name: runs[0][name] for name in ("server", "version", "contender", "note")}
    wrong = [run["why"] for run in runs if not run["counts"]]
    if wrong:
        return {**entry, "counts": False, "why": wrong[0]}
    times = [run["seconds"] for run in runs]
    places = [(run, (run["server"], run["run"])) for run in runs]
    ratios = [run["seconds"] / limits[place] for run, place in places if place in limits]
    parts = dict.fromkeys(name for run in runs for name in run.get("timings", {}))
    return {
        **entry,
        "counts": True,
        "runs": len(times),
        "median_s": statistics.median(times),
        "least_s": min(times),
        "most_s": max(times),
        "rows_per_s": statistics.median(run["rows_per_s"] for run in runs),
        "ratio": statistics.median(ratios) if ratios else None,
        "ratios": ratios,
        "peak_mb": max(run["peak_mb"] for run in runs),
        "timings": {name: statistics.median(run["timings"].get(name, 0.0) for run in runs) for name in parts},
    }


LOADING = ("imports", "start", "split", "plan", "check", "register", "load")
"""The phases up to where the leaves have their rows and indexes; plain tables are indexed beside what the limit does not have."""
PHASES = (*LOADING, "finish", "publish")
WORK = ("read", "transform", "encode", "send", "server_wait", "index")


def parts(summary: list[dict[str, Any]]) -> str:
    """Return what the runs of etl say their seconds went to, as a Markdown table: phases, and the work of "load".

    The work is that of all workers added up: two workers do twice as many seconds of it as the phase takes. The last
    column is the sum of the phases ``LOADING``, beside the limit.
    """
    limits = {
        entry["server"]: entry["median_s"] for entry in summary if entry["contender"] == LIMIT and entry["counts"]
    }
    names = [*PHASES, *(f"{name.replace('_', ' ')} (workers)" for name in WORK), "leaves loaded"]
    rows = [
        [f"{entry['server']}, {entry['contender']}"]
        + [f"{entry['timings'].get(name, 0.0):.1f}" for name in (*PHASES, *(f"worker_{name}" for name in WORK))]
        + [_loaded(entry["timings"], limits.get(entry["server"]))]
        for entry in summary
        if entry.get("timings")
    ]
    head = [["seconds", *names], ["---"] * (len(names) + 1)] if rows else []
    return "\n".join(f"| {' | '.join(row)} |" for row in [*head, *rows])


def _loaded(timings: dict[str, float], limit: float | None) -> str:
    seconds = sum(timings.get(name, 0.0) for name in LOADING)
    return f"{seconds:.1f}, {seconds / limit:.2f} times the limit" if limit else f"{seconds:.1f}"


def table(summary: list[dict[str, Any]]) -> str:
    """Return the summary as a Markdown table."""
    head = ("server", "contender", "seconds, median", "range", "times the limit", "rows/s", "peak memory", "")
    rows = [head, ("---",) * len(head), *(_cells(entry) for entry in summary)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    server = f"{entry.get('shape', '')} {entry['server']} {entry['version']}".strip()
    if not entry["counts"]:
        why = entry["why"].splitlines()[-1][:160]
        return (server, entry["contender"], "–", "–", "–", "–", "–", f"does not count: {why}")
    return (
        server,
        entry["contender"],
        f"{entry['median_s']:.1f}",
        f"{entry['least_s']:.1f} – {entry['most_s']:.1f}",
        f"{entry['ratio']:.2f}" if entry["ratio"] else "–",
        f"{entry['rows_per_s']:,.0f}",
        f"{entry['peak_mb']:,} MB",
        entry["note"],
    )


def save(name: str, summary: list[dict[str, Any]], runs: list[dict[str, Any]], given: dict[str, Any]) -> None:
    """Write docs/contenders-<name>.json, a picture of the binding server, and the table into docs/performance.md."""
    facts = {"machine": machine(), "settings": SETTINGS, "arguments": given, "summary": summary, "runs": runs}
    (DOCS / f"contenders-{name}.json").write_text(json.dumps(facts, indent=1, default=str) + "\n")
    binding = [entry for entry in summary if entry["server"] == summary[0]["server"]]
    title = f"{name}: seconds to load, PostgreSQL {summary[0]['version']}"
    (DOCS / f"contenders-{name}.svg").write_text(picture.bars(title, binding))
    rows = max(run["rows"] for run in runs if run["counts"])
    command = (
        f"scripts/bench.py contenders --shape {given['shape']} --records {given['records']} --runs {given['runs']}"
    )
    where = f"commit {facts['machine']['commit']}, {facts['machine']['cores']} cores, load {facts['machine']['load_average']}"
    picture_of = f"![{name}](contenders-{name}.svg)"
    text = "\n\n".join([f"`{command}`: {rows:,} powers; {where}.", table(summary), picture_of, parts(summary)])
    put_block(f"contenders {name}", text)


def put_block(name: str, text: str) -> None:
    """Put a text between two comments of docs/performance.md, in place of what is there, else at the end."""
    path = DOCS / "performance.md"
    page = path.read_text()
    begin, end = f"<!-- bench: {name} -->", f"<!-- end of bench: {name} -->"
    block = f"{begin}\n{text}\n{end}"
    if begin in page:
        before, rest = page.split(begin, 1)
        page = before + block + rest.split(end, 1)[1]
    else:
        page = f"{page.rstrip()}\n\n## {name}\n\n{block}\n"
    path.write_text(page)
