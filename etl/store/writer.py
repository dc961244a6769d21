"""The writer of part files: rows become columns as they come, and are ordered by powerset when they are written."""

import contextlib
import itertools
import struct
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.ipc
import xxhash

from etl import storage
from etl.model import BatchRef
from etl.sources import Format, exactness, turned
from etl.sources.joined import Joined
from etl.sources.records import Home, Rows
from etl.store import columns, packed, places, sums
from etl.store.results import Batch, Share

_BATCH_BYTES = 1024 * 1024
_POWERSET_BYTES = 4 * _BATCH_BYTES
_LOT_BYTES = 4 * _BATCH_BYTES
# What is held of each row beside its columns: the number of its home, the bytes of its text, the hash of its name.
_HOME, _SIZE, _HASH = " home", " size", " hash"
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)


class _Slice(msgspec.Struct, frozen=True):
    """Rows of one partition, neighbours in a flush: where they are at home, the first one, how many, the bytes of their text."""

    home: Home
    first: int
    rows: int
    bytes: int


_Cut = tuple[str, list[_Slice]]


class PartWriter:
    """Takes the rows of one range in file order, and writes them by archetype and powerset.

    Rows become columns as soon as there are some, and are held as such until they take ``budget_bytes``: columns take
    less memory than their Python objects do, so there are fewer and bigger record batches, and each costs something. A
    record batch has at most ``batch_rows`` rows. Files appear when the block ends without an error.
    """

    def __init__(
        self, store: str, split_id: str, number: int, source: int, format: Format, budget_bytes: int, batch_rows: int
    ) -> None:
        self._place, self._number, self._source = (store, split_id), number, source
        self._format = format
        self._build = columns.scalar_builder(format.record, format.names, format.identity[1:])
        self._schema, self._nested_names = columns.schema(format.record), exactness.nested(format.record)
        self._budget, self._batch_rows = budget_bytes, batch_rows
        self._batches: list[pa.RecordBatch] = []
        self._nested: list[Joined] = []
        self._numbers = _numbers()
        self._held = 0
        self._waiting, self._waiting_bytes = Rows(), 0
        self._files = contextlib.ExitStack()
        self._writers: dict[str, _Part] = {}
        self.shares: dict[tuple[str, str], Share] = {}
        self.batches: list[Batch] = []
        self.hashes = array("Q")
        self.sizes = array("I")

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._files:  # which takes the files away where something below fails
            if kind is None:
                self._turn()
                self._flush()
            for part in self._writers.values():
                part.writer.close()
            if error is not None:
                raise error

    @property
    def rows(self) -> int:
        """The number of rows written."""
        return len(self.hashes)

    def add(self, rows: Rows) -> None:
        """Take rows; they are written at once when the budget is reached."""
        self._waiting.extend(rows)
        self._waiting_bytes += sum(rows.sizes)
        if len(self._waiting) >= turned.MANY or self._waiting_bytes >= _LOT_BYTES:
            self._turn()
        if self._held >= self._budget:
            self._flush()

    def _turn(self) -> None:
        """Let the rows that wait become columns."""
        rows, self._waiting, self._waiting_bytes = self._waiting, Rows(), 0
        if not rows:
            return
        count = len(rows)
        # Two names with the same hash only cost a second look.
        hashes = map(xxhash.xxh3_64_intdigest, map(str.encode, rows.uids))
        marks = {
            _HOME: packed.numbers(pa.int32(), struct.pack(f"{count}i", *map(self._numbers.__getitem__, rows.homes))),
            _SIZE: packed.numbers(pa.uint32(), struct.pack(f"{count}I", *rows.sizes)),
            _HASH: packed.numbers(pa.uint64(), struct.pack(f"{count}Q", *hashes)),
        }
        batch = pa.record_batch(self._build(rows) | marks)
        nested = rows.joined(self._nested_names)
        self._batches.append(batch)
        self._nested += nested
        # nbytes would add up what each column refers to, and takes far longer
        self._held += batch.get_total_buffer_size() + sum(len(part.data) + len(part.sizes) for part in nested)

    def _flush(self) -> None:
        """Write all rows that are held."""
        if not self._batches:
            return
        named, members = self._in_order()
        batch = pa.RecordBatch.from_arrays([named[name] for name in self._schema.names], schema=self._schema)
        count = len(batch)
        sizes = array("I", named[_SIZE].buffers()[1][: 4 * count].to_pybytes())
        self.sizes += sizes
        self.hashes.frombytes(named[_HASH].buffers()[1][: 8 * count])
        cuts = list(self._cuts(members, sizes))
        digests = sums.of_runs(
            named["digest"].buffers()[1][: 16 * count].to_pybytes(),
            [piece.rows for _, slices in cuts for piece in slices],
        )
        for archetype, slices in cuts:
            first = slices[0].first
            part, number = self._write(archetype, batch.slice(first, sum(piece.rows for piece in slices)))
            for piece in slices:
                ref = BatchRef(part=part, batch=number, rows=piece.rows, first=piece.first - first)
                self._account(piece, next(digests), ref)

    def _in_order(self) -> tuple[dict[str, pa.Array], list[tuple[Home, int]]]:
        """Let go of what is held; return its columns by name, rows in order, and (home, rows) of each partition."""
        held = self._batches[0] if len(self._batches) == 1 else pa.concat_batches(self._batches)
        homes = list(self._numbers)
        order, members = _by_powerset(held.column(_HOME), homes)
        self._batches, self._held, self._numbers = [], 0, _numbers()
        held = held.take(order)
        named = dict(zip(held.schema.names, held.columns, strict=True))
        for name, column in columns.nested(self._nested, self._nested_names):
            named[name] = column.take(order)
        self._nested = []
        # The fields that tell a home are the same in all of its rows.
        for number, name in enumerate(self._format.identity[1:]):
            column = pa.array([home.given[number] for home in homes], pa.string())
            named[name] = (columns.trimmed(column) if name in self._format.names else column).take(named[_HOME])
        named["uid"] = columns.lowered(named[self._format.identity[0]])
        named["source"] = columns.source_numbers(self._source, len(order))
        named["archetype"] = _repeated([(home.archetype, rows) for home, rows in members])
        named["powerset"] = _repeated([(home.powerset, rows) for home, rows in members])
        return named, members

    def _cuts(self, members: Iterable[tuple[Home, int]], sizes: "array[int]") -> Iterator[_Cut]:
        """Yield (archetype, slices) per record batch, in order; members are (home, rows)."""
        for archetype, group in itertools.groupby(self._slices(members, sizes), key=lambda piece: piece.home.archetype):
            slices: list[_Slice] = []
            held = count = 0
            for piece in group:
                if slices and (held >= _BATCH_BYTES or count + piece.rows > self._batch_rows):
                    yield archetype, slices
                    slices, held, count = [], 0, 0
                slices.append(piece)
                held += piece.bytes
                count += piece.rows
            yield archetype, slices

    def _slices(self, members: Iterable[tuple[Home, int]], sizes: "array[int]") -> Iterator[_Slice]:
        """Yield the pieces that powersets are cut into: one of each, unless it is big."""
        first = 0
        for home, rows in members:
            end = first + rows
            whole = sum(sizes[first:end])
            if whole > _POWERSET_BYTES or rows > self._batch_rows:
                held = 0
                for row in range(first, end):
                    if held and (row - first == self._batch_rows or held + sizes[row] > _POWERSET_BYTES):
                        yield _Slice(home, first, row - first, held)
                        first, held = row, 0
                    held += sizes[row]
                whole = held
            yield _Slice(home, first, end - first, whole)
            first = end

    def _write(self, archetype: str, batch: pa.RecordBatch) -> tuple[str, int]:
        """Write a record batch, and return (part, its number in it)."""
        part = self._writers.get(archetype)
        if part is None:
            name = f"{archetype}-{self._number:04d}.arrow"
            stream = self._files.enter_context(storage.create(places.part(*self._place, name), arrow=True))
            part = self._writers[archetype] = _Part(name, pa.ipc.new_file(stream, self._schema, options=_OPTIONS))
        part.writer.write_batch(batch)
        self.batches.append(Batch(part=part.name, batch=part.batches, rows=batch.num_rows))
        part.batches += 1
        return part.name, part.batches - 1

    def _account(self, piece: _Slice, digest: int, ref: BatchRef) -> None:
        """Add rows of one partition to its share."""
        home = piece.home
        share = self.shares.get((home.archetype, home.powerset))
        if share is None:
            share = self.shares[home.archetype, home.powerset] = Share(
                archetype=home.archetype, powerset=home.powerset, name=home.name, title=home.title
            )
        share.add(piece.bytes, digest, ref)


