import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etl.sources import utf8


def decodes(text):
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode(errors="surrogatepass")))
@example(b"")
def test_arrow_sees_utf8_as_python_does(text):
    """Also in the middle of plain text, which it skips in steps of eight bytes."""
    assert utf8.is_valid(text) == decodes(text)
    assert utf8.is_valid(b"a" * 13 + text + b"z" * 7) == decodes(text)


@pytest.mark.parametrize(
    "text",
    [
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xe0\x80\xaf",
        b"\xf4\x90\x80\x80",
        b"\xf0\x9f\x98",
        b"\x80",
        b"\xff",
        b"\xf8\x88",
    ],
    ids=["surrogate", "overlong", "overlong slash", "beyond the last", "cut off", "tail alone", "ff", "five bytes"],
)
def test_what_is_no_utf8_is_seen(text):
    """The usual suspects, at each place in a word."""
    assert not any(utf8.is_valid(b"a" * before + text + b"a" * 9) or decodes(text) for before in range(9))
