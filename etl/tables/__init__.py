"""The tables of a build, in load order; each is a twin of ``sql/tables/<name>.sql``.

Importing this package costs nothing: polars, pyarrow and msgspec are loaded by the first ``build``, in the worker.
"""

import importlib
from collections.abc import Collection
from typing import TYPE_CHECKING, cast

from etl import model
from etl.tables.spec import TableSpec

if TYPE_CHECKING:
    import pyarrow as pa

TABLES = (
    "archetypes",
    "powersets",
    "powers",
    "power_effects",
    "power_prerequisites",
    "power_enhancement_compatibility",
    "power_set_categories",
)
"""Every table, parents before children."""

LEAF_TABLES = TABLES[2:]
"""The tables whose rows come from records, so that a leaf at a time can be loaded."""

__all__ = ["LEAF_TABLES", "TABLES", "TableSpec", "build", "spec"]


def spec(name: str) -> TableSpec:
    """Return the shape of the table ``name``. Raises KeyError for a name that is not in ``TABLES``."""
    if name not in TABLES:
        raise KeyError(name)
    return cast(TableSpec, importlib.import_module(f"etl.tables.{name}").SPEC)


def build(
    format: str, batch: "pa.RecordBatch", context: model.LeafContext, tables: Collection[str]
) -> tuple[dict[str, "pa.RecordBatch"], list[model.Reject]]:
    """Turn records of one format into rows of the leaf tables named in ``tables``.

    ``batch`` holds records as the store keeps them, of one or of many partitions of a leaf; a few thousand rows at a
    time are best, because each call costs some milliseconds however few the rows. A power whose nested JSON does not
    fit comes back as a reject and contributes to no table, whichever tables are asked for.
    """
    from etl.transforms import assemble

    return assemble.build(format, batch, context, {name: spec(name).columns for name in LEAF_TABLES if name in tables})
