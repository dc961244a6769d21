"""Which file of a directory or archive a record is from: one line for each file that holds records, in file order."""

import bisect
from collections.abc import Iterable
from functools import cache

import msgspec

from etl import storage
from etl.errors import StoreError
from etl.model import Manifest
from etl.store import places

Line = tuple[int, int, str]
"""Number of the source, ordinal in it of the file's first record, name of the file below the source."""


def write(store: str, split_id: str, lines: Iterable[Line]) -> None:
    """Write the files of a split, sorted; nothing where there are none."""
    text = msgspec.json.Encoder().encode_lines(sorted(lines))
    if text:
        storage.write_bytes(storage.join(store, split_id, places.FILES), text)


def name_of(store: str, manifest: Manifest, source: int, ordinal: int) -> str | None:
    """Return the file that a record is in; None where the source is one file itself.

    Raises:
        StoreError: the list is damaged.
    """
    if manifest.sources[source].kind == "file" and not manifest.sources[source].path.lower().endswith(".zip"):
        return None
    firsts, names = _read(store, manifest.split_id)
    place = bisect.bisect_right(firsts, (source, ordinal)) - 1
    return names[place] if place >= 0 and firsts[place][0] == source else None


@cache
def _read(store: str, split_id: str) -> tuple[list[tuple[int, int]], list[str]]:
    place = storage.join(store, split_id, places.FILES)
    try:
        lines = msgspec.json.Decoder(Line).decode_lines(storage.read_bytes(place)) if storage.exists(place) else []
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"{place}: cannot be read: {error}", "run etl split again") from error
    return [(source, first) for source, first, _ in lines], [name for _, _, name in lines]
