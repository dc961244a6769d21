"""Loading one leaf: its record batches, transformed and bulk-loaded in one transaction with the receipts."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import pyarrow as pa
from psycopg import sql

from etl import bulkload, db, ddl, halving, limits, line, receipts, tables
from etl.errors import MismatchError, Refused
from etl.model import LeafContext, Manifest, Reject
from etl.plan import Leaf, LeafResult, LeafTask
from etl.store import manifest as manifests
from etl.store import parts
from etl.store import rejects as split_rejects

_log = logging.getLogger(__name__)

_MOST_GUILTY = 100
_LEAST_GUILTY = 10
_MOST_REASON = 500

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

    What the server refuses, although the split let it pass, is found by running the transaction in halves, and becomes
    a reject; the rest is loaded. Savepoints would not do: COPY FREEZE is refused after one.

    Raises:
        Incomplete: a newer coordinator has taken over this build.
        MismatchError: the rows that arrived are not those that the manifest names.
        Refused: the server refuses so many records that it is hardly theirs to change.
        Transient, DatabaseError: the server went away, or refused for another reason; nothing was committed.
    """
    guilty: dict[int, str] = {}
    while True:
        try:
            return _load(task, guilty)
        except Refused as refused:
            _log.warning("leaf %s: %s; looking for the records at fault", task.leaf.name, refused.message)
            reason = _refusal(task, guilty, 0, task.leaf.rows)
            if reason is None:  # it is not the records: they pass without being put down anywhere
                raise
            for position, why in halving.guilty(0, task.leaf.rows, reason, partial(_refusal, task, dict(guilty))):
                guilty[position] = why
                if len(guilty) > most_guilty(task.leaf.rows):
                    raise


