"""The end of a split: what the ranges left becomes one manifest, its entities and its rejects."""

import bisect
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import msgspec

from etl import limits, storage
from etl.errors import MismatchError
from etl.model import BatchRef, Manifest, Part, Partition, Reject, Superseded
from etl.splitter import duplicates, entities
from etl.splitter.tasks import MergeTask
from etl.store import entities as store_entities
from etl.store import files as store_files
from etl.store import manifest, places, results
from etl.store.results import MODULUS, RangeResult, Share


def merge(task: MergeTask) -> str:
    """Write entities, rejects and manifest; return the split id.

    Raises:
        MismatchError: the counts do not add up.
    """
    ranges = [range_result(task, number) for number in range(task.ranges)]
    first = first_ordinals(ranges)
    totals = _Totals(ranges)
    lost: list[Superseded] = []
    for group in duplicates.find(task.store, task.split_id, ranges, first):
        lost += duplicates.superseded(group)
        for place in group[:-1]:
            totals.drop(place)
    known = entities.build(task, ranges, totals.sets())
    digest = hashlib.sha256()
    for kind, found in known.items():
        digest.update(store_entities.write(task.store, task.split_id, kind, found))
    totals.entitle({entity["uid"]: entity["display_name"] for entity in known["powersets"]})
    rejected = _write_rejects(task, ranges, first)
    lines = [(r.source, start + n, name) for r, start in zip(ranges, first, strict=True) for n, name in r.files]
    store_files.write(task.store, task.split_id, lines)
    whole = _manifest(task, ranges, first, totals.partitions(), lost, digest.hexdigest())
    if whole.rejects != rejected:
        raise MismatchError(f"{whole.rejects} rejects were counted, {rejected} written")
    check(whole)
    limits.check_all(task.max_rejects, whole.rejects, whole.records)
    manifest.write(task.store, whole)
    storage.delete(storage.join(task.store, task.split_id, "ranges"))
    for folder in (places.split_folder(task.store, task.split_id), places.part(task.store, task.split_id, "")):
        storage.delete_partial(folder)
    return task.split_id


def _parts(task: MergeTask, ranges: Sequence[RangeResult]) -> tuple[Part, ...]:
    """Return the parts that the ranges wrote, with the digests of their content."""
    names = sorted({batch.part for result in ranges for batch in result.batches})
    where = {name: places.part(task.store, task.split_id, name) for name in names}
    return tuple(Part(name=n, bytes=storage.size(place), xxh3=storage.xxh3(place)) for n, place in where.items())


def check(whole: Manifest) -> None:
    """Raise MismatchError unless the counts of a manifest add up."""
    sums = sum(p.rows for p in whole.partitions), sum(s.records for s in whole.sources)
    if whole.records != whole.rows + whole.superseded + whole.rejects or sums != (whole.rows, whole.records):
        raise MismatchError(
            f"the counts of split {whole.split_id} do not add up: {whole.records} records, {whole.rows} rows "
            f"({sums[0]} in partitions), {whole.superseded} superseded, {whole.rejects} rejects"
        )


def range_result(task: MergeTask, number: int) -> RangeResult:
    """Return what a range left.

    Raises:
        MismatchError: it left nothing.
    """
    result = results.read(task.store, task.split_id, number)
    if result is None:
        raise MismatchError(f"range {number} of split {task.split_id} left no result", "run etl split again")
    return result


def first_ordinals(ranges: Sequence[RangeResult]) -> list[int]:
    """Return the ordinal in its source of each range's first record."""
    first, seen = [], Counter[int]()
    for result in ranges:
        first.append(seen[result.source])
        seen[result.source] += result.records
    return first


