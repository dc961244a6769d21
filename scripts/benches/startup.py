"""What a run costs besides its work: the start of the process, and a load of hardly any records."""

import argparse
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

from benches.common import etl, say, servers

HELP_LIMIT_S, OVERHEAD_LIMIT_S = 0.4, 1.2
RECORDS = 100

_STATEMENT = re.compile(r"^(\d+\.\d+) .*?duration: (\d+\.\d+) ms", re.MULTILINE)


def startup(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """`etl --help`, and a load of 100 records: what of its seconds is not the server's, and what went where."""
    store, source = folder / "store", folder / "powers.json"
    etl("generate", "--shape", given.shape, "--records", str(RECORDS), "--out", str(source), "--quiet")
    etl("split", str(source), "--store", str(store), "--quiet", "--json")
    figures: list[dict[str, Any]] = []
    with servers(folder, given.server, log_duration="on", log_line_prefix="%n ") as found:
        for _ in range(given.runs):
            figures.append({"command": "etl --help", "server": "", "seconds": timed("--help")[0]})
            for name, dsn in found.items():
                log = folder / name / "postgres.log"
                before = log.stat().st_size
                seconds, output = timed(
                    "load", "--store", str(store), "--dsn", dsn, "--jobs", str(given.jobs), "--quiet", "--json"
                )
                busy = at_work(log.read_text(errors="replace")[before:])
                result = json.loads(output)
                figure = {"command": "etl load", "server": name, "seconds": seconds, "server_s": busy}
                figures.append({**figure, "overhead": seconds - busy, "timings": result["timings"]})
                etl("db", "reset", "--yes", "--dsn", dsn)
    for command, name, kind, limit in (
        ("etl --help", "", "seconds", HELP_LIMIT_S),
        *(("etl load", name, "overhead", OVERHEAD_LIMIT_S) for name in found),
    ):
        mine = [figure for figure in figures if (figure["command"], figure["server"]) == (command, name)]
        middle = {key: statistics.median(f[key] for f in mine) for key in mine[0] if isinstance(mine[0][key], float)}
        say(
            {"command": command, "server": name or "none", "runs": len(mine)}
            | {k: f"{v:.2f}" for k, v in middle.items()}
        )
        print(f"  limit {limit} s of {kind}: {'kept' if middle[kind] < limit else 'MISSED'}")
    return figures


def timed(*arguments: str) -> tuple[float, str]:
    started = time.perf_counter()
    output = etl(*arguments)
    return time.perf_counter() - started, output


def at_work(log: str) -> float:
    """Return in how many seconds the server executed a statement in one session at least, by its own log.

    Each line says when a statement ended and how long it took. The start of a session and the commit of what stands
    alone are in none, so they count as ours.
    """
    ends = [(float(at), float(ms) / 1000) for at, ms in _STATEMENT.findall(log)]
    total = reached = 0.0
    for began, ended in sorted((at - took, at) for at, took in ends):
        total += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return total
