"""Validation: splitter and transforms over a source, without a database and without a store that stays.

A load refuses a record in two places: the splitter, and the transform of its nested values – unless a later record of
the same name supersedes it first. Both are gone through here by the same functions, range by range on all cores; what
is kept of a range, for as long as the validation takes, are 8 bytes for each record and what was refused.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from etl import limits, metrics, parallel, storage
from etl.config import SplitOptions
from etl.model import Progress, Reject
from etl.sources import streams
from etl.splitter import Job, finish_task, plan, split_ranges, tasks
from etl.splitter.tasks import TallyTask

_SPLIT_ID = "validation"
EXAMPLES = 3


class ValidateResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a load would do: ``records = accepted + superseded + rejected`` holds for every instance.

    ``reject_codes`` and ``stages`` count the rejects; ``examples`` are the first of each code, in file order.
    ``cleaned`` are the cleaning counts of a split, and ``duplicate_keys``: members that are lost because their key comes
    again in the same record – with ``all_keys``, in the same object at any depth.
    """

    sources: tuple[str, ...]
    format: str
    records: int
    accepted: int
    superseded: int
    rejected: int
    reject_codes: Mapping[str, int]
    stages: Mapping[str, int]
    examples: tuple[Reject, ...]
    cleaned: Mapping[str, int] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    bytes: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0


def validate(
    options: SplitOptions,
    progress: Progress | None = None,
    *,
    examples: int = EXAMPLES,
    rejects_file: str | None = None,
    all_keys: bool = False,
) -> ValidateResult:
    """Tell what a load of these sources would reject; ``rejects_file`` takes all of it, as a store's rejects.ndjson.

    Raises:
        InputError: a source is missing, broken or of unknown format.
        TooManyRejects: there are more rejects than the options allow.
        UsageError: the options do not go together.
    """
    begun = time.perf_counter()
    with metrics.PeakMemory() as memory, tempfile.TemporaryDirectory(prefix="etl-validate-") as folder:
        job = plan(replace(options, store=folder))
        job.split_id = _SPLIT_ID
        storage.make_folder(storage.join(folder, _SPLIT_ID, "ranges"))
        # Standard input belongs to this process.
        is_stream = any(source.root == streams.STDIN for source in job.sources)
        with parallel.Pool("inline://" if is_stream else options.executor) as pool:
            job.pool = pool
            split_ranges(job, progress, tasks.try_every_key if all_keys else tasks.try_range)
            found = _tally(job, examples, rejects_file)
    limits.check_all(options.max_rejects, found.rejected, found.records)
    return msgspec.structs.replace(found, seconds=time.perf_counter() - begun, peak_bytes=memory.peak_bytes)


def _tally(job: Job, examples: int, rejects_file: str | None) -> ValidateResult:
    """Sum up what the ranges left."""
    assert job.pool is not None
    task = TallyTask(merge=finish_task(job), examples=examples, rejects_file=rejects_file)
    for _, outcome in job.pool.run(tasks.tally, [task]):
        if isinstance(outcome, Exception):
            raise outcome
        return ValidateResult(
            sources=tuple(source.info.path for source in job.sources),
            format=outcome.format,
            records=outcome.records,
            accepted=outcome.records - outcome.superseded - sum(outcome.codes.values()),
            superseded=outcome.superseded,
            rejected=sum(outcome.codes.values()),
            reject_codes=outcome.codes,
            stages=outcome.stages,
            examples=outcome.examples,
            cleaned=outcome.counts,
            notes=task.merge.notes,
            bytes=outcome.bytes,
        )
    raise AssertionError
