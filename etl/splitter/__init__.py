"""The first pass: JSON sources become a store of record batches under one manifest.

Ranges are independent tasks. A range's start is guessed, and proven when the range before it ends exactly there; where
it does not, the range is done again from the right place, so the result never depends on the number of processes.
"""

import datetime
import hashlib
import itertools
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from etl import limits, parallel, storage
from etl.config import COORDINATOR_BYTES, SplitOptions
from etl.errors import InputError, StoreError, UsageError
from etl.model import Event, Manifest, Progress, SourceInfo
from etl.sources import FORMATS, inputs, ranges, streams
from etl.splitter import tasks
from etl.splitter.tasks import MergeTask, RangeDone
from etl.store import manifest, places, results

_log = logging.getLogger(__name__)

_MIB = 1024 * 1024
# What a worker takes before it holds any record: interpreter, pyarrow.
_WORKER_BYTES = 110 * _MIB
# A held byte of columns costs at most this many at the height of a flush: joined, ordered, compressed copies.
_HEIGHT = 4
_MOST_BUDGET = 32 * _MIB
_LEAST_BUDGET = 2 * _MIB
# Bytes of parts per byte of source: 0.09 for nested records, 0.32 for flat ones. What surely fails is refused.
_LEAST_STORE = 0.05
_TICK_S = 0.4


class SplitResult(msgspec.Struct, frozen=True, kw_only=True):
    """A split and how it came about: ``reused`` if it was there already."""

    manifest: Manifest
    reused: bool
    seconds: float


def split(options: SplitOptions, progress: Progress | None = None) -> Manifest:
    """Split the sources into the store and return the manifest; see ``run``."""
    return run(options, progress).manifest


def run(
    options: SplitOptions, progress: Progress | None = None, meanwhile: Callable[[], None] = lambda: None
) -> SplitResult:
    """Split the sources into the store, unless that is done already; ranges that an earlier run finished are kept.

    ``meanwhile`` is called once all ranges are there and only one process is at work on the split.

    Raises:
        InputError: a source is missing, broken or of unknown format. Nothing is committed then.
        UsageError: the options do not go together.
    """
    begun = time.perf_counter()
    job = plan(options)
    split_id = _identity(job)
    if split_id and manifest.is_whole(options.store, split_id):
        found = manifest.read(options.store, split_id)
        limits.check_all(options.max_rejects, found.rejects, found.records)
        storage.write_bytes(storage.join(options.store, places.LATEST), split_id.encode() + b"\n")
        _log.info("split %s is in the store already", split_id, extra={"action": "split_reused"})
        return SplitResult(manifest=found, reused=True, seconds=time.perf_counter() - begun)
    _check_room(job)
    job.split_id = split_id or f"stream-{uuid.uuid4().hex[:12]}"
    for folder in ("parts", "ranges"):
        storage.make_folder(storage.join(options.store, job.split_id, folder))
    try:
        # Standard input belongs to this process.
        executor = options.executor if split_id else "inline://"
        with parallel.Pool(executor) as pool:
            job.pool = pool
            split_ranges(job, progress, tasks.split_range)
            found = _finish(job, meanwhile)
    except InputError:
        # Mended, the source will have another id: nobody would come back for what is here.
        storage.delete(places.split_folder(options.store, job.split_id))
        raise
    seconds = time.perf_counter() - begun
    _log.info(
        "split %d records into %d partitions",
        found.records,
        len(found.partitions),
        extra={"action": "split", "rows": found.rows, "rejects": found.rejects, "seconds": round(seconds, 3)},
    )
    return SplitResult(manifest=found, reused=False, seconds=seconds)


def _check_room(job: "Job") -> None:
    """Raise StoreError where the store's disk surely has too little room for the parts; before any of them is written."""
    needed, free = int(sum(info.bytes for info in job.infos) * _LEAST_STORE), storage.free_bytes(job.options.store)
    if free is not None and free < needed:
        raise StoreError(
            f"the store {job.options.store} will need {needed >> 20:,} MB or more, {free >> 20:,} MB are free there",
            "free space, drop old splits (etl prune), or name another folder: --store",
        )


def source_changed(found: Manifest) -> list[str]:
    """Return a sentence for each source that is not what it was when it was split."""
    return [sentence for sentence in map(inputs.changed, found.sources) if sentence]


class Job(msgspec.Struct):
    """The work of one run: what is split, and who splits it."""

    options: SplitOptions
    sources: list[inputs.Source]
    format: str | None
    archetypes: str | None
    powersets: str | None
    pool: "parallel.Pool | None" = None
    split_id: str = ""

    @property
    def infos(self) -> tuple[SourceInfo, ...]:
        """What is known of the sources."""
        return tuple(source.info for source in self.sources)


