"""The splits of a store as things that take space: which may go, and their going."""

from collections.abc import Mapping

import msgspec

from etl import storage
from etl.errors import StoreError
from etl.store import manifest as manifests
from etl.store import places


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """A finished split, and the bytes that it takes."""

    split_id: str
    bytes: int


def prunable(store: str, known: Mapping[str, bool]) -> list[Split]:
    """Return the finished splits that may go.

    ``known`` are the splits that a database was ever a function of, and whether it may need them again. Those that it
    never heard of are not its to judge, the latest one of the store always stays, and so does one that is being made.
    """
    if not storage.exists(storage.join(store, places.LATEST)):
        return []
    latest = manifests.latest(store)
    return [
        Split(split_id=name, bytes=storage.size(places.split_folder(store, name)))
        for name in storage.names(store)
        if name != latest and known.get(name) is False and manifests.is_finished(store, name)
    ]


def free(store: str, split_id: str) -> None:
    """Delete a split: its manifest first, so that what is left of it after a crash is no split.

    Raises:
        StoreError: something of it is still there.
    """
    folder = places.split_folder(store, split_id)
    storage.delete(storage.join(folder, places.MANIFEST))
    storage.delete(folder)
    if storage.exists(folder):
        raise StoreError(f"{folder} could not be deleted", "delete it by hand; without a manifest it is no split")
