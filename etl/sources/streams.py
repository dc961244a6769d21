"""Byte streams: a range of a plain file, a compressed file, a member of an archive, standard input.

Every stream has ``read(size)``; its name decides how it is unpacked. Damaged compression becomes an InputError.
"""

import contextlib
import gzip
import io
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Protocol

import msgspec
import zstandard

from etl.errors import InputError

STDIN = "-"
COMPRESSED = (".gz", ".zst", ".zip")

_GZIP, _ZSTD, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"


class Readable(Protocol):
    """Whatever gives bytes in order; an empty answer is the end."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes."""
        ...


def is_plain(path: str) -> bool:
    """Return whether the file's own bytes are the JSON text, so that it can be read in ranges."""
    return path != STDIN and not path.lower().endswith(COMPRESSED)


def members(path: str) -> list[str]:
    """Return the names of the .json files in a zip archive, in the archive's order."""
    with _named(path), zipfile.ZipFile(path) as archive:
        return [name for name in archive.namelist() if name.lower().endswith((".json", ".ndjson", ".jsonl"))]


@contextmanager
def open_stream(path: str, member: str | None = None) -> Iterator[Readable]:
    """Open a source for reading from its first (unpacked) byte.

    Raises:
        InputError: the file cannot be read, or is not what its name says; also later, while it is read.
    """
    with contextlib.ExitStack() as opened:
        with _named(path):
            stream: Readable
            if path == STDIN:
                stream = unpacked(sys.stdin.buffer)
            elif member is not None:
                archive = opened.enter_context(zipfile.ZipFile(path))
                stream = opened.enter_context(archive.open(member))
            else:
                stream = unpacked(opened.enter_context(open(path, "rb")))
        yield _Named(stream, path)


class _Named(msgspec.Struct, frozen=True):
    """A stream whose failures name the file."""

    stream: Any
    path: str

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes."""
        with _named(self.path):
            return self.stream.read(size)  # type: ignore[no-any-return]

    def seek(self, position: int) -> None:
        """Go to a byte of a plain file."""
        self.stream.seek(position)


def unpacked(stream: IO[bytes]) -> Readable:
    """Return the stream, through a decompressor if its first bytes are those of gzip or zstd."""
    buffered: Any = stream if hasattr(stream, "peek") else io.BufferedReader(stream)
    head: bytes = buffered.peek(4)[:4]
    if head.startswith(_GZIP):
        return _typed(gzip.GzipFile(fileobj=buffered))
    if head == _ZSTD:
        return _typed(zstandard.ZstdDecompressor().stream_reader(buffered, read_across_frames=True))
    if head == _ZIP:
        raise InputError("a zip archive cannot be read from a stream", "save it as a file whose name ends in .zip")
    return _typed(buffered)


def _typed(stream: Any) -> Readable:
    readable: Readable = stream
    return readable


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Translate what files and decompressors raise into one sentence that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file", "check the path") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, zstandard.ZstdError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read: {reason}", "check the file, or make it again") from error
