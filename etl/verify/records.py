"""The workers' part of verification: what the store gives is made again in temporary tables, and compared there."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec
import psycopg
import pyarrow as pa
from psycopg import sql

from etl import bulkload, config, db, ddl, keys, plan, sources, tables
from etl.batches import coalesce
from etl.errors import StoreError
from etl.model import LeafContext, Manifest, Partition
from etl.store import entities, parts
from etl.store import manifest as manifests
from etl.verify import compare
from etl.verify.proofs import SHOWN, Finding, LeafTask, NamesTask, Proven, Splits

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
    with _session(task.snapshot, f"etl verify {task.leaf.name}") as connection:
        names = [name for name in task.tables if compare.exists(connection, *_place(connection, task, name))]
        findings = [
            Finding(
                check="leaf",
                table=name,
                leaf=task.leaf.name,
                message=f"table {_place(connection, task, name)[1]} is missing",
            )
            for name in task.tables
            if name not in names
        ]
        again = _Again(findings=findings)
        connection.execute(db.query("expected_ids"))
        if task.splits is not None:
            _make_again(connection, task, task.splits, names, again)
        rows = _compare(connection, task, names, again)
    return Proven(rows=rows, findings=tuple(again.findings), rejects=again.rejects)


class _Again(msgspec.Struct):
    """What came of transforming a leaf's records again; ``made`` is False where they could not be read."""

    findings: list[Finding]
    made: bool = False
    rejects: int = 0


@contextmanager
def _session(snapshot: str, name: str) -> Iterator[db.Connection]:
    """Yield a connection that sees the state of the database under that name, and leaves nothing behind."""
    with db.connect(os.environ[config.DSN_VARIABLE], name=name, autocommit=False) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute(db.query("import_snapshot", snapshot=sql.Literal(snapshot)))
        yield connection
        connection.rollback()


def _place(connection: db.Connection, task: LeafTask, table: str) -> tuple[str, str]:
    """Return the schema and the name of the relation that holds the leaf's rows of a table."""
    name = f"{table}_{task.leaf.name}" if tables.spec(table).partitioned else table
    return ddl.home(connection, task.schema, table), name


def _renewed(connection: db.Connection, splits: Splits, build: int, archetype: int | None) -> dict[str, str]:
    """Return which powers come from which later split; all others are the own split's."""
    if not splits.later:
        return {}
    rows = connection.execute(db.query("renewed_powers"), {"build": build, "archetype": archetype}).fetchall()
    return {uid: split_id for uid, split_id in rows if split_id in splits.later}


def _taken(batch: pa.RecordBatch, split_id: str, own: str, renewed: Mapping[str, str]) -> pa.RecordBatch:
    """Return the records of a split that the build has from it."""
    if not renewed:
        return batch
    return batch.filter(pa.array([renewed.get(uid, own) == split_id for uid in batch["uid"].to_pylist()], pa.bool_()))


def _make_again(connection: db.Connection, task: LeafTask, splits: Splits, names: Sequence[str], again: _Again) -> None:
    """Transform the leaf's records into temporary tables, one for each of its tables."""
    renewed = _renewed(connection, splits, task.build, task.leaf.archetype_id)
    for name in names:
        _expect(connection, task.schema, name)
    try:
        for split_id in (splits.own, *sorted(set(renewed.values()))):
            manifest = manifests.of_split(splits.store, split_id)
            wanted, context = _context(connection, task, splits, manifest)
            counts = _Counts()
            runs = counts.watch(parts.read_runs(splits.store, manifest, wanted))
            for batch in coalesce(runs, _BATCH_ROWS, _BATCH_BYTES):
                _transform(
                    connection, task, manifest, context, _taken(batch, split_id, splits.own, renewed), names, again
                )
            again.findings += [_store_finding(task, message) for message in counts.broken_promises(wanted)]
    except StoreError as error:
        again.findings.append(_store_finding(task, error.message))
    else:
        again.made = True


def _store_finding(task: LeafTask, message: str) -> Finding:
    return Finding(check="store", table="powers", leaf=task.leaf.name, message=message)


