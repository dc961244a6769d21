"""What is decoded for many rows at once is what each row gives alone."""

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.transforms import cod, i12, nested


@pytest.mark.parametrize("count", [0, 1, 5])
def test_fields_of_many_are_those_of_each(count: int) -> None:
    """In the order of the struct's fields, also of none."""
    templates = [cod.Template(scale=float(number), attribs=(str(number),), stack=None) for number in range(count)]
    effects = [i12.Effect(EffectType=str(number), Chance=number / 10) for number in range(count)]

    for kind, values in ((cod.Template, templates), (i12.Effect, effects)):
        slow = [[getattr(value, name) for value in values] for name in kind.__struct_fields__]
        assert list(nested.fields_of(kind, values)) == slow


TEXTS = ['["a"]', None, "[]", '["a", "b"]', '["b"]', "[1]", '{"a": 1}', "[" * 600 + "]" * 600]


def decoded(texts: list[str | None]) -> tuple[list[list[str]], list[tuple[int, str]]]:
    """Return the value of each row that fits, and ordinal and reason of those that do not."""
    columns = {
        "source": pa.array([0] * len(texts), pa.int32()),
        "ordinal": pa.array(range(len(texts)), pa.int64()),
        "offset": pa.array([0] * len(texts), pa.int64()),
        "uid": pa.array(["x"] * len(texts), pa.string()),
        "names": pa.array(texts, pa.string()),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    batch, records, values, rejects = nested.decode(batch, {"names": nested.Field(list[str])})
    found = [values["names"].distinct[number] for number in values["names"].numbers]

    assert batch.num_rows == records.height == len(found) == len(texts) - len(rejects)
    rows = [(row, entry) for row, names in enumerate(found) for entry in names]
    assert list(zip(*values["names"].entries(), strict=True)) == rows
    assert values["names"].column(pl.List(pl.String)).to_list() == found
    return found, [(reject.ordinal or 0, reject.reason) for reject in rejects]


@given(st.lists(st.sampled_from(TEXTS), max_size=12))
def test_rows_of_one_text_are_what_each_is_alone(texts: list[str | None]) -> None:
    """Values in order, and a reject for each row that does not fit."""
    values, rejects = decoded(texts)
    alone = [decoded([text]) for text in texts]

    assert values == [value for found, _ in alone for value in found]
    assert rejects == [(row, reason) for row, (_, bad) in enumerate(alone) for _, reason in bad]
