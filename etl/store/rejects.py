"""The rejects of a split: one JSON object per line, in file order."""

from collections.abc import Iterable, Iterator

import msgspec

from etl import storage
from etl.errors import StoreError
from etl.model import Manifest, Reject
from etl.store import places

_DECODER = msgspec.json.Decoder(Reject)


def place(store: str, manifest: Manifest) -> str:
    """Return where the rejects of a split lie."""
    return storage.join(store, manifest.split_id, places.REJECTS)


def encode(rejects: Iterable[Reject]) -> bytes:
    """Return the lines of these rejects."""
    return msgspec.json.Encoder().encode_lines(rejects)


def write_load(store: str, manifest: Manifest, build: int, rejects: Iterable[Reject]) -> str:
    """Write the records that a load set aside beside those of the split; return the place."""
    name = storage.join(store, manifest.split_id, f"rejects-build-{build}.ndjson")
    storage.write_bytes(name, encode(rejects))
    return name


def read(store: str, manifest: Manifest) -> Iterator[Reject]:
    """Yield the rejects of a split, in file order.

    Raises:
        StoreError: the file is missing or damaged.
    """
    name = place(store, manifest)
    try:
        for line in storage.read_bytes(name).splitlines():
            yield _DECODER.decode(line)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"{name}: cannot be read: {error}", "run etl split again") from error
