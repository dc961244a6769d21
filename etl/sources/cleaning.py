"""What the text of one JSON value can hold that a database cannot: found, mended where that is allowed, or named.

All functions take the bytes of one value that msgspec has accepted, so strings hold no raw control characters and every
escape is well-formed.
"""

import re
from collections.abc import Collection
from typing import Any

import msgspec

MAX_DEPTH = 512
_SHALLOW_BYTES = 2 * MAX_DEPTH + 2  # a shorter text cannot be too deep: each level opens and closes

_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_STRING = re.compile(rb'"[^"]*"')
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b'"[]{}'))
_FIRST_MEMBER = re.compile(rb'\{"[^"\\]*":(?=[^ ])')
_SPACE = 0x20


def minify(text: bytes) -> bytes:
    """Return the text of an object without the white space between its tokens; numbers and strings stay as written.

    Formatting costs more than all other checks together, so it is left out for text that is minified already: no line
    break, no tab, and no blank round the first brace, the first colon and the last brace.
    """
    if b"\n" not in text and b"\t" not in text and b"\r" not in text and text[1:2] != b" " and text[-2:-1] != b" ":
        colon = text.find(b'"', text.find(b'"') + 1) + 1
        if text[colon : colon + 1] != b" " and text[colon + 1 : colon + 2] != b" ":
            return text
    return msgspec.json.format(text, indent=-1)


def minify_all(texts: list[bytes], without: Collection[int] = ()) -> list[bytes]:
    """Return all texts minified, those with the numbers in ``without`` as they are."""
    if not any(b"\t" in text or b"\r" in text or b"\n" in text for text in texts):
        # The first member of a record looks the same in nearly all of them: one comparison instead of three searches.
        start = _FIRST_MEMBER.match(texts[0]) if texts else None
        if start:
            usual, follows = start[0], start.end()
            if all(t.startswith(usual) and t[follows] != _SPACE and t[-2] != _SPACE for t in texts if len(t) > follows):
                return texts if all(len(text) > follows for text in texts) else _minify_each(texts, without)
    return _minify_each(texts, without)


def _minify_each(texts: list[bytes], without: Collection[int]) -> list[bytes]:
    return [text if number in without else minify(text) for number, text in enumerate(texts)]


def suspects(texts: list[bytes]) -> set[int]:
    """Return the numbers of the texts that may hold what the functions below look for; the others surely do not."""
    found = {number for number, text in enumerate(texts) if b"\\" in text and b"\\u" in text}
    found.update(number for number, text in enumerate(texts) if not text.isascii() and invalid_utf8(text))
    found.update(number for number, text in enumerate(texts) if len(text) >= _SHALLOW_BYTES and is_too_deep(text))
    return found


def invalid_utf8(text: bytes) -> tuple[int, str] | None:
    """Return (byte, reason) of the first byte that is not UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.start, error.reason
    return None


def is_too_deep(text: bytes) -> bool:
    """Return whether arrays and objects are nested deeper than the limit.

    What is no bracket is taken away, then innermost pairs, one level at a time, until too few are left to be too deep.
    """
    if _is_surely_shallow(text):
        return False
    if b"\\" in text:
        text = _ESCAPE.sub(b"", text)
    brackets = _STRING.sub(b"", text.translate(_AS_SQUARE, _NO_BRACKETS).replace(b'""', b""))
    levels = 0
    while levels + len(brackets) // 2 > MAX_DEPTH and levels <= MAX_DEPTH:
        brackets = brackets.replace(b"[]", b"")
        levels += 1
    return levels > MAX_DEPTH


def _is_surely_shallow(text: bytes) -> bool:
    return len(text) < _SHALLOW_BYTES or text.count(b"[") + text.count(b"{") <= MAX_DEPTH


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