class _Part(msgspec.Struct):
    name: str
    writer: Any
    batches: int = 0


def _numbers() -> defaultdict[Home, int]:
    """Return what numbers homes as they come."""
    return defaultdict(itertools.count().__next__)


def _by_powerset(numbers: pa.Array, homes: Sequence[Home]) -> tuple[pa.Array, list[tuple[Home, int]]]:
    """Return the order of rows by archetype and powerset, as they came within one, and (first home, rows) of each.

    ``numbers`` are those of the rows' homes. Their ranks are sorted: no Python object is made for a row.
    """
    import pyarrow.compute as pc

    firsts = {(home.archetype, home.powerset): home for home in reversed(homes)}
    ranks = {key: rank for rank, key in enumerate(sorted(firsts))}
    of_homes = array("i", [ranks[home.archetype, home.powerset] for home in homes])
    of_rows = packed.numbers(pa.int32(), of_homes).take(numbers)
    counts = pc.value_counts(of_rows)
    rows = dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))
    return pc.array_sort_indices(of_rows), [(firsts[key], rows[rank]) for key, rank in ranks.items()]


def _repeated(values: Sequence[tuple[str, int]]) -> pa.Array:
    """Return a column that holds each of the texts so many times."""
    import pyarrow.compute as pc

    ends = array("i", itertools.accumulate(times for _, times in values))
    texts = pa.array([text for text, _ in values], pa.string())
    return pc.run_end_decode(pa.RunEndEncodedArray.from_arrays(packed.numbers(pa.int32(), ends), texts))


def batch_of(format: Format, rows: Rows, source: int) -> pa.RecordBatch:
    """Return rows as a record batch, in their order."""
    return columns.builder(format.record, format.names)(rows, source)
