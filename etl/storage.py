"""The door to where stores lie: a local folder, or any file system that pyarrow knows by its URI (s3://, gs://, …).

A store is named by a path or a URI. Local paths are served by the standard library, so that reading a manifest does not
cost the import of pyarrow. Object stores have no rename: files appear there when they are closed, under unique names.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from etl.errors import Incomplete

_BLOCK_BYTES = 1 << 20
_SINK_BYTES = 1 << 17
_PARTIAL = "."


def is_local(place: str) -> bool:
    """Return whether the place is a plain path or a file:// URI."""
    return "://" not in place or place.startswith("file://")


def local_path(place: str) -> Path:
    """Return the path that a local place names."""
    return Path(place.removeprefix("file://"))


def absolute(place: str) -> str:
    """Return a place that means the same from every working folder; URIs are returned as they are."""
    return str(local_path(place).absolute()) if is_local(place) else place


def join(place: str, *names: str) -> str:
    """Return the place of a file below another place."""
    return "/".join((place.rstrip("/") or "/", *names))


def make_folder(place: str) -> None:
    """Create a folder and those above it, where the file system has folders."""
    if is_local(place):
        local_path(place).mkdir(parents=True, exist_ok=True)


def exists(place: str) -> bool:
    """Return whether a file or folder of this name is there."""
    if is_local(place):
        return local_path(place).exists()
    filesystem, path = _remote(place)
    return bool(filesystem.get_file_info(path).type.value != 0)


def xxh3(place: str) -> str:
    """Return the hex XXH3 digest (128 bits) of a file, read in blocks. Raises FileNotFoundError where there is none."""
    import xxhash

    digest = xxhash.xxh3_128()
    with _open_stream(place) as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def read_bytes(place: str) -> bytes:
    """Return the content of a file. Raises FileNotFoundError where there is none."""
    if is_local(place):
        return local_path(place).read_bytes()
    filesystem, path = _remote(place)
    with filesystem.open_input_stream(path) as stream:
        return bytes(stream.read())


def write_bytes(place: str, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    with create(place) as stream:
        stream.write(data)


def link(place: str, other: str) -> None:
    """Let a file that never changes be there under another name as well, without a copy where the disk can do that."""
    if is_local(place) and is_local(other):
        try:
            os.link(local_path(place), local_path(other))
        except OSError:
            shutil.copyfile(local_path(place), local_path(other))
    else:
        write_bytes(other, read_bytes(place))


@contextmanager
def create(place: str, *, arrow: bool = False) -> Iterator[IO[bytes]]:
    """Open a new file for writing; it appears under its name when the block ends without an error.

    With ``arrow`` the stream is one of Arrow's own: writing record batches through a Python file takes twice as long.

    Raises:
        Incomplete: there is no space left; the file does not exist.
    """
    if is_local(place):
        path = local_path(place)
        partial = path.with_name(f"{_PARTIAL}{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            with _open_sink(partial, arrow=arrow) as stream:
                yield stream
            partial.replace(path)
        except OSError as error:
            if _is_full(error):
                raise Incomplete(
                    f"{path.parent}: no space left to write {path.name}",
                    "free space there, then run the same command again; what is finished is kept",
                ) from error
            raise
        finally:
            partial.unlink(missing_ok=True)
    else:
        filesystem, remote = _remote(place)
        with filesystem.open_output_stream(remote) as stream:
            yield stream


def _is_full(error: OSError) -> bool:
    """Whether the disk, the quota or the limit of a file's size is reached; Arrow says so in its message alone."""
    named = re.search(r"errno (\d+)", str(error))
    number = error.errno or (int(named[1]) if named else 0)
    return number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def delete_partial(folder: str) -> None:
    """Delete the files of a local folder that a killed process was still writing; nobody else may be writing there."""
    if is_local(folder):
        for path in local_path(folder).glob(f"{_PARTIAL}*"):
            path.unlink(missing_ok=True)


@contextmanager
def open_lines(place: str) -> Iterator[Iterator[bytes]]:
    """Open a file to be read line by line. Raises FileNotFoundError where there is none."""
    if is_local(place):
        with local_path(place).open("rb") as stream:
            yield iter(stream)
    else:
        yield iter(read_bytes(place).splitlines())


def open_arrow(place: str) -> Any:
    """Open a file for reading as an Arrow random access file: memory-mapped where it is local.

    Raises:
        FileNotFoundError: there is no such file.
    """
    import pyarrow as pa

    if is_local(place):
        return pa.memory_map(os.fspath(local_path(place)))
    filesystem, path = _remote(place)
    return filesystem.open_input_file(path)


def names(place: str) -> list[str]:
    """Return the names of the files and folders right below a folder, sorted; empty where there is none."""
    if is_local(place):
        folder = local_path(place)
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    import pyarrow.fs

    filesystem, path = _remote(place)
    selector = pyarrow.fs.FileSelector(path, allow_not_found=True)
    return sorted(entry.base_name for entry in filesystem.get_file_info(selector))


def size(place: str) -> int:
    """Return the bytes of a file, or of all files below a folder; 0 where there is none."""
    if is_local(place):
        folder = local_path(place)
        files = folder.rglob("*") if folder.is_dir() else [folder]
        return sum(file.stat().st_size for file in files if file.is_file())
    import pyarrow.fs

    filesystem, path = _remote(place)
    selector = pyarrow.fs.FileSelector(path, recursive=True, allow_not_found=True)
    return sum(entry.size or 0 for entry in filesystem.get_file_info(selector))


def free_bytes(place: str) -> int | None:
    """Return the free bytes of the disk that a folder is on, or will be on; None where that cannot be told."""
    if not is_local(place):
        return None
    folder = local_path(place).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def delete(place: str) -> None:
    """Delete a file, or a folder with all that it holds; nothing happens where there is none."""
    if is_local(place):
        path = local_path(place)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    elif exists(place):
        filesystem, remote = _remote(place)
        if filesystem.get_file_info(remote).is_file:
            filesystem.delete_file(remote)
        else:
            filesystem.delete_dir(remote)


def _open_sink(path: Path, *, arrow: bool) -> IO[bytes]:
    if not arrow:
        return path.open("wb")
    import pyarrow as pa

    # A record batch is some hundred small buffers: collected, they take 0.7 (nested records) to 0.85 of the time.
    stream = pa.OSFile(os.fspath(path), "wb")
    return pa.BufferedOutputStream(stream, _SINK_BYTES)  # type: ignore[no-any-return]  # pyarrow has no types


def _remote(place: str) -> tuple[Any, str]:
    import pyarrow.fs

    return pyarrow.fs.FileSystem.from_uri(place)  # type: ignore[no-any-return]  # pyarrow has no types


def _open_stream(place: str) -> Any:
    """Open a file to be read from its beginning."""
    if is_local(place):
        return local_path(place).open("rb")
    filesystem, path = _remote(place)
    return filesystem.open_input_stream(path)