def plan(options: SplitOptions) -> Job:
    """Look at the sources: what they are and of which format.

    Raises:
        InputError: a source is missing, broken or of unknown format.
        UsageError: the options do not go together.
    """
    if not options.sources:
        raise UsageError("no source was named", "etl split SOURCE…")
    if options.format != "auto" and options.format not in FORMATS:
        raise UsageError(f"'{options.format}' is no format", f"use auto, {', '.join(FORMATS)}")
    if len(options.sources) > 1 and streams.STDIN in options.sources:
        raise UsageError("standard input cannot be split together with other sources", "split them one after another")
    records_path = _records_path(options)
    sources, formats = [], {}
    for path in options.sources:
        source = inputs.find(path)
        sources.append(source)
        if path != streams.STDIN:
            formats[inputs.learn(source, options.format, records_path).name] = path
    if len(formats) > 1:
        seen = ", ".join(f"{path} is {name}" for name, path in formats.items())
        raise InputError(f"the sources are of different formats: {seen}", "split them one after another")
    return Job(
        options=options,
        sources=sources,
        format=next(iter(formats), None),
        archetypes=options.archetypes or _beside(sources, "archetypes"),
        powersets=options.powersets or _beside(sources, "powersets"),
    )


def _records_path(options: SplitOptions) -> str | None:
    return options.records_path or ("item" if options.general_path else None)


def _beside(sources: list[inputs.Source], kind: str) -> str | None:
    """Return a file of archetypes or powersets that lies beside a source: X.powers.json has X.archetypes.json."""
    for source in sources:
        if source.info.kind != "file":
            continue
        path = Path(source.info.path)
        stem = path.name.partition(".powers.json")[0] + "." if ".powers.json" in path.name else ""
        for ending in ("", ".zst", ".gz"):
            candidate = path.with_name(f"{stem}{kind}.json{ending}")
            if candidate != path and candidate.is_file():
                return str(candidate)
    return None


def _identity(job: Job) -> str | None:
    """Return the split id: the same sources with the same options give the same; None for a stream."""
    if any(source.info.path == streams.STDIN for source in job.sources):
        return None
    return _hash(job, [(info.kind, info.bytes, info.sha256) for info in job.infos], job.format)


def _hash(job: Job, sources: list[tuple[str, int, str]], form: str | None) -> str:
    options = job.options
    beside = [inputs.file_info(path).sha256 if path else None for path in (job.archetypes, job.powersets)]
    what = [
        places.VERSION,
        form,
        sources,
        beside,
        _records_path(options),
        options.nul,
        options.game_version,
    ]
    return hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:16]


def _tasks(job: Job) -> list[tuple[ranges.RangeTask, int]]:
    """Return all ranges in file order, each with its size in bytes."""
    options = job.options
    found: list[tuple[ranges.RangeTask, int]] = []
    for number, source in enumerate(job.sources):
        for geometry in inputs.ranges(source, whole=_records_path(options) is not None):
            task = ranges.RangeTask(
                store=options.store,
                split_id=job.split_id,
                number=len(found),
                source=number,
                path=source.root,
                kind=geometry.kind,
                format=job.format,
                wanted=options.format,
                layout=source.layout,
                start=geometry.start,
                stop=geometry.stop,
                exact=geometry.exact,
                files=geometry.files,
                chunk_bytes=options.chunk_bytes,
                budget_bytes=_budget(options),
                batch_rows=options.batch_rows,
                strip_nul=options.nul != "reject",
                records_path=_records_path(options),
                most_rejects=options.max_rejects.records if options.max_rejects else None,
            )
            found.append((task, geometry.bytes))
    return found


