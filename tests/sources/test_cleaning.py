import json

import msgspec
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

from etl.sources import cleaning, nesting
from etl.sources.cutting import Lot

any_text = st.text(max_size=12)


@given(st.dictionaries(strategies.texts, strategies.values, max_size=4), st.sampled_from([None, 1, "\t"]))
def test_minify_takes_nothing_but_space(value, indent):
    """The same tokens, as they were written."""
    plain = json.dumps(value, separators=(",", ":")).encode()

    assert cleaning.minify(json.dumps(value, indent=indent).encode()) == plain
    assert cleaning.minify(plain) == plain


@pytest.mark.parametrize(
    "text", [b"{}", b"{ }", b'{"a":1}', b'{ "a":1}', b'{"a" :1}', b'{"a": 1}', b'{"a":1 }', b'{"a"\n:1}']
)
def test_space_at_the_usual_places_is_seen(text):
    """Round the first brace, the first colon and the last brace, and line breaks anywhere."""
    assert cleaning.minify(text) == text.replace(b" ", b"").replace(b"\n", b"")


@given(any_text)
def test_stripping_nul_is_what_it_is_on_the_value(value):
    """Escaped backslashes before u0000 are no NUL: the cleaned text decodes to the cleaned value."""
    text = json.dumps(value).encode()
    stripped, count = cleaning.strip_nul(text)

    assert json.loads(stripped) == value.replace("\0", "")
    assert count == value.count("\0")
    assert (cleaning.nul(text) is not None) == ("\0" in value)


@given(st.lists(st.sampled_from(["\\ud83d", "\\ude00", "\\\\ud83d", "x", "\\n", "\\u0041"]), max_size=6).map("".join))
def test_lone_surrogates_are_those_that_are_no_text(escapes):
    """A half without its partner cannot be encoded."""
    text = f'"{escapes}"'
    try:
        json.loads(text).encode()
        is_lone = False
    except UnicodeEncodeError:
        is_lone = True

    assert (cleaning.lone_surrogate(text.encode()) is not None) == is_lone


@given(any_text, st.integers(500, 525), st.sampled_from(["[]", "{}"]))
def test_depth_is_counted_without_the_brackets_in_texts(text, levels, kind):
    """Exactly 512 levels pass, whatever stands in texts beside them."""
    inside = json.dumps({"[" * 600: text + "}" * 600})
    opening, closing = ("[", "]") if kind == "[]" else ('{"k":', "}")
    deep = (opening * levels + inside + closing * levels).encode()

    assert nesting.is_too_deep(deep) == (levels + 1 > nesting.MAX_DEPTH)


def test_the_recursion_limit_is_put_back():
    """Also where decoding fails."""
    import sys

    before = sys.getrecursionlimit()
    decoder = msgspec.json.Decoder(list[msgspec.Raw])
    nesting.decode_shallow(decoder, b"[1]")
    with pytest.raises((RecursionError, msgspec.DecodeError)):
        nesting.decode_shallow(decoder, b"[" * 100_000)

    assert sys.getrecursionlimit() == before


@given(st.lists(strategies.cod_records(), min_size=1, max_size=4))
def test_looking_at_the_whole_lot_finds_what_looking_at_each_record_finds(records):
    """The cheap looks at a lot are shortcuts, not other rules."""
    texts = [json.dumps(record, separators=(",", ":")).encode() for record in records]
    whole = b"[" + b",".join(texts) + b"]"
    lot, alone = Lot(texts, [0] * len(texts), whole=whole), Lot(texts, [0] * len(texts))

    assert cleaning.suspects(lot, texts) == cleaning.suspects(alone, texts)
    assert cleaning.minify_all(lot) == cleaning.minify_all(alone) == texts
