"""Real data for the transforms: each pack is transformed once per session."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
import store_shape

from etl import model, tables

PACKS = {
    "JUN": ("cod", "cod-homecoming-2025.powers"),
    "DEC": ("cod", "codfull-homecoming-20251209.powers"),
    "M19": ("mids", "mids-2019.powersets"),
    "I12S": ("i12", "i12-sample"),
}


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows that a pack gives, without the big jsonb columns."""

    frames: dict[str, pl.DataFrame]
    rejects: list[model.Reject]

    def counted(self, table: str, column: str) -> Counter[object]:
        """Return how often each value of a column occurs."""
        return Counter(self.frames[table][column].to_list())


@pytest.fixture(scope="session")
def rows_of(pack: Callable[[str], Path]) -> Callable[[str], Rows]:
    """Function from the tag of a pack to its rows; skips where the real data is not at hand."""
    known: dict[str, Rows] = {}

    def load(tag: str) -> Rows:
        if tag not in known:
            shape, name = PACKS[tag]
            known[tag] = transformed(shape, store_shape.read_pack(shape, pack(name)))
        return known[tag]

    return load


def transformed(format: str, records: list[bytes]) -> Rows:
    """Transform all records, a few thousand at a time."""
    context = store_shape.context_of(format, records)
    parts: dict[str, list[pa.RecordBatch]] = {name: [] for name in tables.LEAF_TABLES}
    rejects: list[model.Reject] = []
    for batch in store_shape.batches(format, records):
        rows, bad = tables.build(format, batch, context, tables.LEAF_TABLES)
        rejects += bad
        for name, part in rows.items():
            slim = [column for column in part.schema.names if column not in ("effects", "activation_effects")]
            parts[name].append(part.select(slim))
    frames = {name: pl.DataFrame(pl.from_arrow(pa.Table.from_batches(part))) for name, part in parts.items()}
    return Rows(frames=frames, rejects=rejects)