class _Totals:
    """The partitions as sums over the ranges, less what is superseded; the ranges' own shares become these sums."""

    def __init__(self, ranges: Sequence[RangeResult]) -> None:
        self._shares: dict[tuple[str, str], Share] = {}
        self._begins: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        self._drops: defaultdict[tuple[str, int, int], list[int]] = defaultdict(list)
        for result in ranges:
            for share in result.shares:
                self._add(share)

    def _add(self, share: Share) -> None:
        key = (share.archetype, share.powerset)
        total = self._shares.get(key)
        if total is None:
            self._shares[key] = share
            return
        total.rows += share.rows
        total.bytes += share.bytes
        total.digest = f"{(int(total.digest, 16) + int(share.digest, 16)) % MODULUS:x}"
        total.title = total.title or share.title
        total.batches += share.batches

    def drop(self, place: duplicates.Place) -> None:
        """Take a superseded row out of the sums."""
        total = self._shares[place.archetype, place.powerset]
        total.rows -= 1
        total.bytes -= place.size
        total.digest = f"{(int(total.digest, 16) - place.digest) % MODULUS:x}"
        if not self._begins:
            for ref in (ref for share in self._shares.values() for ref in share.batches):
                bisect.insort(self._begins[ref.part, ref.batch], ref.first)
        begins = self._begins[place.part, place.batch]
        first = begins[bisect.bisect(begins, place.row) - 1]
        self._drops[place.part, place.batch, first].append(place.row - first)

    def entitle(self, titles: Mapping[str, str]) -> None:
        """Give each powerset its title."""
        for total in self._shares.values():
            total.title = titles.get(total.powerset)

    def sets(self) -> list[entities.Set]:
        """Return the powersets that have rows, by archetype and powerset."""
        return [
            entities.Set(archetype=key[0], powerset=key[1], name=total.name, display_name=total.title or "")
            for key, total in sorted(self._shares.items())
            if total.rows
        ]

    def partitions(self) -> list[Partition]:
        """Return the partitions that have rows, by archetype and powerset."""
        refs = self._ref if self._drops else lambda ref: ref
        return [
            Partition(
                archetype=key[0],
                powerset=key[1],
                name=total.name,
                display_name=total.title or "",
                rows=total.rows,
                bytes=total.bytes,
                digest=f"{int(total.digest, 16):032x}",
                batches=tuple(map(refs, total.batches)),
            )
            for key, total in sorted(self._shares.items())
            if total.rows
        ]

    def _ref(self, ref: BatchRef) -> BatchRef:
        drop = self._drops.get((ref.part, ref.batch, ref.first))
        return replace(ref, drop=tuple(sorted(drop))) if drop else ref


def _write_rejects(task: MergeTask, ranges: Sequence[RangeResult], first: Sequence[int]) -> int:
    """Write the rejects of all ranges one after another, with ordinals in their source; return how many there are."""
    decoder, encoder = msgspec.json.Decoder(Reject), msgspec.json.Encoder()
    written = 0
    with storage.create(storage.join(task.store, task.split_id, places.REJECTS)) as stream:
        for result, start in zip(ranges, first, strict=True):
            if not result.rejects:
                continue
            lines = storage.read_bytes(places.in_range(task.store, task.split_id, result.number, "rejects"))
            for line in lines.splitlines():
                reject = decoder.decode(line)
                stream.write(encoder.encode(replace(reject, ordinal=reject.ordinal + start)) + b"\n")
                written += 1
    return written


def _manifest(
    task: MergeTask,
    ranges: Sequence[RangeResult],
    first: Sequence[int],
    partitions: Iterable[Partition],
    lost: list[Superseded],
    digest: str,
) -> Manifest:
    records, counts, codes = Counter[int](), Counter[str](), Counter[str]()
    for result in ranges:
        records[result.source] += result.records
        counts.update(result.counts)
        codes.update(result.reject_codes)
    partitions = tuple(partitions)
    return Manifest(
        split_id=task.split_id,
        store_version=places.VERSION,
        format=ranges[0].format,
        game_version=task.game_version,
        created_at=task.created_at,
        sources=tuple(replace(source, records=records[number]) for number, source in enumerate(task.sources)),
        records=records.total(),
        rows=sum(partition.rows for partition in partitions),
        superseded=len(lost),
        rejects=codes.total(),
        partitions=partitions,
        superseded_places=tuple(lost),
        reject_codes=dict(codes),
        notes=task.notes,
        counts=dict(counts),
        entities_digest=digest,
        parts=_parts(task, ranges),
        range_ordinals={f"{result.number:04d}": start for result, start in zip(ranges, first, strict=True)},
    )
