"""The general path: ijson, for records under a path inside a bigger document, and as the referee of the fast path.

Records come as their text again, minified, numbers as they were written in the usual ways (1.50 stays 1.50, 1E5 becomes
1e+5). Where in the source they stood is not known: offsets are -1.
"""

import decimal
from collections.abc import Iterator
from typing import Any

import ijson
import msgspec

from etl.errors import InputError
from etl.sources.cutting import Lot
from etl.sources.streams import Readable

_LOT = 500
_STRING = msgspec.json.Encoder()


def lots(stream: Readable, records_path: str, name: str) -> Iterator[Lot]:
    """Yield the records under an ijson path such as ``item`` or ``powers.item``, many at a time.

    Raises:
        InputError: the stream is not JSON, or has nothing at that path.
    """
    lot = Lot()
    count = 0
    try:
        for value in ijson.items(stream, records_path, use_float=False):
            text = encode(value)
            fault = None if isinstance(value, dict) else ("wrong_type", "the record is no object")
            lot.append(text, -1, fault)
            if len(lot) == _LOT:
                count += len(lot)
                yield lot
                lot = Lot()
    except ijson.JSONError as error:
        raise InputError(
            f"{name}: after record {count + len(lot)}: {' '.join(str(error).split())[:200]}",
            "nothing was imported; mend the file, or make it again",
        ) from error
    if not lot and not count:
        raise InputError(f"{name}: nothing at the path '{records_path}'", "check --records-path (like powers.item)")
    yield lot


def encode(value: Any) -> bytes:
    """Return the JSON text of a value as ijson gives it."""
    if isinstance(value, dict):
        return b"{" + b",".join(_STRING.encode(key) + b":" + encode(inner) for key, inner in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(encode, value)) + b"]"
    if isinstance(value, decimal.Decimal):
        return str(value).lower().encode()
    return _STRING.encode(value)
