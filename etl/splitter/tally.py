"""The end of a validation: what the ranges left, summed up."""

import bisect
import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from etl import storage
from etl.model import Reject
from etl.splitter import entities
from etl.splitter.merge import first_ordinals, range_result
from etl.splitter.tasks import Tally, TallyTask
from etl.splitter.trial import Refused
from etl.store import places
from etl.store.results import RangeResult

_REJECT = msgspec.json.Decoder(Reject)
_REFUSED = msgspec.json.Decoder(Refused)


def tally(task: TallyTask) -> Tally:
    """Return the sums and the first examples; write all rejects to the task's file.

    Raises:
        InputError: a file of archetypes or powersets cannot be read.
    """
    merge = task.merge
    ranges = [range_result(merge, number) for number in range(merge.ranges)]
    entities.build(merge, ranges, [])
    names = _Names(merge.store, merge.split_id, ranges)
    codes, stages, shown, counts = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    examples: list[Reject] = []
    with contextlib.ExitStack() as opened:
        out = opened.enter_context(storage.create(task.rejects_file)) if task.rejects_file else None
        for reject in _rejects(task, ranges, names):
            codes[reject.code] += 1
            stages[reject.stage] += 1
            if shown[reject.code] < task.examples:
                shown[reject.code] += 1
                examples.append(reject)
            if out is not None:
                out.write(msgspec.json.encode(reject) + b"\n")
    for result in ranges:
        counts.update(result.counts)
    return Tally(
        format=ranges[0].format,
        records=sum(result.records for result in ranges),
        superseded=names.superseded,
        codes=dict(codes.most_common()),
        stages=dict(stages),
        examples=tuple(examples),
        counts={name: count for name, count in counts.items() if count},
        bytes=sum(result.bytes for result in ranges),
    )


class _Names:
    """The hashes of all names that the splitter let through, in file order."""

    def __init__(self, store: str, split_id: str, ranges: Sequence[RangeResult]) -> None:
        chunks = []
        for result in ranges:
            data = storage.read_bytes(places.in_range(store, split_id, result.number, "uids"))
            chunks.append(pa.Array.from_buffers(pa.uint64(), result.rows, [None, pa.py_buffer(data)]))
        self._hashes = pa.chunked_array(chunks, pa.uint64())
        self.starts = [0, *itertools.accumulate(result.rows for result in ranges)]
        self.superseded = len(self._hashes) - pc.count_distinct(self._hashes).as_py()

    def winners(self, rows: Sequence[int]) -> set[int]:
        """Return those of some rows whose name does not come again."""
        if not rows:
            return set()
        wanted = pc.unique(self._hashes.take(pa.array(rows)))
        places_of_all = pc.indices_nonzero(pc.is_in(self._hashes, value_set=wanted))
        last = dict(zip(self._hashes.take(places_of_all).to_pylist(), places_of_all.to_pylist(), strict=True))
        return set(last.values()).intersection(rows)


def _rejects(task: TallyTask, ranges: Sequence[RangeResult], names: _Names) -> Iterator[Reject]:
    """Yield what a load would reject in file order, with ordinals in their source."""
    merge = task.merge
    for result, start, first in zip(ranges, names.starts, first_ordinals(ranges), strict=False):
        refused = [
            _REFUSED.decode(line)
            for line in _lines(places.in_range(merge.store, merge.split_id, result.number, "refused"))
        ]
        winners = names.winners([start + one.row for one in refused])
        kept = [one.reject for one in refused if start + one.row in winners]
        kept.sort(key=lambda reject: reject.ordinal)
        for line in _lines(places.in_range(merge.store, merge.split_id, result.number, "rejects")):
            reject = _REJECT.decode(line)
            upto = bisect.bisect_left(kept, reject.ordinal, key=lambda one: one.ordinal)
            yield from (replace(one, ordinal=one.ordinal + first) for one in kept[:upto])
            del kept[:upto]
            yield replace(reject, ordinal=reject.ordinal + first)
        yield from (replace(one, ordinal=one.ordinal + first) for one in kept)


def _lines(place: str) -> Iterator[bytes]:
    """Yield the lines of a file one by one; none where there is no file."""
    if storage.exists(place):
        with storage.local_path(place).open("rb") as stream:
            yield from stream
