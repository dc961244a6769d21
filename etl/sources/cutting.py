"""The fast path: cut a buffer at the last likely record end, and prove the cut by decoding.

Decoding from a known record start up to the cut succeeds only if the cut is a true boundary, so a guess costs nothing
when it is right, which is nearly always. Measured on one core: about 1 GB/s for nested records. Where decoding fails,
it is tried again up to there, and then the guilty record is delimited by strings and brackets (scanning.py).

A buffer of 512 KB and the objects made of it stay in the second-level cache of one core (1 MB on the machine measured):
reading, cutting and decoding take 0.75 (nested) and 0.68 (flat) of the time that they take with 4 MB.
"""

import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from etl.errors import InputError
from etl.sources import nesting, scanning, shapes, streams, typed

_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_RAW = msgspec.json.Decoder(msgspec.Raw)
_BRACE = ord("{")
_PLACE = re.compile(r"\(byte (\d+)\)$")
_BEYOND_STOP = 64 * 1024


class Lot(msgspec.Struct):
    """Records in a row: their bytes as they stand in the stream, and where each begins.

    ``faults`` are (code, reason) of those that are no JSON objects, by their number in the lot. ``whole`` begins with the
    text of exactly these records in a row, up to ``end``, where there is one ready; ``records`` are they themselves where they
    were decoded on the way; ``shallow`` if none of them can be nested too deep. ``start`` is what all texts begin with, where
    that is known and none of them holds a line break.
    """

    texts: list[bytes] = msgspec.field(default_factory=list)
    offsets: list[int] = msgspec.field(default_factory=list)
    faults: dict[int, tuple[str, str]] = msgspec.field(default_factory=dict)
    whole: bytes | None = None
    end: int = sys.maxsize
    records: list[Any] | None = None
    shallow: bool = False
    start: bytes = b""

    def __len__(self) -> int:
        return len(self.texts)

    def append(self, text: bytes, offset: int, fault: tuple[str, str] | None = None) -> None:
        """Add one record."""
        if fault:
            self.faults[len(self.texts)] = fault
        self.texts.append(text)
        self.offsets.append(offset)


def fault_of(text: bytes) -> tuple[str, str] | None:
    """Return (code, reason) of a text that is no JSON object."""
    try:
        _RAW.decode(text)
    except RecursionError:
        return "too_deep", f"nested deeper than {nesting.MAX_DEPTH} levels"
    except msgspec.DecodeError as error:
        return "bad_json", f"{error} of the record"
    return None if text[0] == _BRACE else ("wrong_type", "the record is no object")


