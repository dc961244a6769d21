"""Whether bytes may hold a number that jsonb refuses, told by Arrow: it looks at eight bytes at a time.

Such a number has an exponent of four digits or more, or ten thousand digits in a row. So somewhere there is a digit, an
``e``, any one byte (a sign or a digit), and three digits; as it does not matter whether it is found too often, a digit
here is any byte of the form 0x3_.

Beside `numbers.may_be_huge`: 0.56 instead of 0.87 ms for a megabyte, which is a twentieth of the whole split of nested
records (`scripts/bench.py twins`); tests/sources/test_vast.py has the two agree.
"""

import functools
import sys
from typing import Any

from etl import numbers

_WORD = 8
_RARE = bytes((0xF0, 0xDF, 0x00, 0xF0, 0xF0, 0xF0, 0x00, 0x00)), b"\x30\x45\x00\x30\x30\x30\x00\x00"
_DIGITS = b"\xf0" * _WORD, b"\x30" * _WORD
# Of ten thousand digits, this many bytes of bits are surely set: one bit stands for eight digits.
_RUN = b"\xff" * (10_000 // _WORD // 8 - 2)


def may_hold(text: bytes) -> bool:
    """Return whether a JSON text may hold a number that jsonb refuses; False is certain."""
    import pyarrow as pa  # the coordinator imports this module, and never pyarrow

    buffer = pa.py_buffer(text)
    if any(_marks(buffer.slice(first), *_RARE).true_count for first in range(min(_WORD, len(text)))):
        return numbers.may_be_huge(text)
    if len(text) > len(_RUN) and _RUN in _marks(buffer, *_DIGITS).buffers()[1].to_pybytes():
        return numbers.may_be_huge(text)
    return numbers.may_be_huge(text[-2 * _WORD :])  # the end may be in no word


def _marks(buffer: Any, mask: bytes, value: bytes) -> Any:
    """Return for each word of a buffer whether it is ``value`` behind the mask."""
    import pyarrow as pa
    import pyarrow.compute as pc

    words = pa.Array.from_buffers(pa.uint64(), len(buffer) // _WORD, [None, buffer])
    return pc.equal(pc.bit_wise_and(words, _word(mask)), _word(value))


@functools.cache
def _word(value: bytes) -> Any:
    import pyarrow as pa

    return pa.scalar(int.from_bytes(value, sys.byteorder), pa.uint64())
