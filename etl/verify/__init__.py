"""Verification: the published build proven against the manifest of its split.

Everything is seen in one state of the database (one exported snapshot), so that neither a publication nor an update on
the way can be taken for damage, and nobody waits for anybody. Workers make each leaf again from the store, in temporary
tables; the server compares rows and contents.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from etl import config, db, ddl, migrations, parallel, publish, receipts, tables
from etl import dsn as dsns
from etl.errors import Interrupted, StoreError, UsageError
from etl.model import Event, Manifest, Progress
from etl.plan import Leaf, holds
from etl.store import manifest as manifests
from etl.verify import compare, structure, tasks
from etl.verify.proofs import SHOWN, Finding, LeafTask, NamesTask, Proven, RowDifference, Splits

__all__ = ["Finding", "RowDifference", "VerifyResult", "verify"]


class VerifyResult(msgspec.Struct, frozen=True, kw_only=True):
    """What verification came to: it holds if there are no ``findings``.

    ``rows`` are those that are there, per table; ``compared`` is False where the store no longer has the split, which
    is a finding as well. ``later_splits`` are others that parts of the build were renewed from (``etl load --only``,
    ``etl update --keep-missing``): their powers were compared with those, and the sum of records says nothing.
    """

    build: int
    generation: int
    split_id: str
    store: str
    compared: bool
    later_splits: tuple[str, ...]
    leaves: int
    rows: Mapping[str, int]
    findings: tuple[Finding, ...]
    seconds: float


class _Case(msgspec.Struct, kw_only=True):
    """What the steps of one verification share."""

    connection: db.Connection
    live_schema: str
    build: int
    generation: int
    split_id: str
    store: str
    schema: str
    names: tuple[str, ...]
    leaves: list[Leaf]
    manifest: Manifest | None = None
    splits: Splits | None = None
    rows: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    rejects: int = 0
    findings: list[Finding] = msgspec.field(default_factory=list)


def verify(
    dsn: str | None = None,
    live_schema: str = "game",
    *,
    store: str | None = None,
    executor: str = "process://1",
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> VerifyResult:
    """Compare the published build of a live schema with its split, by default in the store that it was loaded from.

    Raises:
        UsageError: nothing is published.
        DatabaseError: the server is down or refuses; the role needs the right to make temporary tables.
        SchemaError: the database holds something else, or an old or newer schema.
        Interrupted: ``stop`` said so; nothing is proven.
    """
    started = time.perf_counter()
    where = dsns.resolve(dsn)
    with db.connect(where, name="etl verify", autocommit=False) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        migrations.require(connection)
        case = _case(connection, live_schema, store)
        _look(case, where, executor, progress, stop)
        connection.rollback()
    totals = Counter[str]()
    for (table, _), rows in case.rows.items():
        totals[table] += rows
    return VerifyResult(
        build=case.build,
        generation=case.generation,
        split_id=case.split_id,
        store=case.store,
        compared=case.manifest is not None,
        later_splits=case.splits.later if case.splits else (),
        leaves=len(case.leaves),
        rows=dict(totals),
        findings=tuple(case.findings),
        seconds=time.perf_counter() - started,
    )


def _case(connection: db.Connection, live_schema: str, store: str | None) -> _Case:
    """Return what is to be proven."""
    row = connection.execute(db.query("published_build"), {"schema": live_schema}).fetchone()
    if row is None:
        raise UsageError(f"nothing is published in schema {live_schema}", "etl load")
    build, generation, split_id, home, names, plan = row
    case = _Case(
        connection=connection,
        live_schema=live_schema,
        build=build,
        generation=generation,
        split_id=split_id,
        store=store or home,
        schema=publish.schema_of(live_schema, build),
        names=(*names, "power_directory", *(name for name, _ in ddl.views())),
        leaves=[_leaf(values) for values in plan],
    )
    try:
        case.manifest = manifests.read(case.store, split_id)
        case.splits = _splits(case)
    except StoreError as error:
        message = f"{error.message}; the rows were counted, and could not be compared"
        case.findings.append(Finding(check="store", table="", message=message))
    return case


def _splits(case: _Case) -> Splits:
    """Return where the records of the build are; a later split that the store no longer has is taken for the own one.

    That is right where the own split had a turn since, and a finding where it had none.
    """
    found = case.connection.execute(db.query("later_splits"), {"build": case.build}).fetchall()
    there = [(name, is_on_top) for name, is_on_top in found if manifests.is_finished(case.store, name)]
    for name, is_on_top in found:
        if is_on_top and (name, is_on_top) not in there:
            message = f"{case.store}: split {name}, which parts of the build come from, is no longer there"
            case.findings.append(Finding(check="store", table="", message=message))
    return Splits(
        store=case.store,
        own=case.split_id,
        later=tuple(name for name, _ in there),
        overlays=tuple(name for name, is_on_top in there if is_on_top),
    )


def _leaf(values: dict[str, Any]) -> Leaf:
    return Leaf(**{**values, "powersets": tuple(values["powersets"])})


def _look(case: _Case, where: str, executor: str, progress: Progress | None, stop: Callable[[], bool]) -> None:
    """Find everything that is wrong."""
    lost = structure.missing(case.connection, case.schema, case.names)
    case.findings += lost
    if lost:
        return
    case.findings += structure.check(case.connection, case.live_schema, case.schema, case.leaves, case.names)
    with parallel.Pool(executor, {config.DSN_VARIABLE: where}) as pool:
        _work(case, pool, progress, stop)
    case.findings += _orphans(case)
    case.findings += _directory(case)
    for name, _ in ddl.views():
        case.findings += _view(case, name)
    case.findings += _receipts(case)
    if case.manifest is not None:
        case.findings += _sums(case, case.manifest)


def _work(case: _Case, pool: parallel.Pool, progress: Progress | None, stop: Callable[[], bool]) -> None:
    """Let workers compare the leaves, the directory and the entities."""
    row = case.connection.execute(db.query("export_snapshot")).fetchone()
    snapshot = str(row[0]) if row else ""
    total, done = sum(leaf.rows for leaf in case.leaves), 0
    if case.splits is not None:
        task = NamesTask(snapshot=snapshot, build=case.build, schema=case.schema, splits=case.splits)
        for _, outcome in pool.run(tasks.prove_names, [task], stop=stop):
            _take(case, "all", outcome)
    for leaf_task, outcome in pool.run(tasks.prove_leaf, _leaf_tasks(case, snapshot), stop=stop):
        _take(case, leaf_task.leaf.name, outcome)
        done += leaf_task.leaf.rows
        if progress is not None:
            progress(Event(phase="verify", done=done, total=total, unit="rows", message=leaf_task.leaf.name))
    if stop():
        raise Interrupted("stopped; nothing is proven", "etl verify")


def _take(case: _Case, leaf: str, outcome: Proven | Exception) -> None:
    """Add what one task came to."""
    if isinstance(outcome, StoreError):
        case.findings.append(Finding(check="store", table="", message=outcome.message))
    elif isinstance(outcome, Exception):
        raise outcome
    else:
        case.rows.update({(table, leaf): rows for table, rows in outcome.rows.items()})
        case.rejects += outcome.rejects
        case.findings += outcome.findings


def _leaf_tasks(case: _Case, snapshot: str) -> list[LeafTask]:
    """Return a task per leaf, biggest first; powersets of the split that are in no leaf are findings."""
    partitions = case.manifest.partitions if case.manifest else ()
    uids = [partition.powerset for partition in partitions]
    ids: dict[str, int] = dict(case.connection.execute(db.query("powerset_ids"), {"uids": uids}).fetchall())
    for partition in partitions:
        number = ids.get(partition.powerset)
        if number is None or not any(holds(leaf, partition.archetype, number) for leaf in case.leaves):
            message = f"powerset {partition.powerset} of archetype {partition.archetype} has no leaf"
            case.findings.append(Finding(check="leaf", table="powers", message=message))
    return [
        LeafTask(
            snapshot=snapshot,
            build=case.build,
            schema=case.schema,
            splits=case.splits,
            leaf=msgspec.structs.replace(leaf, powersets=()),
            tables=tuple(name for name in case.names if name in tables.LEAF_TABLES),
        )
        for leaf in sorted(case.leaves, key=lambda leaf: -leaf.bytes)
    ]


def _orphans(case: _Case) -> Iterator[Finding]:
    """Yield rows of plain tables whose power is nowhere: no leaf's comparison can see them."""
    for name in case.names:
        if name not in tables.LEAF_TABLES or tables.spec(name).partitioned:
            continue
        relation = db.identifier(case.schema, name)
        statement = db.query("orphan_rows", relation=relation, schema=db.identifier(case.schema))
        found = case.connection.execute(statement, {"limit": SHOWN}).fetchall()
        if found:
            rows = tuple(RowDifference(id=row, name=None, how="extra") for row, _, _ in found)
            message = f"{found[0][2]:,} rows belong to no power of the build"
            yield Finding(check="rows", table=name, message=message, rows=rows)


