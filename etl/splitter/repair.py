"""A split with some of its rejects mended: a new split, as if the source had held the mended records in their places.

The parts of the old split are taken over as they are; the mended records go into parts of their own, and what they
supersede, or what they replace, is left out by ``drop``.
"""

import datetime
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from etl import storage
from etl.model import BatchRef, Manifest, Part, Partition, Reject, Superseded
from etl.splitter import entities, merge
from etl.splitter.mending import Mending, Place
from etl.splitter.tasks import Repaired, RepairTask
from etl.store import entities as store_entities
from etl.store import manifest as manifests
from etl.store import parts, places
from etl.store import rejects as store_rejects
from etl.store import writer as writing
from etl.store.results import MODULUS, Share

_BUDGET_BYTES = 16 << 20
_COLUMNS = ("uid", "source", "ordinal", "offset", "digest")


def repair(task: RepairTask) -> Repaired:
    """Write the new split, unless it is there already; say what became of the records of the task's file.

    Raises:
        InputError: the file holds something else.
        StoreError: the split is missing or damaged.
    """
    base = manifests.read(task.store, task.split_id)
    found = Mending(task, base)
    found.read()
    if not found.rows:
        return found.result(None)
    split_id = found.identity()
    if not manifests.is_whole(task.store, split_id):
        _Writing(task, base, found, split_id).write()
    return found.result(split_id)


class _Old(msgspec.Struct, frozen=True):
    """A winning row of the old split that a mended record meets: by its name, or because it is mended itself."""

    place: Place
    offset: int
    uid: str
    digest: int
    partition: tuple[str, str]
    ref: int
    row: int


