"""The input formats: adding one is one file in this folder and one line in the registry."""

from collections.abc import Callable
from typing import Any

import msgspec

from etl.sources import cod, i12, mids


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """What the splitter must know of a format.

    ``record`` is the type that one record is decoded to; its fields are the store's columns. ``keys`` are those by which
    a first record is recognised, ``names`` the fields in which nothing may be mended. ``identify`` returns (full name,
    powerset's full name, powerset's display name or None) of a record, told from its fields ``identity`` alone; the
    first of these is the full name. ``outer`` is the type of the object round the records where a top-level element
    holds several, in its list ``Powers``.
    """

    name: str
    record: type[msgspec.Struct]
    keys: frozenset[str]
    names: tuple[str, ...]
    identity: tuple[str, ...]
    identify: Callable[[Any], tuple[str, str, str | None]]
    outer: type[msgspec.Struct] | None = None

    @property
    def source_names(self) -> frozenset[str]:
        """The keys under which ``names`` stand in the source."""
        return frozenset(f.encode_name for f in msgspec.structs.fields(self.record) if f.name in self.names)


FORMATS: dict[str, Format] = {
    "cod": Format(
        name="cod",
        record=cod.Record,
        keys=cod.KEYS,
        names=cod.NAMES,
        identity=cod.IDENTITY,
        identify=cod.identify,
    ),
    "i12": Format(
        name="i12",
        record=i12.Record,
        keys=i12.KEYS,
        names=i12.NAMES,
        identity=i12.IDENTITY,
        identify=i12.identify,
    ),
    "mids": Format(
        name="mids",
        record=mids.Record,
        keys=mids.KEYS,
        names=mids.NAMES,
        identity=mids.IDENTITY,
        identify=mids.identify,
        outer=mids.Powerset,
    ),
}
