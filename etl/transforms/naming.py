"""Names that a record may leave out or leave empty."""

import polars as pl


def filled(column: str, fallback: pl.Expr) -> pl.Expr:
    """Return the column, with ``fallback`` where it is null or empty."""
    return pl.when(pl.col(column) != "").then(column).otherwise(fallback)


def own(full_name: str) -> pl.Expr:
    """Return the part of a full name after the second dot, whatever it contains; null without two dots."""
    return pl.col(full_name).str.splitn(".", 3).struct.field("field_2")
