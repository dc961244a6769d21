"""What a comparison works on: one input, its split, and on each server the reference that every result must equal."""

import argparse
import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from benches import rows, target
from benches.common import PACK, etl, servers, unpack
from etl import tables

REFERENCE, WORK = "reference", "work"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One input on one server. ``wanted`` is the checksum of each table; ``dsn`` names the database to load into."""

    server: str
    version: str
    dsn: str
    reference: str
    source: Path
    store: Path
    split_id: str
    ready: rows.Ready
    names: list[str]
    wanted: dict[str, tuple[int, int]]
    records: int


@contextmanager
def prepared(
    given: argparse.Namespace, folder: Path, shape: str, records: int, names: list[str]
) -> Iterator[list[Case]]:
    """Make the input, split it, load it into a database of its own on each server, and write the rows down."""
    folder.mkdir()
    source = source_of(given, folder, shape, records)
    store = folder / "store"
    split = json.loads(etl("split", str(source), "--store", str(store), "--jobs", "2", "--quiet", "--json"))
    ready: rows.Ready | None = None
    cases = []
    with servers(folder, given.server) as found:
        for name in sorted(found, reverse=True):  # the system's server is the binding one
            dsn = found[name]
            reference = create_database(dsn, REFERENCE)
            etl(
                "load", "--store", str(store), "--dsn", reference, "--tables", ",".join(loaded(names)),
                "--jobs", "2", "--quiet", "--json",
            )  # fmt: skip
            ready = ready or rows.write(reference, str(store), split["split_id"], names, folder / "rows", 2)
            with psycopg.connect(reference) as connection:
                version = connection.info.parameter_status("server_version").split()[0]
            wanted = {
                table: target.checksum(reference, [f"game_b1.{table}"], tables.spec(table).columns) for table in names
            }
            for table, (count, _) in wanted.items():
                if count != ready.rows[table]:
                    raise SystemExit(f"{table}: {ready.rows[table]} rows were written down, the reference has {count}")
            cases.append(
                Case(
                    server=name, version=version, dsn=dsn, reference=reference, source=source, store=store,
                    split_id=split["split_id"], ready=ready, names=names, wanted=wanted, records=split["records"],
                )
            )  # fmt: skip
        yield cases


def loaded(names: list[str]) -> list[str]:
    """Return what etl is asked for: the tables compared, or all of them."""
    return names if names == ["powers"] else list(tables.TABLES)


def source_of(given: argparse.Namespace, folder: Path, shape: str, records: int) -> Path:
    """Return the export to load: the real one, unpacked or named, or generated records."""
    if shape == "december":
        return Path(given.file) if given.file else unpack(PACK, folder)
    source = folder / f"{shape}.json"
    etl("generate", "--shape", shape, "--records", str(records), "--seed", "1", "--out", str(source), "--quiet")
    return source


def create_database(dsn: str, name: str) -> str:
    """Make a database anew, beside the server's own, with the write-out of what was before behind it; return its DSN."""
    database = sql.Identifier(name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        files = _hold(connection, name)
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(database))
        for file in files:
            os.truncate(file, 0)
        connection.execute(sql.SQL("create database {}").format(database))
        connection.execute("checkpoint")
    return dsn.replace("/etl?", f"/{name}?", 1)


def _hold(connection: psycopg.Connection[Any], name: str) -> list[Path]:
    """Give each file of a database a second name, which stays until the server's folder goes; return these names.

    An ext4 without a journal gives nobody the inode of a file that was deleted in the last minute or more, and whenever a
    file is made it looks at all of them again (recently_deleted in its ialloc.c). Loads that make hundreds of files would
    pay for databases that were dropped before them.
    """
    row = connection.execute(
        "select current_setting('data_directory'), oid from pg_database where datname = %s", [name]
    ).fetchone()
    if row is None:
        return []
    folder = Path(row[0], "base", str(row[1]))
    kept = Path(row[0]).parent / "kept" / folder.name
    kept.mkdir(parents=True, exist_ok=True)
    names = []
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # the server may delete a file at any time
            (kept / file.name).hardlink_to(file)
            names.append(kept / file.name)
    return names


def fresh(case: Case) -> str:
    """Return an empty database with schema bench and the extensions that the reference has."""
    dsn = create_database(case.dsn, WORK)
    with psycopg.connect(dsn) as connection:
        connection.execute("create schema bench")
        for extension in target.extensions(case.reference):
            connection.execute(f"create extension if not exists {extension}")
    return dsn
