"""The workers' part of verification: what the store gives is made again in temporary tables, and compared there."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import psycopg
import pyarrow as pa
from psycopg import sql

from etl import bulkload, config, db, keys, sources, tables
from etl.errors import StoreError
from etl.leaf import coalesce, manifest_of
from etl.model import LeafContext, Manifest, Partition
from etl.store import entities, parts
from etl.verify import compare
from etl.verify.proofs import SHOWN, Finding, LeafTask, NamesTask, Proven

_BATCH_ROWS = 10_000
_BATCH_BYTES = 8 * config.MIB
_MODULUS = 1 << 128
_STAGED = {"uid": "text", "internal_name": "text", "archetype": "text", "powerset": "text"}
_OF_THE_LEAF = sql.SQL("t.power_id in (select i.id from expected_id i)")


def prove_leaf(task: LeafTask) -> Proven:
    """Compare the tables of one leaf with what its records give, in the server; nothing of it stays.

    Raises:
        DatabaseError: the server refused or went away.
    """
    with _session(task.snapshot, f"etl verify {task.leaf}") as connection:
        names = [name for name in task.tables if compare.exists(connection, task.schema, _name(task, name))]
        findings = [
            Finding(check="leaf", table=name, leaf=task.leaf, message=f"table {_name(task, name)} is missing")
            for name in task.tables
            if name not in names
        ]
        again = _Again(findings=findings)
        connection.execute(db.query("expected_ids"))
        if task.split_id is not None:
            _make_again(connection, task, task.split_id, names, again)
        rows = _compare(connection, task, names, again)
    return Proven(rows=rows, findings=tuple(again.findings), rejects=again.rejects)


@dataclass(slots=True)
class _Again:
    """What came of transforming a leaf's records again; ``made`` is False where they could not be read."""

    findings: list[Finding]
    made: bool = False
    rejects: int = 0
    digests: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)


@contextmanager
def _session(snapshot: str, name: str) -> Iterator[db.Connection]:
    """Yield a connection that sees the state of the database under that name, and leaves nothing behind."""
    with db.connect(os.environ[config.DSN_VARIABLE], name=name, autocommit=False) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute(db.query("import_snapshot", snapshot=sql.Literal(snapshot)))
        yield connection
        connection.rollback()


def _name(task: LeafTask, table: str) -> str:
    """Return the relation that holds the leaf's rows of a table."""
    return f"{table}_{task.leaf}" if tables.spec(table).partitioned else table


def _make_again(connection: db.Connection, task: LeafTask, split_id: str, names: Sequence[str], again: _Again) -> None:
    """Transform the leaf's records into temporary tables, one for each of its tables."""
    try:
        manifest = manifest_of(task.store, split_id)
        own = set(task.powersets)
        wanted = [p for p in manifest.partitions if p.archetype == task.archetype and p.powerset in own]
        context = _context(connection, task, manifest)
        for name in names:
            _expect(connection, task.schema, name)
        batches = _counted(parts.read_runs(task.store, manifest, wanted), again)
        for batch in coalesce(batches, _BATCH_ROWS, _BATCH_BYTES):
            _transform(connection, task, manifest, context, batch, names, again)
    except StoreError as error:
        again.findings.append(_store_finding(task, error.message))
        return
    again.made = True
    again.findings += [_store_finding(task, message) for message in _broken_promises(wanted, again)]


def _store_finding(task: LeafTask, message: str) -> Finding:
    return Finding(check="store", table="powers", leaf=task.leaf, message=message)


def _counted(batches: Iterable[pa.RecordBatch], again: _Again) -> Iterator[pa.RecordBatch]:
    """Yield the batches; sum up what the manifest says of each powerset."""
    for batch in batches:
        for powerset, digest in zip(batch["powerset"].to_pylist(), batch["digest"].to_pylist(), strict=True):
            again.rows[powerset] += 1
            again.digests[powerset] += int.from_bytes(digest)
        yield batch


def _broken_promises(wanted: Iterable[Partition], again: _Again) -> Iterator[str]:
    """Yield a sentence for each partition whose records are not those that the manifest names."""
    for partition in wanted:
        rows, digest = again.rows[partition.powerset], again.digests[partition.powerset] % _MODULUS
        if rows != partition.rows or f"{digest:032x}" != partition.digest:
            yield f"the store's records of {partition.powerset} are not those that its manifest names"


