"""Loading one leaf: its record batches, transformed and bulk-loaded in one transaction with the receipts."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import msgspec
import pyarrow as pa
from psycopg import sql

from etl import chained, db, ddl, enrol, halving, ledger, limits, line, receipts, tables
from etl.batches import coalesce, named
from etl.errors import MismatchError, Refused
from etl.model import LeafContext, Manifest, Reject
from etl.plan import Leaf, LeafResult, LeafTask
from etl.store import manifest as manifests
from etl.store import parts
from etl.store import rejects as split_rejects
from etl.timings import Clock, stint

_log = logging.getLogger(__name__)

_MOST_GUILTY = 100
_LEAST_GUILTY = 10
_MOST_REASON = 500


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
    clock = Clock()
    guilty: dict[int, str] = {}
    while True:
        try:
            return msgspec.structs.replace(_load(task, guilty, clock), stint=stint(clock))
        except Refused as refused:
            clock.lap("server_wait")
            _log.warning("leaf %s: %s; looking for the records at fault", task.leaf.name, refused.message)
            reason = _refusal(task, guilty, clock, 0, task.leaf.rows)
            if reason is None:  # it is not the records: they pass without being put down anywhere
                raise
            refusal, known = partial(_refusal, task, dict(guilty), clock), len(guilty)
            for position, why in halving.guilty(0, task.leaf.rows, reason, refusal):
                guilty[position] = why
                if len(guilty) > most_guilty(task.leaf.rows):
                    raise
            if len(guilty) == known:  # it is none of those that are left: what is copied beside them, then
                raise


def most_guilty(rows: int) -> int:
    """Return how many refused records of a leaf are set aside; more say that the server or the table is at fault."""
    return min(_MOST_GUILTY, max(_LEAST_GUILTY, rows // 10))


def _refusal(task: LeafTask, guilty: Mapping[int, str], clock: Clock, low: int, high: int) -> str | None:
    """Try the records of a leaf from one position up to another, and keep nothing; return why they are refused."""
    try:
        _load(task, guilty, clock, range(low, high))
    except Refused as refused:
        clock.lap("server_wait")
        return refused.message
    return None


def _load(task: LeafTask, guilty: Mapping[int, str], clock: Clock, trial: range | None = None) -> LeafResult:
    """Run a leaf's transaction without the records at the ``guilty`` positions; a ``trial`` is rolled back."""
    before = clock.total
    manifest, leaf = manifests.of_split(task.store, task.split_id), task.leaf
    clock.lap("read")
    with line.lent() as connection:
        clock.lap("connect")
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
        done = entry.done()
        clock.lap("server_wait")
        if done:
            return _known(leaf, done)
        rejects: list[Reject] = []
        records = _records(task, manifest, guilty, trial or range(leaf.rows), rejects)
        batches = coalesce(records, task.batch_rows, task.batch_bytes)
        held = list(islice(batches, 1))
        context = _context(connection, task, manifest, clock, held, *names)
        totals = _copy_all(connection, task, manifest, _behind(held, batches), context, clock, rejects)
        rows = {name: count for name, (count, _) in totals.items()}
        if trial is None and task.renews:
            _prove_renewed(leaf, rows, rejects, context)
        elif trial is None:
            _prove(leaf, rows, len(rejects))
        clock.lap("server_wait")
        with connection.pipeline():
            if trial is None and not task.renews:
                _set_aside(connection, task, rejects, context)
            _complete(connection, task)
            if trial is None:
                _record(connection, task, totals)
            connection.execute("commit" if trial is None else "rollback")
        clock.lap("index")
    clock.lap("connect")
    seconds = clock.total - before
    sizes = {name: size for name, (_, size) in totals.items()}
    return LeafResult(leaf=leaf.name, rows=rows, bytes=sizes, rejects=len(rejects), seconds=seconds)


def _known(leaf: Leaf, done: Mapping[str, tuple[Any, ...]]) -> LeafResult:
    """Return the result of a leaf that was committed before its worker could tell."""
    rows = {name: values[0] for name, values in done.items()}
    sizes = {name: values[1] for name, values in done.items()}
    rejects = leaf.rows - rows["powers"] if "powers" in rows else 0
    return LeafResult(leaf=leaf.name, rows=rows, bytes=sizes, rejects=rejects, seconds=max(v[2] for v in done.values()))