def most_guilty(rows: int) -> int:
    """Return how many refused records of a leaf are set aside; more say that the server or the table is at fault."""
    return min(_MOST_GUILTY, max(_LEAST_GUILTY, rows // 10))


def _refusal(task: LeafTask, guilty: Mapping[int, str], low: int, high: int) -> str | None:
    """Try the records of a leaf from one position up to another, and keep nothing; return why they are refused."""
    try:
        _load(task, guilty, range(low, high))
    except Refused as refused:
        return refused.message
    return None


def _load(task: LeafTask, guilty: Mapping[int, str], trial: range | None = None) -> LeafResult:
    """Run a leaf's transaction without the records at the ``guilty`` positions; a ``trial`` is rolled back."""
    started, clock = time.perf_counter(), _Clock()
    manifest, leaf = manifest_of(task.store, task.split_id), task.leaf
    with line.lent() as connection:
        with connection.pipeline():
            entry = receipts.enter(
                connection,
                task.build,
                task.epoch,
                leaf.name,
                dict(task.tables),
                name=f"etl load {leaf.name}",
                durability=task.durability,
            )
            names = _ask_names(connection, task)
        if done := entry.done():
            return _known(leaf, done)
        context = _context(connection, task, *names)
        with connection.pipeline():
            relations = {name: _relation(connection, task, name) for name, _ in task.tables}
        clock.lap("index")
        rejects: list[Reject] = []
        batches = _records(task, manifest, guilty, trial or range(leaf.rows), rejects)
        totals = _copy_all(connection, task, manifest, batches, context, relations, clock, rejects)
        rows = {name: count for name, (count, _) in totals.items()}
        if trial is None and task.renews:
            _prove_renewed(leaf, rows, rejects, context)
        elif trial is None:
            _prove(leaf, rows, len(rejects))
        with connection.pipeline():
            if trial is None and not task.renews:
                _set_aside(connection, task, rejects, context)
            _complete(connection, task)
            if trial is None:
                _record(connection, task, totals)
            connection.execute("commit" if trial is None else "rollback")
        clock.lap("index")
    seconds = time.perf_counter() - started
    sizes = {name: size for name, (_, size) in totals.items()}
    return LeafResult(
        leaf=leaf.name, rows=rows, bytes=sizes, rejects=len(rejects), seconds=seconds, timings=clock.seconds
    )


def _known(leaf: Leaf, done: Mapping[str, tuple[Any, ...]]) -> LeafResult:
    """Return the result of a leaf that was committed before its worker could tell."""
    rows = {name: values[0] for name, values in done.items()}
    sizes = {name: values[1] for name, values in done.items()}
    rejects = leaf.rows - rows["powers"] if "powers" in rows else 0
    return LeafResult(leaf=leaf.name, rows=rows, bytes=sizes, rejects=rejects, seconds=max(v[2] for v in done.values()))


def _records(
    task: LeafTask, manifest: Manifest, guilty: Mapping[int, str], span: range, rejects: list[Reject]
) -> Iterator[pa.RecordBatch]:
    """Yield the leaf's records at the positions in ``span``; those at fault are added to the rejects instead."""
    names = set(task.leaf.powersets)
    wanted = [p for p in manifest.partitions if p.archetype == task.leaf.archetype and p.powerset in names]
    start = 0
    for batch in parts.read_runs(task.store, manifest, wanted):
        first, last = max(0, span.start - start), min(batch.num_rows, span.stop - start)
        at_fault = {row: guilty[start + row] for row in range(first, last) if start + row in guilty} if guilty else {}
        start += batch.num_rows
        refused = [_refused(batch, row, reason) for row, reason in at_fault.items()]
        rejects += split_rejects.placed(refused, batch, task.store, manifest)
        if at_fault:
            yield batch.take(pa.array([row for row in range(first, last) if row not in at_fault], pa.int64()))
        elif first < last:
            yield batch.slice(first, last - first)


def _refused(batch: pa.RecordBatch, row: int, reason: str) -> Reject:
    """Return the reject of a record that the server refused, its text not yet in it."""
    place = {key: batch.column(key)[row].as_py() for key in ("source", "ordinal", "offset", "uid")}
    return Reject(
        source=str(place["source"]),
        file=None,
        ordinal=place["ordinal"],
        offset=place["offset"],
        uid=place["uid"],
        stage="load",
        code="server_refused",
        reason=reason[:_MOST_REASON],
        raw="",
    )


@cache
def manifest_of(store: str, split_id: str) -> Manifest:
    """Read the manifest once per worker: it never changes once it is there."""
    return manifests.read(store, split_id)


def _ask_names(connection: db.Connection, task: LeafTask) -> tuple[db.Cursor, db.Cursor]:
    """Ask for the powers of the leaf's powersets, and for the order of each set; both may be read behind the pipeline."""
    schema, numbers = db.identifier(task.schema), {"powersets": list(task.powerset_ids)}
    return (
        connection.execute(db.query("leaf_power_ids", schema=schema), numbers),
        connection.execute(db.query("power_order", schema=schema), numbers),
    )


def _context(connection: db.Connection, task: LeafTask, ids: db.Cursor, ordered: db.Cursor) -> LeafContext:
    """Return the ids of the leaf's powersets and powers."""
    schema = db.identifier(task.schema)
    sets = dict(zip(task.leaf.powersets, task.powerset_ids, strict=True))
    powers: dict[str, int] = dict(ids.fetchall())
    order = {uid: position for (members,) in ordered for position, uid in enumerate(members)}

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
    late, homes = task.indexes != "deferred", dict(task.extensions)
    ddl.create_indexes(connection, task.schema, table, ddl.table_file(name), prefix=table, late=late, homes=homes)


def _copy_all(
    connection: db.Connection,
    task: LeafTask,
    manifest: Manifest,
    batches: Iterable[pa.RecordBatch],
    context: LeafContext,
    relations: dict[str, sql.Identifier],
    clock: _Clock,
    rejects: list[Reject],
) -> dict[str, tuple[int, int]]:
    """Transform and COPY the leaf batch by batch; return (rows, bytes) per table, and add what was set aside."""
    totals = dict.fromkeys(relations, (0, 0))
    if task.renews:
        batches = (_published(batch, context) for batch in batches)
    for batch in coalesce(batches, task.batch_rows, task.batch_bytes):
        clock.lap("read")
        built, refused = tables.build(manifest.format, batch, context, list(relations))
        rejects += split_rejects.placed(refused, batch, task.store, manifest)
        limits.check(len(rejects), task.most_rejects)
        clock.lap("transform")
        for name, relation in relations.items():
            if not built[name].num_rows:  # a COPY of nothing waits for two answers
                continue
            spec = tables.spec(name)
            done = bulkload.copy(
                connection, relation, spec.columns, [built[name]], freeze=spec.partitioned and task.freeze
            )
            totals[name] = (totals[name][0] + done[0], totals[name][1] + done[1])
        clock.lap("send")
    return totals


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


def _published(batch: pa.RecordBatch, context: LeafContext) -> pa.RecordBatch:
    """Return the records whose powers the build has: what it once set aside stays there until another load."""
    return batch.filter(pa.array([uid in context.power_ids for uid in batch["uid"].to_pylist()], pa.bool_()))


def _prove_renewed(leaf: Leaf, rows: dict[str, int], rejects: list[Reject], context: LeafContext) -> None:
    """Refuse a table that would lack powers which all others have."""
    if rejects:
        raise MismatchError(
            f"leaf {leaf.name}: {len(rejects)} published powers would be set aside now, {rejects[0].uid} first: "
            f"{rejects[0].reason}",
            "etl rebuild",
        )
    if rows.get("powers", len(context.power_ids)) != len(context.power_ids):
        raise MismatchError(
            f"leaf {leaf.name}: {len(context.power_ids)} powers are published, {rows['powers']} came",
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
    partitioned = [name for name, _ in task.tables if tables.spec(name).partitioned]
    for name in partitioned:
        ddl.check_leaf(connection, task.schema, name, leaf.name, condition)
        if task.indexes != "before":
            _index(connection, task, name)
        ddl.analyze(connection, task.schema, f"{name}_{leaf.name}", name)


def _record(connection: db.Connection, task: LeafTask, totals: dict[str, tuple[int, int]]) -> None:
    for name, version in task.tables:
        rows, size = totals[name]
        receipt = receipts.Receipt(
            table=name, leaf=task.leaf.name, digest=task.leaf.digest, version=version, rows=rows, bytes=size
        )
        receipts.record(connection, task.build, receipt)
