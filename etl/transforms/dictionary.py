"""Columns of few distinct values that cost much to convert: each value once, and a code per row."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from itertools import count
from typing import Any, TypeVar

import polars as pl
import pyarrow as pa

K = TypeVar("K", bound=Hashable)


def encode(values: Iterable[K]) -> tuple[list[K], list[int]]:
    """Return the distinct values in order of appearance, and for every value its number among them.

    In one pass, by a table that numbers what it is asked for first: half the time of two.
    """
    known: defaultdict[K, int] = defaultdict(count().__next__)
    numbers = list(map(known.__getitem__, values))
    return list(known), numbers


def column(distinct: Iterable[Any], numbers: list[int], dtype: Any) -> pl.Series:
    """Return the column that has ``distinct[number]`` for every number."""
    return pl.Series(list(distinct), dtype=dtype)[pl.Series(numbers, dtype=pl.UInt32)]  # no query, as gather is


def list_column(distinct: Sequence[Sequence[str]], numbers: list[int]) -> pl.Series:
    """Return the column of lists of text that has ``distinct[number]`` for every number."""
    return text_lists(distinct)[pl.Series(numbers, dtype=pl.UInt32)]


def text_lists(values: Sequence[Sequence[str]]) -> pl.Series:
    """Return a column of lists of text.

    pyarrow makes it: polars, to which each list is a series, takes ten times as long (0.35 instead of 0.03 ms for 120 lists,
    2.8 instead of 0.09 for 1,000).
    """
    made = pa.record_batch([pa.array(values, pa.list_(pa.string()))], ["values"])
    frame: pl.DataFrame = pl.from_arrow(made)  # type: ignore[assignment]  # a record batch gives a frame
    return frame.get_column("values")
