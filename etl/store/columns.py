"""Rows become an Arrow record batch; the schema follows the format's record type.

Nested values stay JSON text: ``b"".join`` with offsets builds such a column five times faster than ``pa.array``.
"""

import itertools
import operator
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

_ARROW = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_(), msgspec.Raw: pa.string()}


def schema(record: type[msgspec.Struct]) -> pa.Schema:
    """Return the schema of the batches of a format: the common columns, then one per field of its record."""
    return pa.schema([*COMMON, *(pa.field(name, _ARROW[kind]) for name, kind in _fields(record))])


def builder(record: type[msgspec.Struct], names: Sequence[str]) -> Callable[[Rows, int], pa.RecordBatch]:
    """Return a function (rows, source number) → record batch; ``names`` are fields to be trimmed."""
    import pyarrow.compute as pc  # a twentieth of a second, which reading does without

    fields = _fields(record)
    whole = schema(record)

    def build(rows: Rows, source: int) -> pa.RecordBatch:
        columns = [
            pa.array(rows.uids, pa.string()),
            numbers(pa.int32(), array("i", [source]) * len(rows)),
            numbers(pa.int64(), array("q", rows.ordinals)),
            numbers(pa.int64(), array("q", rows.offsets)),
            pa.array([home.archetype for home in rows.homes], pa.string()),
            pa.array([home.powerset for home in rows.homes], pa.string()),
            pa.Array.from_buffers(pa.binary(16), len(rows), [None, pa.py_buffer(b"".join(rows.digests))]),
        ]
        for (name, kind), values in zip(fields, _turned(rows.records, [name for name, _ in fields]), strict=True):
            if kind is msgspec.Raw:
                columns.append(_json(values))
            else:
                column = pa.array(values, _ARROW[kind])
                columns.append(pc.utf8_trim_whitespace(column) if name in names else column)
        return pa.RecordBatch.from_arrays(columns, schema=whole)

    return build


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


def numbers(kind: pa.DataType, values: "array[int]") -> pa.Array:
    """Return an array of integers as a column, without a copy; ``kind`` has the width of the array's items."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


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


def _json(values: Sequence[Any]) -> pa.Array:
    """Return a column of JSON texts; an absent value and ``null`` are null."""
    sizes = list(map(len, values))
    if 4 in sizes:
        values = [b"" if len(value) == 4 and bytes(value) == b"null" else value for value in values]
        sizes = list(map(len, values))
    offsets = array("i", itertools.accumulate(sizes, initial=0))
    data = pa.py_buffer(b"".join(values))
    mask, nulls = None, sizes.count(0)
    if nulls:
        mask = pa.array(list(map(bool, sizes)), pa.bool_()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), len(values), [mask, pa.py_buffer(offsets), data], nulls)
