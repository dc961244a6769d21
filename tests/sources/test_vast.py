import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl import numbers
from etl.sources import vast

SMALL = [
    b"0",
    b"-1.5",
    b"1e38",
    b"3.4028235e+38",
    b"1E-999",
    b"9" * 9_000,
    b'"1e"',
    b'"x0e"',
    b"true",
    b"[]",
    b'"e12345"',
]
HUGE = [b"1e1000", b"1E+1000", b"0e-12345", b"12.5e99999", b"9" * 12_000, b"0." + b"0" * 11_000 + b"1", b"1e0001000"]


@given(st.lists(st.sampled_from(SMALL), max_size=30), st.integers(0, 16))
def test_what_is_small_is_not_suspected(values, blanks):
    """Wherever it stands in its word."""
    text = b"[" + b" " * blanks + b",".join(values) + b"]"

    assert not vast.may_hold(text)
    assert not numbers.may_be_huge(text)


@given(
    st.lists(st.sampled_from(SMALL + HUGE), max_size=20),
    st.sampled_from(HUGE),
    st.lists(st.sampled_from(SMALL), max_size=20),
    st.integers(0, 16),
    st.sampled_from([b"", b" ", b"]", b"]}", b" ]}]"]),
)
def test_what_is_huge_is_never_missed(before, huge, after, blanks, end):
    """Wherever it stands in its word, at the very end as well."""
    text = b" " * blanks + b",".join([*before, huge, *after]) + end

    assert vast.may_hold(text)
    assert numbers.may_be_huge(text)


@given(st.binary(max_size=80) | st.text("0123456789eE+-., ", max_size=200).map(str.encode))
def test_any_bytes_are_judged_as_by_the_slow_way(text):
    """Signs that stand where no number has them are the one difference: the slow way takes them out of any text."""
    assert vast.may_hold(text) == numbers.may_be_huge(text) or b"+" in text or b"-" in text


@pytest.mark.parametrize("length", range(20))
def test_the_shortest_texts_are_looked_at(length):
    """Shorter than a word, and a little longer."""
    assert not vast.may_hold(b"1" * length)
    assert vast.may_hold(b" " * length + b"1e1000")


@given(
    st.integers(0, 3_000), st.integers(0, 3_000), st.sampled_from(HUGE), st.sampled_from([b" ", b"e ", b"1e5,", b"9E"])
)
def test_a_huge_number_in_a_long_text_is_found(before, after, huge, filling):
    """Wherever it stands among the words of bits that tell of pairs, and however many pairs there are."""
    text = filling * before + huge + b"," + filling * after

    assert vast.may_hold(text)
    assert not vast.may_hold(filling * (before + after))
