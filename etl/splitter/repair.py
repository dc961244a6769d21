"""A split with some of its rejects mended: a new split, as if the source had held the mended records in their places.

The parts of the old split are taken over as they are; the mended records go into parts of their own, and what they
supersede, or what they replace, is left out by ``drop``.
"""

import datetime
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from etl import storage, tables
from etl.model import BatchRef, Manifest, Part, Partition, Reject, Superseded
from etl.sources import FORMATS, Format, cutting
from etl.sources.cutting import Lot
from etl.sources.records import Checker, Rows
from etl.splitter import entities, merge
from etl.splitter.tasks import Repaired, RepairTask
from etl.splitter.trial import context_of
from etl.store import entities as store_entities
from etl.store import manifest as manifests
from etl.store import parts, places
from etl.store import rejects as store_rejects
from etl.store.results import MODULUS, Share

_LOT_BYTES = 8 << 20
_BUDGET_BYTES = 16 << 20
_COLUMNS = ("uid", "source", "ordinal", "offset", "digest")

# Bytes that are no UTF-8 stand so in a reject's text; JSON knows no such escape.
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
_CUT = "bad_json", 'the text is not all there, only its first 64 KiB: give the whole record as "record"'

Place = tuple[int, int]
"""Number of the source and ordinal in it: the order of places is the order of records."""


class Line(msgspec.Struct):
    """A line of the file that ``etl rejects export`` writes, as far as a replay reads it."""

    source: str
    ordinal: int
    record: msgspec.Raw = msgspec.Raw()
    raw: str | None = None
    cut: bool = False

    @property
    def text(self) -> bytes:
        """The record's text."""
        return bytes(self.record) or (self.raw or "").encode(errors="surrogatepass")


def repair(task: RepairTask) -> Repaired:
    """Write the new split, unless it is there already; say what became of the records of the task's file.

    Raises:
        InputError: the file holds something else.
        StoreError: the split is missing or damaged.
    """
    base = manifests.read(task.store, task.split_id)
    found = _Mending(task, base)
    found.read()
    if not found.rows:
        return found.result(None)
    split_id = found.identity()
    if not manifests.is_whole(task.store, split_id):
        _Writing(task, base, found, split_id).write()
    return found.result(split_id)


@dataclass(slots=True)
class _Mending:
    """What the file's records came to: those that can be loaded by now, and the others."""

    task: RepairTask
    base: Manifest
    rows: dict[Place, tuple[Rows, int]] = field(
        default_factory=dict
    )  # one-row columns each would be many: (rows, index)
    counts: Counter[str] = field(default_factory=Counter)
    refused: list[Reject] = field(default_factory=list)
    settled: int = 0
    open: dict[Place, Reject] = field(default_factory=dict)

    @property
    def form(self) -> Format:
        """The format of the split."""
        return FORMATS[self.base.format]

    def read(self) -> None:
        """Check all records of the file, some megabytes at a time."""
        numbers = {info.path: number for number, info in enumerate(self.base.sources)}
        for reject in [*store_rejects.read(self.task.store, self.base), *self.task.of_load]:
            self.open[numbers[reject.source], reject.ordinal] = replace(reject, raw="")
        held: dict[Place, Line] = {}
        size = 0
        for line in store_rejects.read_lines(self.task.edited, Line):
            place = (numbers.get(line.source, -1), line.ordinal)
            if place not in self.open:
                self.settled += 1
                continue
            held[place] = line
            size += len(line.text)
            if size >= _LOT_BYTES:
                self._check(held)
                held, size = {}, 0
        self._check(held)

    def _check(self, held: dict[Place, Line]) -> None:
        """Let the splitter's checks and every transform look at some records."""
        for number in sorted({source for source, _ in held}):
            rows, checker = Rows(), Checker(self.form, self.base.sources[number].path, self.task.strip_nul)
            for place in sorted(place for place in held if place[0] == number):
                rows.extend(self._check_one(checker, place, held[place]))
            bad = self._transform(rows, number) if rows else {}
            for index, ordinal in enumerate(rows.ordinals):
                if ordinal not in bad:
                    self.rows[number, ordinal] = rows, index
            self.refused += [*checker.rejects, *bad.values()]
            self.counts.update(checker.counts)

    def _check_one(self, checker: Checker, place: Place, line: Line) -> Rows:
        reject, text = self.open[place], line.text
        if reject.code == "invalid_utf8" and not line.record:
            text = _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), text)
        checker.file = reject.file
        lot = Lot()
        lot.append(text, reject.offset, _CUT if line.cut and not line.record else _fault(self.form, text))
        return checker.check(lot, place[1], _around(self.task.store, self.base, self.form, text))

    def _transform(self, rows: Rows, number: int) -> dict[int, Reject]:
        """Return what the transforms refuse of some rows, by ordinal."""
        batch = parts.batch_of(self.form, rows, number)
        _, refused = tables.build(self.form.name, batch, context_of(rows), tables.LEAF_TABLES)
        return {r.ordinal: r for r in store_rejects.placed(refused, batch, self.task.store, self.base)}

    def identity(self) -> str:
        """Return the id of the new split: the old one's, and the mended records with their places."""
        digest = hashlib.sha256(self.base.split_id.encode())
        for place in sorted(self.rows):
            rows, index = self.rows[place]
            digest.update(f"\n{place} ".encode() + rows.digests[index])
        return digest.hexdigest()[:16]

    def result(self, split_id: str | None) -> Repaired:
        """Return what is to be reported."""
        return Repaired(
            split_id=split_id,
            repaired=len(self.rows),
            settled=self.settled,
            refused=tuple(self.refused[: self.task.examples]),
            refused_codes=dict(Counter(reject.code for reject in self.refused)),
        )


def _fault(form: Format, text: bytes) -> tuple[str, str] | None:
    """Return what is wrong with a text as a record, before anything is known of its members."""
    fault = cutting.fault_of(text)
    if fault is None and form.outer is not None and b'"Powers"' in text:
        fault = "wrong_type", "a powerset cannot be replayed as a whole: mend the source, then etl update"
    return fault


def _around(store: str, base: Manifest, form: Format, text: bytes) -> dict[str, Any] | None:
    """Return the fields that a record has from the object round it, as another record of its powerset has them."""
    if form.outer is None or _fault(form, text):
        return None
    try:
        name = msgspec.json.decode(text, type=form.record).FullName.lower().rpartition(".")[0]  # type: ignore[attr-defined]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    wanted = [partition for partition in base.partitions if partition.powerset == name]
    for batch in parts.read_runs(store, base, wanted, ["ATClass", "SetType"]):
        return {column: batch.column(column)[0].as_py() for column in ("ATClass", "SetType")}
    return None


@dataclass(frozen=True, slots=True)
class _Old:
    """A winning row of the old split that a mended record meets: by its name, or because it is mended itself."""

    place: Place
    offset: int
    uid: str
    digest: int
    partition: tuple[str, str]
    ref: int
    row: int


@dataclass(slots=True)
class _Writing:
    """Writes the new split."""

    task: RepairTask
    base: Manifest
    mending: _Mending
    split_id: str
    lost: list[Superseded] = field(default_factory=list)
    dropped: defaultdict[tuple[tuple[str, str], int], list[_Old]] = field(default_factory=lambda: defaultdict(list))

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
            writer = parts.PartWriter(
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
                *(Part(name=n, bytes=storage.size(at), sha256=storage.sha256(at)) for n, at in places_of.items()),
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
