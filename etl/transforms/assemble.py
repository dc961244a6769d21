"""From canonical frames to the rows of the tables: ids, derived columns, and Arrow batches in the order of COPY."""

import contextlib
import gc
import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, cast

import polars as pl
import pyarrow as pa

from etl import model
from etl.transforms import boosts, derive
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


_Columns = dict[str, pl.Series | pa.Array]
"""Columns of a table by name; there may be more than the table has. An array is in its final form."""


def build(
    format: str, batch: pa.RecordBatch, context: model.LeafContext, columns: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, pa.RecordBatch], list[model.Reject]]:
    """Return the rows of the tables in ``columns`` and the rejects; see ``etl.tables.build``.

    ``columns`` is name -> kind for each table, in the order of COPY; so are those of the batches: all nullable, text as
    large utf8, or utf8 where the store's own column is passed on. A power's rows keep the order of ``batch``.
    """
    with _without_collector():
        parser = importlib.import_module(f"etl.transforms.{format}")
        parsed = cast(Parsed, parser.parse(batch, columns.keys()))
        keys = _keys(parsed, context)
        builders: dict[str, Callable[[], _Columns]] = {
            "powers": lambda: {**_powers(parsed, keys, context), **_given(parsed)},
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
    records = parsed.records
    if model.POWER_ID in records.columns:
        ids = records.get_column(model.POWER_ID)
    else:
        ids = _looked_up(records, "uid", context.power_ids, pl.Int64)
    sets = _looked_up(records, "powerset", context.powerset_ids, pl.Int32)
    archetypes = _looked_up(records, "archetype", context.archetype_ids, pl.Int32)
    return pl.DataFrame({"power_id": ids, "powerset_id": sets, "archetype_id": archetypes})


def _looked_up(records: pl.DataFrame, column: str, known: Mapping[str, int], kind: Any) -> pl.Series:
    return _series(column, map(known.__getitem__, records.get_column(column).to_list()), kind)


def _powers(parsed: Parsed, keys: pl.DataFrame, context: model.LeafContext) -> _Columns:
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
        "source_hash": parsed.records.get_column("digest"),
    }
    if "display_order" not in powers.columns:
        derived["display_order"] = _order(parsed, context.power_order)
    if "ai_report" not in powers.columns:
        derived["ai_report"] = pl.Series("ai_report", [None], dtype=pl.String).new_from_index(0, powers.height)
    if "damage_scale" in powers.columns:
        own = powers.get_column("damage_scale")
        if own.null_count() < len(own):
            derived["damage_scale"] = own.zip_with(own.is_not_null(), derived["damage_scale"])
    return {**{name: powers.get_column(name) for name in powers.columns}, **derived}


def _order(parsed: Parsed, order: Mapping[str, int]) -> pl.Series:
    """Return each power's position in its set's own list, 0 where there is none."""
    uids = parsed.records.get_column("uid")
    if not order:
        return pl.Series("display_order", [0], dtype=pl.Int32).new_from_index(0, len(uids))
    return _series("display_order", (order.get(uid, 0) for uid in uids.to_list()), pl.Int32)


def _given(parsed: Parsed) -> dict[str, pa.Array]:
    """Return the columns that the store has as they are, which saves two copies of the biggest ones; null as empty list."""
    columns = {name: parsed.batch.column(own) for name, own in parsed.given.items()}
    return {
        name: pa.array([text or "[]" for text in column.to_pylist()], pa.string()) if column.null_count else column
        for name, column in columns.items()
    }


def _power_effects(parsed: Parsed, keys: pl.DataFrame) -> _Columns:
    effects = parsed.effects
    own = keys[effects.get_column("row")]
    ids = own.get_column("power_id") * (1 << POSITION_BITS) + effects.get_column("seq")
    return {**{one.name: one for one in (*effects.get_columns(), *own.get_columns())}, "id": ids}


def _prerequisites(parsed: Parsed, keys: pl.DataFrame, context: model.LeafContext) -> _Columns:
    found = [reference for _, reference, _ in parsed.references]
    wanted = sorted({reference.uid for reference in found if reference.kind == "power"})
    ids = context.resolve(wanted) if wanted else {}
    levels = [level for _, _, level in parsed.references]
    return {
        **_children(keys, [row for row, _, _ in parsed.references]),
        "required_power_id": _series("required_power_id", (ids.get(one.uid) for one in found), pl.Int64),
        "required_level": _series("required_level", levels, pl.Int32),
        "prerequisite_type": _series("type", ("one_of" if one.alternative else "all_of" for one in found), pl.String),
        "group_no": _series("group_no", (one.group_no for one in found), pl.Int32),
        "required_uid": _series("required_uid", (one.uid for one in found), pl.String),
        "required_kind": _series("required_kind", (one.kind for one in found), pl.String),
        "negated": _series("negated", (one.negated for one in found), pl.Boolean),
        "min_count": _series("min_count", (one.min_count for one in found), pl.Int32),
    }


def _compatibility(parsed: Parsed, keys: pl.DataFrame) -> _Columns:
    """One row per power and enhancement type: of a repeat the first stays."""
    rows, found = parsed.boosts.map(_kinds).entries()
    return {
        **_children(keys, rows),
        "enhancement_type": _series("enhancement_type", (kind for kind, _ in found), pl.String),
        "source_name": _series("source_name", (name for _, name in found), pl.String),
        "allowed": pl.Series("allowed", [True]).new_from_index(0, len(rows)),
    }


def _kinds(names: list[str]) -> list[tuple[str, str]]:
    """Return the types of enhancement that are meant, each with the name that means it first."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(boosts.enhancement_type(name), name)
    return list(found.items())


def _set_categories(parsed: Parsed, keys: pl.DataFrame) -> _Columns:
    """One row per power and set category: of a repeat the first stays."""
    rows, names = parsed.categories.map(lambda names: list(dict.fromkeys(names))).entries()
    return {**_children(keys, rows), "set_category": _series("set_category", names, pl.String)}


def _children(keys: pl.DataFrame, rows: list[int]) -> _Columns:
    """Return power_id and the child's id for children of the powers in these rows, ascending."""
    powers = keys.get_column("power_id")[_series("row", rows, pl.UInt32)]
    positions = _series("position", chain.from_iterable(map(range, Counter(rows).values())), pl.Int64)
    return {"power_id": powers, "id": powers * (1 << POSITION_BITS) + positions}


def _series(name: str, values: Iterable[Any], dtype: Any) -> pl.Series:
    return pl.Series(name, list(values), dtype=dtype)


def _record_batch(columns: _Columns, kinds: Mapping[str, str]) -> pa.RecordBatch:
    """Return the columns of the table, in its order and with its types, as polars has them: texts and lists are large."""
    arrays = {name: column for name, column in columns.items() if isinstance(column, pa.Array)}
    series = [columns[name].cast(_TYPES[kind]).alias(name) for name, kind in kinds.items() if name not in arrays]
    arrow = pl.DataFrame(series).to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
    batches = arrow.to_batches()
    batch = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=arrow.schema)
    if not arrays:
        return batch
    return pa.RecordBatch.from_arrays(
        [arrays[name] if name in arrays else batch.column(name) for name in kinds], list(kinds)
    )
