"""The nested values of records as bytes in a row, field by field: what is searched for huge numbers becomes the columns.

So a value is taken from its record once, and its text copied twice until it is part of a column, instead of a look at each value
for the search and another for the column; tests/store/test_columns.py has the columns agree with the records.
"""

import itertools
import struct
from collections.abc import Sequence
from typing import Any

import msgspec


class Joined(msgspec.Struct, frozen=True):
    """All nested values of so many rows: their texts in a row, and how long each is; field by field.

    ``sizes`` are 32-bit integers as `struct` packs them.
    """

    rows: int
    data: bytes
    sizes: bytes


def join(values: Sequence[Sequence[Any]]) -> Joined:
    """Return the values of each field, of which all have as many."""
    sizes = list(map(len, itertools.chain.from_iterable(values)))
    data = b"".join(itertools.chain.from_iterable(values))
    return Joined(len(values[0]) if values else 0, data, struct.pack(f"{len(sizes)}i", *sizes))
