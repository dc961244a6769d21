"""The rejects of a split: one JSON object per line, in file order."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import msgspec

from etl import limits, storage
from etl.errors import InputError, StoreError
from etl.model import Manifest, Reject
from etl.store import files, places

if TYPE_CHECKING:
    import pyarrow as pa

    from etl.sources import Format

T = TypeVar("T")

_DECODER = msgspec.json.Decoder(Reject)


def place(store: str, manifest: Manifest) -> str:
    """Return where the rejects of a split lie."""
    return storage.join(store, manifest.split_id, places.REJECTS)


def encode(rejects: Iterable[Reject]) -> bytes:
    """Return the lines of these rejects."""
    return msgspec.json.Encoder().encode_lines(rejects)


def write_load(store: str, manifest: Manifest, build: int, rejects: Iterable[Reject]) -> str:
    """Write the records that a load set aside beside those of the split; return the place."""
    name = storage.join(store, manifest.split_id, f"rejects-build-{build}.ndjson")
    storage.write_bytes(name, encode(rejects))
    return name


def with_records(rejects: Iterable[Reject], batch: "pa.RecordBatch", form: "Format") -> Iterator[Reject]:
    """Yield what a transform refused of a batch with the text of the whole record, as far as the store has its fields."""
    from etl.store import columns

    rejects = list(rejects)
    if not rejects:
        return
    keys = zip(batch.column("source").to_pylist(), batch.column("ordinal").to_pylist(), strict=True)
    rows = {(str(source), ordinal): row for row, (source, ordinal) in enumerate(keys)}
    for reject in rejects:
        text = columns.record_text(form.record, batch, rows[reject.source, reject.ordinal])
        yield replace(reject, raw=text[: limits.MAX_RAW_BYTES].decode(errors="ignore"))


def placed(rejects: Iterable[Reject], batch: "pa.RecordBatch", store: str, manifest: Manifest) -> list[Reject]:
    """Return what a transform refused with all that a person needs: path of the source, file inside it, record."""
    found: list[Reject] = []
    rejects = list(rejects)
    if not rejects:
        return found
    from etl.sources import FORMATS

    for reject in with_records(rejects, batch, FORMATS[manifest.format]):
        number = int(reject.source)
        file = files.name_of(store, manifest, number, reject.ordinal)
        found.append(replace(reject, source=manifest.sources[number].path, file=file))
    return found


def file_of(store: str, manifest: Manifest, place: tuple[int, int]) -> str | None:
    """Return the file inside a source that a record is in, by (number of the source, ordinal)."""
    return files.name_of(store, manifest, *place)


def write(store: str, split_id: str, rejects: Iterable[Reject]) -> None:
    """Write the rejects of a split, in file order."""
    with storage.create(storage.join(store, split_id, places.REJECTS)) as stream:
        for reject in rejects:
            stream.write(msgspec.json.encode(reject) + b"\n")


def read(store: str, manifest: Manifest) -> Iterator[Reject]:
    """Yield the rejects of a split, in file order.

    Raises:
        StoreError: the file is missing or damaged.
    """
    name = place(store, manifest)
    try:
        with storage.open_lines(name) as lines:
            for line in lines:
                yield _DECODER.decode(line)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"{name}: cannot be read: {error}", "run etl split again") from error


def read_lines(path: str, kind: type[T]) -> Iterator[T]:
    """Yield the lines of a file that a person may have edited, as values of a type; blank lines are passed over.

    Raises:
        InputError: it cannot be read, or a line is no such value.
    """
    decoder = msgspec.json.Decoder(kind)
    number = 0
    try:
        with storage.open_lines(path) as lines:
            for line in lines:
                number += 1
                if line.strip():
                    yield decoder.decode(line)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file", "etl rejects export FILE") from error
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{path}: line {number}: {error}", "each line is an object as etl rejects export writes it"
        ) from error