class Cutter:
    """Cuts one stream, or one range of it, into records.

    ``start`` is the byte of the first record, at which ``stream`` stands; records that begin before ``stop`` are
    wanted. After ``lots`` is exhausted, ``end`` is the byte of the first record that was left to others (or the size of
    the stream).
    """

    def __init__(
        self,
        stream: streams.Readable,
        layout: shapes.Layout,
        *,
        name: str,
        start: int,
        stop: int | None = None,
        chunk_bytes: int = 512 * 1024,
        head: bytes = b"",
        record: type[msgspec.Struct] | None = None,
        seek: Callable[[int], None] | None = None,
    ) -> None:
        """``head`` are bytes from ``start`` on that were read from the stream already.

        ``seek`` goes to a byte of the stream where that can be done. What is left of a buffer is read again then: a few
        kilobytes twice cost less than to copy half a megabyte behind them.
        Where ``record`` says what a record is to be, lots come with their ``records`` as far as all of them are good.
        """
        self._stream, self._layout, self._name = stream, layout, name
        self._stop, self._chunk, self._seek = stop, max(chunk_bytes, 16), seek
        separator = layout.separator
        self._taker = typed.Taker(record, separator, layout.lead) if record and separator else None
        self._buffer, self._base = head, start
        self._size = self._chunk
        self._at_end = False
        self._failed_at = 0
        self._closed = layout.container == shapes.OBJECT
        self.end = start
        self.records = 0

    def lots(self) -> Iterator[Lot]:
        """Yield the records in order, many at a time.

        Raises:
            InputError: the structure round the records is broken, so that nobody can tell where records are.
        """
        lines = self._layout.container == shapes.LINES
        while True:
            self._fill()
            if self._stop is not None and self._base >= self._stop:
                self.end = self._base
                return
            lot = self._cut_lines() if lines else self._cut()
            self.records += len(lot)
            if lot:
                yield lot
            if self._at_end and not self._buffer:
                self.end = self._base
                return

    def _fill(self) -> None:
        """Read until the buffer holds what is wanted of it, or the stream ends."""
        wanted = self._size
        if self._stop is not None:
            # Past the stop one record is enough; the last one before it may reach beyond.
            wanted = min(wanted, max(self._stop - self._base, self._size - self._chunk) + _BEYOND_STOP)
        if self._seek and not self._at_end and len(self._buffer) < wanted:
            self._seek(self._base)
            self._buffer = b""
        parts, size = [self._buffer] if self._buffer else [], len(self._buffer)
        while size < wanted and not self._at_end:
            more = self._stream.read(wanted - size)
            self._at_end = not more
            parts.append(more)
            size += len(more)
        self._buffer = parts[0] if len(parts) == 1 else b"".join(parts)

    def _take(self, size: int) -> None:
        """Drop bytes that are dealt with from the front of the buffer."""
        self._buffer = self._buffer[size:]
        self._base += size
        self._size = self._chunk

    def _cut(self) -> Lot:
        """Return the records of the buffer up to a proven cut; nothing if more bytes are needed."""
        separator, buffer = self._layout.separator, self._buffer
        likely = self._likely_end()
        if likely >= 0:
            lot = self._decode(likely) or self._prove(likely)
            if lot is not None:
                self._take(likely + self._layout.lead)
                return lot
        elif self._at_end:
            closing = len(buffer.rstrip())
            if not self._closed and buffer[closing - 1 : closing] == b"]":
                lot = self._decode(len(buffer[: closing - 1].rstrip())) or self._prove(closing - 1)
                if lot is not None:
                    self._take(len(buffer))
                    self._closed = True
                    return lot
        # The guess failed, or there was nothing to guess at: what stands before the failure, or one record.
        while likely > 0:
            likely = buffer.rfind(separator, 0, min(self._failed_at, likely + len(separator) - 1))
            lot = self._prove(likely) if likely > 0 else None
            if lot is not None:
                self._take(likely + self._layout.lead)
                return lot
        return self._cut_one()

    def _likely_end(self) -> int:
        """Return where the last whole record of the buffer probably ends, -1 if that cannot be told."""
        separator = self._layout.separator
        if not separator:
            return -1
        if self._stop is not None:
            # The first record at or behind the stop is not ours: cut right before it.
            found = self._buffer.find(separator, max(self._stop - self._base - self._layout.lead, 0))
            if found >= 0:
                return found
        return self._buffer.rfind(separator)

    def _decode(self, cut: int) -> Lot | None:
        """Return the records of the buffer up to a position, decoded; None if they are not exactly that, and all good."""
        found = self._taker.cut(self._buffer, cut) if self._taker else None
        if found is None:
            return None
        offsets = [self._base + start for start in found.starts]
        return Lot(
            found.texts,
            offsets,
            whole=self._buffer,  # a copy of half a megabyte less
            end=cut,
            records=found.records,
            shallow=nesting.is_limited(),
            start=found.start,
        )

    def _prove(self, cut: int) -> Lot | None:
        """Return the records of the buffer up to a position if they are exactly that, one at least; None if not."""
        whole = b"".join((b"[", memoryview(self._buffer)[:cut], b"]"))
        try:
            raws = nesting.decode_shallow(_RAWS, whole)
        except (msgspec.DecodeError, RecursionError) as error:
            place = _PLACE.search(str(error))
            self._failed_at = int(place[1]) if place else cut // 2 + len(self._layout.separator)
            return None
        texts = list(map(bytes, raws))
        offsets, position, base = [], 1, self._base - 1
        for text in texts:
            if text[0] != _BRACE:
                self._failed_at = position
                return None
            position = whole.find(b"{", position)
            offsets.append(base + position)
            position += len(text)
        if not texts:
            return None
        return Lot(texts, offsets, whole=whole, shallow=nesting.is_limited())

    def _cut_one(self) -> Lot:
        """Return the one record at the front of the buffer, found by its brackets; nothing if more bytes are needed."""
        buffer = self._buffer
        first = scanning.skip_space(buffer, 0)
        if first == len(buffer):
            return self._cut_rest()
        if self._closed and self.records:
            raise self._broken(first, "something follows the end of the records")
        if buffer[first : first + 1] in b"]},:":
            raise self._broken(first, f"a record was expected, not '{chr(buffer[first])}'")
        end = scanning.value_end(buffer, first)
        after = scanning.skip_space(buffer, end) if end is not None else len(buffer)
        following = scanning.skip_space(buffer, after + 1) if after < len(buffer) else len(buffer)
        if following == len(buffer) and not self._at_end:
            self._size = len(buffer) + max(len(buffer), self._chunk)
            return Lot()
        if end is None:
            raise self._broken(first, "the file ends inside this record")
        lot = Lot()
        self._judge(lot, first, end)
        self._step(after, following)
        return lot

    def _step(self, after: int, following: int) -> None:
        """Go from the end of a record to the next one, or to the end of the array."""
        mark = self._buffer[after : after + 1]
        if self._layout.container == shapes.OBJECT:
            if mark:
                raise self._broken(after, "something follows the end of the object")
        elif mark == b"]":
            self._closed = True
            if following < len(self._buffer):
                raise self._broken(following, "something follows the end of the array")
        elif mark != b",":
            self.records += 1
            if mark:
                raise self._broken(after, f"',' or ']' was expected after a record, not {mark!r}")
            raise self._broken(after, "the file ends before the array is closed")
        elif following == len(self._buffer):
            self.records += 1
            raise self._broken(following, "the file ends before the array is closed")
        self._take(following if mark == b"," else len(self._buffer))

    def _cut_rest(self) -> Lot:
        """Deal with a buffer that holds nothing but white space."""
        if self._at_end:
            if not self._closed:
                raise self._broken(len(self._buffer), "the file ends before the array is closed")
            self._take(len(self._buffer))
        else:
            self._size = len(self._buffer) + self._chunk
        return Lot()

    def _judge(self, lot: Lot, start: int, end: int) -> None:
        """Add one record to a lot, with its fault if it has one."""
        text = self._buffer[start:end]
        lot.append(text, self._base + start, fault_of(text))

    def _cut_lines(self) -> Lot:
        """Return the records of all whole lines of the buffer."""
        buffer = self._buffer
        if self._stop is not None and self._base + len(buffer) > self._stop:
            likely = buffer.find(b"\n", max(self._stop - self._base - 1, 0))
        else:
            likely = buffer.rfind(b"\n")
        if likely < 0:
            if not self._at_end:
                self._size = len(buffer) + max(len(buffer), self._chunk)
                return Lot()
            likely = len(buffer) - 1
        lot, position = Lot(), 0
        for line in buffer[: likely + 1].split(b"\n"):
            text = line.strip()
            if text:
                start = position + line.find(text[:1])
                self._judge(lot, start, start + len(text))
            position += len(line) + 1
        self._take(likely + 1)
        return lot

    def _broken(self, position: int, what: str) -> InputError:
        return InputError(
            f"{self._name}: byte {self._base + position}, record {self.records}: {what}",
            "nothing was imported; mend the file, or make it again",
        )


def find_start(path: str, layout: shapes.Layout, target: int, chunk_bytes: int = 1024 * 1024) -> int | None:
    """Return the byte of the first likely record start at or after ``target``, None if there is none.

    A guess: it is proven when the range before it decodes to exactly this byte.
    """
    separator = layout.separator
    if not separator:
        return None
    lead = layout.lead if layout.container == shapes.ARRAY else 1
    with open(path, "rb") as stream:
        position = max(target - lead, 0)
        stream.seek(position)
        buffer = b""
        while True:
            more = stream.read(chunk_bytes)
            found = (buffer + more).find(separator)
            if found >= 0:
                return position + found + lead
            if not more:
                return None
            buffer = (buffer + more)[-len(separator) :]
            position = stream.tell() - len(buffer)
