"""The values that pass between the rooms: frozen, slotted, keyword-only, and nothing but strings and numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """One input as it was when it was split.

    ``kind`` is "file", "directory" or "stream"; ``bytes`` and ``mtime_ns`` are those of the input as it lies on disk
    (0 for stdin); ``sha256`` is the hex digest of those bytes (of names, sizes and contents for a directory).
    """

    path: str
    kind: str
    bytes: int
    mtime_ns: int
    sha256: str
    records: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRef:
    """Where rows of one partition lie: the part's file name, the record batch's number in it, the first row, how many.

    ``drop`` are the row numbers, counted from ``first``, that are superseded and must be skipped by a reader.
    """

    part: str
    batch: int
    rows: int
    drop: tuple[int, ...] = ()
    first: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """All winning records of one (archetype key, powerset).

    ``powerset`` is the lower-case "category.set", ``name`` the same in the source's spelling. ``rows`` counts winners
    only; ``bytes`` is the size of their record text (minified); ``digest`` is 32 hex digits and depends on the winners
    alone: the sum modulo 2**128 of the record digests.
    """

    archetype: str
    powerset: str
    name: str
    display_name: str
    rows: int
    bytes: int
    digest: str
    batches: tuple[BatchRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part file as it was committed: its name, its size in bytes, the hex digest of its content (XXH3, 128 bits)."""

    name: str
    bytes: int
    xxh3: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded:
    """A record whose name came again later: both places (source index, ordinal, byte offset or file)."""

    uid: str
    source: int
    ordinal: int
    offset: int
    file: str | None
    by_source: int
    by_ordinal: int
    by_offset: int
    by_file: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A record set aside: where it stood, why, and its raw text (at most 64 KiB).

    ``stage`` is "split" or "load"; ``code`` is a short stable word such as "missing_key"; ``file`` is the member of a
    directory or archive; ``ordinal`` counts a source's records from 0; ``offset`` is in bytes of the (decompressed)
    source or member.
    """

    source: str
    file: str | None
    ordinal: int
    offset: int
    uid: str | None
    stage: str
    code: str
    reason: str
    raw: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The committed description of one split. ``records = rows + superseded + rejects`` holds for every instance.

    ``notes`` are sentences about the input that are no records (zero-byte files, files without extension, cleaned
    text), ``counts`` the cleaning counts by name (for example ``nul_stripped``). ``superseded_places`` and
    ``reject_codes`` are complete; rejected records themselves are in ``rejects.ndjson``. ``range_ordinals`` is the
    ordinal of the first record of each range, by the range's number (see partitions/README.md).
    """

    split_id: str
    store_version: int
    format: str
    game_version: str | None
    created_at: str
    sources: tuple[SourceInfo, ...]
    records: int
    rows: int
    superseded: int
    rejects: int
    partitions: tuple[Partition, ...]
    superseded_places: tuple[Superseded, ...] = ()
    reject_codes: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    entities_digest: str = ""
    parts: tuple[Part, ...] = ()
    range_ordinals: Mapping[str, int] = field(default_factory=dict)


POWER_ID = "power_id"
"""The column of a record batch on its way to a transform in which the records' ids are, where they are known by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafContext:
    """What a transform needs besides the records: the ids of what is in them.

    ``power_ids`` are by uid; records that have theirs with them are not looked up.

    ``power_order`` is the position of a power in its set's own list, where the source has such lists. ``resolve``
    returns the ids of those of the given power uids that exist in this build.
    """

    archetype_ids: Mapping[str, int]
    powerset_ids: Mapping[str, int]
    power_ids: Mapping[str, int]
    power_order: Mapping[str, int]
    resolve: Callable[[list[str]], dict[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Progress: ``done`` of ``total`` (0 where unknown) ``unit`` ("bytes", "rows", "steps") in ``phase``."""

    phase: str
    done: int
    total: int
    unit: str
    message: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


Progress = Callable[[Event], None]
