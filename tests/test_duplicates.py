"""Hashes of names that came more than once."""

from collections import Counter

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from etl.splitter import duplicates

HASHES = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**60, 2**64 - 1])


@given(st.lists(st.lists(HASHES, max_size=30), min_size=1, max_size=4))
def test_hashes_that_came_twice_are_those_that_counting_finds(ranges):
    """In whatever ranges, each of them once."""
    hashes = pa.chunked_array([pa.array(some, pa.uint64()) for some in ranges], pa.uint64())
    counts = Counter(number for some in ranges for number in some)

    assert sorted(duplicates._twice(hashes).to_pylist()) == sorted(n for n, count in counts.items() if count > 1)
