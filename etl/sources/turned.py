"""Records turned: the values of each field, in the order of the records.

By all their values at once: three to four times as fast as fetching each field of each record by its name
(`scripts/bench.py twins`). What is turned once serves the names, the nested values and the columns. Few records wait for
others before they are: a column costs some microseconds however few rows become one, and 128 at a time take as long as more do.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

MANY = 128


def turned(records: Sequence[Any]) -> Mapping[str, Sequence[Any]]:
    """Return the values of all fields of records, of which there is one at least and which are of one type."""
    columns = zip(*map(msgspec.structs.astuple, records), strict=True)
    return dict(zip(records[0].__struct_fields__, columns, strict=True))


def one(records: Sequence[Any], name: str) -> Sequence[Any]:
    """Return the values of one field; the records need not be of one type, since one that was mended was decoded alone."""
    return list(map(operator.attrgetter(name), records))
