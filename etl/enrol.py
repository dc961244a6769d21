"""Enrolment: the first powers of a database get their ids leaf by leaf, since there is none yet that could have one.

A leaf knows how many powers come before it, so it numbers its own, and puts them down with its rows: in the directory,
and in a table of the build from where they all come into the registry at once, beside the view and the statistics. Ids
are those that ``etl.register`` gives an empty registry, which is its slow twin (tests/test_enrol.py has them agree):
that is one transaction before the first leaf, with the other cores idle. A first load of 360,659 flat records takes 0.9
of the time (`scripts/bench.py contenders --shape i12 --only "etl load"`, the versions in turns).
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import cast

import polars as pl
import pyarrow as pa
from psycopg import errors, sql

from etl import chained, db, ddl, line, receipts
from etl.errors import Incomplete, MismatchError
from etl.model import POWER_ID, Manifest
from etl.plan import REFERENCES, EnrolTask, LeafTask, RegisterTask
from etl.store import packed, parts

DIRECTORY = "power_directory"
TABLE = "enrolment"
"""The table of a build for names and ids on their way into the registry."""

_NAMES = {"id": "int8", "uid": "text"}
_PLACES = {"id": "int8", "internal_name": "text", "archetype_id": "int4", "powerset_id": "int4"}


# What says that the keys of the registry are to stay as they are.
_NOT_OURS = (
    errors.DependentObjectsStillExist,
    errors.FeatureNotSupported,
    errors.InsufficientPrivilege,
    errors.LockNotAvailable,
    errors.RaiseException,
    errors.UndefinedObject,
)


class Numbered(Mapping[str, int]):
    """The ids of a leaf's powers by uid; put into a mapping when somebody asks, since most leaves need no name's id.

    ``uids`` and ``places`` have the names and the ids of the leaf's records in their order.
    """

    def __init__(self, uids: pl.Series, places: pl.Series) -> None:
        self.uids, self.places = uids, places

    @cached_property
    def _ids(self) -> dict[str, int]:
        return dict(zip(self.uids.to_list(), self.places.to_list(), strict=True))

    def __getitem__(self, uid: str) -> int:
        return self._ids[uid]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self.places)

    def put_into(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return records of the leaf with their ids in the column that ``placed`` has added."""
        column = batch.schema.get_field_index(POWER_ID)
        # Of a column by itself polars asks a module of pyarrow's that is slow to import.
        positions = cast(pl.DataFrame, pl.from_arrow(batch.select([column]))).to_series()
        return batch.set_column(column, POWER_ID, self.places[positions].to_arrow())


