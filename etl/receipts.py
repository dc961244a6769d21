"""Receipts: what is done of a build, committed beside the rows they speak of."""

import os
from collections.abc import Collection
from typing import Any

import msgspec

from etl import db
from etl.errors import Incomplete


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One finished piece of a build: ``leaf`` is a leaf's name, or a word for what is not a leaf ("all", "indexes")."""

    table: str
    leaf: str
    digest: str
    version: str
    rows: int
    bytes: int


def ask(connection: db.Connection, build: int) -> db.Cursor:
    """Ask for the receipts of a build; ``answered`` reads them, maybe behind a pipeline."""
    return connection.execute(db.query("receipts"), {"build": build})


def read(connection: db.Connection, build: int) -> dict[tuple[str, str], Receipt]:
    """Return the receipts of a build by (table, leaf); maybe none."""
    return answered(ask(connection, build))


def answered(asked: db.Cursor) -> dict[tuple[str, str], Receipt]:
    """Return the receipts that were asked for; see ``read``."""
    found = {}
    for table, leaf, digest, version, rows, size in asked:
        found[table, leaf] = Receipt(table=table, leaf=leaf, digest=digest, version=version, rows=rows, bytes=size)
    return found


def record(connection: db.Connection, build: int, receipt: Receipt) -> None:
    """Write one receipt in the transaction of its rows, with the seconds since that began."""
    values = {name: getattr(receipt, name) for name in ("table", "leaf", "digest", "version", "rows", "bytes")}
    connection.execute(db.query("record_receipt"), {**values, "build": build, "worker": os.getpid()})


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker asked for when it began its transaction: may be sent with more in one pipeline, and read behind it."""

    build: int
    epoch: int
    wanted: frozenset[str]
    found_epoch: db.Cursor
    found_receipts: db.Cursor

    def done(self) -> dict[str, tuple[Any, ...]]:
        """Return (rows, bytes, seconds) per table of the piece if all of it is done, else nothing.

        Raises:
            Incomplete: a newer coordinator has taken the build over.
        """
        _refuse_orphan(self.found_epoch.fetchone(), self.build, self.epoch)
        found = {table: tuple(rest) for table, *rest in self.found_receipts}
        return found if len(found) == len(self.wanted) else {}


def enter(
    connection: db.Connection,
    build: int,
    epoch: int,
    piece: str,
    wanted: Collection[str],
    *,
    name: str,
    durability: str = "safe",
) -> Entry:
    """Begin a worker's transaction on a piece of a build, under a name of its own, and ask whether there is work at all.

    Everything ends with the transaction: the name; the build's shared lock, which shows that somebody is at work; the
    piece's lock, which makes sure that no other transaction is still about to commit it, that of a worker that was
    killed, for example. With the durability "fast" the commit does not wait for the disk: a crash of the server may then
    lose it, rows and receipt together, and the build that it belongs to is not published yet. Indexes are built in no
    other server process than the worker's own, with at most 256 MB.
    """
    values = {"build": build, "piece": piece, "tables": list(wanted), "space": db.LOCK_SPACE}
    connection.execute("begin")
    connection.execute(db.query("name_transaction"), {"name": name})
    connection.execute(db.query("bound_worker"), {"local": True})
    if durability == "fast":
        connection.execute(db.query("commit_later"))
    connection.execute(db.query("lock_build_shared"), values)
    found_epoch = connection.execute(db.query("build_epoch"), values)
    connection.execute(db.query("lock_piece"), {**values, "piece": f"{piece} {min(wanted)}"})
    found_receipts = connection.execute(db.query("receipts_of_piece"), values)
    return Entry(
        build=build, epoch=epoch, wanted=frozenset(wanted), found_epoch=found_epoch, found_receipts=found_receipts
    )


def enter_session(connection: db.Connection, build: int, epoch: int) -> None:
    """Bound a worker and show that it is at work, as ``enter`` does, on a connection without transaction, until it is closed.

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
