"""The first half of a replay: which of the mended records can be loaded by now, and what the others lack."""

import hashlib
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import msgspec

from etl import tables
from etl.model import Manifest, Reject
from etl.sources import FORMATS, Format, cutting
from etl.sources.cutting import Lot
from etl.sources.records import Checker, Rows
from etl.splitter.tasks import Repaired, RepairTask
from etl.splitter.trial import context_of
from etl.store import parts, writer
from etl.store import rejects as store_rejects

_LOT_BYTES = 8 << 20
# Bytes that are no UTF-8 stand so in a reject's text; JSON knows no such escape.
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
_CUT = "bad_json", 'the text is not all there, only its first 64 KiB: give the whole record as "record"'

Place = tuple[int, int]
"""Number of the source and ordinal in it: the order of places is the order of records."""


class Line(msgspec.Struct):
    """A line of the file that ``etl rejects export`` writes, as far as a replay reads it."""

    source: str
    ordinal: int
    record: msgspec.Raw = msgspec.Raw()
    raw: str | None = None
    cut: bool = False

    @property
    def text(self) -> bytes:
        """The record's text."""
        return bytes(self.record) or (self.raw or "").encode(errors="surrogatepass")


class Mending(msgspec.Struct):
    """What the file's records came to: those that can be loaded by now, which are held in memory, and the others."""

    task: RepairTask
    base: Manifest
    # One-row columns each would be many: (rows, index).
    rows: dict[Place, tuple[Rows, int]] = msgspec.field(default_factory=dict)
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    refused: list[Reject] = msgspec.field(default_factory=list)
    settled: int = 0
    open: dict[Place, Reject] = msgspec.field(default_factory=dict)

    @property
    def form(self) -> Format:
        """The format of the split."""
        return FORMATS[self.base.format]

    def read(self) -> None:
        """Check all records of the file, some megabytes at a time."""
        numbers = {info.path: number for number, info in enumerate(self.base.sources)}
        for reject in [*store_rejects.read(self.task.store, self.base), *self.task.of_load]:
            self.open[numbers[reject.source], reject.ordinal] = replace(reject, raw="")
        held: dict[Place, Line] = {}
        size = 0
        for line in store_rejects.read_lines(self.task.edited, Line):
            place = (numbers.get(line.source, -1), line.ordinal)
            if place not in self.open:
                self.settled += 1
                continue
            held[place] = line
            size += len(line.text)
            if size >= _LOT_BYTES:
                self._check(held)
                held, size = {}, 0
        self._check(held)

    def _check(self, held: dict[Place, Line]) -> None:
        """Let the splitter's checks and every transform look at some records."""
        for number in sorted({source for source, _ in held}):
            rows, checker = Rows(), Checker(self.form, self.base.sources[number].path, self.task.strip_nul)
            for place in sorted(place for place in held if place[0] == number):
                rows.extend(self._check_one(checker, place, held[place]))
            bad = self._transform(rows, number) if rows else {}
            for index, ordinal in enumerate(rows.ordinals):
                if ordinal not in bad:
                    self.rows[number, ordinal] = rows, index
            self.refused += [*checker.rejects, *bad.values()]
            self.counts.update(checker.counts)

    def _check_one(self, checker: Checker, place: Place, line: Line) -> Rows:
        reject, text = self.open[place], line.text
        if reject.code == "invalid_utf8" and not line.record:
            text = _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), text)
        checker.file = reject.file
        lot = Lot()
        lot.append(text, reject.offset, _CUT if line.cut and not line.record else _fault(self.form, text))
        return checker.check(lot, place[1], _around(self.task.store, self.base, self.form, text))

    def _transform(self, rows: Rows, number: int) -> dict[int, Reject]:
        """Return what the transforms refuse of some rows, by ordinal."""
        batch = writer.batch_of(self.form, rows, number)
        _, refused = tables.build(self.form.name, batch, context_of(rows), ())
        return {r.ordinal: r for r in store_rejects.placed(refused, batch, self.task.store, self.base)}

    def identity(self) -> str:
        """Return the id of the new split: the old one's, and the mended records with their places."""
        digest = hashlib.sha256(self.base.split_id.encode())
        for place in sorted(self.rows):
            rows, index = self.rows[place]
            digest.update(f"\n{place} ".encode() + rows.digests[index])
        return digest.hexdigest()[:16]

    def result(self, split_id: str | None) -> Repaired:
        """Return what is to be reported."""
        return Repaired(
            split_id=split_id,
            repaired=len(self.rows),
            settled=self.settled,
            refused=tuple(self.refused[: self.task.examples]),
            refused_codes=dict(Counter(reject.code for reject in self.refused)),
        )


def _fault(form: Format, text: bytes) -> tuple[str, str] | None:
    """Return what is wrong with a text as a record, before anything is known of its members."""
    fault = cutting.fault_of(text)
    if fault is None and form.outer is not None and b'"Powers"' in text:
        fault = "wrong_type", "a powerset cannot be replayed as a whole: mend the source, then etl update"
    return fault


def _around(store: str, base: Manifest, form: Format, text: bytes) -> dict[str, Any] | None:
    """Return the fields that a record has from the object round it, as another record of its powerset has them."""
    if form.outer is None or _fault(form, text):
        return None
    try:
        name = msgspec.json.decode(text, type=form.record).FullName.lower().rpartition(".")[0]  # type: ignore[attr-defined]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    wanted = [partition for partition in base.partitions if partition.powerset == name]
    for batch in parts.read_runs(store, base, wanted, ["ATClass", "SetType"]):
        return {column: batch.column(column)[0].as_py() for column in ("ATClass", "SetType")}
    return None
