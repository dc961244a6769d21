#!/usr/bin/env python
"""Measure etl on this machine: whole processes against a private server with stated settings.

    scripts/bench.py december            the real export: split + load + index + publish, per server (target: under 20 s)
    scripts/bench.py memory [--shape S]  peak memory of all processes at 36,065 and 360,659 generated records
    scripts/bench.py split FILE          the split alone, one process and two, page-cached
    scripts/bench.py validate [FILE]     validation against the split, interleaved (target: at most twice its seconds)
    scripts/bench.py switches            the real export, once per switch of `etl load`, against a load without any
    scripts/bench.py update              June to December by `etl update` against a full load (target: under a third)
    scripts/bench.py read                look-ups by etl.read: tiers, one process and 8, during a rebuild, against others
    scripts/bench.py planning            how long the server plans a look-up by internal name, warm (target: under 3 ms)

Run it with the project's environment: .venv/bin/python scripts/bench.py … . Each figure is printed as a table and, with
--json, as one JSON object that also names the machine, the versions and the settings. The servers are the embedded
PostgreSQL and, where it is installed, the system's own with lz4 TOAST; both lie in a temporary folder and are stopped
at the end. Memory is the peak of the summed PSS of all processes of etl, sampled twice a second by etl itself.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import zstandard
from psycopg import sql

from etl import ddl, postgres, server, tables

ROOT = Path(__file__).resolve().parents[1]
PACK = ROOT.parent / "shared/data/codfull-homecoming-20251209.powers.json.zst"
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "8GB", "maintenance_work_mem": "256MB"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=["december", "memory", "split", "validate", "planning", "switches", "update", "read"]
    )
    parser.add_argument("file", nargs="?", help="input of `split`; of the others where it is not beside the checkout")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--shape", choices=["i12", "cod"], default="cod")
    parser.add_argument("--records", type=int, default=360_659)
    parser.add_argument("--memory-limit", default="1GB")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each crowd of readers in `read`")
    parser.add_argument("--readers", type=int, default=8, help="processes in `read`")
    parser.add_argument("--work", default=os.environ.get("TMPDIR", "/tmp"), help="folder for inputs, stores, servers")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="etl-bench-", dir=given.work) as folder:
        Path(folder).chmod(0o755)
        passes: dict[str, Any] = {"december": december, "memory": memory, "split": split, "validate": validate}
        passes |= {"planning": planning, "switches": switches, "update": update}
        if given.what == "read":
            import bench_read  # which imports this module

            passes["read"] = bench_read.read
        figures = passes[given.what](given, Path(folder))
    report = {"machine": machine(), "settings": SETTINGS, "arguments": vars(given), "figures": figures}
    if given.json:
        print(json.dumps(report, indent=1))


def machine() -> dict[str, Any]:
    versions = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True).stdout.split()
    wanted = ("polars", "pyarrow", "psycopg", "msgspec", "pgpq")
    return {
        "cores": os.cpu_count(),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "packages": [line for line in versions if line.lower().startswith(wanted)],
    }


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
    with servers(folder) as found:
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


def split(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The split alone; two processes against one, interleaved."""
    source = Path(given.file) if given.file else unpack(PACK, folder)
    size = source.stat().st_size
    source.read_bytes()
    figures = []
    for number in range(given.runs):
        for jobs in (1, 2):
            store = folder / f"split-{number}-{jobs}"
            started = time.perf_counter()
            etl("split", str(source), "--store", str(store), "--jobs", str(jobs), "--quiet", "--json")
            seconds = time.perf_counter() - started
            figures.append({"jobs": jobs, "seconds": seconds, "megabytes_per_s": size / seconds / 1e6})
            say(figures[-1])
            shutil.rmtree(store)
    return figures


