"""A series of sizes: the time of `etl rebuild` grows as the records do, and its memory does not."""

import argparse
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from benches.cases import create_database
from benches.common import etl, say, servers
from benches.process import Failed, python, run


def series(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Rebuild a tenth, one and ten times --records, all tables, indexes, view, publication; medians of --runs.

    With ``--tables powers`` that table alone. The runs of a size come together: its input is made and dropped with it.
    """
    figures: list[dict[str, Any]] = []
    with servers(folder, given.server) as found:
        for records in (given.records // 10, given.records, given.records * 10):
            source = folder / f"{given.shape}-{records}.json"
            etl(
                "generate",
                "--shape",
                given.shape,
                "--records",
                str(records),
                "--seed",
                "1",
                "--out",
                str(source),
                "--quiet",
            )
            for _ in range(given.runs):
                for name, dsn in found.items():
                    figures.append({"server": name, "records": records, "bytes": source.stat().st_size})
                    figures[-1] |= one(given, folder, source, dsn)
                    say(figures[-1])
            source.unlink()
    print(table(figures))
    return figures


def one(given: argparse.Namespace, folder: Path, source: Path, dsn: str) -> dict[str, Any]:
    """Split and load one size into a database of its own; return seconds and peak memory in MB."""
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    work = create_database(dsn, "work")
    time.sleep(0.5)
    options = ["--tables", "powers"] if given.tables == "powers" else []
    where = ("--store", str(store), "--dsn", work, "--jobs", str(given.jobs), "--memory-limit", given.memory_limit)
    try:
        ran = run([python("etl", "rebuild", str(source), *where, "--quiet", "--json", *options)], good=(0, 3))
    except Failed as failed:
        raise SystemExit(f"etl rebuild of {source.name}: {failed}") from None
    shutil.rmtree(store)
    return {"seconds": ran.seconds, "peak_mb": round(ran.peak_bytes / 1e6)}


def table(figures: list[dict[str, Any]]) -> str:
    """Return the medians as a Markdown table; the users' own limits are 300 s and 1,000 MB at 360,659 records."""
    lines = ["| server | records | JSON | seconds, median | range | records/s | peak memory |", "|" + " --- |" * 7]
    for server, records in dict.fromkeys((figure["server"], figure["records"]) for figure in figures):
        runs = [one for one in figures if (one["server"], one["records"]) == (server, records)]
        times, peak = [one["seconds"] for one in runs], max(one["peak_mb"] for one in runs)
        middle = statistics.median(times)
        lines.append(
            f"| {server} | {records:,} | {runs[0]['bytes'] / 1e6:,.0f} MB | {middle:.1f} | {min(times):.1f} – "
            f"{max(times):.1f} | {records / middle:,.0f} | {peak:,} MB |"
        )
        if records == 360_659:
            kept = "kept" if middle < 300 and peak < 1000 else "MISSED"
            lines.append(f"| | | | the users' limits, 300 s and 1,000 MB: {kept} | | | |")
    return "\n".join(lines)
