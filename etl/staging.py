"""The workers' part of an update: what differs, and the rows of what differs on their way into the published build."""

import itertools
import os
from collections.abc import Iterator

import pyarrow as pa

from etl import bulkload, config, db, leaf, tables
from etl.model import LeafContext, Manifest, Partition, Reject
from etl.plan import Difference, DiffTask, NamesTask, StageTask
from etl.store import manifest as manifests
from etl.store import parts
from etl.store import rejects as split_rejects


def difference(task: DiffTask) -> Difference:
    """Compare the records of a split with those that the published rows came from, by digest.

    Raises:
        StoreError: a part is missing or damaged.
        DatabaseError: the server refused or went away.
    """
    manifest = manifests.of_split(task.store, task.split_id)
    with db.connect(os.environ[config.DSN_VARIABLE], name="etl update: compare") as connection:
        sets: dict[str, int] = dict(
            connection.execute(db.query("powerset_ids"), {"uids": [name for _, name in task.partitions]}).fetchall()
        )
        query = db.query("loaded_hashes", schema=db.identifier(task.schema))
        rows = connection.execute(query, {"powersets": list(sets.values())}).fetchall()
    loaded = {uid: (bytes(digest), archetype, powerset) for uid, digest, archetype, powerset in rows}
    changed, new, renewed = [], [], []
    same = 0
    for name, digest in _records(task, manifest):
        before = loaded.pop(name[0], None)
        if before is None:
            new.append(name)
        elif before[0] != digest:
            changed.append(name)
        elif task.everything:
            renewed.append(name)
        else:
            same += 1
    gone = () if task.first_record else tuple((uid, *loaded[uid][1:]) for uid in sorted(loaded))
    return Difference(changed=tuple(changed), new=tuple(new), gone=gone, renewed=tuple(renewed), same=same)


def lost_names(task: NamesTask) -> tuple[str, ...]:
    """Return those of the task's names that no winning record of the split has.

    Raises:
        StoreError: a part is missing or damaged.
    """
    import pyarrow.compute as pc  # a tenth of a second, which a comparison does without

    manifest = manifests.of_split(task.store, task.split_id)
    wanted, found = pa.array(task.uids, pa.string()), set[str]()
    for batch in parts.read_runs(task.store, manifest, manifest.partitions, ["uid"]):
        uids = batch.column("uid")
        found.update(uids.filter(pc.is_in(uids, value_set=wanted)).to_pylist())
    return tuple(uid for uid in task.uids if uid not in found)


def _records(task: DiffTask, manifest: Manifest) -> Iterator[tuple[tuple[str, str, str], bytes]]:
    """Yield ((uid, archetype, powerset), digest) of the task's records."""
    names = ["uid", "ordinal", "archetype", "powerset", "digest"]  # in the order of the store's schema
    if not task.first_record:
        names.remove("ordinal")
    for batch in parts.read_runs(task.store, manifest, _partitions(manifest, task.partitions), names):
        columns = {name: batch.column(name).to_pylist() for name in names}
        ordinals = columns.get("ordinal") or itertools.repeat(0)
        places = zip(columns["uid"], columns["archetype"], columns["powerset"], strict=True)
        for place, digest, ordinal in zip(places, columns["digest"], ordinals, strict=False):
            if ordinal >= task.first_record:
                yield place, digest


def _partitions(manifest: Manifest, wanted: tuple[tuple[str, str], ...]) -> list[Partition]:
    pairs = set(wanted)
    return [p for p in manifest.partitions if (p.archetype, p.powerset) in pairs]


def stage(task: StageTask) -> dict[str, int]:
    """Transform the touched powers of some powersets and COPY their rows into the staged tables, in one transaction.

    Returns the rows per table.
    """
    manifest = manifests.of_split(task.store, task.split_id)
    wanted = _partitions(manifest, task.partitions)
    rows = dict.fromkeys(task.tables, 0)
    with db.connect(os.environ[config.DSN_VARIABLE], name="etl update: stage", autocommit=False) as connection:
        context = _context(connection, task)
        touched = (leaf.known(batch, context) for batch in parts.read_runs(task.store, manifest, wanted))
        for batch in leaf.coalesce((batch for batch in touched if batch.num_rows), task.batch_rows, task.batch_bytes):
            built, rejects = tables.build(manifest.format, batch, context, task.tables)
            for name in task.tables:
                relation = db.identifier(task.schema, f"staged_{name}")
                rows[name] += bulkload.copy(connection, relation, tables.spec(name).columns, [built[name]])[0]
            _set_aside(connection, task, split_rejects.placed(rejects, batch, task.store, manifest))
        connection.commit()
    return rows


def _context(connection: db.Connection, task: StageTask) -> LeafContext:
    """Return the ids that the task's records need; those of powers are the touched ones'."""
    schema = db.identifier(task.schema)
    names = [powerset for _, powerset in task.partitions]
    with connection.pipeline():
        found = connection.execute(db.query("powerset_ids"), {"uids": names})
        known = connection.execute(db.query("archetype_ids"))
    sets: dict[str, int] = dict(found.fetchall())
    archetypes: dict[str, int] = dict(known.fetchall())
    numbers = {"powersets": list(sets.values())}
    powers: dict[str, int] = dict(connection.execute(db.query("touched_ids", schema=schema), numbers).fetchall())

    def resolve(wanted: list[str]) -> dict[str, int]:
        return dict(connection.execute(db.query("resolve_after_update", schema=schema), {"uids": wanted}).fetchall())

    return LeafContext(
        archetype_ids=archetypes,
        powerset_ids=sets,
        power_ids=powers,
        power_order=task.power_order,
        resolve=resolve,
    )


def _set_aside(connection: db.Connection, task: StageTask, rejects: list[Reject]) -> None:
    for reject in rejects:
        values = leaf.reject_values(reject)
        statement = db.query("stage_reject", schema=db.identifier(task.schema))
        connection.execute(statement, {"build": task.build, "leaf": "update", **values})
