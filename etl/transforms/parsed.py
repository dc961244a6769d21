"""What a format's module makes of a record batch: the same frames whatever the format."""

from collections.abc import Callable, Collection, Mapping
from itertools import chain, count, repeat
from typing import Self

import msgspec
import polars as pl
import pyarrow as pa

from etl import model
from etl.transforms.expressions import Reference
from etl.transforms.nested import Values

TABLES = (
    "powers",
    "power_effects",
    "power_prerequisites",
    "power_enhancement_compatibility",
    "power_set_categories",
)
"""The tables whose rows are made of records."""


class Lists(msgspec.Struct, frozen=True, kw_only=True):
    """The different lists of effects that the records of a batch have, and for each record the ``number`` of its own.

    ``frame`` has a row per template, ordered by ``list`` (a number) and seq, with the columns of table power_effects except
    ids, and besides ``list``, ``rank`` (the number of its class in ``derive.CLASSES``, null without one), ``is_damage``
    (counts for damage_scale) and ``ticks``. For tables other than power_effects it may have ``derive.COLUMNS`` alone.
    ``group_counts`` is the number of effect groups per list, nested ones and those without templates included.
    """

    frame: pl.DataFrame = msgspec.field(default_factory=pl.DataFrame)
    numbers: list[int] = []
    group_counts: list[int] = []

    @classmethod
    def flat(cls, effects: Values, wanted: Collection[str], frame: Callable[..., pl.DataFrame]) -> Self:
        """Return lists in which each effect is a group of its own; empty unless a table that needs them is wanted.

        ``frame(lists, full=…)`` makes the frame, with all columns of power_effects if it is asked for ``full``.
        """
        if "powers" not in wanted and "power_effects" not in wanted:
            return cls()
        return cls(
            frame=frame(effects.distinct, full="power_effects" in wanted),
            numbers=effects.numbers,
            group_counts=list(map(len, effects.distinct)),
        )

    def spread(self) -> tuple[pl.Series, pl.Series]:
        """Return for every effect of every record, in order, the row of the record and that of the effect in ``frame``."""
        lists = self.frame.get_column("list")
        every = pl.Series(range(len(self.group_counts)), dtype=pl.UInt32)
        bounds = (lists.search_sorted(every, side).to_list() for side in ("left", "right"))
        places = list(map(range, *bounds))
        own = [places[number] for number in self.numbers]
        rows = list(chain.from_iterable(map(repeat, count(), map(len, own))))
        return pl.Series(rows, dtype=pl.UInt32), pl.Series(list(chain.from_iterable(own)), dtype=pl.UInt32)


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """The records of one batch in canonical form; ``row`` everywhere is the row number in ``batch``.

    ``batch`` lacks the rejected rows; ``records`` is the same. ``powers`` has a row per record and the columns of table
    powers that the source says (jsonb as text), in the order of ``batch``. ``references`` are (row, reference, required
    level) in order. These and ``lists`` are empty where no table that was asked for is made of them. ``boosts`` and
    ``categories`` are lists of names, repeats included. ``first_effect_rules`` says that the first effect with a class
    decides the power type, not the first class. ``given`` are the jsonb columns of table powers that the store has, with
    its name of each; null is the empty list there.
    """

    batch: pa.RecordBatch
    records: pl.DataFrame
    rejects: list[model.Reject]
    powers: pl.DataFrame
    lists: Lists
    references: list[tuple[int, Reference, int | None]]
    boosts: Values
    categories: Values
    given: Mapping[str, str]
    first_effect_rules: bool = False

    @property
    def effects(self) -> pl.DataFrame:
        """A row per template of each record, with its ``row``; see ``Lists.frame``."""
        rows, places = self.lists.spread()
        return self.lists.frame[places].with_columns(row=rows)