class _Counts(msgspec.Struct):
    """Rows and sums of digests per powerset, as the manifest states them."""

    digests: Counter[str] = msgspec.field(default_factory=Counter)
    rows: Counter[str] = msgspec.field(default_factory=Counter)

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the batches, counting what goes by."""
        for batch in batches:
            for powerset, digest in zip(batch["powerset"].to_pylist(), batch["digest"].to_pylist(), strict=True):
                self.rows[powerset] += 1
                self.digests[powerset] += int.from_bytes(digest)
            yield batch

    def broken_promises(self, wanted: Iterable[Partition]) -> Iterator[str]:
        """Yield a sentence for each partition whose records are not those that the manifest names."""
        for partition in wanted:
            rows, digest = self.rows[partition.powerset], self.digests[partition.powerset] % _MODULUS
            if rows != partition.rows or f"{digest:032x}" != partition.digest:
                yield f"the store's records of {partition.powerset} are not those that its manifest names"


@cache
def _orders(splits: Splits) -> dict[str, list[str]]:
    """Return the members of each set in the order of the source's own list; read once per worker."""
    orders: dict[str, list[str]] = {}
    for split_id in (splits.own, *splits.overlays):
        found = entities.read(splits.store, manifests.of_split(splits.store, split_id), "powersets")
        orders |= {entity["uid"]: entity.get("power_order") or [] for entity in found}
    return orders


def _context(
    connection: db.Connection, task: LeafTask, splits: Splits, manifest: Manifest
) -> tuple[list[Partition], LeafContext]:
    """Return the partitions within the leaf's bounds, and what a transform needs to know of them.

    Ids come from the registry, not from the build.
    """
    mine = [partition for partition in manifest.partitions if partition.archetype == task.leaf.archetype]
    uids = [partition.powerset for partition in mine]
    rows = connection.execute(db.query("powerset_ids"), {"uids": uids}).fetchall()
    ids = {uid: number for uid, number in rows if plan.holds(task.leaf, task.leaf.archetype, number)}
    orders = _orders(splits)
    order = {uid: position for name in sorted(ids) for position, uid in enumerate(orders.get(name, []))}

    def resolve(names: list[str]) -> dict[str, int]:
        statement = db.query("resolve_published", schema=db.identifier(task.schema))
        return dict(connection.execute(statement, {"uids": names}).fetchall())

    context = LeafContext(
        archetype_ids={task.leaf.archetype: task.leaf.archetype_id},
        powerset_ids=ids,
        power_ids={},
        power_order=order,
        resolve=resolve,
    )
    return [partition for partition in mine if partition.powerset in ids], context


def _expect(connection: db.Connection, schema: str, name: str) -> None:
    """Make the temporary table ``expected_<name>``."""
    expected, actual = db.identifier(f"expected_{name}"), db.identifier(ddl.home(connection, schema, name), name)
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
        again.findings.append(_unregistered(strangers, len(strangers), task.leaf.name))
        batch = batch.filter(pa.array([uid in ids for uid in uids], pa.bool_()))
    refused_before = {
        uid for (uid,) in connection.execute(db.query("server_refused"), {"build": task.build, "uids": uids})
    }
    if refused_before:
        again.rejects += len(refused_before)
        batch = batch.filter(pa.array([uid not in refused_before for uid in batch["uid"].to_pylist()], pa.bool_()))
        ids = {uid: number for uid, number in ids.items() if uid not in refused_before}
    if not batch.num_rows:
        return
    connection.execute(db.query("add_expected_ids"), {"ids": list(ids.values())})
    built, refused = tables.build(manifest.format, batch, replace(context, power_ids=ids), names)
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
        again.findings.append(Finding(check="rejects", table="powers", leaf=task.leaf.name, message=message))


def _compare(connection: db.Connection, task: LeafTask, names: Sequence[str], again: _Again) -> dict[str, int]:
    """Return the leaf's rows that are there per table; add what differs to the findings."""
    if "powers" in names:
        connection.execute(db.query("add_actual_ids", relation=db.identifier(*_place(connection, task, "powers"))))
    connection.execute(db.query("analyze", relation=db.identifier("expected_id")))
    rows = {}
    for name in names:
        pair = _pair(connection, task, name)
        if again.made:
            rows[name], found = compare.finding(connection, pair, "rows", name, leaf=task.leaf.name)
            again.findings += found
        else:
            rows[name] = compare.count(connection, pair)
    return rows


