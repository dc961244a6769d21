"""Writing a generated file: one JSON array, one record per line, with a side file that lists the dirty records."""

import contextlib
import gzip
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec
import zstandard

from etl import model
from etl.errors import EtlError, UsageError
from etl.generate import cod, dirt, i12, world
from etl.generate.dice import dumps

_BLOCK_BYTES = 1024 * 1024


class GenerateResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was written. ``bytes`` counts the file's JSON before any compression.

    ``rejects`` and ``superseded`` are what an import of the file must count; ``loaded`` is the rest. ``dirty_path`` is
    the side file, None for a clean file.
    """

    path: str
    records: int
    bytes: int
    seconds: float
    dirty_path: str | None
    rejects: int
    superseded: int

    @property
    def loaded(self) -> int:
        """The number of records that an import must load."""
        return self.records - self.rejects - self.superseded


class _Renderer(Protocol):
    some_effects: list[dict[str, Any]]

    def open(self, powerset: world.Powerset) -> Callable[[int], str]: ...


_SHAPES: dict[str, tuple[Callable[[int, world.Names, list[world.Powerset]], _Renderer], dirt.Keys]] = {
    "cod": (cod.CodRenderer, dirt.COD),
    "i12": (i12.I12Renderer, dirt.I12),
}
SHAPES = tuple(_SHAPES)


def generate(
    shape: str,
    records: int,
    seed: int,
    out: str | Path,
    *,
    dirty: float = 0.0,
    progress: model.Progress | None = None,
) -> GenerateResult:
    r"""Write a file of invented powers: the same arguments give the same bytes, whatever the machine.

    The file is one JSON array, ``[\n{…},\n{…}\n]\n``; ``.gz`` and ``.zst`` compress it (their bytes also depend on
    the compressor's version). It appears under its name when it is complete. ``dirty`` is the share (0..1) of records
    that are bad or odd; they are listed in ``<out>.dirty.ndjson``, one line each, in file order:

    * ``ordinal`` (from 0) and ``offset`` (bytes, of its ``{`` in the uncompressed file) of the record,
    * ``kind``, and ``uid``, its lower-case full name, null where the record has no usable name,
    * ``expect``: "accepted", "rejected" or "superseded", and for rejects ``stage`` ("split" or "load") and ``code``,
    * ``by_ordinal`` of the later record of the same name, for superseded ones only.

    A side file of an earlier run is removed when there is nothing dirty. Memory stays below about 50 MB, save 100 bytes
    for each dirty record.

    Raises:
        UsageError: an unknown shape, a negative number of records, a share outside 0..1, or no such folder.
        EtlError: the file could not be written.
    """
    started = time.monotonic()
    target = Path(out)
    _check(shape, records, dirty, target)
    file = _File(shape, records, seed, dirty)
    side = Path(f"{target}.dirty.ndjson")
    try:
        with _appearing(target) as sink, _appearing(side) as side_sink:
            written = _write(file, sink, side_sink, progress)
        if not dirty:
            side.unlink()
    except OSError as error:
        raise EtlError(
            f"{target} could not be written: {error.strerror}", "free some space or choose another place"
        ) from error
    return GenerateResult(
        path=str(target),
        records=records,
        bytes=written,
        seconds=time.monotonic() - started,
        dirty_path=str(side) if dirty else None,
        rejects=file.expected["rejected"],
        superseded=file.expected["superseded"],
    )


def _check(shape: str, records: int, dirty_share: float, target: Path) -> None:
    if shape not in _SHAPES:
        raise UsageError(f"'{shape}' is no shape that can be generated", f"use one of: {', '.join(SHAPES)}")
    if records < 0:
        raise UsageError(f"{records} is no number of records", "use 0 or more")
    if not 0 <= dirty_share <= 1:
        raise UsageError(f"{dirty_share} is no share of records", "use a number from 0 to 1, such as 0.01")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {target.absolute().parent}", "create it, or choose another place")


class _File:
    """The records of one file in order, with side lines for the dirty ones, which ``expected`` counts as they pass."""

    def __init__(self, shape: str, records: int, seed: int, dirty_share: float) -> None:
        renderer, self._keys = _SHAPES[shape]
        self.length = records
        self.expected = {"accepted": 0, "rejected": 0, "superseded": 0}
        self._names = world.Names()
        self._powersets = world.plan(records, seed)
        self._starts = [powerset.start for powerset in self._powersets]
        self._renderer = renderer(seed, self._names, self._powersets)
        self._slots = dirt.slots(records, dirty_share, seed)

    def records(self) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
        """Yield each record's bytes, and for a dirty one its side line, still without the offset."""
        slot = next(self._slots, None)
        for powerset in self._powersets:
            record = self._renderer.open(powerset)
            for position in range(powerset.size):
                if slot is not None and slot.ordinal == powerset.start + position:
                    yield self._spoiled(slot)
                    slot = next(self._slots, None)
                else:
                    yield record(position).encode(), None

    def _spoiled(self, slot: dirt.Slot) -> tuple[bytes, dict[str, Any]]:
        place = slot.ordinal if slot.by_ordinal is None else slot.by_ordinal
        powerset = self._powersets[bisect_right(self._starts, place) - 1]
        position = place - powerset.start
        text = self._renderer.open(powerset)(position)
        kind = slot.kind
        self.expected[kind.expect] += 1
        full_name = f"{powerset.full_name}.{self._names.power(powerset, position)[0]}"
        line = {
            "ordinal": slot.ordinal,
            "offset": 0,
            "kind": kind.name,
            "uid": full_name.lower() if kind.is_named else None,
            "expect": kind.expect,
            "stage": kind.stage,
            "code": kind.code,
        }
        by_ordinal = {} if slot.by_ordinal is None else {"by_ordinal": slot.by_ordinal}
        return dirt.spoil(text, slot, self._keys, self._renderer.some_effects), line | by_ordinal


def _write(file: _File, sink: IO[bytes], side: IO[bytes], progress: model.Progress | None) -> int:
    """Write array and side lines in blocks of about 1 MB; return the bytes of the array."""
    sink.write(b"[\n")
    written = 2
    block: list[bytes] = []
    pending = 0  # bytes of the block, each record with its comma and line feed
    for ordinal, (record, line) in enumerate(file.records()):
        if line is not None:
            side.write(dumps(line | {"offset": written + pending}).encode() + b"\n")
        block.append(record)
        pending += len(record) + 2
        if pending >= _BLOCK_BYTES and ordinal + 1 < file.length:
            sink.write(b",\n".join(block) + b",\n")
            written += pending
            block, pending = [], 0
            _report(progress, ordinal + 1, file.length)
    if block:
        sink.write(b",\n".join(block) + b"\n")
        written += pending - 1
    sink.write(b"]\n")
    _report(progress, file.length, file.length)
    return written + 2


def _report(progress: model.Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(model.Event(phase="generate", done=done, total=total, unit="rows"))


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[IO[bytes]]:
    """A binary writer, compressing by extension, whose file gets its name at the end and leaves nothing on failure."""
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as raw, _compressing(path, raw) as sink:
            yield sink
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _compressing(path: Path, raw: IO[bytes]) -> contextlib.AbstractContextManager[Any]:
    if path.suffix == ".gz":
        return gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0)
    if path.suffix == ".zst":
        return zstandard.ZstdCompressor(level=3).stream_writer(raw, closefd=False)
    return contextlib.nullcontext(raw)
