"""What the text of one JSON value can hold that a database cannot: found, mended where that is allowed, or named.

All functions take the bytes of one value that msgspec has accepted, so strings hold no raw control characters and every
escape is well-formed.
"""

import itertools
import operator
import re
from typing import Any

import msgspec

from etl import numbers
from etl.sources import nesting, utf8, vast
from etl.sources.cutting import Lot

_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_FIRST_KEY = re.compile(rb'\{"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_FIRST_MEMBER = re.compile(rb'\{"[^"\\]*":')
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SPACE = ord(" ")
_SMALL_U = ord("u")


def minify(text: bytes) -> bytes:
    """Return the text of an object without the white space between its tokens; numbers and strings stay as written.

    Formatting costs more than all other checks together, so it is left out for text that is minified already: no line
    break, no tab, and no blank round the first brace, the first colon and the last brace.
    """
    if b"\n" not in text and b"\t" not in text and b"\r" not in text and text[1:2] != b" " and text[-2:-1] != b" ":
        key = _FIRST_KEY.match(text)
        if not key or b" " not in text[key.end() : key.end() + 2]:
            return text
    return msgspec.json.format(text, indent=-1)


def minify_all(lot: Lot) -> list[bytes]:
    """Return the texts of a lot minified, the very same list where they are already; faulty ones stay as they are."""
    texts, usual = lot.texts, _FIRST_MEMBER.match(lot.texts[0]) if lot.texts else None
    if usual and lot.whole and lot.whole.find(b"\t", 0, lot.end) < 0 and lot.whole.find(b"\r", 0, lot.end) < 0:
        # The first member looks the same in nearly all records: one comparison instead of three searches.
        start, follows = usual[0], usual.end()
        if (
            (start == lot.start or _are_lines(texts, start))
            and _SPACE not in map(operator.itemgetter(follows), texts)
            and _SPACE not in map(operator.itemgetter(-2), texts)
        ):
            return texts
    return [text if number in lot.faults else minify(text) for number, text in enumerate(texts)]


def _are_lines(texts: list[bytes], start: bytes) -> bool:
    """Return whether all texts begin like this, and none holds a line break."""
    return all(map(bytes.startswith, texts, itertools.repeat(start))) and not any(
        map(operator.contains, texts, itertools.repeat(b"\n"))
    )


def suspects(lot: Lot, texts: list[bytes], nested: bytes | None = None) -> set[int]:
    """Return the numbers of the texts that may hold what the functions below look for; the others surely do not.

    ``nested`` are all nested values of the records in a row, where they are at hand.
    """
    found: set[int] = set()
    if lot.whole is None or not utf8.is_valid(lot.whole, lot.end):
        found.update(number for number, text in enumerate(texts) if not text.isascii() and invalid_utf8(text))
    if lot.whole is None or _has_unicode_escape(lot.whole, lot.end):
        found.update(number for number, text in enumerate(texts) if b"\\u" in text)
    if nested is None and lot.whole is not None:
        nested = lot.whole[: lot.end]
    if nested is None or vast.may_hold(nested):
        found.update(number for number, text in enumerate(texts) if numbers.may_be_huge(text))
    if not lot.shallow:
        found.update(number for number, t in enumerate(texts) if nesting.is_too_deep(t))
    return found


def _has_unicode_escape(text: bytes, end: int) -> bool:
    """Look at each backslash: they are rare, and looking for one byte is ten times as fast as looking for two."""
    position = text.find(b"\\", 0, end)
    while position >= 0:
        if text[position + 1] == _SMALL_U:
            return True
        position = text.find(b"\\", position + 2, end)
    return False


def invalid_utf8(text: bytes) -> tuple[int, str] | None:
    """Return (byte, reason) of the first byte that is not UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.start, error.reason
    return None


def lone_surrogate(text: bytes) -> int | None:
    """Return the byte of the first escaped surrogate that has no partner."""
    expected = -1
    for escape in _ESCAPE.finditer(text):
        code = int(escape[1], 16) if escape[1] else 0
        if expected == escape.start():
            if not 0xDC00 <= code < 0xE000:
                return escape.start() - 6
            expected = -1
        elif expected >= 0 or 0xDC00 <= code < 0xE000:
            return expected - 6 if expected >= 0 else escape.start()
        elif 0xD800 <= code < 0xDC00:
            expected = escape.end()
    return expected - 6 if expected >= 0 else None


def duplicate_keys(text: bytes) -> int:
    """Return how many members of the record itself are lost because their key comes again later in it.

    The text is minified: if no member is lost, what is left of them is as long as the text.
    """
    try:
        members = _MEMBERS.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    # Quotes and colon of each key, commas between members, the two braces.
    if sum(map(len, members)) + sum(map(len, members.values())) + 4 * len(members) + 1 == len(text):
        return 0
    return _keys(text) - sum(_keys(bytes(value)) for value in members.values()) - len(members)


def duplicate_keys_anywhere(text: bytes) -> int:
    """Return how many members of objects, at any depth of the record, are lost because their key comes again.

    Everything is decoded into Python objects for that, at a third of the speed of a split.
    """
    try:
        kept = msgspec.json.encode(msgspec.json.decode(text))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0
    # What a decoder drops can only lower the count, so the second look is needed where the first one differs.
    return 0 if text.count(b'":') == kept.count(b'":') else _keys(text) - _keys(kept)


def _keys(text: bytes) -> int:
    """Count the keys of all objects: a quote before a colon ends a key unless a backslash stands before it.

    A key that itself ends in a backslash is not counted, in either of two texts that are compared.
    """
    return text.count(b'":') - text.count(b'\\":')


def nul(text: bytes) -> int | None:
    """Return the byte of the first escaped NUL character; an escaped backslash before ``u0000`` makes it text."""
    if b"\\u0000" in text:
        for escape in _ESCAPE.finditer(text):
            if escape[1] == b"0000":
                return escape.start()
    return None


def strip_nul(text: bytes) -> tuple[bytes, int]:
    """Return the text without its escaped NUL characters, and how many there were."""
    count = 0

    def without(escape: re.Match[bytes]) -> bytes:
        nonlocal count
        if escape[1] != b"0000":
            return escape[0]
        count += 1
        return b""

    return _ESCAPE.sub(without, text), count


def has_nul_in_names(text: bytes, names: frozenset[str]) -> bool:
    """Return whether a NUL stands in a key anywhere, or in one of the top-level values with these names."""
    value = msgspec.json.decode(text)
    if not isinstance(value, dict):
        return False
    return _nul_in_keys(value) or any("\0" in str(value.get(name, "")) for name in names)


def _nul_in_keys(value: Any) -> bool:
    if isinstance(value, dict):
        return any("\0" in key or _nul_in_keys(inner) for key, inner in value.items())
    return isinstance(value, list) and any(map(_nul_in_keys, value))
