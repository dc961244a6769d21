"""Columns that are packed or share a buffer, beside those that Arrow makes of the same values."""

import msgspec
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from etl.sources import joined
from etl.store import columns

TEXTS = [b"", b"null", b"[]", b"{}", b"true", b'"nu"', b'["\xc3\xa4"]', b"[1,2]"]


@given(st.lists(st.lists(st.tuples(st.sampled_from(TEXTS), st.sampled_from(TEXTS)), max_size=6), max_size=4))
def test_nested_values_are_the_texts_that_arrow_makes_of_each(lots):
    """Of however many lots; ``null`` and what is absent are null."""
    parts = [joined.join([[msgspec.Raw(values[field]) for values in lot] for field in (0, 1)]) for lot in lots]
    made = dict(columns.nested(parts, ["first", "second"]))

    for field, column in enumerate(made.values()):
        texts = [values[field].decode() for lot in lots for values in lot]
        column.validate(full=True)
        assert column.equals(pa.array([text if text not in ("", "null") else None for text in texts], pa.string()))
        assert column.null_count == texts.count("") + texts.count("null")


@given(
    st.sampled_from(
        [
            (float, st.floats(allow_nan=False)),
            (int, st.integers(-(2**63), 2**63 - 1)),
            (bool, st.booleans()),
            (str, st.text()),
        ]
    ).flatmap(
        lambda kind: st.tuples(
            st.just(kind[0]), st.lists(kind[1]) | st.lists(st.none() | kind[1]) | st.lists(st.none())
        )
    )
)
def test_scalars_are_what_arrow_makes_of_them(given_kind):
    """With nulls and without, none at all, nothing but nulls."""
    kind, values = given_kind
    made = columns._scalars(kind, values)

    made.validate(full=True)
    assert made.equals(pa.array(values, columns._ARROW[kind]))


@given(st.lists(st.text() | st.sampled_from(["ABC", "İ", "ΣΊΣΥΦΟΣ", "Straße"])))
def test_texts_are_lowered_as_python_lowers_them(texts):
    """All of ASCII, and with some that are not."""
    assert columns.lowered(pa.array(texts, pa.string())).to_pylist() == list(map(str.lower, texts))
