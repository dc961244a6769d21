"""Rows become an Arrow record batch; the schema follows the format's record type.

Nested values stay JSON text, and all columns of them share one buffer of texts and one of offsets. Numbers are packed by
`struct` unless there is a null among them. That takes 0.7 and 0.5 of the time of ``b"".join`` and `itertools.accumulate`
for each column, and of `pa.array`, which would take five times the former; tests/store/test_columns.py has them agree.
"""

import itertools
import operator
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from etl.sources import exactness
from etl.sources.records import Rows

COMMON = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("source", pa.int32(), nullable=False),
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("archetype", pa.string(), nullable=False),
        pa.field("powerset", pa.string(), nullable=False),
        pa.field("digest", pa.binary(16), nullable=False),
    ]
)

SHARED = ("source", "archetype", "powerset")
"""The columns that say the same in row after row."""

_ARROW = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_(), msgspec.Raw: pa.string()}
_PACKED = {float: "d", int: "q"}
_NULL_BYTES = len(b"null")
_OFFSET_BYTES = 4


def schema(record: type[msgspec.Struct]) -> pa.Schema:
    """Return the schema of the batches of a format: the common columns, then one per field of its record."""
    return pa.schema([*COMMON, *(pa.field(name, _ARROW[kind]) for name, kind in _fields(record))])


def builder(record: type[msgspec.Struct], names: Sequence[str]) -> Callable[[Rows, int], pa.RecordBatch]:
    """Return a function (rows, source number) → record batch; ``names`` are fields to be trimmed."""
    own, whole = own_builder(record, names), schema(record)

    def build(rows: Rows, source: int) -> pa.RecordBatch:
        archetypes = pa.array([home.archetype for home in rows.homes], pa.string())
        powersets = pa.array([home.powerset for home in rows.homes], pa.string())
        return complete(own(rows), whole, source, archetypes, powersets)

    return build


def own_builder(record: type[msgspec.Struct], names: Sequence[str]) -> Callable[[Rows], list[pa.Array]]:
    """Return a function rows → columns of the schema, in its order, without ``SHARED``; ``names`` are fields to be trimmed."""
    import pyarrow.compute as pc  # a twentieth of a second, which reading does without

    fields = _fields(record)

    def build(rows: Rows) -> list[pa.Array]:
        columns = [
            pa.array(rows.uids, pa.string()),
            numbers(pa.int64(), struct.pack(f"{len(rows)}q", *rows.ordinals)),
            numbers(pa.int64(), struct.pack(f"{len(rows)}q", *rows.offsets)),
            pa.Array.from_buffers(pa.binary(16), len(rows), [None, pa.py_buffer(b"".join(rows.digests))]),
        ]
        values = list(_turned(rows.records, [name for name, _ in fields]))
        nested = _json([held for (_, kind), held in zip(fields, values, strict=True) if kind is msgspec.Raw])
        for (name, kind), held in zip(fields, values, strict=True):
            if kind is msgspec.Raw:
                columns.append(next(nested))
            elif name in names:
                columns.append(pc.utf8_trim_whitespace(pa.array(held, pa.string())))
            else:
                columns.append(_scalars(kind, held))
        return columns

    return build


def complete(
    own: Sequence[pa.Array], whole: pa.Schema, source: int, archetypes: pa.Array, powersets: pa.Array
) -> pa.RecordBatch:
    """Return a record batch of ``whole``: a builder's own columns, and those of ``SHARED`` among them."""
    shared = {
        "source": numbers(pa.int32(), struct.pack("i", source) * len(archetypes)),
        "archetype": archetypes,
        "powerset": powersets,
    }
    rest = iter(own)
    return pa.RecordBatch.from_arrays(
        [shared[name] if name in shared else next(rest) for name in whole.names], schema=whole
    )


def record_text(record: type[msgspec.Struct], batch: pa.RecordBatch, row: int) -> bytes:
    """Return a row of a batch as the JSON text of the record: the fields that the store has, named as in the source."""
    members = []
    for field in msgspec.structs.fields(record):
        value = batch.column(field.name)[row].as_py()
        if value is not None:
            text = value.encode() if exactness.basic(field.type) is msgspec.Raw else msgspec.json.encode(value)
            members.append(msgspec.json.encode(field.encode_name) + b":" + text)
    return b"{" + b",".join(members) + b"}"


def _fields(record: type[msgspec.Struct]) -> list[tuple[str, type]]:
    """Return (name, basic type) of each field."""
    return [(field.name, exactness.basic(field.type)) for field in msgspec.structs.fields(record)]


def numbers(kind: pa.DataType, values: "bytes | array[int]") -> pa.Array:
    """Return numbers that lie in a row as a column, without a copy; ``kind`` has their width."""
    buffer = pa.py_buffer(values)
    return pa.Array.from_buffers(kind, buffer.size * 8 // kind.bit_width, [None, buffer], 0)


def _turned(records: Sequence[Any], names: Sequence[str]) -> Iterator[Sequence[Any]]:
    """Yield the values of each field of the records.

    By all their values at once: four times as fast as fetching each field of each record by its name. Records need not
    be of one type, since one that was mended was decoded by itself.
    """
    if len(set(map(type, records))) == 1:
        columns = zip(*map(msgspec.structs.astuple, records), strict=True)
        values = dict(zip(records[0].__struct_fields__, columns, strict=True))
        return (values[name] for name in names)
    return (list(map(operator.attrgetter(name), records)) for name in names)


def _scalars(kind: type, values: Sequence[Any]) -> pa.Array:
    """Return a column of words or numbers, None is null."""
    code = _PACKED.get(kind)
    if code is not None:
        try:
            return numbers(_ARROW[kind], struct.pack(f"{len(values)}{code}", *values))
        except struct.error:
            pass  # there is a null among them
    return pa.array(values, _ARROW[kind])


def _json(fields: Sequence[Sequence[Any]]) -> Iterator[pa.Array]:
    """Yield columns of JSON texts, all of one length; an absent value and ``null`` are null."""
    import pyarrow.compute as pc

    values = list(itertools.chain.from_iterable(fields))
    sizes = list(map(len, values))
    if _NULL_BYTES in sizes:
        values = [b"" if len(value) == _NULL_BYTES and bytes(value) == b"null" else value for value in values]
        sizes = list(map(len, values))
    ends = numbers(pa.int32(), struct.pack(f"{len(sizes) + 1}i", 0, *sizes))
    offsets, data = pc.cumulative_sum_checked(ends).buffers()[1], pa.py_buffer(b"".join(values))
    whole = all(sizes)
    for column, field in enumerate(fields):
        first, mask, nulls = column * len(field), None, 0
        if not whole:
            held = sizes[first : first + len(field)]
            nulls = held.count(0)
            mask = pa.array(list(map(bool, held)), pa.bool_()).buffers()[1] if nulls else None
        mine = offsets.slice(first * _OFFSET_BYTES, (len(field) + 1) * _OFFSET_BYTES)
        yield pa.Array.from_buffers(pa.string(), len(field), [mask, mine, data], nulls)
