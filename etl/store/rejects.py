"""The rejects of a split: one JSON object per line, in file order."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from etl import storage
from etl.errors import StoreError
from etl.model import Manifest, Reject
from etl.sources import Format
from etl.sources.records import MAX_RAW_BYTES
from etl.store import files, places

if TYPE_CHECKING:
    import pyarrow as pa

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


def with_records(rejects: Iterable[Reject], batch: "pa.RecordBatch", form: Format) -> Iterator[Reject]:
    """Yield what a transform refused of a batch with the text of the whole record, as far as the store has its fields."""
    from etl.store import columns

    rejects = list(rejects)
    if not rejects:
        return
    keys = zip(batch.column("source").to_pylist(), batch.column("ordinal").to_pylist(), strict=True)
    rows = {(str(source), ordinal): row for row, (source, ordinal) in enumerate(keys)}
    for reject in rejects:
        text = columns.record_text(form.record, batch, rows[reject.source, reject.ordinal])
        yield replace(reject, raw=text[:MAX_RAW_BYTES].decode(errors="ignore"))


def placed(rejects: Iterable[Reject], batch: "pa.RecordBatch", store: str, manifest: Manifest) -> list[Reject]:
    """Return what a transform refused with all that a person needs: path of the source, file inside it, record."""
    from etl.sources import FORMATS

    found = []
    for reject in with_records(rejects, batch, FORMATS[manifest.format]):
        number = int(reject.source)
        file = files.name_of(store, manifest, number, reject.ordinal)
        found.append(replace(reject, source=manifest.sources[number].path, file=file))
    return found


def read(store: str, manifest: Manifest) -> Iterator[Reject]:
    """Yield the rejects of a split, in file order.

    Raises:
        StoreError: the file is missing or damaged.
    """
    name = place(store, manifest)
    try:
        for line in storage.read_bytes(name).splitlines():
            yield _DECODER.decode(line)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"{name}: cannot be read: {error}", "run etl split again") from error
