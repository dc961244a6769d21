"""From canonical frames to the rows of the tables: ids, derived columns, and Arrow batches in the order of COPY."""

import contextlib
import gc
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import polars as pl
import pyarrow as pa

from etl import model
from etl.transforms import boosts, derive
from etl.transforms.nested import column
from etl.transforms.parsed import Parsed

POSITION_BITS = 20
"""A child's id is (power id << 20) | position among the power's rows of that table."""

_TYPES = {
    "int2": pl.Int16(),
    "int4": pl.Int32(),
    "int8": pl.Int64(),
    "float8": pl.Float64(),
    "bool": pl.Boolean(),
    "text": pl.String(),
    "jsonb": pl.String(),
    "text[]": pl.List(pl.String),
    "bytea": pl.Binary(),
}


def build(
    format: str, batch: pa.RecordBatch, context: model.LeafContext, columns: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, pa.RecordBatch], list[model.Reject]]:
    """Return the rows of the tables in ``columns`` and the rejects; see ``etl.tables.build``.

    ``columns`` is name -> kind for each table, in the order of COPY; so are those of the batches: all nullable, text as
    large utf8. A power's rows keep the order of ``batch``.
    """
    with _without_collector():
        parser = importlib.import_module(f"etl.transforms.{format}")
        parsed = cast(Parsed, parser.parse(batch, columns.keys()))
    keys = _keys(parsed, context)
    builders: dict[str, Callable[[], pl.DataFrame]] = {
        "powers": lambda: _powers(parsed, keys, context),
        "power_effects": lambda: _power_effects(parsed, keys),
        "power_prerequisites": lambda: _prerequisites(parsed, keys, context),
        "power_enhancement_compatibility": lambda: _compatibility(parsed, keys),
        "power_set_categories": lambda: _set_categories(parsed, keys),
    }
    return {name: _record_batch(builders[name](), kinds) for name, kinds in columns.items()}, parsed.rejects


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Pause the garbage collector: the many small objects of a batch hold no cycles (a fifth of the time otherwise)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _keys(parsed: Parsed, context: model.LeafContext) -> pl.DataFrame:
    """One row per record: power_id, powerset_id, archetype_id."""
    names: pl.DataFrame = pl.from_arrow(parsed.batch.select(["uid", "powerset", "archetype"]))  # type: ignore[assignment]
    ids = (
        ("power_id", context.power_ids, "uid", pl.Int64),
        ("powerset_id", context.powerset_ids, "powerset", pl.Int32),
        ("archetype_id", context.archetype_ids, "archetype", pl.Int32),
    )
    return pl.DataFrame(
        [_series(name, map(known.__getitem__, names[uid].to_list()), kind) for name, known, uid, kind in ids]
    )


def _powers(parsed: Parsed, keys: pl.DataFrame, context: model.LeafContext) -> pl.DataFrame:
    powers, lists = parsed.powers, parsed.lists
    counts = _series("group_count", lists.group_counts, pl.Int32)
    facts = derive.facts(lists.frame, len(counts), parsed.first_effect_rules).hstack([counts])
    facts = facts[_series("list", lists.numbers, pl.UInt32)]
    said = [powers.get_column("target_type"), powers.get_column("activation_kind"), facts.get_column("rank")]
    derived = {
        "id": keys.get_column("power_id"),
        **{name: keys.get_column(name) for name in ("powerset_id", "archetype_id")},
        **{name: facts.get_column(name) for name in ("damage_scale", "effect_groups", "group_count")},
        "power_type": pl.DataFrame(said).select(derive.power_type()).to_series(),
        "source_hash": column(parsed.batch, "digest"),
    }
    if "display_order" not in powers.columns:
        uids = parsed.batch.column("uid").to_pylist()
        derived["display_order"] = _series("display_order", (context.power_order.get(uid, 0) for uid in uids), pl.Int32)
    if "ai_report" not in powers.columns:
        derived["ai_report"] = pl.Series("ai_report", [None], dtype=pl.String).new_from_index(0, powers.height)
    if "damage_scale" in powers.columns:
        own = powers.get_column("damage_scale")
        derived["damage_scale"] = own.zip_with(own.is_not_null(), derived["damage_scale"])
    left = [one for one in powers.get_columns() if one.name not in derived]
    return pl.DataFrame([*left, *(one.alias(name) for name, one in derived.items())])


