"""Columns that are packed or share a buffer, beside those that Arrow makes of the same values."""

import msgspec
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from etl.store import columns

TEXTS = [b"", b"null", b"[]", b"{}", b"true", b'"nu"', b'["\xc3\xa4"]', b"[1,2]"]
JSON = st.integers(0, 6).flatmap(
    lambda rows: st.lists(st.lists(st.sampled_from(TEXTS), min_size=rows, max_size=rows), max_size=4)
)


@given(JSON)
def test_nested_values_are_the_texts_that_arrow_makes_of_each(fields):
    """In whatever column they stand; ``null`` and what is absent are null."""
    made = list(columns._json([list(map(msgspec.Raw, field)) for field in fields]))
    slow = [pa.array([text.decode() if text not in (b"", b"null") else None for text in field]) for field in fields]

    for column, twin in zip(made, slow, strict=True):
        column.validate(full=True)
        assert column.equals(twin.cast(pa.string()))
        assert column.null_count == twin.null_count


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


def test_columns_that_are_shared_stand_in_their_places():
    """Between the columns that each row has of its own."""

    class Record(msgspec.Struct):
        name: str

    own = [pa.array([name], kind) for name, kind in (("a.b.c", pa.string()), (1, pa.int64()), (2, pa.int64()))]
    own += [pa.array([b"x" * 16], pa.binary(16)), pa.array(["A.B.C"])]
    whole = columns.complete(own, columns.schema(Record), 7, pa.array(["pool"]), pa.array(["a.b"]))

    assert whole.to_pylist() == [
        {
            "uid": "a.b.c",
            "source": 7,
            "ordinal": 1,
            "offset": 2,
            "archetype": "pool",
            "powerset": "a.b",
            "digest": b"x" * 16,
            "name": "A.B.C",
        }
    ]
