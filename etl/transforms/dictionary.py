"""Columns of few distinct values that cost much to convert: each value once, and a code per row."""

from collections import defaultdict
from collections.abc import Hashable, Iterable
from itertools import count
from typing import Any, TypeVar

import polars as pl

K = TypeVar("K", bound=Hashable)


def encode(values: Iterable[K]) -> tuple[list[K], list[int]]:
    """Return the distinct values in order of appearance, and for every value its number among them.

    In one pass, by a table that numbers what it is asked for first: half the time of two.
    """
    known: defaultdict[K, int] = defaultdict(count().__next__)
    numbers = list(map(known.__getitem__, values))
    return list(known), numbers


def text_lists(values: Iterable[tuple[str, ...]]) -> pl.Series:
    """Return a column of lists of text."""
    distinct, numbers = encode(values)
    return column(distinct, numbers, pl.List(pl.String))


def column(distinct: Iterable[Any], numbers: list[int], dtype: Any) -> pl.Series:
    """Return the column that has ``distinct[number]`` for every number."""
    return pl.Series(list(distinct), dtype=dtype)[pl.Series(numbers, dtype=pl.UInt32)]  # no query, as gather is
