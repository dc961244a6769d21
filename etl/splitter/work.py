"""One range of a source, from bytes to parts: the task that a worker process runs."""

import contextlib
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, Self

import msgspec

from etl import limits, storage
from etl.sources import FORMATS, Format, mids, ranges
from etl.sources.cutting import Lot
from etl.sources.records import Checker, Rows, explain
from etl.splitter import tasks
from etl.splitter.tasks import RangeDone
from etl.store import places, rejects, results, writer
from etl.store.results import Batch, RangeResult, Share

_REPORT_S = 0.3


class Writer(Protocol):
    """Takes the rows of a range in file order; what it holds back is dealt with when the block ends."""

    shares: dict[tuple[str, str], Share]
    batches: list[Batch]
    hashes: "array[int]"
    sizes: "array[int]"

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def rows(self) -> int:
        """The number of rows dealt with."""
        ...

    def add(self, rows: Rows) -> None:
        """Take rows."""
        ...


def split_range(task: ranges.RangeTask) -> RangeDone:
    """Split one range: write its parts, and commit it by its result.

    Raises:
        InputError: the source is broken, or its start was guessed wrongly (which the caller finds out).
    """
    begun = time.perf_counter()
    results.forget(task.store, task.split_id, task.number)
    return finish(Work(task), begun)


def finish(work: "Work", begun: float) -> RangeDone:
    """Do the work of a range that began at ``begun``, and commit it by its result."""
    task = work.task
    work.run()
    place = (task.store, task.split_id, task.number)
    storage.write_bytes(places.in_range(*place, "uids"), work.uids)
    if work.refused:
        storage.write_bytes(places.in_range(*place, "rejects"), b"".join(work.refused))
    if work.powersets:
        storage.write_bytes(places.in_range(*place, "powersets"), msgspec.json.Encoder().encode_lines(work.powersets))
    result = work.result(time.perf_counter() - begun)
    results.write(task.store, task.split_id, result)
    return tasks.done(result)


class Work(msgspec.Struct):
    """Reads and checks one range; its rows go to the writer."""

    task: ranges.RangeTask
    refused: list[bytes] = msgspec.field(default_factory=list)
    powersets: list[mids.Powerset] = msgspec.field(default_factory=list)
    files: list[tuple[int, str]] = msgspec.field(default_factory=list)
    codes: Counter[str] = msgspec.field(default_factory=Counter)
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    records: int = 0
    done_bytes: int = 0
    uids: bytes = b""
    count_keys: Callable[[bytes], int] | None = None
    _reported: float = 0.0
    _reader: ranges.RangeReader | None = None
    _writer: Writer | None = None

    def run(self) -> None:
        """Read, check and write the whole range."""
        task = self.task
        form = FORMATS[task.format] if task.format else None
        self._reader = reader = ranges.RangeReader(task, form, self._report)
        lots = reader.lots()
        first = next(lots, None)
        form = reader.format
        assert form is not None
        checker = Checker(form, task.path, task.strip_nul, count_keys=self.count_keys)
        self._writer = writer = self.writer(form)
        with writer:
            while first is not None:
                name, lot = first
                self._enter(checker, name)
                for rows in self._check(checker, lot):
                    writer.add(rows)
                self._set_aside(checker)
                first = next(lots, None)
        self.uids = writer.hashes.tobytes() + writer.sizes.tobytes()

    def writer(self, form: Format) -> Writer:
        """Return what takes the rows."""
        task = self.task
        return writer.PartWriter(
            task.store, task.split_id, task.number, task.source, form, task.budget_bytes, task.batch_rows
        )

    def _enter(self, checker: Checker, name: str | None) -> None:
        if name is not None and checker.file != name:
            self.files.append((self.records, name))
            checker.file = name

    def _check(self, checker: Checker, lot: Lot) -> Iterator[Rows]:
        if checker.format.outer is None:
            yield checker.check(lot, self.records)
            self.records += len(lot)
            return
        for number in range(len(lot)):
            yield self._powerset(checker, lot, number)

    def _powerset(self, checker: Checker, lot: Lot, number: int) -> Rows:
        """Check the powers of one powerset; one that cannot be opened counts as one record, a reject."""
        try:
            powerset, powers = ranges.open_powerset(
                lot.texts[number], lot.offsets[number], shallow=lot.shallow and number not in lot.faults
            )
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            checker.reject(lot, number, self.records - number, lot.faults.get(number) or explain(error))
            self.records += 1
            return Rows()
        self.powersets.append(powerset)
        rows = checker.check(powers, self.records, {"ATClass": powerset.ATClass, "SetType": powerset.SetType})
        self.records += len(powers)
        return rows

    def _set_aside(self, checker: Checker) -> None:
        if checker.rejects:
            checker.rejects.sort(key=lambda reject: reject.ordinal)
            self.codes.update(reject.code for reject in checker.rejects)
            self.refused.append(rejects.encode(checker.rejects))
            checker.rejects.clear()
            limits.check(sum(self.codes.values()), self.task.most_rejects)
        self.counts.update(checker.counts)
        checker.counts.clear()

    def _report(self, done: int) -> None:
        """Leave a word of how far the range is, for the progress of the whole."""
        self.done_bytes = done
        now = time.monotonic()
        if now - self._reported >= _REPORT_S and storage.is_local(self.task.store):
            self._reported = now
            place = places.in_range(self.task.store, self.task.split_id, self.task.number, "progress")
            with contextlib.suppress(OSError):  # a bar that stands still is no reason to stop
                storage.local_path(place).write_text(str(done))

    def result(self, seconds: float) -> RangeResult:
        """Return what the finished range leaves behind."""
        reader, writer, task = self._reader, self._writer, self.task
        assert reader is not None
        assert writer is not None
        assert reader.format is not None
        return RangeResult(
            number=task.number,
            source=task.source,
            key=tasks.key(task),
            format=reader.format.name,
            start=reader.start,
            end=reader.end,
            records=self.records,
            rows=writer.rows,
            rejects=sum(self.codes.values()),
            seconds=round(seconds, 3),
            bytes=self.done_bytes,
            shares=list(writer.shares.values()),
            batches=writer.batches,
            counts=dict(self.counts),
            reject_codes=dict(self.codes),
            files=self.files,
            sha256=reader.sha256,
        )
