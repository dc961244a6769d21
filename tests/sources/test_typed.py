import io
import json

import msgspec
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from split_support import cod

from etl.sources import FORMATS, cutting, exactness, shapes

RECORD = FORMATS["cod"].record


def cut(text, chunk_bytes, record, again=False):
    """Return the lots of a text, and where the cutter ended; ``again`` if it may read bytes of the stream again."""
    stream = io.BytesIO(text)
    layout, _, _ = shapes.probe(stream, "x")
    stream.seek(layout.start)
    seek = stream.seek if again else None
    cutter = cutting.Cutter(
        stream, layout, name="x", start=layout.start, chunk_bytes=chunk_bytes, record=record, seek=seek
    )
    return list(cutter.lots()), cutter.end


def places(lots):
    return [place for lot in lots for place in zip(lot.texts, lot.offsets, strict=True)]


def fields(records):
    return [[getattr(record, name) for name in RECORD.__struct_fields__] for record in records]


def assert_same(text, chunk_bytes):
    """In one pass and in two, and reading some bytes again: the same texts and places.

    The records are those that each text alone gives, and the text of all is what the lot says that it is.
    """
    fast, fast_end = cut(text, chunk_bytes, RECORD)
    slow, slow_end = cut(text, chunk_bytes, None)
    again, again_end = cut(text, chunk_bytes, RECORD, again=True)
    twin = msgspec.json.Decoder(exactness.guarded(RECORD))

    assert places(fast) == places(slow)
    assert places(fast) == places(again)
    assert fast_end == slow_end == again_end
    assert all(lot.records is None for lot in slow)
    for lot in fast:
        if lot.records is not None:
            assert fields(lot.records) == fields(map(twin.decode, lot.texts))
            assert text[lot.offsets[0] :].startswith(lot.whole[: lot.end])
            assert lot.whole[: lot.end].endswith(lot.texts[-1])
    return fast


@given(strategies.documents(), st.integers(200, 5_000))
def test_one_pass_gives_what_two_give(document, chunk_bytes):
    """Whatever the records hold, however they are arranged, wherever the buffer ends."""
    assert_same(document[1], chunk_bytes)


ODD = {
    "a separator inside a text": cod(display_help='},\n{"name":'),
    "nested objects with the same first key": cod(effects=[{"name": 1}, {"name": 2}]),
    "another first key": dict(reversed(cod().items())),
    "a value of another type": cod(accuracy="much"),
    "no name": {"name": "x", "display_name": "y"},
    "a rounded integer": cod(accuracy=2**53 + 1),
    "nested deeply": cod(effects=json.loads("[" * 300 + "]" * 300)),
    "an unknown number beyond all": cod(unknown=10**400),
    "an unknown word that is nested elsewhere": cod(unknown=[{"name": "x"}]),
    "no object": [1],
    "an empty one": {},
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("joint", [",\n", ",", " ,\n", ",\n\n"])
@pytest.mark.parametrize("place", [0, 1, 5, 9])
def test_odd_records_do_not_mislead(odd, joint, place):
    """They fall to the general way, with the records round them, or are cut as it cuts them."""
    records = [cod(f"Pool.Set.Power_{number}", unknown=number) for number in range(9)]
    records.insert(place, ODD[odd])
    text = "[\n" + joint.join(json.dumps(record, separators=(",", ":")) for record in records) + "\n]\n"

    for chunk_bytes in (700, 1_500, 100_000):
        assert_same(text.encode(), chunk_bytes)


@pytest.mark.parametrize("joint", [",\n", ","])
def test_usual_records_are_decoded_on_the_way(joint):
    """All of them: else the fast path would be one in name only."""
    records = [cod(f"Pool.Set.Power_{number}", unknown=number) for number in range(100)]
    text = "[\n" + joint.join(json.dumps(record, separators=(",", ":")) for record in records) + "\n]\n"
    lots = assert_same(text.encode(), 2_000)

    assert sum(len(lot.records or ()) for lot in lots) == 100