def placed(batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    """Return a leaf's records with their positions among all of them, from ``first`` on, in the place of their ids."""
    positions = array("q", range(first, first + batch.num_rows))
    return batch.append_column(POWER_ID, packed.numbers(pa.int64(), positions))


def number(task: LeafTask, manifest: Manifest, held: Sequence[pa.RecordBatch]) -> Numbered:
    """Give a leaf's powers their ids: from ``task.first_id`` on, by powerset id, in uid order within each.

    ``held`` are records of the leaf that have been read already; unless they are all of it, the names are read.

    Raises:
        StoreError: a part is missing or damaged.
        MismatchError: the leaf's partitions hold other names than the manifest counts.
    """
    ids = dict(zip(task.leaf.powersets, task.powerset_ids, strict=True))
    columns = ["uid", "powerset"]
    batches = [batch.select(columns) for batch in held]
    if sum(batch.num_rows for batch in batches) < task.leaf.rows:
        wanted = [p for p in manifest.partitions if p.archetype == task.leaf.archetype and p.powerset in ids]
        batches = list(parts.read_runs(task.store, manifest, wanted, columns))
    frame = cast(pl.DataFrame, pl.from_arrow(pa.Table.from_batches(batches)))
    uids = frame.get_column("uid")
    if (found := uids.n_unique()) != task.leaf.rows:
        raise MismatchError(
            f"leaf {task.leaf.name}: the manifest names {task.leaf.rows} records, {found} names came",
            "etl split again; the store may be damaged",
        )
    sets = pl.Series("set", list(map(ids.__getitem__, frame.get_column("powerset").to_list())), dtype=pl.Int32)
    by_uid = uids.arg_sort()  # one column, then the other, takes less time than both at once
    in_order = pl.DataFrame({"set": sets[by_uid], "place": by_uid}).sort("set", maintain_order=True)
    ranks = in_order.get_column("place").arg_sort().cast(pl.Int64)
    return Numbered(uids, ranks + (task.first_id or 0))


def names(task: LeafTask, powers: Numbered) -> chained.Rows:
    """Return the leaf's names and ids as rows for the registry."""
    batch = pa.record_batch([powers.places.to_arrow(), powers.uids.to_arrow()], names=list(_NAMES))
    return chained.Rows(TABLE, db.identifier(task.schema, TABLE), _NAMES, batch, freeze=False)


def places(task: LeafTask, powers: pa.RecordBatch) -> chained.Rows:
    """Return the rows of the directory for a batch of rows of table powers."""
    batch = powers.select(list(_PLACES))
    return chained.Rows(DIRECTORY, db.identifier(task.schema, DIRECTORY), _PLACES, batch, freeze=False)


def accounted(totals: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Return (rows, bytes) per table with the bytes of names and ids among the directory's, as ``etl.register`` counts."""
    found = dict(totals)
    _, sent = found.pop(TABLE, (0, 0))
    if sent:
        count, size = found.get(DIRECTORY, (0, 0))
        found[DIRECTORY] = (count, size + sent)
    return found


def enrol(task: EnrolTask) -> receipts.Receipt:
    """Put all enrolled powers into the registry, and index the directory, in one transaction with its receipt.

    Raises:
        Incomplete: another run has given powers ids meanwhile, or has taken this build over.
        MismatchError: the leaves have enrolled other powers than the manifest counts.
    """
    schema = db.identifier(task.schema)
    with line.lent() as connection:
        with connection.pipeline():
            entry = receipts.enter(connection, task.build, task.epoch, "all", [DIRECTORY], name="etl enrol")
        if done := entry.done():
            return receipt_of(task, *done[DIRECTORY][:2])
        with connection.pipeline():
            # Who looks at the table, a dump, say, is waited for before anybody waits for the registry.
            connection.execute(db.query("close_enrolment", schema=schema))
            connection.execute(db.query("lock_registry"), {"space": db.LOCK_SPACE})
            known = connection.execute(db.query("some_power_is_known"))
            sent = connection.execute(db.query("bytes_of_enrolment"), {"build": task.build})
        if known.fetchone() != (False,):
            raise Incomplete(
                f"another run has given powers their ids while build {task.build} was loaded; nothing was published",
                "run the same command again",
            )
        with connection.pipeline():
            if task.resolves:
                connection.execute(db.query("resolve_enrolled", schema=schema))
                ddl.analyze(connection, task.schema, REFERENCES, REFERENCES, columns=["required_power_id"])
            ddl.index_directory(connection, task.schema)
        is_bare = _is_bare(connection)
        with connection.pipeline():
            enrolled = connection.execute(db.query("enrol_powers", schema=schema))
            if is_bare:
                connection.execute(db.query("give_keys_back"))
            connection.execute(db.query("drop_table", relation=db.identifier(task.schema, TABLE)))
        if enrolled.rowcount != task.rows:
            raise MismatchError(f"{task.rows} powers are loaded, {enrolled.rowcount} were enrolled", "etl rebuild")
        receipt = receipt_of(task, enrolled.rowcount, sent.fetchall()[0][0])
        with connection.pipeline():
            receipts.record(connection, task.build, receipt)
            connection.execute("commit")
    return receipt


def _is_bare(connection: db.Connection) -> bool:
    """Take the keys of the empty registry away, if we may: to make them anew takes half the time in which they grow.

    Of 360,659 names the finish takes 1.7 instead of 2.0 s (`etl load --timings`). False, and nothing changed, where the role
    does not own the registry or could not make them anew, something else in the database leans on them, they have other
    names, or somebody is looking.
    """
    away, back = db.query("take_keys_away"), db.query("give_keys_back")
    steps = [sql.SQL("savepoint keys"), away, back, away, sql.SQL("release savepoint keys")]
    try:
        connection.execute(sql.SQL(";\n").join(steps))
    except _NOT_OURS:
        connection.execute("rollback to savepoint keys")
        return False
    return True


def receipt_of(task: EnrolTask | RegisterTask, rows: int, size: int) -> receipts.Receipt:
    """Return the receipt of a build's directory."""
    return receipts.Receipt(
        table=DIRECTORY, leaf="all", digest=task.split_id, version=task.version, rows=rows, bytes=size
    )
