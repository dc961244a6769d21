"""Numbers are stored as they were meant, or the record is refused: no rounding goes unnoticed.

Whole lots are decoded with types that let only those doubles through that cannot have been rounded integers; a lot that
fails is looked at record by record.
"""

import functools
import types
import typing
from typing import Annotated, Any

import msgspec

from etl import numbers

# Up to here every integer is a double.
_SAFE = 2**53
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


@functools.cache
def guarded(record: type[msgspec.Struct], keys: tuple[tuple[str, Any], ...] = ()) -> type[msgspec.Struct]:
    """Return a type like ``record`` whose doubles are those of at most 2**53; what it decodes has the same fields.

    The fields stand as ``keys`` do, which are (key, type for one that ``record`` does not have); the others after them.
    """
    known = {field.encode_name: field for field in msgspec.structs.fields(record)}
    fields = [
        (known[key].name, _guarded(known[key].type), msgspec.field(name=key, **_default(known[key])))
        if key in known
        else (f"_{number}", kind, msgspec.field(name=key, default=None))
        for number, (key, kind) in enumerate({**dict(keys), **dict.fromkeys(known)}.items())
    ]
    return msgspec.defstruct(record.__name__, fields, gc=False, kw_only=True)


def decode(decoder: "msgspec.json.Decoder[Any]", record: type[msgspec.Struct], text: bytes) -> Any:
    """Decode a record; a whole number in an integer field may be written with a point or an exponent (1.0, 2e3).

    Raises:
        msgspec.DecodeError: the text is no such record.
    """
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        if "Expected `int" not in str(error) or "got `float`" not in str(error):
            raise
        members = _MEMBERS.decode(text)
        for name in _fields(record, int) & members.keys():
            members[name] = msgspec.Raw(numbers.whole(bytes(members[name])))
        return decoder.decode(msgspec.json.encode(members))


def rounded(text: bytes, record: Any) -> tuple[str, str] | None:
    """Return (code, reason) where an integer in the text is not the double that the record has of it."""
    kind = type(record)
    big = [
        field.encode_name
        for field in msgspec.structs.fields(kind)
        if isinstance(value := getattr(record, field.name), float) and abs(value) >= _SAFE
    ]
    if not big:
        return None
    members = _MEMBERS.decode(text)
    for name in big:
        number = bytes(members.get(name, b""))
        if number.lstrip(b"-").isdigit() and int(number) != int(float(number)):
            return "out_of_range", f"{number.decode()[:60]} is no double precision number - at `$.{name}`"
    return None


def huge_number(text: bytes, record: type[msgspec.Struct]) -> tuple[str, str] | None:
    """Return (code, reason) where a nested value that is stored as jsonb holds a number that jsonb refuses."""
    try:
        members = _MEMBERS.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    for name in _fields(record, msgspec.Raw) & members.keys():
        found = numbers.huge(bytes(members[name]))
        if found:
            return "out_of_range", f"jsonb does not hold the number {found.decode()[:60]} - in `$.{name}`"
    return None


def nested(record: type[msgspec.Struct]) -> list[str]:
    """Return the names of the fields that hold nested values."""
    return [field.name for field in msgspec.structs.fields(record) if basic(field.type) is msgspec.Raw]


@functools.cache
def _fields(record: type[msgspec.Struct], kind: type) -> frozenset[str]:
    """Return the source's names of the fields of one basic type."""
    return frozenset(f.encode_name for f in msgspec.structs.fields(record) if basic(f.type) is kind)


def basic(kind: Any) -> type:
    """Return the type in ``X | None`` and in ``Annotated[X, …]``."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return basic(next(inner for inner in typing.get_args(kind) if inner is not type(None)))
    if typing.get_origin(kind) is Annotated:
        return basic(typing.get_args(kind)[0])
    return typing.cast(type, kind)


def _guarded(kind: Any) -> Any:
    if basic(kind) is not float:
        return kind
    bounded = Annotated[float, msgspec.Meta(ge=-_SAFE, le=_SAFE)]
    return bounded | None if type(None) in typing.get_args(kind) else bounded


def _default(field: Any) -> dict[str, Any]:
    if field.default is not msgspec.NODEFAULT:
        return {"default": field.default}
    return {} if field.default_factory is msgspec.NODEFAULT else {"default_factory": field.default_factory}
