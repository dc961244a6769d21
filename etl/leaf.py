"""Loading one leaf: its record batches, transformed and bulk-loaded in one transaction with the receipts."""

import os
import time
from collections.abc import Iterable, Iterator
from functools import cache

import pyarrow as pa
from psycopg import sql

from etl import bulkload, config, db, ddl, limits, receipts, tables
from etl.errors import MismatchError
from etl.model import LeafContext, Manifest, Partition, Reject
from etl.plan import Leaf, LeafResult, LeafTask
from etl.store import manifest as manifests
from etl.store import parts
from etl.store import rejects as split_rejects

_TIMED = ("read", "transform", "send", "index")


class _Clock:
    """Seconds by kind of work; the kinds add up to the time between ``__init__`` and the last ``lap``."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(_TIMED, 0.0)
        self._last = time.perf_counter()

    def lap(self, kind: str) -> None:
        now = time.perf_counter()
        self.seconds[kind] += now - self._last
        self._last = now


def load_leaf(task: LeafTask) -> LeafResult:
    """Load one leaf of every table in one transaction: all of its rows with their receipts, or nothing.

    Raises:
        Incomplete: a newer coordinator has taken over this build.
        MismatchError: the rows that arrived are not those that the manifest names.
        DatabaseError: the server refused or went away; nothing was committed.
    """
    started, clock = time.perf_counter(), _Clock()
    manifest, leaf = manifest_of(task.store, task.split_id), task.leaf
    names = set(leaf.powersets)
    wanted = [p for p in manifest.partitions if p.archetype == leaf.archetype and p.powerset in names]
    with db.connect(os.environ[config.DSN_VARIABLE], name=f"etl load {leaf.name}", autocommit=False) as connection:
        receipts.enter(connection, task.build, task.epoch, durability=task.durability)
        context = _context(connection, task)
        relations = {name: _relation(connection, task, name) for name, _ in task.tables}
        clock.lap("index")
        totals, rejects = _copy_all(connection, task, manifest, wanted, context, relations, clock)
        rows = {name: count for name, (count, _) in totals.items()}
        _prove(leaf, rows, len(rejects))
        _set_aside(connection, task, rejects, context)
        _complete(connection, task)
        clock.lap("index")
        seconds = time.perf_counter() - started
        _record(connection, task, totals, seconds)
        connection.commit()
    sizes = {name: size for name, (_, size) in totals.items()}
    return LeafResult(
        leaf=leaf.name, rows=rows, bytes=sizes, rejects=len(rejects), seconds=seconds, timings=clock.seconds
    )


@cache
def manifest_of(store: str, split_id: str) -> Manifest:
    """Read the manifest once per worker: it never changes once it is there."""
    return manifests.read(store, split_id)


def _context(connection: db.Connection, task: LeafTask) -> LeafContext:
    """Return the ids of the leaf's powersets and powers."""
    schema = db.identifier(task.schema)
    sets: dict[str, int] = dict(
        connection.execute(db.query("powerset_ids"), {"uids": list(task.leaf.powersets)}).fetchall()
    )
    numbers = {"powersets": list(sets.values())}
    powers: dict[str, int] = dict(connection.execute(db.query("leaf_power_ids", schema=schema), numbers).fetchall())
    order = {
        uid: position
        for (members,) in connection.execute(db.query("power_order", schema=schema), numbers)
        for position, uid in enumerate(members)
    }

    def resolve(uids: list[str]) -> dict[str, int]:
        return dict(connection.execute(db.query("resolve_powers", schema=schema), {"uids": uids}).fetchall())

    archetypes = {task.leaf.archetype: task.leaf.archetype_id}
    return LeafContext(
        archetype_ids=archetypes, powerset_ids=sets, power_ids=powers, power_order=order, resolve=resolve
    )


def _relation(connection: db.Connection, task: LeafTask, name: str) -> sql.Identifier:
    """Return where the leaf's rows of a table go, made on the way."""
    if not tables.spec(name).partitioned:
        return db.identifier(task.schema, name)
    relation = ddl.create_leaf(connection, task.schema, name, task.leaf.name)
    if task.indexes == "before":
        _index(connection, task, name)
    return relation


