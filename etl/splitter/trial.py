"""Validation of one range: what a split and a load would do with its records, without keeping them.

The rows go through every transform as a load would send them through, and are dropped; what stays is a hash of each
name, in file order, so that superseded records can be told, and what was refused.
"""

import hashlib
import time
from array import array
from dataclasses import replace
from types import TracebackType
from typing import Self

import msgspec

from etl import storage, tables
from etl.model import LeafContext, Reject
from etl.sources import Format, cleaning, ranges
from etl.sources.records import Rows
from etl.splitter import work
from etl.splitter.tasks import RangeDone
from etl.store import columns, places, rejects
from etl.store.results import Batch, Share

# A row in memory costs more than its text, and its transformation several times that.
_ROW_COST = 2_500
_MOST_BYTES = 16 << 20
_HASH_BYTES = 8


class Refused(msgspec.Struct, frozen=True):
    """A record that a transform refused: its row among those that the splitter let through, and what is said of it."""

    row: int
    reject: Reject


class Trial:
    """Takes the rows of a range, transforms them, and forgets them: see ``work.Writer``."""

    def __init__(self, task: ranges.RangeTask, form: Format) -> None:
        self._task, self._format = task, form
        self._build = columns.builder(form.record, form.names)
        self._most = min(_MOST_BYTES, task.budget_bytes)
        self._rows = Rows()
        self._held = 0
        self._done = 0
        self._digests = bytearray()
        self.refused: list[Refused] = []
        self.shares: dict[tuple[str, str], Share] = {}
        self.batches: list[Batch] = []
        self.hashes = array("Q")
        self.sizes = array("I")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
            self.hashes.frombytes(bytes(self._digests))

    @property
    def rows(self) -> int:
        """The number of rows that the splitter would write."""
        return self._done + len(self._rows)

    def add(self, rows: Rows) -> None:
        """Take rows; they are transformed at once when enough are there."""
        self._rows.extend(rows)
        self._held += sum(rows.sizes) + _ROW_COST * len(rows)
        if self._held >= self._most or len(self._rows) >= self._task.batch_rows:
            self._flush()

    def _flush(self) -> None:
        rows, self._rows, self._held = self._rows, Rows(), 0
        if not rows:
            return
        for uid in rows.uids:
            self._digests += hashlib.blake2b(uid.encode(), digest_size=_HASH_BYTES).digest()
        batch = self._build(rows, self._task.source)
        _, refused = tables.build(self._format.name, batch, context_of(rows), ())  # rejects do not depend on the tables
        if refused:
            places_of = {ordinal: row for row, ordinal in enumerate(rows.ordinals)}
            for reject in rejects.with_records(refused, batch, self._format):
                row = places_of[reject.ordinal] + self._done
                self.refused.append(Refused(row, replace(reject, source=self._task.path)))
        self._done += len(rows)


def context_of(rows: Rows) -> LeafContext:
    """Return ids for these rows: any will do."""
    homes = dict.fromkeys((home.archetype, home.powerset) for home in rows.homes)
    return LeafContext(
        archetype_ids=dict.fromkeys((archetype for archetype, _ in homes), 1),
        powerset_ids={powerset: number for number, (_, powerset) in enumerate(homes, 1)},
        power_ids={uid: number for number, uid in enumerate(rows.uids, 1)},
        power_order={},
        resolve=lambda _: {},
    )


class _Work(work.Work):
    """The work of a range whose rows are tried and not kept."""

    trial: Trial | None = None

    def writer(self, form: Format) -> Trial:
        """Return what takes the rows."""
        self.trial = Trial(self.task, form)
        return self.trial


def try_range(task: ranges.RangeTask) -> RangeDone:
    """Validate one range; what it found lies in the folder that the task calls its store.

    Raises:
        InputError: the source is broken, or its start was guessed wrongly (which the caller finds out).
    """
    begun = time.perf_counter()
    tried = _Work(task, count_keys=cleaning.duplicate_keys_anywhere if task.all_keys else cleaning.duplicate_keys)
    done = work.finish(tried, begun)
    if tried.trial and tried.trial.refused:
        refused = [msgspec.structs.replace(one, reject=_named(one.reject, tried.files)) for one in tried.trial.refused]
        place = places.in_range(task.store, task.split_id, task.number, "refused")
        storage.write_bytes(place, msgspec.json.Encoder().encode_lines(refused))
    return done


def _named(reject: Reject, files: list[tuple[int, str]]) -> Reject:
    """Return the reject with the file inside the source that its record is in."""
    before = [name for first, name in files if first <= reject.ordinal]
    return replace(reject, file=before[-1]) if before else reject
