"""The manifest of a split: written last, its presence is the commit."""

from functools import cache

import msgspec

from etl import storage
from etl.errors import StoreError
from etl.model import Manifest, Part
from etl.store import places

_HINT = "run etl split again"


def write(store: str, manifest: Manifest, *, latest: bool = True) -> None:
    """Commit a split: write its manifest, then let LATEST name it, if it is the ``latest``."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    storage.write_bytes(storage.join(store, manifest.split_id, places.MANIFEST), text)
    if latest:
        storage.write_bytes(storage.join(store, places.LATEST), manifest.split_id.encode() + b"\n")


def read(store: str, split_id: str | None = None) -> Manifest:
    """Return the manifest of a split, by default of the latest one.

    Raises:
        StoreError: there is none, it is damaged, or another version of the store wrote it.
    """
    split_id = split_id or latest(store)
    place = storage.join(store, split_id, places.MANIFEST)
    try:
        text = storage.read_bytes(place)
    except OSError as error:
        raise StoreError(f"{place}: there is no finished split of this name", _HINT) from error
    try:
        found: Manifest | _Head = msgspec.json.decode(text, type=Manifest)
    except msgspec.DecodeError as error:
        found = _head(text, place)
        if found.store_version == places.VERSION:
            raise StoreError(f"{place}: the manifest is damaged: {error}", _HINT) from error
    if isinstance(found, _Head) or found.store_version != places.VERSION:
        raise StoreError(
            f"{place}: the store has version {found.store_version}, this program reads version {places.VERSION}", _HINT
        )
    return found


@cache
def of_split(store: str, split_id: str) -> Manifest:
    """Return what ``read`` does, read once per process: for workers, because a manifest never changes."""
    return read(store, split_id)


def is_finished(store: str, split_id: str) -> bool:
    """Return whether this split is there, readable by this version, and every part has the size it was written with."""
    try:
        found = read(store, split_id)
        return all(storage.size(places.part(store, split_id, part.name)) == part.bytes for part in found.parts)
    except (StoreError, OSError):
        return False


def is_whole(store: str, split_id: str) -> bool:
    """Return whether this split is finished and every part still has the content it was written with."""
    try:
        for part in read(store, split_id).parts:
            check_part(store, split_id, part)
    except StoreError:
        return False
    return True


def check_part(store: str, split_id: str, part: Part) -> None:
    """Prove that a part is what was committed: its size, then its content.

    Raises:
        StoreError: it is missing or damaged.
    """
    place = places.part(store, split_id, part.name)
    again = "run etl split again: it sees the damage and does it anew"
    try:
        found = storage.size(place)
        if found != part.bytes:
            raise StoreError(f"{place}: the part has {found} bytes, {part.bytes} were written", again)
        if storage.xxh3(place) != part.xxh3:
            raise StoreError(f"{place}: the part is damaged: its content is not what was written", again)
    except OSError as error:
        raise StoreError(f"{place}: the part cannot be read: {error}", again) from error


def latest(store: str) -> str:
    """Return the id of the latest finished split.

    Raises:
        StoreError: the store is empty.
    """
    try:
        return storage.read_bytes(storage.join(store, places.LATEST)).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{store}: there is no finished split in this store", "run etl split SOURCE first") from error


class _Head(msgspec.Struct):
    """What every version of the store says of itself."""

    store_version: int


def _head(text: bytes, place: str) -> _Head:
    try:
        return msgspec.json.decode(text, type=_Head)
    except msgspec.DecodeError as error:
        raise StoreError(f"{place}: the manifest is damaged: {error}", _HINT) from error
