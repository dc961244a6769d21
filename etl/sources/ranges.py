"""A range of a source: what one worker reads, and what it says about it afterwards."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from etl.sources import Format, cutting, general, mids, shapes, streams
from etl.sources.cutting import Lot

BYTES, STREAM, FILES, MEMBERS = "bytes", "stream", "files", "members"


class RangeTask(msgspec.Struct, frozen=True, kw_only=True):
    """One range. ``kind`` is "bytes" (``start`` to ``stop`` of a plain file), "stream", "files" or "members".

    The first record of a byte range is the first one that begins at or after ``start``: exactly there if ``exact``,
    else it is guessed. ``files`` are paths below ``path`` or members of the archive ``path``. ``budget_bytes`` bounds
    what is held in memory before it is written. With more than ``most_rejects`` rejects the range gives up.
    ``all_keys`` lets a validation look for keys that come twice at any depth.
    """

    store: str
    split_id: str
    number: int
    source: int
    path: str
    kind: str
    format: str | None
    wanted: str = "auto"
    layout: shapes.Layout | None = None
    start: int = 0
    stop: int | None = None
    exact: bool = True
    files: tuple[str, ...] = ()
    chunk_bytes: int = 512 * 1024
    budget_bytes: int = 32 * 1024 * 1024
    batch_rows: int = 10_000
    strip_nul: bool = True
    records_path: str | None = None
    most_rejects: int | None = None
    all_keys: bool = False


class RangeReader(msgspec.Struct):
    """Reads one range as lots of records; afterwards ``start`` and ``end`` say which bytes it really covered.

    A stream that cannot be read twice has no format beforehand ("auto"): ``format`` is known with its first lot.
    """

    task: RangeTask
    format: Format | None = None
    progress: Callable[[int], None] = lambda _bytes: None
    start: int = 0
    end: int = 0
    sha256: str = ""

    def lots(self) -> Iterator[tuple[str | None, Lot]]:
        """Yield (file inside the source, records) in order."""
        task = self.task
        if task.kind in (FILES, MEMBERS):
            done = 0
            for name in task.files:
                for lot in self._file(name):
                    done += sum(map(len, lot.texts))
                    yield name, lot
                self.progress(done)
        elif task.kind == BYTES and not task.records_path:
            yield from self._bytes()
        else:
            with streams.open_stream(task.path) as stream:
                counted = Counted(stream, self.progress, hashed=task.path == streams.STDIN)
                for lot in self._stream(counted, task.path):
                    yield None, lot
                self.sha256 = counted.digest.hexdigest()

    def _bytes(self) -> Iterator[tuple[str | None, Lot]]:
        task = self.task
        assert task.layout is not None
        start: int | None = task.start
        if not task.exact:
            start = cutting.find_start(task.path, task.layout, task.start)
        if start is None or (task.stop is not None and start >= task.stop):
            self.start = self.end = task.start if start is None else start
            return
        self.start = self.end = start
        if start >= Path(task.path).stat().st_size:
            return
        with streams.open_stream(task.path) as stream:
            counted = Counted(stream, self.progress, start=start)
            counted.seek(start)
            cutter = cutting.Cutter(
                counted,
                task.layout,
                name=task.path,
                start=start,
                stop=task.stop,
                chunk_bytes=task.chunk_bytes,
                record=_record(self.format),
                seek=counted.seek,
            )
            for lot in cutter.lots():
                yield None, lot
        self.end = cutter.end

    def _file(self, name: str) -> Iterator[Lot]:
        task = self.task
        with _open(task, name) as stream:
            yield from self._stream(stream, f"{task.path}/{name}")

    def _stream(self, stream: streams.Readable, name: str) -> Iterator[Lot]:
        task = self.task
        if task.records_path:
            for lot in general.lots(stream, task.records_path, name):
                if self.format is None:
                    self.format = shapes.choose(shapes.keys_of(lot.texts[0]), task.wanted, name)
                yield lot
            return
        found, keys, head = shapes.probe(stream, name)
        if self.format is None:
            self.format = shapes.choose(keys, task.wanted, name)
        cutter = cutting.Cutter(
            stream,
            found,
            name=name,
            start=found.start,
            chunk_bytes=task.chunk_bytes,
            head=head[found.start :],
            record=_record(self.format),
        )
        yield from cutter.lots()


def _record(form: Format | None) -> type[msgspec.Struct] | None:
    """Return the type of a top-level element that is a record itself."""
    return form.record if form and form.outer is None else None


@contextmanager
def _open(task: RangeTask, name: str) -> Iterator[streams.Readable]:
    if task.kind == MEMBERS:
        with streams.open_stream(task.path, name) as stream:
            yield stream
    else:
        with streams.open_stream(str(Path(task.path) / name)) as stream:
            yield stream


class Counted(msgspec.Struct):
    """A stream that reports how far it was read from ``start`` on; ``digest`` is that of its bytes if ``hashed``."""

    stream: streams.Readable
    report: Callable[[int], None]
    hashed: bool = False
    start: int = 0
    done: int = 0
    digest: "hashlib._Hash" = msgspec.field(default_factory=hashlib.sha256)

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes."""
        data = self.stream.read(size)
        self.done += len(data)
        if self.hashed:
            self.digest.update(data)
        self.report(self.done)
        return data

    def seek(self, position: int) -> None:
        """Go to a byte of a plain file."""
        self.stream.seek(position)  # type: ignore[attr-defined]
        self.done = position - self.start


_OUTER = msgspec.json.Decoder(mids.Powerset)


def open_powerset(text: bytes, offset: int, *, shallow: bool) -> tuple[mids.Powerset, Lot]:
    """Return a powerset without its powers, and these as records with their own places.

    ``shallow`` if the powerset is known not to be nested too deep.

    Raises:
        msgspec.DecodeError: the object is no powerset.
    """
    powerset = _OUTER.decode(text)
    lot, position = Lot(shallow=shallow), text.find(b'"Powers"')
    for raw in powerset.Powers:
        power = bytes(raw)
        position = text.find(power, position)
        lot.append(power, offset + position if offset >= 0 else -1)
        position += len(power)
    powerset.Powers = []
    return powerset, lot