def _directory(case: _Case) -> Iterator[Finding]:
    """Yield where the directory does not agree with the powers, or with the registry of keys."""
    if "powers" in case.names:
        powers = db.query("powers_as_directory", schema=db.identifier(case.schema))
        pair = compare.Pair(
            actual=db.identifier(case.schema, "power_directory"),
            expected=sql.SQL("({})").format(powers),
            columns=("id", "internal_name", "archetype_id", "powerset_id"),
        )
        yield from compare.finding(case.connection, pair, "directory", "power_directory", wanted="as in powers")[1]
    statement = db.query("strange_directory_rows", schema=db.identifier(case.schema))
    found = case.connection.execute(statement, {"limit": SHOWN}).fetchall()
    if found:
        rows = tuple(RowDifference(id=number, name=uid, how="differs", columns=("id",)) for number, _, uid, _ in found)
        message = f"{found[0][3]:,} rows have no key in the registry, or that of another name"
        yield Finding(check="directory", table="power_directory", message=message, rows=rows)


def _view(case: _Case, name: str) -> Iterator[Finding]:
    """Yield what is not fresh in a materialized view: it must equal its query."""
    home = ddl.home(case.connection, case.schema, name)
    row = case.connection.execute(db.query("view_definition"), {"schema": home, "name": name}).fetchone()
    if row is None or not row[1]:
        yield Finding(check="view", table=name, message="the materialized view was never filled, or is none")
        return
    expected = db.identifier(f"expected_{name}")
    case.connection.execute(db.query("expected_view", expected=expected, query=sql.SQL(row[0])))
    columns = compare.columns_of(case.connection, case.schema, name)
    pair = compare.Pair(actual=db.identifier(case.schema, name), expected=expected, columns=columns)
    case.rows[name, "all"], found = compare.finding(
        case.connection, pair, "view", name, wanted="what the view's query gives: it is stale"
    )
    yield from found