def _power_effects(parsed: Parsed, keys: pl.DataFrame) -> pl.DataFrame:
    effects = parsed.effects
    own = keys[effects.get_column("row")]
    ids = own.get_column("power_id") * (1 << POSITION_BITS) + effects.get_column("seq")
    return effects.hstack([*own.get_columns(), ids.alias("id")])


def _prerequisites(parsed: Parsed, keys: pl.DataFrame, context: model.LeafContext) -> pl.DataFrame:
    found = [reference for _, reference, _ in parsed.references]
    wanted = sorted({reference.uid for reference in found if reference.kind == "power"})
    ids = context.resolve(wanted) if wanted else {}
    levels = [level for _, _, level in parsed.references]
    frame = pl.DataFrame([_series("row", (row for row, _, _ in parsed.references), pl.UInt32)])
    return _children(keys, frame.lazy()).hstack(
        [
            _series("required_power_id", (ids.get(one.uid) for one in found), pl.Int64),
            _series("required_level", levels, pl.Int32),
            _series("prerequisite_type", ("one_of" if one.alternative else "all_of" for one in found), pl.String),
            _series("group_no", (one.group_no for one in found), pl.Int32),
            _series("required_uid", (one.uid for one in found), pl.String),
            _series("required_kind", (one.kind for one in found), pl.String),
            _series("negated", (one.negated for one in found), pl.Boolean),
            _series("min_count", (one.min_count for one in found), pl.Int32),
        ]
    )


def _compatibility(parsed: Parsed, keys: pl.DataFrame) -> pl.DataFrame:
    """One row per power and enhancement type: of a repeat the first stays."""
    rows, names = parsed.boosts
    frame = pl.DataFrame([_series("row", rows, pl.UInt32), _series("source_name", names, pl.String)])
    kinds = {name: boosts.enhancement_type(name) for name in set(names)}
    kind = pl.col("source_name").replace_strict(kinds, return_dtype=pl.String)
    lazy = frame.lazy().with_columns(enhancement_type=kind, allowed=pl.lit(True))
    return _children(keys, lazy.unique(["row", "enhancement_type"], keep="first", maintain_order=True))


def _set_categories(parsed: Parsed, keys: pl.DataFrame) -> pl.DataFrame:
    """One row per power and set category: of a repeat the first stays."""
    rows, names = parsed.categories
    frame = pl.DataFrame([_series("row", rows, pl.UInt32), _series("set_category", names, pl.String)])
    return _children(keys, frame.lazy().unique(maintain_order=True))


def _children(keys: pl.DataFrame, frame: pl.LazyFrame) -> pl.DataFrame:
    """Add power_id and the child's id to a frame with ``row`` (ascending)."""
    row = pl.col("row")
    position = pl.int_range(pl.len()) - row.search_sorted(row, side="left").cast(pl.Int64)
    frame = frame.with_columns(position.alias("id"), power_id=pl.lit(keys.get_column("power_id")).gather(row))
    frame = frame.with_columns(id=pl.col("power_id") * (1 << POSITION_BITS) + pl.col("id"))
    return frame.collect(engine="in-memory")


def _series(name: str, values: Iterable[Any], dtype: Any) -> pl.Series:
    return pl.Series(name, list(values), dtype=dtype)


def _record_batch(frame: pl.DataFrame, kinds: Mapping[str, str]) -> pa.RecordBatch:
    """Return the columns of the table, in its order and with its types, as polars has them: texts and lists are large."""
    series = [frame.get_column(column).cast(_TYPES[kind]) for column, kind in kinds.items()]  # no query to be planned
    arrow = pl.DataFrame(series).to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
    batches = arrow.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=arrow.schema)
