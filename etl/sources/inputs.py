"""What the sources of a split are: files, directories, archives, standard input; their identity and their ranges."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from etl.errors import InputError
from etl.model import SourceInfo
from etl.sources import Format, general, shapes, streams
from etl.sources.ranges import BYTES, FILES, MEMBERS, STREAM

MIB = 1024 * 1024
# Geometry depends on the source alone, never on the number of processes, so that a rerun finds its finished ranges. Small
# ranges keep processes busy to the end: of nine, two processes do five and four.
RANGE_BYTES = 16 * MIB
MOST_RANGES = 24
WHOLE_HASH_BYTES = 64 * MIB
_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024
_MOST_NOTES = 1_000


class Source(msgspec.Struct):
    """One source as it was found: what it is, its files inside where it has such, and how its records are arranged."""

    info: SourceInfo
    root: str
    files: list[tuple[str, int]] = msgspec.field(default_factory=list)
    indexes: list[str] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)
    layout: shapes.Layout | None = None

    @property
    def is_tree(self) -> bool:
        """Whether the source is a directory."""
        return self.info.kind == "directory"


class Geometry(msgspec.Struct, frozen=True, kw_only=True):
    """One range of a source, before it becomes a task."""

    kind: str
    start: int = 0
    stop: int | None = None
    exact: bool = True
    files: tuple[str, ...] = ()
    bytes: int = 0


def find(path: str) -> Source:
    """Return what a source is.

    Raises:
        InputError: there is nothing of this name, or a directory holds no records.
    """
    if path == streams.STDIN:
        return Source(info=SourceInfo(path=path, kind="stream", bytes=0, mtime_ns=0, sha256=""), root=path)
    if Path(path).is_dir():
        return _find_tree(path)
    try:
        status = Path(path).stat()
    except OSError as error:
        raise InputError(f"{path}: there is no such file or directory", "check the path") from error
    if not status.st_size:
        raise InputError(f"{path}: the file is empty (0 bytes)", "check the file, or make it again")
    source = Source(info=file_info(path), root=path)
    if path.lower().endswith(".zip"):
        source.files = [(name, 0) for name in streams.members(path)]
        if not source.files:
            raise InputError(f"{path}: the archive holds no .json file", "check the archive")
    return source


def file_info(path: str) -> SourceInfo:
    """Return what is known of a file. ``sha256`` covers the whole of it up to 64 MiB.

    Beyond that it is the hash of the size, the time of the last change and 64 evenly spread blocks of 64 KiB, since
    reading 4 GB once more would cost a quarter of the split.
    """
    status = Path(path).stat()
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        if status.st_size <= WHOLE_HASH_BYTES:
            while block := stream.read(MIB):
                digest.update(block)
        else:
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
            for number in range(_SAMPLES):
                stream.seek((status.st_size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return SourceInfo(
        path=path, kind="file", bytes=status.st_size, mtime_ns=status.st_mtime_ns, sha256=digest.hexdigest()
    )


def learn(source: Source, wanted: str, records_path: str | None) -> Format:
    """Return the format of a source, and note how its records are arranged.

    Raises:
        InputError: it is no JSON, or of no known format.
    """
    if records_path:
        return _learn_general(source, wanted, records_path)
    if not source.files:
        with streams.open_stream(source.root) as stream:
            source.layout, keys, _ = shapes.probe(stream, source.root)
        return shapes.choose(keys, wanted, source.root)
    for name, _ in source.files:
        member = None if source.is_tree else name
        path = str(Path(source.root) / name) if source.is_tree else source.root
        with streams.open_stream(path, member) as stream:
            _, keys, _ = shapes.probe(stream, path)
        return shapes.choose(keys, wanted, path)
    raise InputError(f"{source.root}: holds no records", "check the path")


def _learn_general(source: Source, wanted: str, records_path: str) -> Format:
    name = source.files[0][0] if source.files else None
    path = str(Path(source.root) / name) if name and source.is_tree else source.root
    with streams.open_stream(path, None if source.is_tree else name) as stream:
        first = next(general.lots(stream, records_path, path))
    return shapes.choose(shapes.keys_of(first.texts[0]), wanted, path)


def ranges(source: Source, *, whole: bool) -> Iterator[Geometry]:
    """Yield the ranges of a source, in file order; ``whole`` asks for one range where the source is one stream."""
    if source.files:
        kind = FILES if source.is_tree else MEMBERS
        step = max(1, min(2_000, -(-len(source.files) // MOST_RANGES)))
        for first in range(0, len(source.files), step):
            part = source.files[first : first + step]
            yield Geometry(kind=kind, files=tuple(name for name, _ in part), bytes=sum(size for _, size in part))
    elif whole or not streams.is_plain(source.root) or source.layout is None or _is_packed(source.root):
        yield Geometry(kind=STREAM, bytes=source.info.bytes)
    else:
        size, start = source.info.bytes, source.layout.start
        count = 1 if source.layout.container == shapes.OBJECT else max(1, min(MOST_RANGES, size // RANGE_BYTES))
        cuts = [start, *(size * number // count for number in range(1, count))]
        for number, cut in enumerate(cuts):
            stop = cuts[number + 1] if number + 1 < count else None
            yield Geometry(kind=BYTES, start=cut, stop=stop, exact=number == 0, bytes=(stop or size) - cut)


def changed(info: SourceInfo) -> str | None:
    """Return how a source differs from what it was, None if it does not, or is not here to be compared."""
    if info.path == streams.STDIN:
        return None
    try:
        now = _tree_info(info.path, _walk(_power_root(info.path))) if info.kind == "directory" else file_info(info.path)
    except FileNotFoundError:
        return None  # the store has what was read; a file that is not here need not have changed
    except OSError as error:
        return f"{info.path} cannot be read any more: {error}"
    if now.bytes != info.bytes:
        return f"{info.path} has {now.bytes} bytes now, {info.bytes} when it was split"
    if now.sha256 != info.sha256:
        return f"{info.path} has other content than when it was split (same size, {now.bytes} bytes)"
    return None


def _is_packed(path: str) -> bool:
    """Return whether a file of any name begins like a compressed one."""
    with open(path, "rb") as stream:
        return stream.read(4).startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd"))


def _walk(root: Path) -> list[tuple[str, os.stat_result]]:
    """Return (path below the root, status) of all files, sorted."""
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            # A link to nowhere is a file without content, and is reported as such.
            status = path.stat() if path.exists() else os.stat_result((0,) * 10)
            found.append((path.relative_to(root).as_posix(), status))
    return sorted(found)


def _tree_info(path: str, files: list[tuple[str, os.stat_result]]) -> SourceInfo:
    digest = hashlib.sha256()
    for name, status in files:
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return SourceInfo(
        path=path,
        kind="directory",
        bytes=sum(status.st_size for _, status in files),
        mtime_ns=max((status.st_mtime_ns for _, status in files), default=0),
        sha256=digest.hexdigest(),
    )


def _power_root(path: str) -> Path:
    """Return the folder of the powers: an export has it beside the folders of archetypes, tables and so on."""
    return Path(path) / "powers" if (Path(path) / "powers").is_dir() else Path(path)


def _find_tree(path: str) -> Source:
    root = _power_root(path)
    files = _walk(root)
    source = Source(info=_tree_info(path, files), root=str(root))
    for name, status in files:
        if not name.lower().endswith(".json"):
            what = "zero bytes and no" if not status.st_size else "no"
            source.notes.append(f"{name}: a file with {what} extension .json, no record")
        elif not status.st_size:
            source.notes.append(f"{name}: a file of zero bytes, no record")
        elif name.rpartition("/")[2].lower() == "index.json":
            if name.count("/") == 2:
                source.indexes.append(name)
        else:
            source.files.append((name, status.st_size))
    if len(source.notes) > _MOST_NOTES:
        source.notes[_MOST_NOTES:] = [f"and {len(source.notes) - _MOST_NOTES} more files that are no records"]
    if not source.files:
        raise InputError(
            f"{path}: a directory without powers ({len(files)} files, none of them a record in .json)",
            "name the folder that holds the power files, or their JSON file",
        )
    return source
