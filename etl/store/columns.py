"""Rows become an Arrow record batch; the schema follows the format's record type.

Nested values stay JSON text: they are joined already (sources/joined.py), and Arrow sums their sizes up. Numbers are packed
by `struct` unless there is a null among them, which takes less time than `pa.array`; tests/store/test_columns.py has them agree.
"""

import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from etl.sources import exactness, turned
from etl.sources.joined import Joined
from etl.sources.records import Rows
from etl.store import packed

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

SHARED = ("uid", "source", "archetype", "powerset")
"""The columns that follow from others, or say the same in row after row."""

_ARROW = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_(), msgspec.Raw: pa.string()}
_PACKED = {float: "d", int: "q"}
_SIZE_BYTES = 4
_NO_TEXT = len(b""), len(b"null")


def schema(record: type[msgspec.Struct]) -> pa.Schema:
    """Return the schema of the batches of a format: the common columns, then one per field of its record."""
    return pa.schema([*COMMON, *(pa.field(name, _ARROW[kind]) for name, kind in _fields(record))])


def builder(record: type[msgspec.Struct], names: Sequence[str]) -> Callable[[Rows, int], pa.RecordBatch]:
    """Return a function (rows, source number) → record batch; ``names`` are fields to be trimmed."""
    scalars, fields, whole = scalar_builder(record, names), exactness.nested(record), schema(record)

    def build(rows: Rows, source: int) -> pa.RecordBatch:
        shared = {
            "uid": pa.array(rows.uids, pa.string()),
            "source": source_numbers(source, len(rows)),
            "archetype": pa.array([home.archetype for home in rows.homes], pa.string()),
            "powerset": pa.array([home.powerset for home in rows.homes], pa.string()),
        }
        columns = scalars(rows) | dict(nested(rows.joined(fields), fields)) | shared
        return pa.RecordBatch.from_arrays([columns[name] for name in whole.names], schema=whole)

    return build


def scalar_builder(
    record: type[msgspec.Struct], names: Sequence[str], without: Collection[str] = ()
) -> Callable[[Rows], dict[str, pa.Array]]:
    """Return a function rows → columns that hold no nested values, by name, without ``SHARED`` and those in ``without``.

    ``names`` are to be trimmed.
    """
    fields = [(name, kind) for name, kind in _fields(record) if kind is not msgspec.Raw and name not in without]

    def build(rows: Rows) -> dict[str, pa.Array]:
        columns = {
            "ordinal": packed.numbers(pa.int64(), struct.pack(f"{len(rows)}q", *rows.ordinals)),
            "offset": packed.numbers(pa.int64(), struct.pack(f"{len(rows)}q", *rows.offsets)),
            "digest": pa.Array.from_buffers(pa.binary(16), len(rows), [None, pa.py_buffer(b"".join(rows.digests))]),
        }
        for (name, kind), values in zip(fields, _values(rows, [name for name, _ in fields]), strict=True):
            column = _scalars(kind, values)
            columns[name] = trimmed(column) if name in names else column
        return columns

    return build


def nested(parts: Sequence[Joined], names: Sequence[str]) -> Iterator[tuple[str, pa.Array]]:
    """Yield (name, column) of JSON texts for the rows of all parts; an absent value and ``null`` are null."""
    ends = [memoryview(_ends(part.sizes)).cast("i") for part in parts]
    for field, name in enumerate(names):
        texts, sizes = [], []
        for part, end in zip(parts, ends, strict=True):
            first, last = field * part.rows, (field + 1) * part.rows
            texts.append(memoryview(part.data)[end[first] : end[last]])
            sizes.append(part.sizes[first * _SIZE_BYTES : last * _SIZE_BYTES])
        yield name, _json(b"".join(texts), b"".join(sizes))


def trimmed(column: pa.Array) -> pa.Array:
    """Return a column of texts without the white space round them."""
    import pyarrow.compute as pc  # a twentieth of a second, which reading does without

    return pc.utf8_trim_whitespace(column)


def lowered(column: pa.Array) -> pa.Array:
    """Return a column of texts in lower case, as ``str.lower`` has them."""
    import pyarrow.compute as pc

    if pc.all(pc.string_is_ascii(column)).as_py() is not False:
        return pc.ascii_lower(column)
    return pa.array(map(str.lower, column.to_pylist()), pa.string())


def source_numbers(source: int, rows: int) -> pa.Array:
    """Return the column that says which source the rows are from."""
    return packed.numbers(pa.int32(), struct.pack("i", source) * rows)


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


def _values(rows: Rows, names: Sequence[str]) -> Iterator[Sequence[Any]]:
    """Yield the values of each field of the rows."""
    if rows.turned or len(set(map(type, rows.records))) == 1:
        values = rows.turned or turned.turned(rows.records)
        return (values[name] for name in names)
    return (turned.one(rows.records, name) for name in names)


def _scalars(kind: type, values: Sequence[Any]) -> pa.Array:
    """Return a column of words or numbers, None is null."""
    code = _PACKED.get(kind)
    if code is not None:
        try:
            return packed.numbers(_ARROW[kind], struct.pack(f"{len(values)}{code}", *values))
        except struct.error:
            pass  # there is a null among them
    return pa.array(values, _ARROW[kind])


def _ends(sizes: bytes) -> pa.Buffer:
    """Return where texts of these sizes begin in a row of them, and where the last one ends."""
    import pyarrow.compute as pc

    return pc.cumulative_sum_checked(packed.numbers(pa.int32(), bytes(_SIZE_BYTES) + sizes)).buffers()[1]


def _json(texts: bytes, sizes: bytes) -> pa.Array:
    """Return a column of JSON texts that lie in a row; those of no bytes, and ``null``, are null."""
    import pyarrow.compute as pc

    lengths = packed.numbers(pa.int32(), sizes)
    column = pa.Array.from_buffers(pa.string(), len(lengths), [None, _ends(sizes), pa.py_buffer(texts)], 0)
    if pc.is_in(lengths, value_set=pa.array(_NO_TEXT, pa.int32())).true_count:
        column = pc.if_else(pc.and_(pc.not_equal(lengths, 0), pc.not_equal(column, "null")), column, None)
    return column
