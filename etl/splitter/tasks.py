"""What crosses to a worker and back: small frozen values, and functions that import the heavy rooms only there.

The coordinator never imports pyarrow: that would cost every command a fifth of a second.
"""

import json
from collections.abc import Mapping

import msgspec

from etl import limits, parallel
from etl.model import Reject, SourceInfo
from etl.sources.ranges import RangeTask
from etl.store.results import RangeResult


class RangeDone(msgspec.Struct, frozen=True, kw_only=True):
    """What the coordinator must know of a finished range."""

    number: int
    start: int
    end: int
    records: int
    rejects: int
    bytes: int
    format: str
    sha256: str


class MergeTask(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest says beside what the ranges found.

    ``archetypes`` and ``powersets`` are files; ``indexes`` are (folder, index files of powersets below it) and ``trees``
    the power folders of sources that are trees.
    """

    store: str
    split_id: str
    ranges: int
    sources: tuple[SourceInfo, ...]
    game_version: str | None
    created_at: str
    notes: tuple[str, ...]
    archetypes: str | None
    powersets: str | None
    indexes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    trees: tuple[str, ...] = ()
    max_rejects: limits.Limit | None = None


class TallyTask(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a validation: ``merge`` says where the ranges lie; so many ``examples`` of each code are wanted."""

    merge: MergeTask
    examples: int
    rejects_file: str | None


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What a validation came to; ``codes`` and ``stages`` count the rejects, ``counts`` what was cleaned."""

    format: str
    records: int
    superseded: int
    codes: Mapping[str, int]
    stages: Mapping[str, int]
    examples: tuple[Reject, ...]
    counts: Mapping[str, int]
    bytes: int


class RepairTask(msgspec.Struct, frozen=True, kw_only=True):
    """Mended rejects of a split: ``edited`` is a file of lines as ``etl rejects export`` writes them.

    ``of_load`` are the rejects of the published build that a transform refused. At most ``examples`` of the records
    that are still refused come back.
    """

    store: str
    split_id: str
    edited: str
    of_load: tuple[Reject, ...]
    strip_nul: bool
    examples: int


class Repaired(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the records of a file: ``split_id`` is the split that has those that were ``repaired``, if any.

    ``settled`` is the number of lines that speak of no reject (any more); ``refused`` are the first of those that are
    still refused, ``refused_codes`` counts them all.
    """

    split_id: str | None
    repaired: int
    settled: int
    refused: tuple[Reject, ...]
    refused_codes: Mapping[str, int]


def done(result: RangeResult) -> RangeDone:
    """Return the short form of a result."""
    return RangeDone(
        number=result.number,
        start=result.start,
        end=result.end,
        records=result.records,
        rejects=result.rejects,
        bytes=result.bytes,
        format=result.format,
        sha256=result.sha256,
    )


def key(task: RangeTask) -> str:
    """Return what a finished range must have been made with to count: its geometry."""
    return json.dumps([task.source, task.kind, task.start, task.stop, task.exact, task.files[:1], len(task.files)])


def split_range(task: RangeTask) -> RangeDone:
    """Split one range; see etl.splitter.work."""
    from etl.splitter import work

    with parallel.uncollected():
        return work.split_range(task)


def merge(task: MergeTask) -> str:
    """Write the manifest; see etl.splitter.merge."""
    from etl.splitter import merge as merging

    with parallel.uncollected():
        return merging.merge(task)


def try_range(task: RangeTask) -> RangeDone:
    """Validate one range; see etl.splitter.trial."""
    from etl.splitter import trial

    with parallel.uncollected():
        return trial.try_range(task)


def try_every_key(task: RangeTask) -> RangeDone:
    """Validate one range, and look for keys that come twice at any depth; see etl.splitter.trial."""
    return try_range(msgspec.structs.replace(task, all_keys=True))


def tally(task: TallyTask) -> Tally:
    """Sum up a validation; see etl.splitter.tally."""
    from etl.splitter import tally as tallying

    return tallying.tally(task)


def repair(task: RepairTask) -> Repaired:
    """Mend rejects of a split; see etl.splitter.repair."""
    from etl.splitter import repair as repairing

    return repairing.repair(task)
