"""Archetypes: one row per archetype key of the data, and per entry of an archetypes file."""

import json
from collections.abc import Mapping
from typing import Any

from etl.tables.spec import TableSpec

SPEC = TableSpec(
    name="archetypes",
    version=1,
    partitioned=False,
    columns={
        "id": "int4",
        "name": "text",
        "display_name": "text",
        "description": "text",
        "is_player": "bool",
        "primary_group": "text",
        "secondary_group": "text",
        "hit_points_base": "float8",
        "hit_points_max": "float8",
        "modifiers": "jsonb",
        "icon_path": "text",
    },
)


def row(entity: Mapping[str, Any], ids: Mapping[str, int]) -> tuple[object, ...]:
    """Return the row of one entity of the store's ``archetypes.ndjson``, in the order of ``SPEC.columns``."""
    return (
        ids[entity["uid"]],
        entity["uid"],
        entity.get("display_name") or entity["uid"],
        entity.get("description"),
        bool(entity.get("is_player")),
        entity.get("primary_group"),
        entity.get("secondary_group"),
        entity.get("hit_points_base"),
        entity.get("hit_points_max"),
        json.dumps(entity.get("modifiers") or {}, ensure_ascii=False),
        entity.get("icon_path"),
    )
