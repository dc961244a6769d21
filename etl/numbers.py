"""JSON numbers as they are written: what jsonb holds of them, and which are whole."""

import re
from collections.abc import Iterator

# What PostgreSQL's numeric holds: digits before the point, digits behind it ("Numeric Types", same on 15 and 18).
MOST_WHOLE_DIGITS = 131_072
MOST_FRACTION_DIGITS = 16_383
_MOST_EXPONENT = 2**30  # beyond that even a zero is refused
_MOST_REWRITTEN = 40  # digits of a whole number that is written out: no integer column holds as many

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*', re.DOTALL)
_EXPONENT_DIGITS = 4  # a shorter exponent needs many digits to be out of range
_LONG = 10_000
_NUMERIC = tuple(b"%c" % byte for byte in b"-0123456789")
_DIGIT, _MARK = b"0", b"e"
_SHAPE = bytearray(b" " * 256)
for _byte in b"0123456789":
    _SHAPE[_byte] = _DIGIT[0]
_SHAPE[ord("e")] = _SHAPE[ord("E")] = _MARK[0]
_SHAPES = bytes(_SHAPE)
_BIG_EXPONENT, _LONG_RUN = _DIGIT + _MARK + _DIGIT * _EXPONENT_DIGITS, _DIGIT * _LONG


def may_be_huge(text: bytes) -> bool:
    """Return whether a JSON text may hold a number that jsonb refuses; False is certain. About 600 MB/s."""
    shape = text.translate(_SHAPES, b"+-")
    return _BIG_EXPONENT in shape or (len(text) > _LONG and _LONG_RUN in shape)


def huge(text: bytes) -> bytes | None:
    """Return the first number of a JSON text that jsonb refuses."""
    return next((number for number in _numbers(text) if not fits_jsonb(number)), None)


def fits_jsonb(number: bytes) -> bool:
    """Return whether jsonb holds a number exactly."""
    mantissa, _, power = number.lower().partition(b"e")
    whole, _, fraction = mantissa.lstrip(b"-").partition(b".")
    if len(power) > len(str(_MOST_EXPONENT)) + 1:
        return False
    exponent = int(power or 0)
    digits = (whole + fraction).lstrip(b"0")
    return (
        abs(exponent) < _MOST_EXPONENT
        and len(fraction) - exponent <= MOST_FRACTION_DIGITS
        and (not digits or len(digits) - len(fraction) + exponent <= MOST_WHOLE_DIGITS)
    )


def whole(number: bytes) -> bytes:
    """Return a number that is whole though written with a point or an exponent (1.0, 2e3) as an integer; else itself.

    So does any other JSON value come back.
    """
    if number[:1] not in _NUMERIC:
        return number
    mantissa, _, power = number.lower().partition(b"e")
    before, _, fraction = mantissa.lstrip(b"-").partition(b".")
    if len(power) > 3:
        return number
    digits, point = before + fraction, len(before) + int(power or 0)
    if point < 1 or point > _MOST_REWRITTEN or digits[point:].strip(b"0"):
        return number
    found = digits[:point].ljust(point, b"0").lstrip(b"0") or b"0"
    return b"-" + found if number.startswith(b"-") else found


def with_whole_numbers(text: bytes) -> bytes:
    """Return a JSON text with each whole number written as an integer."""
    return _TOKEN.sub(lambda found: found[0] if found[0][:1] == b'"' else whole(found[0]), text)


def _numbers(text: bytes) -> Iterator[bytes]:
    return (found[0] for found in _TOKEN.finditer(text) if found[0][:1] != b'"')
