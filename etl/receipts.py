"""Receipts: what is done of a build, committed beside the rows they speak of."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from etl import db
from etl.errors import Incomplete


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One finished piece of a build: ``leaf`` is a leaf's name, or a word for what is not a leaf ("all", "indexes")."""

    table: str
    leaf: str
    digest: str
    version: str
    rows: int
    bytes: int


def read(connection: db.Connection, build: int) -> dict[tuple[str, str], Receipt]:
    """Return the receipts of a build by (table, leaf); maybe none."""
    found = {}
    for table, leaf, digest, version, rows, size in connection.execute(db.query("receipts"), {"build": build}):
        found[table, leaf] = Receipt(table=table, leaf=leaf, digest=digest, version=version, rows=rows, bytes=size)
    return found


def record(connection: db.Connection, build: int, receipt: Receipt, seconds: float) -> None:
    """Write one receipt in the transaction of its rows."""
    values = {name: getattr(receipt, name) for name in ("table", "leaf", "digest", "version", "rows", "bytes")}
    values |= {"build": build, "seconds": seconds, "worker": os.getpid()}
    connection.execute(db.query("record_receipt"), values)


def of_piece(connection: db.Connection, build: int, piece: str, wanted: Collection[str]) -> dict[str, tuple[Any, ...]]:
    """Return (rows, bytes, seconds) per table of a piece that is done, else nothing.

    The lock makes sure that no transaction is still about to commit it: that of a worker that was killed, for example.
    It is held to the end of this transaction.
    """
    values = {"build": build, "piece": piece, "tables": list(wanted), "space": db.LOCK_SPACE}
    with connection.pipeline():
        connection.execute(db.query("lock_piece"), {**values, "piece": f"{piece} {min(wanted)}"})
        rows = connection.execute(db.query("receipts_of_piece"), values)
    found = {table: rest for table, *rest in rows}
    return {table: tuple(rest) for table, rest in found.items()} if len(found) == len(wanted) else {}


def enter(connection: db.Connection, build: int, epoch: int, *, durability: str = "safe") -> None:
    """Show that a worker is at work on this build, and refuse to be an orphan.

    With the durability "fast" the transaction's commit does not wait for the disk: a crash of the server may then lose
    it, rows and receipt together, and the build that it belongs to is not published yet. Indexes are built in no other
    server process than the worker's own, with at most 256 MB.

    Raises:
        Incomplete: a newer coordinator has taken the build over.
    """
    with connection.pipeline():
        connection.execute(db.query("bound_worker"), {"local": True})
        if durability == "fast":
            connection.execute(db.query("commit_later"))
        connection.execute(db.query("lock_build_shared"), {"space": db.LOCK_SPACE, "build": build})
        found = connection.execute(db.query("build_epoch"), {"build": build})
    _refuse_orphan(found.fetchone(), build, epoch)


def enter_session(connection: db.Connection, build: int, epoch: int) -> None:
    """Do what ``enter`` does for a connection without a transaction, until it is closed.

    Raises:
        Incomplete: a newer coordinator has taken the build over.
    """
    with connection.pipeline():
        connection.execute(db.query("bound_worker"), {"local": False})
        connection.execute(db.query("lock_build_session"), {"space": db.LOCK_SPACE, "build": build})
        found = connection.execute(db.query("build_epoch"), {"build": build})
    _refuse_orphan(found.fetchone(), build, epoch)


def _refuse_orphan(row: tuple[Any, ...] | None, build: int, epoch: int) -> None:
    if row is None or row[0] != epoch:
        raise Incomplete(f"another run has taken over build {build}", "etl status")
