"""Names that came more than once: the last one in file order wins, the others are superseded.

Hashes of all names (8 bytes each) are compared first; only rows whose hash came twice are read back.
"""

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from etl import storage
from etl.model import Superseded
from etl.store import parts, places
from etl.store.results import RangeResult

_TOP_BITS = 4
_COLUMNS = ("uid", "ordinal", "offset", "archetype", "powerset", "digest")


class Place(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A row whose name may have come twice. The order is the file order; ``row`` counts in its record batch."""

    source: int
    ordinal: int
    offset: int
    file: str | None
    part: str
    batch: int
    row: int
    uid: str
    archetype: str
    powerset: str
    digest: int
    size: int


def find(store: str, split_id: str, ranges: Sequence[RangeResult], first: Sequence[int]) -> Iterator[list[Place]]:
    """Yield the places of each name that came more than once, in file order; the last one is the winner.

    ``first`` are the ordinals of the ranges' first records. Memory grows with the number of such places.
    """
    hashes, sizes = _read(store, split_id, ranges)
    twice = _twice(hashes)
    if not len(twice):
        return
    rows = pc.indices_nonzero(pc.is_in(hashes, value_set=twice)).to_pylist()
    found = defaultdict(list)
    for place in _places(store, split_id, ranges, first, rows, sizes):
        found[place.uid].append(place)
    for uid in sorted(found):
        if len(found[uid]) > 1:
            yield sorted(found[uid], key=lambda place: (place.source, place.ordinal))


def superseded(places: list[Place]) -> Iterator[Superseded]:
    """Yield what is to be said of the places of one name."""
    winner = places[-1]
    for place in places[:-1]:
        yield Superseded(
            uid=place.uid,
            source=place.source,
            ordinal=place.ordinal,
            offset=place.offset,
            file=place.file,
            by_source=winner.source,
            by_ordinal=winner.ordinal,
            by_offset=winner.offset,
            by_file=winner.file,
        )


def _read(store: str, split_id: str, ranges: Sequence[RangeResult]) -> tuple[pa.ChunkedArray, list[memoryview]]:
    """Return the hashes of all rows in the order of the ranges' batches, and the sizes of each range's rows."""
    chunks, sizes = [], []
    for result in ranges:
        data = storage.read_bytes(places.in_range(store, split_id, result.number, "uids"))
        buffer = pa.py_buffer(data)
        chunks.append(pa.Array.from_buffers(pa.uint64(), result.rows, [None, buffer]))
        sizes.append(memoryview(data)[8 * result.rows :].cast("I"))
    return pa.chunked_array(chunks, pa.uint64()), sizes


def _twice(hashes: pa.ChunkedArray) -> pa.Array:
    """Return those hashes that came more than once.

    Each sixteenth of them by itself: its table is a sixteenth as big, and where it has as many entries as there are hashes
    nothing needs to be counted.
    """
    whole = pa.concat_arrays(hashes.chunks)
    top = pc.shift_right(whole, pa.scalar(64 - _TOP_BITS, pa.uint64()))
    found = [pa.array([], pa.uint64())]
    for number in range(1 << _TOP_BITS):
        some = whole.filter(pc.equal(top, pa.scalar(number, pa.uint64())))
        if len(pc.unique(some)) < len(some):
            counted = pc.value_counts(some)
            found.append(counted.field("values").filter(pc.greater(counted.field("counts"), 1)))
    return pa.concat_arrays(found)


def _places(
    store: str,
    split_id: str,
    ranges: Sequence[RangeResult],
    first: Sequence[int],
    rows: list[int],
    sizes: list[memoryview],
) -> Iterator[Place]:
    """Yield the place of each of the rows, given by ascending number over all ranges."""
    reader = parts.Reader(store, split_id, _COLUMNS)
    starts = [0, *itertools.accumulate(result.rows for result in ranges)]
    for number, wanted in itertools.groupby(rows, key=lambda row: bisect.bisect_right(starts, row) - 1):
        result = ranges[number]
        names = [start for start, _ in result.files]
        begins = [0, *itertools.accumulate(batch.rows for batch in result.batches)]
        local = (row - starts[number] for row in wanted)
        for position, members in itertools.groupby(local, key=lambda row: bisect.bisect_right(begins, row) - 1):
            ref = result.batches[position]
            batch = reader.batch(ref.part, ref.batch)
            for row in members:
                values = {name: batch.column(name)[row - begins[position]].as_py() for name in _COLUMNS}
                file = result.files[bisect.bisect_right(names, values["ordinal"]) - 1][1] if names else None
                yield Place(
                    source=result.source,
                    ordinal=values["ordinal"] + first[number],
                    offset=values["offset"],
                    file=file,
                    part=ref.part,
                    batch=ref.batch,
                    row=row - begins[position],
                    uid=values["uid"],
                    archetype=values["archetype"],
                    powerset=values["powerset"],
                    digest=int.from_bytes(values["digest"]),
                    size=sizes[number][row],
                )