@cache
def _orders(store: str, split_id: str) -> dict[str, list[str]]:
    """Return the members of each set in the order of the source's own list; read once per worker."""
    manifest = manifest_of(store, split_id)
    return {entity["uid"]: entity.get("power_order") or [] for entity in entities.read(store, manifest, "powersets")}


def _context(connection: db.Connection, task: LeafTask, manifest: Manifest) -> LeafContext:
    """Return what a transform needs to know of the leaf; ids come from the registry, not from the build."""
    rows = connection.execute(db.query("powerset_ids"), {"uids": list(task.powersets)}).fetchall()
    orders = _orders(task.store, manifest.split_id)
    order = {uid: position for name in task.powersets for position, uid in enumerate(orders.get(name, []))}

    def resolve(uids: list[str]) -> dict[str, int]:
        statement = db.query("resolve_published", schema=db.identifier(task.schema))
        return dict(connection.execute(statement, {"uids": uids}).fetchall())

    return LeafContext(
        archetype_ids={task.archetype: task.archetype_id},
        powerset_ids=dict(rows),
        power_ids={},
        power_order=order,
        resolve=resolve,
    )


def _expect(connection: db.Connection, schema: str, name: str) -> None:
    """Make the temporary table ``expected_<name>``."""
    expected, actual = db.identifier(f"expected_{name}"), db.identifier(schema, name)
    connection.execute(db.query("expected_table", expected=expected, actual=actual))


def _transform(
    connection: db.Connection,
    task: LeafTask,
    manifest: Manifest,
    context: LeafContext,
    batch: pa.RecordBatch,
    names: Sequence[str],
    again: _Again,
) -> None:
    """Turn one batch into rows of the temporary tables."""
    uids = batch["uid"].to_pylist()
    ids: dict[str, int] = dict(connection.execute(db.query("known_powers"), {"uids": uids}).fetchall())
    if len(ids) < len(uids):
        strangers = [uid for uid in uids if uid not in ids]
        again.findings.append(_unregistered(strangers, len(strangers), task.leaf))
        batch = batch.filter(pa.array([uid in ids for uid in uids], pa.bool_()))
    connection.execute(db.query("add_expected_ids"), {"ids": list(ids.values())})
    known = LeafContext(
        archetype_ids=context.archetype_ids,
        powerset_ids=context.powerset_ids,
        power_ids=ids,
        power_order=context.power_order,
        resolve=context.resolve,
    )
    built, refused = tables.build(manifest.format, batch, known, names)
    for name in names:
        bulkload.copy(connection, db.identifier(f"expected_{name}"), tables.spec(name).columns, [built[name]])
    _check_rejects(connection, task, [reject.uid for reject in refused if reject.uid], again)


def _unregistered(uids: Sequence[str], total: int, leaf: str | None = None) -> Finding:
    return Finding(
        check="directory",
        table="power_directory",
        leaf=leaf,
        message=f"{total:,} powers of the split have no key: {', '.join(uids[:SHOWN])}",
    )


def _check_rejects(connection: db.Connection, task: LeafTask, uids: list[str], again: _Again) -> None:
    """Compare the records that cannot be transformed with those that the build says it set aside."""
    if not uids:
        return
    again.rejects += len(uids)
    recorded = connection.execute(db.query("recorded_rejects"), {"build": task.build, "uids": uids}).fetchall()
    lost = sorted(set(uids) - {uid for (uid,) in recorded})
    if lost:
        message = f"{len(lost):,} records must be set aside, and no reject says so: {', '.join(lost[:SHOWN])}"
        again.findings.append(Finding(check="rejects", table="powers", leaf=task.leaf, message=message))


