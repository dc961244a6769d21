"""The archetypes and powersets of a split, as NDJSON sorted by uid."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from etl import storage
from etl.errors import StoreError
from etl.model import Manifest
from etl.store import places

KINDS = ("archetypes", "powersets")


def read(store: str, manifest: Manifest, kind: str) -> list[dict[str, Any]]:
    """Return the "archetypes" or "powersets" of a split, sorted by uid.

    Raises:
        StoreError: the file is missing or damaged.
    """
    place = places.entities(store, manifest.split_id, kind)
    try:
        return msgspec.json.Decoder(dict[str, Any]).decode_lines(storage.read_bytes(place))
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"{place}: cannot be read: {error}", "run etl split again") from error


def write(store: str, split_id: str, kind: str, entities: Iterable[Mapping[str, Any]]) -> bytes:
    """Write the entities of one kind; return the digest of what was written."""
    ordered = sorted(entities, key=lambda entity: str(entity["uid"]))
    text = msgspec.json.Encoder().encode_lines(ordered)
    storage.write_bytes(places.entities(store, split_id, kind), text)
    return hashlib.sha256(text).digest()
