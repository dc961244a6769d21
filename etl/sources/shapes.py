"""How the records of a stream are arranged, learned from its first bytes, and which format they have."""

import re
from collections.abc import Collection

import msgspec

from etl.errors import InputError
from etl.sources import FORMATS, Format, scanning, streams

ARRAY, LINES, OBJECT = "array", "lines", "object"

_FIRST_BYTES = 64 * 1024
_MOST_BYTES = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_FIRST_KEY = re.compile(rb'\{\s*"(?:[^"\\]|\\.)*"\s*:', re.DOTALL)


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """``container`` is "array", "lines" (NDJSON) or "object" (one record); ``start`` the byte of the first record.

    ``separator`` are the bytes from the end of the first record through the first key of the second one, ``lead`` how
    many of them come before that record's brace. Empty where there is no second record.
    """

    container: str
    start: int
    separator: bytes = b""
    lead: int = 0


def probe(stream: streams.Readable, name: str) -> tuple[Layout, frozenset[str], bytes]:
    """Return (layout, keys of the first record, bytes read from the stream so far).

    Raises:
        InputError: the stream is empty, or holds no JSON records.
    """
    head = b""
    size = _FIRST_BYTES
    while True:
        more = stream.read(size - len(head)) if len(head) < size else b""
        head += more
        if more and len(head) < size:
            continue
        at_end = len(head) < size
        found = _learn(head, name, at_end)
        if found:
            return (*found, head)
        if at_end or size >= _MOST_BYTES:
            raise InputError(
                f"{name}: the first record, at byte {_first_record(head)}, does not end within {len(head)} bytes",
                "the file may be truncated; make it again",
            )
        size *= 4


def choose(keys: Collection[str], wanted: str, name: str) -> Format:
    """Return the format whose keys the first record has; ``wanted`` is a format's name or "auto".

    Raises:
        InputError: no format fits, or not the wanted one.
    """
    fitting = [form for form in FORMATS.values() if form.keys <= set(keys)]
    if wanted == "auto" and fitting:
        return fitting[0]
    seen = ", ".join(sorted(keys)[:12]) or "none"
    if wanted == "auto":
        known = "; ".join(f"{form.name}: {', '.join(sorted(form.keys))}" for form in FORMATS.values())
        raise InputError(
            f"{name}: the first record is of no known format; its keys are {seen}; known formats have {known}",
            "check the file, or name the place of its records with --records-path (like powers.item)",
        )
    form = FORMATS[wanted]
    if form not in fitting:
        lacking = ", ".join(sorted(form.keys - set(keys)))
        advice = f"use --format {fitting[0].name} or auto" if fitting else "check the file, or give --records-path"
        raise InputError(
            f"{name}: not of format {wanted}: the first record lacks {lacking}; its keys are {seen}", advice
        )
    return form


def _start(head: bytes) -> int:
    return scanning.skip_space(head, len(_BOM) if head.startswith(_BOM) else 0)


def _first_record(head: bytes) -> int:
    start = _start(head)
    return scanning.skip_space(head, start + 1) if head[start : start + 1] == b"[" else start


def _shown(byte: bytes) -> str:
    return f"'{byte.decode()}'" if byte.isascii() and byte.decode().isprintable() else f"0x{byte.hex()}"


def _learn(head: bytes, name: str, at_end: bool) -> tuple[Layout, frozenset[str]] | None:
    """Return what the head tells, None if more of the stream is needed."""
    start = _start(head)
    opening = head[start : start + 1]
    if not opening:
        if at_end:
            raise InputError(f"{name}: the file is empty ({len(head)} bytes)", "check the file, or make it again")
        return None
    if opening == b"[":
        return _learn_array(head, name, scanning.skip_space(head, start + 1), at_end)
    if opening == b"{":
        return _learn_objects(head, start, at_end)
    raise InputError(f"{name}: not JSON records: byte {start} is {_shown(opening)}, not '[' or '{{'", "check the file")


def _learn_array(head: bytes, name: str, first: int, at_end: bool) -> tuple[Layout, frozenset[str]] | None:
    if head[first : first + 1] == b"]":
        raise InputError(f"{name}: the array is empty: no record from byte {first} on", "check the file")
    end = scanning.value_end(head, first)
    if end is None:
        return None
    after = scanning.skip_space(head, end)
    following = scanning.skip_space(head, after + 1)
    key = _FIRST_KEY.match(head, following)
    if head[after : after + 1] == b"," and key:
        layout = Layout(container=ARRAY, start=first, separator=head[end : key.end()], lead=following - end)
    elif at_end or head[after : after + 1] not in (b"", b","):
        layout = Layout(container=ARRAY, start=first)
    else:
        return None
    return layout, keys_of(head[first:end])


def _learn_objects(head: bytes, start: int, at_end: bool) -> tuple[Layout, frozenset[str]] | None:
    end = scanning.value_end(head, start)
    if end is None:
        return None
    following = scanning.skip_space(head, end)
    if following == len(head) and not at_end:
        return None
    one_line = b"\n" not in head[start:end]
    container = LINES if one_line else OBJECT
    return Layout(container=container, start=start, separator=b"\n" if one_line else b""), keys_of(head[start:end])


def keys_of(text: bytes) -> frozenset[str]:
    """Return the top-level keys of a record, also of one that is not quite JSON."""
    try:
        value = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset(key.decode(errors="replace") for key in re.findall(rb'[{,]\s*"([^"\\]{1,60})"\s*:', text))
    return frozenset(value)
