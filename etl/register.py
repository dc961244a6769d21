"""Registration: every power of a split gets its durable id, and its line in the build's directory."""

from collections.abc import Iterator

import pyarrow as pa

from etl import bulkload, db, ddl, enrol, line, receipts, sources
from etl.plan import RegisterTask
from etl.store import manifest as manifests
from etl.store import parts

_STAGED = {"uid": "text", "internal_name": "text", "archetype": "text", "powerset": "text"}


def register(task: RegisterTask) -> receipts.Receipt:
    """Give every power of the split its id and fill the build's directory, in one transaction with its receipt.

    Ids are given out partition by partition, in the order of uids within each, so that they depend on what was loaded
    before and on nothing else. Returns that receipt.
    """
    manifest = manifests.of_split(task.store, task.split_id)
    with line.lent() as connection:
        with connection.pipeline():
            entry = receipts.enter(connection, task.build, task.epoch, "all", ["power_directory"], name="etl register")
            connection.execute(db.query("lock_registry"), {"space": db.LOCK_SPACE})
            connection.execute(db.query("stage_names"))
        if done := entry.done():
            return enrol.receipt_of(task, *done["power_directory"][:2])
        column = sources.FORMATS[manifest.format].names[0]
        wanted = ["uid", "archetype", "powerset", column]
        names = _names(parts.read_runs(task.store, manifest, manifest.partitions, wanted), column)
        rows, size = bulkload.copy(connection, db.identifier("staged_name"), _STAGED, names)
        receipt = enrol.receipt_of(task, rows, size)
        with connection.pipeline():
            connection.execute("analyze staged_name")
            connection.execute(db.query("register_powers"))
            connection.execute(db.query("fill_directory", schema=db.identifier(task.schema)))
            ddl.index_directory(connection, task.schema)
            receipts.record(connection, task.build, receipt)
            connection.execute("commit")
    return receipt


def _names(batches: Iterator[pa.RecordBatch], column: str) -> Iterator[pa.RecordBatch]:
    """Yield batches of (uid, internal name, archetype, powerset)."""
    for batch in batches:
        yield pa.record_batch([batch["uid"], batch[column], batch["archetype"], batch["powerset"]], names=list(_STAGED))
