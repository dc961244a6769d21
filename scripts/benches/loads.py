"""Whole loads: the December export, memory against the number of records, the switches of `etl load`."""

import argparse
import shutil
import statistics
from pathlib import Path
from typing import Any

from benches.common import PACK, etl, figures_of, median_of, rebuild, say, servers, unpack


def december(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The December export, whole process after whole process, alternating servers."""
    source = Path(given.file) if given.file else unpack(PACK, folder)
    figures: list[dict[str, Any]] = []
    with servers(folder) as found:
        for number in range(given.runs):
            for name, dsn in found.items():
                seconds, result = rebuild(source, dsn, folder / f"store-{name}-{number}", given)
                figures.append({"server": name, "seconds": seconds, **figures_of(result)})
                say(figures[-1])
    for name in {figure["server"] for figure in figures}:
        times = [figure["seconds"] for figure in figures if figure["server"] == name]
        print(
            f"{name}: median {statistics.median(times):.1f} s of {len(times)} runs ({min(times):.1f} to {max(times):.1f})"
        )
    return figures


def memory(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A tenth and the whole of the records: memory must not grow with them."""
    figures = []
    with servers(folder, given.server) as found:
        for records in (given.records // 10, given.records):
            source = folder / f"{given.shape}-{records}.json"
            etl("generate", "--shape", given.shape, "--records", str(records), "--seed", "1", "--out", str(source))
            for name, dsn in found.items():
                seconds, result = rebuild(source, dsn, folder / f"store-{name}-{records}", given)
                size = source.stat().st_size
                figures.append({"server": name, "bytes": size, "seconds": seconds, **figures_of(result)})
                say(figures[-1])
                shutil.rmtree(folder / f"store-{name}-{records}")
                etl("db", "reset", "--yes", "--dsn", dsn)
            source.unlink()
    return figures


SWITCHES = {
    "none": (),
    "--durability fast": ("--durability", "fast"),
    "--indexes before": ("--indexes", "before"),
    "--indexes deferred": ("--indexes", "deferred"),
    "--no-freeze": ("--no-freeze",),
    "fast, deferred": ("--durability", "fast", "--indexes", "deferred"),
}


def switches(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Load one split again and again, a switch at a time, in turns; seconds to the publication, and in all."""
    source = Path(given.file) if given.file else unpack(PACK, folder)
    figures: list[dict[str, Any]] = []
    with servers(folder) as found:
        for _ in range(given.runs):
            for server_name, dsn in found.items():
                for switch, options in SWITCHES.items():
                    result = rebuild(source, dsn, folder / "store", given, *options)[1]
                    later = result["timings"].get("index later", 0.0)
                    published = result["seconds"] - later
                    figures.append({"server": server_name, "switch": switch, "published": published, "later": later})
                    say(figures[-1])
                etl("db", "reset", "--yes", "--dsn", dsn)
    for server_name in found:
        base = median_of(figures, server_name, "none", "published")
        for switch in SWITCHES:
            published, later = (median_of(figures, server_name, switch, kind) for kind in ("published", "later"))
            print(f"{server_name:9} {switch:20} {published:6.1f} s {published / base:6.2f}   later {later:6.1f} s")
    return figures