def _receipts(case: _Case) -> Iterator[Finding]:
    """Yield receipts that are missing, that speak of other rows than are there, or of what the plan does not know."""
    done = receipts.read(case.connection, case.build)
    leaf_tables = [name for name in case.names if name in tables.LEAF_TABLES]
    counted = [(name, leaf.name) for name in leaf_tables for leaf in case.leaves]
    counted += [(name, "all") for name in case.names if name in ("archetypes", "powersets")]
    bare = [("power_directory", "all")]
    bare += [(name, "indexes") for name in leaf_tables if not tables.spec(name).partitioned]
    for table, leaf in counted + bare:
        receipt = done.pop((table, leaf), None)
        rows = case.rows.get((table, leaf))
        if receipt is None:
            yield Finding(check="receipt", table=table, leaf=leaf, message="there is no receipt")
        elif (table, leaf) in counted and rows is not None and receipt.rows != rows:
            message = f"the receipt names {receipt.rows:,} rows, {rows:,} are there"
            yield Finding(check="receipt", table=table, leaf=leaf, message=message)
    for table, leaf in done:
        yield Finding(check="receipt", table=table, leaf=leaf, message="a receipt of what the plan does not know")


def _sums(case: _Case, manifest: Manifest) -> Iterator[Finding]:
    """Yield where records are not loaded + superseded + rejected."""
    row = case.connection.execute(db.query("count_rejects"), {"build": case.build}).fetchone()
    recorded = int(row[0]) if row else 0
    if recorded != case.rejects:
        message = f"{recorded:,} records are recorded as set aside, {case.rejects:,} must be"
        yield Finding(check="rejects", table="powers", message=message)
    if "powers" not in case.names or (case.splits and case.splits.later):
        return
    loaded = sum(rows for (table, _), rows in case.rows.items() if table == "powers")
    rejected = manifest.rejects + recorded
    if manifest.records != loaded + manifest.superseded + rejected:
        message = (
            f"{manifest.records:,} records are not {loaded:,} loaded + {manifest.superseded:,} superseded"
            f" + {rejected:,} rejected"
        )
        yield Finding(check="rejects", table="powers", message=message)