def _budget(options: SplitOptions) -> int:
    """Return how many bytes of rows a worker may hold, so that all processes stay under the limit."""
    workers = parallel.parse(options.executor)[1]
    free = (options.memory_limit_bytes - COORDINATOR_BYTES) // workers - _WORKER_BYTES - 4 * options.chunk_bytes
    return max(_LEAST_BUDGET, min(_MOST_BUDGET, free // _HEIGHT))


def split_ranges(job: Job, progress: Progress | None, function: Callable[[ranges.RangeTask], RangeDone]) -> None:
    """Run all ranges, then those again whose start turned out to be wrong.

    Raises:
        InputError: a source is broken, or too much of it was set aside.
    """
    planned = _tasks(job)
    ticker = _Ticker(job, [size for _, size in planned], progress)
    chain = [task for task, _ in planned]
    waiting = list(chain)
    finished: dict[int, RangeDone | Exception] = {}
    for task in chain:
        kept = results.read(job.options.store, job.split_id, task.number)
        if kept is not None and kept.key == tasks.key(task):
            finished[task.number] = tasks.done(kept)
            ticker.finished(task.number)
            waiting.remove(task)
    while waiting:
        assert job.pool is not None
        for task, outcome in job.pool.run(function, waiting, stop=ticker.tick):
            finished[task.number] = outcome
            ticker.finished(task.number)
            if isinstance(outcome, Exception) and task.exact:
                raise outcome
            _check_rejects(job, planned, finished)
        waiting = _wrong_start(chain, finished)
    ticker.tick()


def _check_rejects(
    job: Job, planned: list[tuple[ranges.RangeTask, int]], finished: dict[int, RangeDone | Exception]
) -> None:
    """Raise TooManyRejects where the ranges that are proven by those before them show that it will be too many."""
    known: list[tuple[RangeDone, int]] = []
    before: tuple[int, RangeDone] | None = None
    for task, size in planned:
        outcome = finished.get(task.number)
        if not isinstance(outcome, RangeDone):
            break
        if task.kind == ranges.BYTES and before and before[0] == task.source and before[1].end != outcome.start:
            break
        known.append((outcome, size))
        before = task.source, outcome
    rejected, records = (sum(getattr(done, name) for done, _ in known) for name in ("rejects", "records"))
    sizes = sum(size for _, size in known), sum(size for _, size in planned)
    limits.check_so_far(job.options.max_rejects, rejected, records, *sizes)


def _wrong_start(planned: list[ranges.RangeTask], finished: dict[int, RangeDone | Exception]) -> list[ranges.RangeTask]:
    """Return the first range that does not begin where the one before it ends, as a task that does.

    Only that one: whether those behind it are right can be told when it is.
    """
    for before, task in itertools.pairwise(planned):
        ended, outcome = finished[before.number], finished[task.number]
        if isinstance(ended, Exception):
            raise ended
        if task.kind != ranges.BYTES or before.source != task.source:
            continue
        if isinstance(outcome, Exception) or outcome.start != ended.end:
            planned[task.number] = msgspec.structs.replace(task, start=ended.end, exact=True)
            return [planned[task.number]]
    last = finished[planned[-1].number]
    if isinstance(last, Exception):
        raise last
    return []


def _finish(job: Job, meanwhile: Callable[[], None]) -> Manifest:
    """Write the manifest and return it."""
    assert job.pool is not None
    if job.split_id.startswith("stream-"):
        _settle_stream(job)
    for _, outcome in job.pool.run(tasks.merge, [finish_task(job)], meanwhile=meanwhile):
        if isinstance(outcome, Exception):
            raise outcome
    return manifest.read(job.options.store, job.split_id)


def finish_task(job: Job) -> MergeTask:
    """Return what is to be done once all ranges are."""
    trees = [source for source in job.sources if source.is_tree]
    return MergeTask(
        store=job.options.store,
        split_id=job.split_id,
        ranges=len(_tasks(job)),
        sources=job.infos,
        game_version=job.options.game_version,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        notes=tuple(note for source in job.sources for note in source.notes),
        archetypes=job.archetypes,
        powersets=job.powersets,
        indexes=tuple((source.root, tuple(source.indexes)) for source in trees),
        trees=tuple(source.root for source in trees),
        max_rejects=job.options.max_rejects,
    )


def _settle_stream(job: Job) -> None:
    """Give a stream's split the id that its content asks for, now that it is known."""
    store, result = job.options.store, results.read(job.options.store, job.split_id, 0)
    assert result is not None
    job.sources[0].info = replace(job.sources[0].info, sha256=result.sha256, bytes=result.bytes)
    settled = _hash(job, [("stream", result.bytes, result.sha256)], result.format)
    if storage.is_local(store):
        storage.delete(places.split_folder(store, settled))
        here = storage.local_path(places.split_folder(store, job.split_id))
        here.rename(here.with_name(settled))
        job.split_id = settled


class _Ticker:
    """Reports how many bytes are done, from what the workers leave beside their ranges."""

    def __init__(self, job: Job, sizes: list[int], progress: Progress | None) -> None:
        self._job, self._sizes, self._progress = job, sizes, progress
        self._finished: set[int] = set()
        self._next = 0.0

    def finished(self, number: int) -> None:
        """Count a range as done."""
        self._finished.add(number)

    def tick(self) -> bool:
        """Report if it is time to; always False, so that it can stand where a pool asks whether to stop."""
        now = time.monotonic()
        everything = len(self._finished) == len(self._sizes)
        if self._progress is not None and (now >= self._next or everything):
            self._next = now + _TICK_S
            done = sum(self._done(number, size) for number, size in enumerate(self._sizes))
            self._progress(Event(phase="split", done=done, total=sum(self._sizes), unit="bytes"))
        return False

    def _done(self, number: int, size: int) -> int:
        if number in self._finished:
            return size
        try:
            place = places.in_range(self._job.options.store, self._job.split_id, number, "progress")
            return min(int(storage.read_bytes(place)), size)
        except (OSError, ValueError):
            return 0
