"""What a format's module makes of a record batch: the same frames whatever the format."""

import msgspec
import polars as pl
import pyarrow as pa

from etl import model
from etl.transforms.expressions import Reference


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """The records of one batch in canonical form; ``row`` everywhere is the row number in ``batch``.

    ``batch`` lacks the rejected rows. ``powers`` has a row per record and the columns of table powers that the source
    says (jsonb as text), in the order of ``batch``. ``effects`` has a row per template, ordered by row and seq, with
    the columns of table power_effects except ids, and besides ``row``, ``rank`` (the number of its class in
    ``derive.CLASSES``, null without one), ``is_damage`` (counts for damage_scale) and ``ticks``. Parsed without ``full``, for
    tables other than power_effects, it may have ``derive.COLUMNS`` alone. ``group_counts`` is
    the number of effect groups per record, nested ones and those without templates included. ``references`` are
    (row, reference, required level) in order; ``boosts`` and ``categories`` are (rows, names), repeats included.
    ``first_effect_rules`` says that the first effect with a class decides the power type, not the first class.
    """

    batch: pa.RecordBatch
    rejects: list[model.Reject]
    powers: pl.DataFrame
    effects: pl.DataFrame
    group_counts: list[int]
    references: list[tuple[int, Reference, int | None]]
    boosts: tuple[list[int], list[str]]
    categories: tuple[list[int], list[str]]
    first_effect_rules: bool = False
