"""What the settings of a server are worth to a load: one changed at a time, on private servers, in turns."""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import psycopg

from benches.cases import create_database, source_of
from benches.common import etl, say
from etl import postgres, server

# What loading wants: etl/health.py names the same values.
WANTED: dict[str, str] = {
    "wal_level": "minimal",
    "shared_buffers": "512MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
}
# One setting, changed to what PostgreSQL has by default or to a value that makes its worth visible in a short load; and
# what it is compared with. A load writes WAL only where wal_level is not minimal, so the distance of checkpoints is
# measured there.
BASE, REPLICA = "as wanted", "wal_level = replica"
CHANGES: dict[str, tuple[str, dict[str, str]]] = {
    REPLICA: (BASE, {"wal_level": "replica"}),
    "wal_level = logical": (BASE, {"wal_level": "logical"}),
    "wal_skip_threshold = 64kB": (BASE, {"wal_skip_threshold": "64kB"}),
    "maintenance_work_mem = 64MB": (BASE, {"maintenance_work_mem": "64MB"}),
    "shared_buffers = 128MB": (BASE, {"shared_buffers": "128MB"}),
    "default_toast_compression = pglz": (BASE, {"default_toast_compression": "pglz"}),
    "max_wal_size = 1GB": (REPLICA, {"wal_level": "replica", "max_wal_size": "1GB"}),
    "max_wal_size = 32MB": (REPLICA, {"wal_level": "replica", "max_wal_size": "32MB", "min_wal_size": "32MB"}),
    "checkpoint_timeout = 30s": (REPLICA, {"wal_level": "replica", "checkpoint_timeout": "30s"}),
}


def settings(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Load one split with each change (or those of --only), in turns; the ratio of each turn to what it is compared with."""
    binaries, has_lz4 = _binaries(given.server)
    source = source_of(given, folder, given.shape, given.records)
    store = folder / "store"
    split = json.loads(etl("split", str(source), "--store", str(store), "--jobs", "2", "--quiet", "--json"))
    chosen = _chosen(given.only.split(",") if given.only else [], has_lz4)
    wanted = {**WANTED, "default_toast_compression": "lz4"} if has_lz4 else WANTED

    def load(name: str) -> dict[str, Any]:
        home = folder / f"server-{list(chosen).index(name)}"
        try:
            dsn = create_database(server.start_with(binaries, home, {**wanted, **chosen[name]}), "work")
            return _load(dsn, store, split["split_id"], given)
        finally:
            server.stop(home)

    load(BASE)  # whoever comes first finds nothing in the memory of the machine; it does not count
    runs: list[dict[str, Any]] = []
    for turn in range(given.runs):
        for name in chosen:
            runs.append({"turn": turn, "setting": name, **load(name)})
            say(runs[-1])
    return summary(runs)


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return and print, per change, the median of its ratios to the load it is compared with in the same turn."""
    seconds = {(run["turn"], run["setting"]): run["seconds"] for run in runs}
    figures = []
    for name in dict.fromkeys(run["setting"] for run in runs):
        own = [run for run in runs if run["setting"] == name]
        base = CHANGES[name][0] if name in CHANGES else BASE
        ratios = [run["seconds"] / seconds[run["turn"], base] for run in own]
        figures.append(
            {
                "setting": name,
                "against": base,
                "ratio": statistics.median(ratios),
                "ratios": ratios,
                "seconds": statistics.median(run["seconds"] for run in own),
                **{key: statistics.median(run[key] for run in own) for key in ("wal_mb", "checkpoints")},
            }
        )
        print(
            f"{name:34} {figures[-1]['seconds']:6.1f} s  {figures[-1]['ratio']:5.2f} ({min(ratios):.2f} – {max(ratios):.2f})"
            f" of {base:20} WAL {figures[-1]['wal_mb']:6.0f} MB, {figures[-1]['checkpoints']:.0f} checkpoints"
        )
    return figures


def _binaries(wanted: str) -> tuple[Path, bool]:
    """Return the PostgreSQL to measure, and whether it has lz4: the system's, unless the embedded one is asked for."""
    system = postgres.system_binaries()
    if system and wanted != "embedded":
        return system[0], True
    return postgres.find_binaries(), False


def _chosen(only: list[str], has_lz4: bool) -> dict[str, dict[str, str]]:
    """Return the changes to measure by name, with what they are compared with; ``only`` holds names of settings."""
    kept = {
        name: base
        for name, (base, _) in CHANGES.items()
        if (not only or name.partition(" =")[0] in only) and (has_lz4 or "toast" not in name)
    }
    names = {BASE, *kept, *kept.values()}
    return {BASE: {}, **{name: change for name, (_, change) in CHANGES.items() if name in names}}


def _load(dsn: str, store: Path, split_id: str, given: argparse.Namespace) -> dict[str, Any]:
    """Load into an empty database; WAL and checkpoints are those of the load."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        before, checkpoints = _written(connection)
        result = json.loads(
            etl(
                "load", "--store", str(store), "--split", split_id, "--dsn", dsn, "--jobs", str(given.jobs),
                "--memory-limit", given.memory_limit, "--quiet", "--json",
            )
        )  # fmt: skip
        after, more = _written(connection)
    return {"seconds": result["seconds"], "wal_mb": (after - before) / 1e6, "checkpoints": more - checkpoints}


def _written(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    """Return the bytes of WAL and the number of checkpoints since the server began."""
    row = connection.execute("select to_regclass('pg_catalog.pg_stat_checkpointer') is not null").fetchone()
    counted = (
        "num_timed + num_requested from pg_stat_checkpointer"  # since PostgreSQL 17
        if row and row[0]
        else "checkpoints_timed + checkpoints_req from pg_stat_bgwriter"
    )
    found = connection.execute(f"select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint, {counted}").fetchone()  # type: ignore[call-overload]
    return found[0], found[1]