def _compare(connection: db.Connection, task: LeafTask, names: Sequence[str], again: _Again) -> dict[str, int]:
    """Return the leaf's rows that are there per table; add what differs to the findings."""
    if "powers" in names:
        connection.execute(db.query("add_actual_ids", relation=db.identifier(task.schema, _name(task, "powers"))))
    connection.execute(db.query("analyze", relation=db.identifier("expected_id")))
    rows = {}
    for name in names:
        pair = _pair(connection, task, name)
        if again.made:
            rows[name], found = compare.finding(connection, pair, "rows", name, leaf=task.leaf)
            again.findings += found
        else:
            rows[name] = compare.count(connection, pair)
    return rows


def _pair(connection: db.Connection, task: LeafTask, name: str) -> compare.Pair:
    return compare.Pair(
        actual=db.identifier(task.schema, _name(task, name)),
        expected=db.identifier(f"expected_{name}"),
        columns=compare.columns_of(connection, task.schema, name),
        owner="id" if name == "powers" else "power_id",
        condition=sql.SQL("true") if tables.spec(name).partitioned else _OF_THE_LEAF,
    )


def prove_names(task: NamesTask) -> Proven:
    """Compare the directory, the archetypes and the powersets with those of the split; nothing of it stays.

    Raises:
        StoreError: a part or an entity file is missing or damaged.
        DatabaseError: the server refused or went away.
    """
    manifest = manifest_of(task.store, task.split_id)
    with _session(task.snapshot, "etl verify names") as connection:
        findings = [*_expect_names(connection, task, manifest), *_expect_entities(connection, task, manifest)]
        rows = {}
        for name, registry in (
            ("power_directory", "power_key"),
            ("archetypes", "archetype_key"),
            ("powersets", "powerset_key"),
        ):
            pair = compare.Pair(
                actual=db.identifier(task.schema, name),
                expected=db.identifier(f"expected_{name}"),
                columns=compare.columns_of(connection, task.schema, name),
                registry=registry,
            )
            check = "directory" if name == "power_directory" else "entities"
            rows[name], found = compare.finding(connection, pair, check, name)
            findings += found
    return Proven(rows=rows, findings=tuple(findings))


def _expect_names(connection: db.Connection, task: NamesTask, manifest: Manifest) -> list[Finding]:
    """Fill the temporary directory with the winners of the split; return those that have no key."""
    column = sources.FORMATS[manifest.format].names[0]
    wanted = ["uid", "archetype", "powerset", column]
    batches = (
        pa.record_batch([batch["uid"], batch[column], batch["archetype"], batch["powerset"]], names=list(_STAGED))
        for batch in parts.read_runs(task.store, manifest, manifest.partitions, wanted)
    )
    connection.execute(db.query("stage_names"))
    bulkload.copy(connection, db.identifier("staged_name"), _STAGED, batches)
    connection.execute(db.query("analyze", relation=db.identifier("staged_name")))
    connection.execute(db.query("expected_directory"), {"build": task.build})
    strangers = connection.execute(db.query("unregistered_names"), {"limit": SHOWN}).fetchall()
    return [_unregistered([uid for uid, _ in strangers], strangers[0][1])] if strangers else []


def _expect_entities(connection: db.Connection, task: NamesTask, manifest: Manifest) -> list[Finding]:
    """Fill the temporary archetypes and powersets; return those that have no key."""
    archetypes = entities.read(task.store, manifest, "archetypes")
    powersets = entities.read(task.store, manifest, "powersets")
    archetype_ids: dict[str, int] = dict(connection.execute(db.query("archetype_ids")).fetchall())
    uids = [entity["uid"] for entity in powersets]
    powerset_ids: dict[str, int] = dict(connection.execute(db.query("powerset_ids"), {"uids": uids}).fetchall())
    known_archetypes = [entity for entity in archetypes if entity["uid"] in archetype_ids]
    known_powersets = [e for e in powersets if e["uid"] in powerset_ids and e["archetype"] in archetype_ids]
    rows = keys.entity_rows(known_archetypes, known_powersets, archetype_ids, powerset_ids)
    for name in ("archetypes", "powersets"):
        _expect(connection, task.schema, name)
    keys.copy_entities(connection, "pg_temp", rows, "expected_")
    lost = len(archetypes) + len(powersets) - len(known_archetypes) - len(known_powersets)
    if not lost:
        return []
    return [Finding(check="entities", table="powersets", message=f"{lost:,} archetypes or powersets have no key")]
