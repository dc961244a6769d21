"""Where the files of a store lie. The specification is partitions/README.md."""

from etl import storage

VERSION = 3

MANIFEST = "manifest.json"
LATEST = "LATEST"
REJECTS = "rejects.ndjson"
FILES = "files.ndjson"


def split_folder(store: str, split_id: str) -> str:
    """Return the folder of one split."""
    return storage.join(store, split_id)


def part(store: str, split_id: str, name: str) -> str:
    """Return the place of a part file."""
    return storage.join(store, split_id, "parts", name)


def entities(store: str, split_id: str, kind: str) -> str:
    """Return the place of the archetypes or powersets."""
    return storage.join(store, split_id, f"{kind}.ndjson")


def in_range(store: str, split_id: str, number: int, what: str) -> str:
    """Return the place of what a finished range leaves until the manifest is written."""
    return storage.join(store, split_id, "ranges", f"{number:04d}.{what}")
