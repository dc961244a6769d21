"""Sums of the digests of neighbouring rows: differences of sums from the first row on, which Arrow makes.

Beside `sum` over the halves of each run: half the time in runs of twenty, where there are some thousand rows
(`scripts/bench.py twins`); tests/store/test_sums.py has it agree with the digests one by one.
"""

import sys
from array import array
from collections.abc import Iterator, Sequence

import pyarrow as pa

_HALF, _HALF_MASK = 32, 2**32 - 1
_WORD = 64


def of_runs(digests: bytes, runs: Sequence[int]) -> Iterator[int]:
    """Yield the sum, modulo 2**128, of the digests of each run of rows; ``runs`` are the numbers of their rows.

    ``digests`` are 16 bytes each, the most significant first.
    """
    import pyarrow.compute as pc

    words = array("Q", digests)
    if sys.byteorder == "little":
        words.byteswap()
    high, low = (pa.Array.from_buffers(pa.uint64(), len(words) // 2, [None, pa.py_buffer(words[n::2])]) for n in (0, 1))
    # Of the low word the halves, whose sums are exact; that of the high ones is modulo 2**64, as it should be.
    half, mask = (pa.scalar(number, pa.uint64()) for number in (_HALF, _HALF_MASK))
    parts = (high, _WORD), (pc.shift_right(low, half), _HALF), (pc.bit_wise_and(low, mask), 0)
    sums = [(memoryview(pc.cumulative_sum(part).buffers()[1]).cast("Q"), shift) for part, shift in parts]
    before = end = 0
    for rows in runs:
        end += rows
        upto = sum(held[end - 1] << shift for held, shift in sums)
        yield (upto - before) % (1 << 2 * _WORD)
        before = upto
