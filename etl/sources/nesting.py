"""How deep arrays and objects may be nested, and how to know cheaply that a text is not nested deeper.

Counting brackets costs 0.7 ms per megabyte of nested records, a fifth of all checks. CPython before 3.12 counts the
levels anyway while msgspec decodes, against the interpreter's recursion limit; with the limit lowered for the duration
of one call, text that is decoded is not too deep. Elsewhere ``is_limited`` is false, and brackets are counted.
"""

import functools
import re
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec

MAX_DEPTH = 512

T = TypeVar("T")

_SHALLOW_BYTES = 2 * MAX_DEPTH + 2  # a shorter text cannot be too deep: each level opens and closes
_LEVELS = 256  # what decode_shallow lets through: less than the limit, since the exact figure is of no matter
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_STRING = re.compile(rb'"[^"]*"')
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b'"[]{}'))


def decode_shallow(decoder: "msgspec.json.Decoder[T]", text: bytes) -> T:
    """Decode a text; raise RecursionError if it is nested deeper than some 250 levels, where that can be had."""
    return shallow(functools.partial(decoder.decode, text))


def shallow(decode: Callable[[], T]) -> T:
    """Call what decodes, with the recursion limit so low that it raises where a text is nested deeper than that."""
    usual = sys.getrecursionlimit()
    frame, used = sys._getframe(), 0
    while frame := frame.f_back:  # type: ignore[assignment]  # the outermost frame has none
        used += 1
    try:
        sys.setrecursionlimit(used + _LEVELS)
        return decode()
    finally:
        sys.setrecursionlimit(usual)


@functools.cache
def is_limited() -> bool:
    """Return whether decode_shallow refuses what is nested too deep: so it does in CPython before 3.12."""
    decoder = msgspec.json.Decoder(msgspec.Raw)
    try:
        decode_shallow(decoder, b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    except RecursionError:
        return True
    return False


def is_too_deep(text: bytes) -> bool:
    """Return whether arrays and objects are nested deeper than the limit.

    What is no bracket is taken away, then innermost pairs, one level at a time, until too few are left to be too deep.
    """
    if len(text) < _SHALLOW_BYTES or text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return False
    if b"\\" in text:
        text = _ESCAPE.sub(b"", text)
    brackets = _STRING.sub(b"", text.translate(_AS_SQUARE, _NO_BRACKETS).replace(b'""', b""))
    levels = 0
    while levels + len(brackets) // 2 > MAX_DEPTH and levels <= MAX_DEPTH:
        brackets = brackets.replace(b"[]", b"")
        levels += 1
    return levels > MAX_DEPTH
