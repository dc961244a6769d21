"""The contenders: how each is started, where its rows are afterwards, and what it may be compared on."""

import dataclasses
import importlib.util
import shutil
from collections.abc import Callable

from benches import target
from benches.cases import Case, loaded
from benches.process import python
from etl import postgres, tables

NAIVE_RECORDS = 5_000
BACKENDS = 2
LIMIT = "psql \\copy, 2 backends (the limit)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """``commands`` are started together. ``needs`` is the module that must be there; ``most`` limits the records.

    ``relations`` returns where the rows of a table are. ``is_ours`` may end with exit code 3, and loads any table.
    """

    name: str
    commands: Callable[[Case, str], list[list[str]]]
    relations: Callable[[str], list[str]]
    needs: str | None = None
    most: int = 0
    is_ours: bool = False
    every_table: bool = False
    note: str = ""


def field(memory_limit: str, jobs: int) -> list[Contender]:
    """Return all contenders, the limit first: the order in which they take turns."""
    ours = {"relations": lambda table: [f"game_b1.{table}"], "is_ours": True, "every_table": True}
    return [
        Contender(name=LIMIT, commands=_psql, relations=_halves, every_table=True, note="ready-made text, no client work"),
        Contender(name="etl load", commands=_load(memory_limit, jobs), note="from a finished split", **ours),
        Contender(name="etl rebuild", commands=_rebuild("1GB", jobs), note="split + load, from the raw JSON", **ours),
        Contender(
            name="etl rebuild, 400MB", commands=_rebuild("400MB", jobs), note="the same, --memory-limit 400MB", **ours
        ),
        _other("DuckDB + postgres extension", "duckdb_extension", jobs, "duckdb_extension_postgres_scanner"),
        _other("polars + ADBC", "polars_adbc", jobs, "adbc_driver_postgresql"),
        _other("dlt", "dlt_dicts", jobs, "dlt"),
        _other("SQLAlchemy bulk insert", "sqlalchemy_bulk", jobs, "sqlalchemy"),
        _other("SQLAlchemy add_all", "sqlalchemy_objects", jobs, "sqlalchemy"),
        _other("naive importer", "naive", jobs, "sqlalchemy", most=NAIVE_RECORDS),
    ]  # fmt: skip


def is_installed(contender: Contender) -> bool:
    return contender.needs is None or importlib.util.find_spec(contender.needs) is not None


def _other(name: str, module: str, jobs: int, needs: str, most: int = 0) -> Contender:
    def commands(case: Case, dsn: str) -> list[list[str]]:
        return [python(f"benches.contestants.{module}", dsn, str(case.ready.folder), str(jobs), str(most))]

    note = f"{most:,} records, scaled" if most else "from ready-made JSON lines"
    return Contender(
        name=name, commands=commands, relations=lambda table: [f"bench.{table}"], needs=needs, most=most, note=note
    )


def _etl(case: Case, dsn: str, memory_limit: str, jobs: int, *words: str) -> list[list[str]]:
    options = ("--dsn", dsn, "--jobs", str(jobs), "--memory-limit", memory_limit, "--quiet", "--json")
    return [python("etl", *words, "--tables", ",".join(loaded(case.names)), *options)]


def _load(memory_limit: str, jobs: int) -> Callable[[Case, str], list[list[str]]]:
    def commands(case: Case, dsn: str) -> list[list[str]]:
        return _etl(case, dsn, memory_limit, jobs, "load", "--store", str(case.store), "--split", case.split_id)

    return commands


def _rebuild(memory_limit: str, jobs: int) -> Callable[[Case, str], list[list[str]]]:
    def commands(case: Case, dsn: str) -> list[list[str]]:
        store = case.store.with_name("store-of-rebuild")
        shutil.rmtree(store, ignore_errors=True)
        return _etl(case, dsn, memory_limit, jobs, "rebuild", str(case.source), "--store", str(store))

    return commands


def _halves(table: str) -> list[str]:
    return [f"bench.{table}_{number}" for number in range(BACKENDS)]


def _psql(case: Case, dsn: str) -> list[list[str]]:
    """Each backend: one transaction per table, with COPY FREEZE into its own half, indexes, statistics; as etl's leaves."""
    program = str(postgres.find_psql() or "psql")
    commands = []
    for number in range(BACKENDS):
        script = case.ready.folder / f"{number}.sql"
        script.write_text("\n".join(line for table in case.names for line in _half(case, table, number)) + "\n")
        commands.append([program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-f", str(script)])
    return commands


def _half(case: Case, table: str, number: int) -> list[str]:
    relation = _halves(table)[number]
    plan = target.plan(table, target.extensions(case.reference))
    columns = ", ".join(tables.spec(table).columns)
    data = case.ready.folder / f"{table}.{number}.copy"
    statements = [target.fill(text, relation) for text in (*plan["keys"], *plan["indexes"], plan["analyze"])]
    return [
        "begin;",
        " ".join(target.fill(plan["create"], relation).split()) + ";",
        f"\\copy {relation} ({columns}) from '{data}' with (freeze)",
        *(f"{statement};" for statement in statements),
        "commit;",
    ]
