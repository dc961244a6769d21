"""Numbers as a column of Arrow, from their bytes."""

from array import array

import pyarrow as pa


def numbers(kind: pa.DataType, values: "bytes | array[int]") -> pa.Array:
    """Return numbers that lie in a row as a column, without a copy; ``kind`` has their width."""
    buffer = pa.py_buffer(values)
    return pa.Array.from_buffers(kind, buffer.size * 8 // kind.bit_width, [None, buffer], 0)