def validate(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Validation against the split of the same file, whole processes, interleaved; --jobs processes each."""
    source = Path(given.file) if given.file else unpack(PACK, folder)
    size = source.stat().st_size
    source.read_bytes()
    figures = []
    for number in range(given.runs):
        store = folder / f"split-{number}"
        times = {}
        for words in (["split", str(source), "--store", str(store)], ["validate", str(source)]):
            started = time.perf_counter()
            etl(*words, "--jobs", str(given.jobs), "--quiet", "--json")
            times[words[0]] = time.perf_counter() - started
        ratio = times["validate"] / times["split"]
        figures.append({**times, "validate_megabytes_per_s": size / times["validate"] / 1e6, "ratio": ratio})
        say(figures[-1])
        shutil.rmtree(store)
    return figures


LOOKUPS = {
    "one statement, through the directory": """
        select p.*
        from game.power_directory d
        join game.powers p on p.archetype_id = d.archetype_id and p.powerset_id = d.powerset_id and p.id = d.id
        where d.internal_name = {name}""",
    "two statements: the directory": "select * from game.power_directory where internal_name = {name}",
    "two statements: the power": """
        select * from game.powers
        where id = {id} and archetype_id = {archetype_id} and powerset_id = {powerset_id}""",
    "powers alone, every leaf": "select * from game.powers where internal_name = {name}",
}


def planning(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Planning and execution of look-ups by internal name, in milliseconds: the first of a session, then warm."""
    source = Path(given.file) if given.file else unpack(PACK, folder)
    figures = []
    with servers(folder) as found:
        for name, dsn in found.items():
            rebuild(source, dsn, folder / f"store-{name}", given)
            for lookup, query in LOOKUPS.items():
                figures.append({"server": name, "look-up": lookup, **explained(dsn, query)})
                say(figures[-1])
    return figures


def explained(dsn: str, query: str, times: int = 200) -> dict[str, float]:
    """Explain a look-up of many powers, one after the other, in a session of its own."""
    keys = (
        "select id, internal_name, archetype_id, powerset_id from game.power_directory order by md5(id::text) limit %s"
    )
    planned, executed = [], []
    with psycopg.connect(dsn, autocommit=True) as connection:
        powers = connection.execute(keys, (times,)).fetchall()
        for number, internal_name, archetype, powerset in powers:
            values = {"id": number, "name": internal_name, "archetype_id": archetype, "powerset_id": powerset}
            literals = {key: sql.Literal(value) for key, value in values.items()}
            statement = sql.SQL("explain (analyze, timing off, format json) " + query).format(**literals)
            plan = connection.execute(statement).fetchone()[0][0]
            planned.append(plan["Planning Time"])
            executed.append(plan["Execution Time"])
    warm = sorted(planned[times // 10 :])
    return {
        "first_ms": planned[0],
        "warm_ms": statistics.median(warm),
        "warm_99th_ms": warm[int(0.99 * len(warm))],
        "execution_ms": statistics.median(executed[times // 10 :]),
    }


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


JUNE = PACK.with_name("cod-homecoming-2025.powers.json.zst")


def update(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """June to December, of June's categories: whole processes in turns, and the bytes that the update wrote."""
    june, december = two_exports(folder)
    store = ("--store", str(folder / "store"), "--quiet", "--json")
    splits = [json.loads(etl("split", str(source), *store))["split_id"] for source in (june, december)]
    figures: list[dict[str, Any]] = []
    with servers(folder) as found:
        for _ in range(given.runs):
            for name, dsn in found.items():
                where = (*store, "--dsn", dsn, "--jobs", str(given.jobs))
                etl("load", "--split", splits[0], *where)
                started = time.perf_counter()
                etl("load", "--split", splits[1], "--schema", "other", *where)
                loaded = time.perf_counter()
                result = json.loads(etl("update", str(december), *where))
                updated = time.perf_counter()
                figure = {"server": name, "load": loaded - started, "update": updated - loaded, **bytes_written(dsn)}
                figures.append({**figure, "powers": sum(len(result[kind]) for kind in ("changed", "new"))})
                say(figures[-1])
                etl("db", "reset", "--yes", "--dsn", dsn)
                etl("db", "reset", "--yes", "--dsn", dsn, "--schema", "other")
    for name in found:
        ratios = [figure["update"] / figure["load"] for figure in figures if figure["server"] == name]
        print(f"{name}: an update takes {statistics.median(ratios):.2f} of a full load ({len(ratios)} runs)")
    return figures


def two_exports(folder: Path) -> list[Path]:
    """Unpack June, and of December what is of June's categories and archetypes, with their entities beside them."""
    june, december = unpack(JUNE, folder), unpack(PACK, folder)
    categories = {record["full_name"].partition(".")[0].lower() for record in json.loads(june.read_bytes())}
    classes = {entity["name"] for entity in json.loads(beside(june, "archetypes").read_bytes())}
    keep(december, lambda record: record["full_name"].partition(".")[0].lower() in categories)
    keep(beside(december, "powersets"), lambda entity: entity["key"].partition(".")[0].lower() in categories)
    keep(beside(december, "archetypes"), lambda entity: entity["name"] in classes)
    return [june, december]


def beside(powers: Path, kind: str) -> Path:
    return powers.with_name(powers.name.replace(".powers.", f".{kind}."))


def keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    records = [record for record in json.loads(path.read_bytes()) if wanted(record)]
    path.write_text(json.dumps(records, ensure_ascii=False, separators=(",", ":")))


def bytes_written(dsn: str) -> dict[str, float]:
    """Return how many bytes of rows an update wrote, staging included, for each byte of a changed or new power's rows.

    What an update wrote carries the number of its transaction; the changed and new powers' rows were staged before.
    """
    written = touched = 0
    with psycopg.connect(dsn) as connection:
        transaction = connection.execute("select xmin::text from etl.publication where kind = 'update'").fetchone()[0]
        for name in ddl.relations(tables.TABLES):
            relation, key = sql.Identifier("game_b1", name), sql.Identifier("id" if name == "powers" else "power_id")
            size = sql.SQL("select coalesce(sum(pg_column_size(t)), 0)::bigint from {} t where ").format(relation)
            new = connection.execute(size + sql.SQL("t.xmin::text = {}").format(transaction)).fetchone()[0]
            written += new
            if name in tables.LEAF_TABLES:
                change = sql.SQL(
                    "exists (select from etl.change e where e.power_id = t.{} and e.kind in ('changed', 'new'))"
                )
                touched += connection.execute(size + change.format(key)).fetchone()[0]
    return {"megabytes": touched / 1e6, "written_per_byte": (touched + written) / touched}


def median_of(figures: list[dict[str, Any]], server_name: str, switch: str, kind: str) -> float:
    return statistics.median(f[kind] for f in figures if (f["server"], f["switch"]) == (server_name, switch))


def unpack(pack: Path, folder: Path) -> Path:
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


@contextmanager
def servers(folder: Path) -> Iterator[dict[str, str]]:
    """Start a private server of each PostgreSQL there is; yield their DSNs by name."""
    found = {"embedded": (postgres.find_binaries(), {})}
    system = postgres.system_binaries()
    if system:
        found["system"] = (system[0], {"default_toast_compression": "lz4"})
    try:
        yield {
            name: server.start_with(binaries, folder / name, {**SETTINGS, **more})
            for name, (binaries, more) in found.items()
        }
    finally:
        for name in found:
            server.stop(folder / name)


def rebuild(
    source: Path, dsn: str, store: Path, given: argparse.Namespace, *options: str
) -> tuple[float, dict[str, Any]]:
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


def etl(*arguments: str) -> str:
    """Run the command as a process of its own; its exit code 3 (rejects) is a result as well."""
    done = subprocess.run([sys.executable, "-m", "etl", *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode not in (0, 3):
        sys.exit(f"etl {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout


def say(figure: dict[str, Any]) -> None:
    print(
        "  ".join(
            f"{name} {value:.{2 if name.endswith(('_ms', '_byte')) else 1}f}"
            if isinstance(value, float)
            else f"{name} {value}"
            for name, value in figure.items()
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
