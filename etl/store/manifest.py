"""The manifest of a split: written last, its presence is the commit."""

import msgspec

from etl import storage
from etl.errors import StoreError
from etl.model import Manifest
from etl.store import places

_HINT = "run etl split again"


def write(store: str, manifest: Manifest) -> None:
    """Commit a split: write its manifest, then let LATEST name it."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    storage.write_bytes(storage.join(store, manifest.split_id, places.MANIFEST), text)
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
        head = msgspec.json.decode(text, type=_Head)
    except msgspec.DecodeError as error:
        raise StoreError(f"{place}: the manifest is damaged: {error}", _HINT) from error
    if head.store_version != places.VERSION:
        raise StoreError(
            f"{place}: the store has version {head.store_version}, this program reads version {places.VERSION}", _HINT
        )
    try:
        return msgspec.json.decode(text, type=Manifest)
    except msgspec.DecodeError as error:
        raise StoreError(f"{place}: the manifest is damaged: {error}", _HINT) from error


def is_finished(store: str, split_id: str) -> bool:
    """Return whether this split is there, whole and readable by this version."""
    try:
        read(store, split_id)
    except StoreError:
        return False
    return True


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
    store_version: int