def _index(connection: db.Connection, task: LeafTask, name: str) -> None:
    table = f"{name}_{task.leaf.name}"
    late = task.indexes != "deferred"
    ddl.create_indexes(connection, task.schema, table, ddl.table_file(name), prefix=table, late=late)


def _copy_all(
    connection: db.Connection,
    task: LeafTask,
    manifest: Manifest,
    wanted: list[Partition],
    context: LeafContext,
    relations: dict[str, sql.Identifier],
    clock: _Clock,
) -> tuple[dict[str, tuple[int, int]], list[Reject]]:
    """Transform and COPY the leaf batch by batch; return (rows, bytes) per table, and what was set aside."""
    totals = dict.fromkeys(relations, (0, 0))
    rejects: list[Reject] = []
    batches = parts.read_runs(task.store, manifest, wanted)
    for batch in coalesce(batches, task.batch_rows, task.batch_bytes):
        clock.lap("read")
        built, refused = tables.build(manifest.format, batch, context, list(relations))
        rejects += split_rejects.placed(refused, batch, task.store, manifest)
        limits.check(len(rejects), task.most_rejects)
        clock.lap("transform")
        for name, relation in relations.items():
            spec = tables.spec(name)
            done = bulkload.copy(
                connection, relation, spec.columns, [built[name]], freeze=spec.partitioned and task.freeze
            )
            totals[name] = (totals[name][0] + done[0], totals[name][1] + done[1])
        clock.lap("send")
    return totals, rejects


def coalesce(batches: Iterable[pa.RecordBatch], rows: int, size: int) -> Iterator[pa.RecordBatch]:
    """Yield batches of about ``rows`` records or ``size`` bytes: most powersets are too small to be worth a round."""
    held: list[pa.RecordBatch] = []
    held_rows = held_bytes = 0
    for batch in batches:
        if held and (held_rows + batch.num_rows > rows or held_bytes + batch.nbytes > size):
            yield pa.concat_batches(held)
            held, held_rows, held_bytes = [], 0, 0
        held.append(batch)
        held_rows += batch.num_rows
        held_bytes += batch.nbytes
    if held:
        yield pa.concat_batches(held)


def _prove(leaf: Leaf, rows: dict[str, int], rejected: int) -> None:
    if "powers" in rows and rows["powers"] + rejected != leaf.rows:
        raise MismatchError(
            f"leaf {leaf.name}: the manifest names {leaf.rows} records, {rows['powers']} came and {rejected} were rejected",
            "etl split again; the store may be damaged",
        )


def _set_aside(connection: db.Connection, task: LeafTask, rejects: list[Reject], context: LeafContext) -> None:
    """Record the rejects with the leaf, and take their powers out of the directory."""
    for reject in rejects:
        values = {"build": task.build, "leaf": task.leaf.name, **reject_values(reject)}
        connection.execute(db.query("record_reject"), values)
    ids = [context.power_ids[reject.uid] for reject in rejects if reject.uid and reject.uid in context.power_ids]
    if ids:
        connection.execute(db.query("remove_from_directory", schema=db.identifier(task.schema)), {"ids": ids})


def reject_values(reject: Reject) -> dict[str, object]:
    """Return the columns of ``etl.reject`` that a reject fills."""
    return {name: getattr(reject, name) for name in Reject.__dataclass_fields__}


def _complete(connection: db.Connection, task: LeafTask) -> None:
    """Give the leaf's tables what their parents will want: CHECK, indexes, statistics."""
    leaf = task.leaf
    condition = ddl.bounds(leaf.archetype_id, leaf.lower, leaf.upper)
    for name, _ in task.tables:
        if not tables.spec(name).partitioned:
            continue
        table = f"{name}_{leaf.name}"
        ddl.check_leaf(connection, task.schema, name, leaf.name, condition)
        if task.indexes != "before":
            _index(connection, task, name)
        ddl.analyze(connection, task.schema, table, name)


def _record(connection: db.Connection, task: LeafTask, totals: dict[str, tuple[int, int]], seconds: float) -> None:
    for name, version in task.tables:
        rows, size = totals[name]
        receipt = receipts.Receipt(
            table=name, leaf=task.leaf.name, digest=task.leaf.digest, version=version, rows=rows, bytes=size
        )
        receipts.record(connection, task.build, receipt, seconds)
