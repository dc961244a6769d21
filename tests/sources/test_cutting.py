import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.sources import cutting, scanning, shapes

values = st.recursive(
    st.text(max_size=6) | st.integers(), lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v)
)
objects = st.dictionaries(st.text(min_size=1, max_size=3), values, max_size=3)


class Dribble(io.BytesIO):
    """A stream that gives a few bytes at a time."""

    def read(self, size=-1, /):
        """Return at most seven bytes."""
        return super().read(min(size, 7) if size > 0 else 7)


@given(st.lists(objects, min_size=1, max_size=8), st.sampled_from([None, 1]), st.integers(16, 200))
def test_records_come_back_with_their_bytes(records, indent, chunk_bytes):
    """Text and offset of each, however the stream comes and the buffer is cut."""
    text = json.dumps(records, indent=indent).encode()
    stream = Dribble(text)
    layout, _, head = shapes.probe(stream, "x")
    cutter = cutting.Cutter(
        stream, layout, name="x", start=layout.start, chunk_bytes=chunk_bytes, head=head[layout.start :]
    )
    found = [(piece, offset) for lot in cutter.lots() for piece, offset in zip(lot.texts, lot.offsets, strict=True)]

    assert [json.loads(piece) for piece, _ in found] == records
    assert all(text[offset : offset + len(piece)] == piece for piece, offset in found)
    assert cutter.end == len(text)


@given(values)
def test_the_scanner_finds_the_end_of_a_value(value):
    """By strings and brackets alone."""
    text = json.dumps(value).encode()

    assert scanning.value_end(b"  " + text + b", 7", 2) == len(text) + 2


@pytest.mark.parametrize("text", [b'{"a":1', b'{"a', b'{"a":"}', b"[[]", b"7"])
def test_the_scanner_says_when_a_value_does_not_end(text):
    """A number at the end of the buffer may go on."""
    assert scanning.value_end(text, 0) is None
