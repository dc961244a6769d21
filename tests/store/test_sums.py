"""Sums of digests over runs of rows."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from etl.store import sums

DIGESTS = st.binary(min_size=16, max_size=16) | st.sampled_from([b"\xff" * 16, b"\0" * 8 + b"\xff" * 8, bytes(16)])


@given(st.lists(st.lists(DIGESTS, min_size=1, max_size=50), max_size=20))
def test_sums_of_runs_are_those_of_their_digests(runs):
    """As one by one, modulo 2**128, however big they are."""
    found = list(sums.of_runs(b"".join(itertools.chain.from_iterable(runs)), list(map(len, runs))))

    assert found == [sum(int.from_bytes(digest) for digest in run) % 2**128 for run in runs]
