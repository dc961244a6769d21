"""Powersets: one row per powerset of the data, and per entry of a powersets file."""

from collections.abc import Mapping
from typing import Any

from etl.tables.spec import TableSpec

SPEC = TableSpec(
    name="powersets",
    version=1,
    partitioned=False,
    columns={
        "id": "int4",
        "name": "text",
        "full_name": "text",
        "display_name": "text",
        "description": "text",
        "archetype_id": "int4",
        "powerset_type": "text",
        "icon_path": "text",
        "category": "text",
        "available_levels": "int4[]",
        "power_order": "text[]",
        "requires_expr": "text",
    },
)


def row(entity: Mapping[str, Any], ids: Mapping[str, int], archetype_ids: Mapping[str, int]) -> tuple[object, ...]:
    """Return the row of one entity of the store's ``powersets.ndjson``, in the order of ``SPEC.columns``."""
    return (
        ids[entity["uid"]],
        entity["name"],
        entity["full_name"],
        entity.get("display_name") or entity["name"],
        entity.get("description"),
        archetype_ids[entity["archetype"]],
        entity.get("powerset_type") or "unknown",
        entity.get("icon_path"),
        entity.get("category") or "",
        entity.get("available_levels") or [],
        entity.get("power_order") or [],
        entity.get("requires") or "",
    )