def _behind(held: list[pa.RecordBatch], batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield what is held already, letting go of it, then the rest."""
    while held:
        yield held.pop()
    yield from batches


def _records(
    task: LeafTask, manifest: Manifest, guilty: Mapping[int, str], span: range, rejects: list[Reject]
) -> Iterator[pa.RecordBatch]:
    """Yield the leaf's records at the positions in ``span``; those at fault are added to the rejects instead."""
    names = set(task.leaf.powersets)
    wanted = [p for p in manifest.partitions if p.archetype == task.leaf.archetype and p.powerset in names]
    start = 0
    for batch in parts.read_runs(task.store, manifest, wanted):
        if task.first_id is not None:
            batch = enrol.placed(batch, start)
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


def _ask_names(connection: db.Connection, task: LeafTask) -> tuple[db.Cursor | None, db.Cursor]:
    """Ask for the powers of the leaf's powersets, where they have ids, and for the order of each set.

    Both may be read behind the pipeline.
    """
    schema, numbers = db.identifier(task.schema), {"powersets": list(task.powerset_ids)}
    known = connection.execute(db.query("leaf_power_ids", schema=schema), numbers) if task.first_id is None else None
    return known, connection.execute(db.query("power_order", schema=schema), numbers)


def _context(
    connection: db.Connection,
    task: LeafTask,
    manifest: Manifest,
    clock: Clock,
    held: list[pa.RecordBatch],
    known: db.Cursor | None,
    ordered: db.Cursor,
) -> LeafContext:
    """Return the ids of the leaf's powersets and powers; what is asked for while rows are made is timed by itself."""
    schema = db.identifier(task.schema)
    sets = dict(zip(task.leaf.powersets, task.powerset_ids, strict=True))
    # A name in lower case is what the splitter makes a uid of.
    powers = enrol.number(task, manifest, held) if known is None else {name.lower(): number for name, number in known}
    order = {uid: position for (members,) in ordered for position, uid in enumerate(members)}

    def resolve(uids: list[str]) -> dict[str, int]:
        if known is None:  # those of other leaves come last
            return {uid: powers[uid] for uid in uids if uid in powers}
        clock.lap("transform")
        found: dict[str, int] = dict(
            connection.execute(db.query("resolve_powers", schema=schema), {"uids": uids}).fetchall()
        )
        clock.lap("server_wait")
        return found

    archetypes = {task.leaf.archetype: task.leaf.archetype_id}
    return LeafContext(
        archetype_ids=archetypes, powerset_ids=sets, power_ids=powers, power_order=order, resolve=resolve
    )


def _relations(task: LeafTask) -> tuple[dict[str, sql.Identifier], list[db.Statement]]:
    """Return where the leaf's rows of each table go, and what makes those places, with the bounds of both levels."""
    leaf, places, creations = task.leaf, {name: db.identifier(task.schema, name) for name, _ in task.tables}, []
    condition = ddl.bounds(leaf.archetype_id, leaf.lower, leaf.upper)
    for name in _partitioned(task):
        places[name], creation = ddl.leaf_table(task.schema, name, leaf.name)
        creations += [creation, ddl.check_leaf(task.schema, name, leaf.name, condition)]
    return places, creations


def _partitioned(task: LeafTask) -> list[str]:
    return [name for name, _ in task.tables if tables.spec(name).partitioned]


def _index(connection: db.Connection, task: LeafTask, name: str) -> None:
    table = f"{name}_{task.leaf.name}"
    homes = dict(task.extensions)
    ddl.create_indexes(
        connection, task.schema, table, ddl.table_file(name), prefix=table, deferred=task.deferred, homes=homes
    )


def _copy_all(
    connection: db.Connection,
    task: LeafTask,
    manifest: Manifest,
    batches: Iterable[pa.RecordBatch],
    context: LeafContext,
    clock: Clock,
    rejects: list[Reject],
) -> dict[str, tuple[int, int]]:
    """Make the leaf's tables, transform and COPY batch by batch; return (rows, bytes) per table, add what was set aside."""
    relations, creations = _relations(task)
    totals = dict.fromkeys(relations, (0, 0))
    if task.indexes == "before":
        _make(connection, task, creations, clock)
        creations = []
    ids = context.power_ids
    if isinstance(ids, enrol.Numbered):
        batches = map(ids.put_into, batches)
    if task.renews:
        # What was once set aside stays so until another load.
        batches = (named(batch, ids) for batch in batches)
    for batch in batches:
        clock.lap("read")
        built, refused = tables.build(manifest.format, batch, context, list(relations))
        rejects += split_rejects.placed(refused, batch, task.store, manifest)
        limits.check(len(rejects), task.most_rejects)
        clock.lap("transform")
        rows = [_rows(task, name, relations[name], built[name]) for name in relations]
        if isinstance(ids, enrol.Numbered):
            rows.append(enrol.places(task, built["powers"]))
            if enrol.TABLE not in totals:
                rows.append(enrol.names(task, ids))
        wanted = [one for one in rows if one.batch.num_rows]  # a COPY of nothing would wait for its answer
        for one, done in zip(wanted, chained.copy_each(connection, creations, wanted, clock), strict=True):
            before = totals.get(one.name, (0, 0))
            totals[one.name] = (before[0] + done[0], before[1] + done[1])
        creations = creations if not wanted else []
    clock.lap("read")
    if creations:  # there was nothing to copy
        _make(connection, task, creations, clock)
    if isinstance(ids, enrol.Numbered) and enrol.TABLE not in totals:  # all is set aside, but has its ids
        names = [enrol.names(task, ids)]
        totals[enrol.TABLE] = chained.copy_each(connection, [], names, clock)[0]
    return enrol.accounted(totals)


def _make(connection: db.Connection, task: LeafTask, creations: list[db.Statement], clock: Clock) -> None:
    """Make the leaf's tables, with their indexes where rows come after these."""
    with connection.pipeline():
        for statement in creations:
            connection.execute(statement)
        if task.indexes == "before":
            for name in _partitioned(task):
                _index(connection, task, name)
    clock.lap("server_wait")


def _rows(task: LeafTask, name: str, relation: sql.Identifier, batch: pa.RecordBatch) -> chained.Rows:
    spec = tables.spec(name)
    return chained.Rows(name, relation, spec.columns, batch, spec.partitioned and task.freeze)


def _prove(leaf: Leaf, rows: dict[str, int], rejected: int) -> None:
    if "powers" in rows and rows["powers"] + rejected != leaf.rows:
        raise MismatchError(
            f"leaf {leaf.name}: the manifest names {leaf.rows} records, {rows['powers']} came and {rejected} were rejected",
            "etl split again; the store may be damaged",
        )


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
        values = {"build": task.build, "leaf": task.leaf.name, **ledger.reject_values(reject)}
        connection.execute(db.query("record_reject"), values)
    ids = [context.power_ids[reject.uid] for reject in rejects if reject.uid and reject.uid in context.power_ids]
    if ids and task.first_id is None:  # else it never had one
        connection.execute(db.query("remove_from_directory", schema=db.identifier(task.schema)), {"ids": ids})


def _complete(connection: db.Connection, task: LeafTask) -> None:
    """Give the leaf's tables the indexes that their parents will want, and the statistics that these do not gather."""
    connection.execute(db.query("sample_lightly"), {"part": ddl.LEAF})
    for name in _partitioned(task):
        if task.indexes != "before":
            _index(connection, task, name)
        ddl.analyze(connection, task.schema, f"{name}_{task.leaf.name}", name, columns=ddl.unsearched(name))


def _record(connection: db.Connection, task: LeafTask, totals: dict[str, tuple[int, int]]) -> None:
    """Write the leaf's receipts, and its lines in the import log."""
    for name, version in task.tables:
        rows, size = totals[name]
        receipt = receipts.Receipt(
            table=name, leaf=task.leaf.name, digest=task.leaf.digest, version=version, rows=rows, bytes=size
        )
        receipts.record(connection, task.build, receipt)
    ledger.log_leaf(connection, task.run, task.build, task.leaf.name, totals)
