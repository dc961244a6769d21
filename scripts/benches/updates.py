"""An update against a full load."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from benches.common import DATA, PACK, beside, etl, say, servers, unpack
from etl import ddl, tables

JUNE = DATA / "cod-homecoming-2025.powers.json.zst"


def update(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """June to December, of June's categories: whole processes in turns, and the bytes that the update wrote.

    Update and full load (a rebuild, into another schema) are both given the source, whose split is there already.
    """
    june, december = two_exports(folder)
    store = ("--store", str(folder / "store"), "--quiet", "--json")
    split = json.loads(etl("split", str(june), *store))["split_id"]
    etl("split", str(december), *store)
    figures: list[dict[str, Any]] = []
    with servers(folder) as found:
        for _ in range(given.runs):
            for name, dsn in found.items():
                where = (*store, "--dsn", dsn, "--jobs", str(given.jobs))
                etl("load", "--split", split, *where)
                started = time.perf_counter()
                etl("rebuild", str(december), "--schema", "other", *where)
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
