"""What a finished range leaves behind for the manifest, as JSON beside its parts."""

import msgspec

from etl import storage
from etl.model import BatchRef
from etl.store import places

MODULUS = 1 << 128


class Share(msgspec.Struct):
    """What one range holds of one partition. ``digest`` is the sum of its records' digests modulo 2**128, in hex."""

    archetype: str
    powerset: str
    name: str
    title: str | None
    rows: int = 0
    bytes: int = 0
    digest: str = "0"
    batches: list[BatchRef] = msgspec.field(default_factory=list)

    def add(self, size: int, digest: int, ref: BatchRef) -> None:
        """Add the rows of one record batch."""
        self.rows += ref.rows
        self.bytes += size
        self.digest = f"{(int(self.digest, 16) + digest) % MODULUS:x}"
        self.batches.append(ref)


class Batch(msgspec.Struct, frozen=True):
    """One record batch as it was written."""

    part: str
    batch: int
    rows: int


class RangeResult(msgspec.Struct, frozen=True, kw_only=True):
    """A finished range: what it covered and what it found.

    ``start`` and ``end`` are the first byte and the byte after the last record of a byte range, ``key`` the geometry that
    it was made with. ``files`` are (first ordinal, name) of the files inside the source; ordinals count from the range's
    first record. ``batches`` are in the order in which the hashes of the rows stand in the file beside.
    """

    number: int
    source: int
    key: str
    format: str
    start: int
    end: int
    records: int
    rows: int
    rejects: int
    seconds: float
    bytes: int
    shares: list[Share]
    batches: list[Batch]
    counts: dict[str, int]
    reject_codes: dict[str, int]
    files: list[tuple[int, str]]
    sha256: str = ""


_DECODER = msgspec.json.Decoder(RangeResult)


def write(store: str, split_id: str, result: RangeResult) -> None:
    """Commit a range."""
    storage.write_bytes(places.in_range(store, split_id, result.number, "json"), msgspec.json.encode(result))


def read(store: str, split_id: str, number: int) -> RangeResult | None:
    """Return what a range left, None if it is not finished."""
    try:
        return _DECODER.decode(storage.read_bytes(places.in_range(store, split_id, number, "json")))
    except (OSError, msgspec.DecodeError):
        return None


def forget(store: str, split_id: str, number: int) -> None:
    """Delete what a range left, first of all its commit."""
    result = read(store, split_id, number)
    for what in ("json", "rejects", "uids", "powersets"):
        storage.delete(places.in_range(store, split_id, number, what))
    for part in {batch.part for batch in result.batches} if result else ():
        storage.delete(places.part(store, split_id, part))