def _pair(connection: db.Connection, task: LeafTask, name: str) -> compare.Pair:
    return compare.Pair(
        actual=db.identifier(*_place(connection, task, name)),
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
    with _session(task.snapshot, "etl verify names") as connection:
        findings = [*_expect_names(connection, task), *_expect_entities(connection, task)]
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


def _expect_names(connection: db.Connection, task: NamesTask) -> list[Finding]:
    """Fill the temporary directory with the winners of the split; return those that have no key."""
    renewed = _renewed(connection, task.splits, task.build, None)
    connection.execute(db.query("stage_names"))
    for split_id in (task.splits.own, *sorted(set(renewed.values()))):
        batches = _names(task.splits, split_id, renewed)
        bulkload.copy(connection, db.identifier("staged_name"), _STAGED, batches)
    connection.execute(db.query("analyze", relation=db.identifier("staged_name")))
    connection.execute(db.query("expected_directory"), {"build": task.build})
    strangers = connection.execute(db.query("unregistered_names"), {"limit": SHOWN}).fetchall()
    return [_unregistered([uid for uid, _ in strangers], strangers[0][1])] if strangers else []


def _names(splits: Splits, split_id: str, renewed: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    """Yield (uid, internal name, archetype, powerset) of the records that the build has from a split."""
    manifest = manifests.of_split(splits.store, split_id)
    column = sources.FORMATS[manifest.format].names[0]
    wanted = ["uid", "archetype", "powerset", column]
    for whole in parts.read_runs(splits.store, manifest, manifest.partitions, wanted):
        batch = _taken(whole, split_id, splits.own, renewed)
        yield pa.record_batch([batch["uid"], batch[column], batch["archetype"], batch["powerset"]], names=list(_STAGED))


def _expect_entities(connection: db.Connection, task: NamesTask) -> list[Finding]:
    """Fill the temporary archetypes and powersets; return those that have no key."""
    archetype_ids: dict[str, int] = dict(connection.execute(db.query("archetype_ids")).fetchall())
    archetypes = _entities(connection, task, "archetypes", archetype_ids)
    uids = list({uid for split_id in (task.splits.own, *task.splits.overlays) for uid in _sets(task.splits, split_id)})
    powerset_ids: dict[str, int] = dict(connection.execute(db.query("powerset_ids"), {"uids": uids}).fetchall())
    powersets = _entities(connection, task, "powersets", powerset_ids)
    known_archetypes = [entity for entity in archetypes if entity["uid"] in archetype_ids]
    known_powersets = [e for e in powersets if e["uid"] in powerset_ids and e["archetype"] in archetype_ids]
    rows = keys.entity_rows(known_archetypes, known_powersets, archetype_ids, powerset_ids)
    for name in ("archetypes", "powersets"):
        _expect(connection, task.schema, name)
    keys.insert_entities(connection, "pg_temp", rows, "expected_")
    lost = len(archetypes) + len(powersets) - len(known_archetypes) - len(known_powersets)
    if not lost:
        return []
    return [Finding(check="entities", table="powersets", message=f"{lost:,} archetypes or powersets have no key")]


def _sets(splits: Splits, split_id: str) -> list[str]:
    found = entities.read(splits.store, manifests.of_split(splits.store, split_id), "powersets")
    return [entity["uid"] for entity in found]


def _entities(connection: db.Connection, task: NamesTask, kind: str, ids: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the archetypes or powersets that the build should have.

    Those of a later split lie on top of the own one's; what the last one lacks may be gone, unless it is there.
    """
    order = (task.splits.own, *task.splits.overlays)
    layers = [
        {
            entity["uid"]: entity
            for entity in entities.read(task.splits.store, manifests.of_split(task.splits.store, s), kind)
        }
        for s in order
    ]
    whole = {uid: entity for layer in layers for uid, entity in layer.items()}
    if not task.splits.overlays:
        return list(whole.values())
    statement = db.query("ids_of", relation=db.identifier(task.schema, kind))
    here = {number for (number,) in connection.execute(statement)}
    return [entity for uid, entity in whole.items() if uid in layers[-1] or ids.get(uid) in here]