class _Writing(msgspec.Struct):
    """Writes the new split."""

    task: RepairTask
    base: Manifest
    mending: Mending
    split_id: str
    lost: list[Superseded] = msgspec.field(default_factory=list)
    dropped: defaultdict[tuple[tuple[str, str], int], list[_Old]] = msgspec.field(
        default_factory=lambda: defaultdict(list)
    )

    def write(self) -> None:
        """Write the parts, the entities, the rejects that are left, and the manifest."""
        store = self.task.store
        storage.delete(places.split_folder(store, self.split_id))
        storage.make_folder(storage.join(store, self.split_id, "parts"))
        for part in self.base.parts:
            storage.link(
                places.part(store, self.base.split_id, part.name), places.part(store, self.split_id, part.name)
            )
        winners = self._settle(list(self._old_rows()))
        shares, names, ordinals = self._write_parts(winners)
        partitions = self._partitions(shares)
        known = {kind: store_entities.read(store, self.base, kind) for kind in store_entities.KINDS}
        whole = self._manifest(partitions, entities.extend(known, partitions, self.base.format), names, ordinals)
        left = (r for r in store_rejects.read(store, self.base) if self._place(r) not in self.mending.rows)
        store_rejects.write(store, self.split_id, left)
        source = storage.join(store, self.base.split_id, places.FILES)
        if storage.exists(source):
            storage.link(source, storage.join(store, self.split_id, places.FILES))
        merge.check(whole)
        manifests.write(store, whole, latest=manifests.latest(store) == self.base.split_id)

    def _place(self, reject: Reject) -> Place:
        paths = [info.path for info in self.base.sources]
        return paths.index(reject.source), reject.ordinal

    def _old_rows(self) -> Iterator[_Old]:
        """Yield the winning rows that have the name or the place of a mended record."""
        mended = self.mending.rows
        uids = {rows.uids[index] for rows, index in mended.values()}
        uids |= {uid for place in mended if (uid := self.mending.open[place].uid)}
        wanted = pa.array(sorted(uids), pa.string())
        reader = parts.Reader(self.task.store, self.base.split_id, _COLUMNS)
        for partition in self.base.partitions:
            for number, ref in enumerate(partition.batches):
                batch = reader.batch(ref.part, ref.batch).slice(ref.first, ref.rows)
                first = self.base.range_ordinals.get(parts.range_of(ref.part), 0)
                for row in pc.indices_nonzero(pc.is_in(batch.column("uid"), value_set=wanted)).to_pylist():
                    if row not in ref.drop:
                        values = {name: batch.column(name)[row].as_py() for name in _COLUMNS}
                        yield _Old(
                            place=(values["source"], values["ordinal"] + first),
                            offset=values["offset"],
                            uid=values["uid"],
                            digest=int.from_bytes(values["digest"]),
                            partition=(partition.archetype, partition.powerset),
                            ref=number,
                            row=row,
                        )

    def _settle(self, met: Sequence[_Old]) -> list[Place]:
        """Return the mended records that win their names; note what is superseded and what is left out."""
        mended = self.mending.rows
        by_uid: defaultdict[str, list[Place]] = defaultdict(list)
        for place, (rows, index) in mended.items():
            by_uid[rows.uids[index]].append(place)
        old = {}
        for one in met:
            if one.place in mended:
                self.dropped[one.partition, one.ref].append(one)
            elif one.uid in by_uid:
                old[one.uid] = one
                by_uid[one.uid].append(one.place)
        winners = []
        for uid, found in by_uid.items():
            *losers, winner = sorted(found)
            self.lost += [self._superseded(uid, place, winner, old) for place in losers]
            if winner in mended:
                winners.append(winner)
                if uid in old:
                    self.dropped[old[uid].partition, old[uid].ref].append(old[uid])
        return sorted(winners)

    def _superseded(self, uid: str, place: Place, by: Place, old: dict[str, _Old]) -> Superseded:
        (offset, file), (by_offset, by_file) = self._where(place, uid, old), self._where(by, uid, old)
        return Superseded(
            uid=uid,
            source=place[0],
            ordinal=place[1],
            offset=offset,
            file=file,
            by_source=by[0],
            by_ordinal=by[1],
            by_offset=by_offset,
            by_file=by_file,
        )

    def _where(self, place: Place, uid: str, old: dict[str, _Old]) -> tuple[int, str | None]:
        if place in self.mending.rows:
            return self.mending.open[place].offset, self.mending.open[place].file
        return old[uid].offset, store_rejects.file_of(self.task.store, self.base, place)

    def _write_parts(self, winners: list[Place]) -> tuple[list[Share], list[str], dict[str, int]]:
        """Write the winners; return what they add to the partitions, the parts, and the ordinals of their ranges."""
        shares: list[Share] = []
        names: list[str] = []
        ordinals: dict[str, int] = {}
        number = max(map(int, self.base.range_ordinals), default=-1)
        for source in sorted({place[0] for place in winners}):
            number += 1
            ordinals[f"{number:04d}"] = 0
            writer = writing.PartWriter(
                self.task.store, self.split_id, number, source, self.mending.form, _BUDGET_BYTES, 10_000
            )
            with writer:
                for place in winners:
                    if place[0] == source:
                        rows, index = self.mending.rows[place]
                        writer.add(rows.only([index]))
            shares += writer.shares.values()
            names += sorted({batch.part for batch in writer.batches})
        return shares, names, ordinals

    def _partitions(self, shares: list[Share]) -> list[Partition]:
        """Return the partitions with what is left out and what came."""
        found = {(p.archetype, p.powerset): self._without(p) for p in self.base.partitions}
        for share in shares:
            key = (share.archetype, share.powerset)
            found[key] = _with(found.get(key), share)
        return [partition for _, partition in sorted(found.items()) if partition.rows]

    def _without(self, partition: Partition) -> Partition:
        """Return a partition less the rows that are left out; their bytes are told from the average."""
        batches, gone = list(partition.batches), list[_Old]()
        for number, ref in enumerate(partition.batches):
            rows = self.dropped.get(((partition.archetype, partition.powerset), number), [])
            if rows:
                batches[number] = replace(ref, drop=tuple(sorted({*ref.drop, *(one.row for one in rows)})))
                gone += rows
        if not gone:
            return partition
        digest = (int(partition.digest, 16) - sum(one.digest for one in gone)) % MODULUS
        return replace(
            partition,
            batches=tuple(batches),
            rows=partition.rows - len(gone),
            bytes=partition.bytes - len(gone) * partition.bytes // partition.rows,
            digest=f"{digest:032x}",
        )

    def _manifest(
        self,
        partitions: list[Partition],
        known: dict[str, list[dict[str, Any]]],
        names: list[str],
        ordinals: dict[str, int],
    ) -> Manifest:
        store, base = self.task.store, self.base
        digest = hashlib.sha256()
        for kind in store_entities.KINDS:
            digest.update(store_entities.write(store, self.split_id, kind, known[kind]))
        titles = {entity["uid"]: entity["display_name"] for entity in known["powersets"]}
        places_of = {name: places.part(store, self.split_id, name) for name in names}
        mended = [self.mending.open[place] for place in self.mending.rows]
        codes = Counter(base.reject_codes)
        codes.subtract(reject.code for reject in mended if reject.stage == "split")
        return replace(
            base,
            split_id=self.split_id,
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            rows=sum(partition.rows for partition in partitions),
            superseded=base.superseded + len(self.lost),
            rejects=codes.total(),
            partitions=tuple(replace(p, display_name=titles[p.powerset]) for p in partitions),
            superseded_places=(*base.superseded_places, *self.lost),
            reject_codes={code: count for code, count in codes.items() if count},
            notes=(*base.notes, f"{len(mended):,} rejects of split {base.split_id} were mended and replayed"),
            counts=dict(Counter(base.counts) + self.mending.counts),
            entities_digest=digest.hexdigest(),
            parts=(
                *base.parts,
                *(Part(name=n, bytes=storage.size(at), xxh3=storage.xxh3(at)) for n, at in places_of.items()),
            ),
            range_ordinals={**base.range_ordinals, **ordinals},
        )


def _with(partition: Partition | None, share: Share) -> Partition:
    """Return a partition, or none yet, with rows that came."""
    batches: tuple[BatchRef, ...] = tuple(share.batches)
    if partition is None:
        return Partition(
            archetype=share.archetype,
            powerset=share.powerset,
            name=share.name,
            display_name=share.title or "",
            rows=share.rows,
            bytes=share.bytes,
            digest=f"{int(share.digest, 16):032x}",
            batches=batches,
        )
    return replace(
        partition,
        rows=partition.rows + share.rows,
        bytes=partition.bytes + share.bytes,
        digest=f"{(int(partition.digest, 16) + int(share.digest, 16)) % MODULUS:032x}",
        batches=(*partition.batches, *batches),
    )
