"""What tests of the splitter share: small records, a split in one call, what two splits are compared by."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from etl import splitter
from etl.config import SplitOptions
from etl.model import Manifest, Reject
from etl.store import manifest, parts, rejects

Content = dict[tuple[str, str], tuple[str, int, int]]


def cod(full_name: str = "Blaster_Ranged.Fire_Blast.Flares", **changes: Any) -> dict[str, Any]:
    """Return a small City of Data power."""
    category, _, rest = full_name.partition(".")
    record = {
        "name": full_name.rpartition(".")[2],
        "full_name": full_name,
        "display_name": rest.replace("_", " "),
        "powerset": f"{category}.{rest.partition('.')[0]}",
        "archetypes": ["blaster"],
        "available_level": 0,
        "type": "Click",
        "accuracy": 1.0,
        "display_help": "Hurls fire.",
        "icon": None,
        "effects": [{"chance": 1.0, "templates": [{"attribs": ["Fire_Dmg"], "scale": -1.5}]}],
    }
    return record | changes


def i12(internal_name: str = "Blaster_Ranged.Fire_Blast.Flares", **changes: Any) -> dict[str, Any]:
    """Return a small flat power."""
    record = {
        "Name": internal_name.rpartition(".")[2],
        "InternalName": internal_name,
        "DisplayName": "Flares",
        "PowersetFullName": ".".join(internal_name.split(".")[:2]),
        "PowersetName": "Fire Blast",
        "Level": 1,
        "Accuracy": 1.0,
        "Effects": [],
    }
    return record | changes


def mids(full_name: str, *powers: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a small MidsReborn powerset."""
    group, _, name = full_name.partition(".")
    return {"FullName": full_name, "GroupName": group, "SetName": name, "ATClass": "", "Powers": list(powers)} | changes


def save(path: Path, records: Iterable[Any], **form: Any) -> Path:
    """Write records as one JSON array, one per line unless ``form`` says otherwise."""
    if form:
        path.write_text(json.dumps(list(records), ensure_ascii=False, **form), encoding="utf-8")
    else:
        lines = [json.dumps(record, ensure_ascii=False, separators=(",", ":")) for record in records]
        path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    return path


def run(store: Path, *sources: Path | str, **options: Any) -> Manifest:
    """Split in this process."""
    chosen = {"executor": "inline://"} | options
    return splitter.split(SplitOptions(sources=tuple(map(str, sources)), store=str(store), **chosen))


def content(found: Manifest) -> Content:
    """Return {partition: (digest, rows, bytes)}: what must not depend on how a split was made."""
    return {(p.archetype, p.powerset): (p.digest, p.rows, p.bytes) for p in found.partitions}


def rows(store: Path, found: Manifest) -> list[dict[str, Any]]:
    """Return all rows of a split, in the order of their source and ordinal."""
    batches = parts.read_batches(str(store), found, found.partitions)
    return sorted(
        (row for batch in batches for row in batch.to_pylist()), key=lambda row: (row["source"], row["ordinal"])
    )


def rejected(store: Path, found: Manifest) -> list[Reject]:
    """Return the rejects of a split."""
    return list(rejects.read(str(store), found))


def is_untouched(store: Path) -> bool:
    """Return whether nothing in a store looks like a finished split."""
    return not list(store.rglob("manifest.json")) and not (store / "LATEST").exists()


def reread(store: Path, found: Manifest) -> Manifest:
    """Return the manifest as it stands in the store."""
    return manifest.read(str(store), found.split_id)
