"""The column display_info: what a record says that has no column of its own."""

from collections.abc import Collection, Mapping
from typing import Any

import polars as pl


def info(raw: pl.DataFrame, usual: Mapping[str, Any], json_columns: Collection[str] = ()) -> pl.Series:
    """Return a JSON object as text for every row: the columns named in ``usual``, where they are not as usual.

    Nulls are left out, too. ``json_columns`` hold JSON text already, which is taken over as it is.
    """
    unusual = [key for key, value in usual.items() if _occurs(raw.get_column(key), value)]
    if not unusual:
        return pl.Series(["{}"]).new_from_index(0, raw.height)
    parts = [
        pl.when(pl.col(key).is_not_null() if usual[key] is None else pl.col(key) != usual[key]).then(
            _raw_member(key) if key in json_columns else _member(key)
        )
        for key in unusual
    ]
    return raw.select("{" + pl.concat_str(parts, separator=",", ignore_nulls=True) + "}").to_series()


def _occurs(values: pl.Series, usual: Any) -> bool:
    """Whether a value is not as usual; told without a query, which takes longer to plan than to run."""
    if usual is None or values.null_count() == len(values):
        return values.null_count() < len(values)
    return bool((values != usual).any())


def _raw_member(key: str) -> pl.Expr:
    """Return ``"key":value`` with the JSON text of the column."""
    return pl.lit(f'"{key}":') + pl.col(key)


def _member(key: str) -> pl.Expr:
    """Return ``"key":value`` with the value written as JSON."""
    return pl.struct(key).struct.json_encode().str.strip_prefix("{").str.strip_suffix("}")
