"""The column display_info: what a record says that has no column of its own."""

from collections.abc import Collection, Mapping
from typing import Any

import polars as pl


def info(raw: pl.DataFrame, usual: Mapping[str, Any], json_columns: Collection[str] = ()) -> pl.Series:
    """Return a JSON object as text for every row: the columns named in ``usual``, where they are not as usual.

    Nulls are left out, too. ``json_columns`` hold JSON text already, which is taken over as it is.
    """
    unusual = {
        key: pl.col(key).is_not_null() if value is None else pl.col(key) != value for key, value in usual.items()
    }
    occurs = raw.select(**{key: claim.any() for key, claim in unusual.items()}).row(0, named=True)
    parts = [
        pl.when(claim).then(_raw_member(key) if key in json_columns else _member(key))
        for key, claim in unusual.items()
        if occurs[key]
    ]
    if not parts:
        return pl.repeat("{}", raw.height, eager=True)
    return raw.select("{" + pl.concat_str(parts, separator=",", ignore_nulls=True) + "}").to_series()


def _raw_member(key: str) -> pl.Expr:
    """Return ``"key":value`` with the JSON text of the column."""
    return pl.lit(f'"{key}":') + pl.col(key)


def _member(key: str) -> pl.Expr:
    """Return ``"key":value`` with the value written as JSON."""
    return pl.struct(key).struct.json_encode().str.strip_prefix("{").str.strip_suffix("}")
