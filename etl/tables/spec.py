"""The shape of one table, as names and kinds: what a transform delivers and what COPY sends."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """One table: its name, the version of its transform and DDL, and the columns of COPY in order.

    ``columns`` maps a name to its kind: int2, int4, int8, float8, bool, text, jsonb, text[] or bytea. Columns that the
    server fills in (created_at, updated_at) are not among them. ``version`` grows whenever the same records would give
    other rows; receipts of an older version no longer count. ``partitioned`` tables have one leaf per range of
    powersets, the others are one plain table.
    """

    name: str
    version: int
    partitioned: bool
    columns: Mapping[str, str]
