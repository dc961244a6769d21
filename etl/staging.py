"""The workers' part of an update: what differs, and the rows of what differs."""

import itertools
import os
from collections.abc import Iterator

import pyarrow as pa

from etl import config, encoding, tables
from etl.batches import coalesce, named
from etl.model import LeafContext, Manifest, Partition, Reject
from etl.plan import Difference, DiffTask, NamesTask, Staged, StageTask
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
    if task.loaded is None:
        from etl import db, loaded

        with db.connect(os.environ[config.DSN_VARIABLE], name="etl update: compare") as connection:
            before = loaded.digests(connection, task.schema, task.partitions)
    else:
        before = dict(task.loaded)
    changed, new, renewed = [], [], []
    same = 0
    for name, digest in _records(task, manifest):
        was = before.pop(name[0], None)
        if was is None:
            new.append(name)
        elif was != (digest, *name[1:]):
            changed.append(name)
        elif task.everything:
            renewed.append(name)
        else:
            same += 1
    gone = () if task.first_record else tuple((uid, *before[uid][1:]) for uid in sorted(before))
    return Difference(changed=tuple(changed), new=tuple(new), gone=gone, renewed=tuple(renewed), same=same)


def lost_names(task: NamesTask) -> tuple[str, ...]:
    """Return those of the task's names that no winning record of the split has.

    Raises:
        StoreError: a part is missing or damaged.
    """
    import pyarrow.compute as pc  # slow to import, and a comparison does without

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


def stage(task: StageTask) -> Staged:
    """Make the rows of the task's powers; they are put down by who asked, in one transaction with all else.

    Nothing is asked of the server, because its driver is slow to import: the ids of powers that others require are left
    out (``etl.staged.resolve``).

    Raises:
        StoreError: a part is missing or damaged.
    """
    manifest = manifests.of_split(task.store, task.split_id)
    found = parts.read_runs(task.store, manifest, _partitions(manifest, task.partitions))
    touched = (batch for batch in (named(batch, task.power_ids) for batch in found) if batch.num_rows)
    context = LeafContext(
        archetype_ids=task.archetype_ids,
        powerset_ids=task.powerset_ids,
        power_ids=task.power_ids,
        power_order=task.power_order,
        resolve=lambda _: {},
    )
    copies: list[tuple[str, int, bytes]] = []
    rejects: list[Reject] = []
    for batch in coalesce(touched, task.batch_rows, task.batch_bytes):
        built, refused = tables.build(manifest.format, batch, context, task.tables)
        for name, rows in built.items():
            copies.append((name, rows.num_rows, encoding.encode(rows, tables.spec(name).columns)))
        rejects += split_rejects.placed(refused, batch, task.store, manifest)
    return Staged(copies=tuple(copies), rejects=tuple(rejects))
