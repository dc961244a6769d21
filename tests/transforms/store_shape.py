"""Record batches as the store keeps them, made directly from records: for tests of the transforms alone."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import xxhash

from etl import model
from etl.sources import cod, i12, mids, records
from etl.store import columns

FORMATS = {"cod": cod, "i12": i12, "mids": mids}


class _CodName(msgspec.Struct, rename={"uid": "full_name"}):
    uid: str


class _I12Name(msgspec.Struct, rename={"uid": "InternalName"}):
    uid: str


class _MidsName(msgspec.Struct, rename={"uid": "FullName"}):
    uid: str


_NAMES = {"cod": _CodName, "i12": _I12Name, "mids": _MidsName}


def uids(format: str, texts: Iterable[bytes]) -> list[str]:
    """Return the lower-case full names of records."""
    decoder = msgspec.json.Decoder(_NAMES[format])
    return [decoder.decode(text).uid.lower() for text in texts]


def read_pack(format: str, path: Path) -> list[bytes]:
    """Return the minified records of a data pack, NUL removed; of a repeated name the last one stays."""
    raws = msgspec.json.decode(path.read_bytes().replace(b"\\u0000", b""), type=list[msgspec.Raw])
    texts = [bytes(raw) for raw in raws] if format != "mids" else [power for raw in raws for power in _powers(raw)]
    return list(dict(zip(uids(format, texts), texts, strict=True)).values())


def _powers(powerset: msgspec.Raw) -> Iterator[bytes]:
    """Yield the powers of a MidsReborn powerset, with what the powerset says of them."""
    keys = msgspec.json.decode(powerset, type=dict[str, msgspec.Raw])
    shared = {key: keys[key] for key in ("ATClass", "SetType") if key in keys}
    for power in msgspec.json.decode(keys["Powers"], type=list[dict[str, msgspec.Raw]]):
        yield msgspec.json.encode(power | shared)


def batches(format: str, texts: list[bytes], rows: int = 2000) -> Iterator[pa.RecordBatch]:
    """Yield the records in batches of at most ``rows``."""
    for first in range(0, len(texts), rows):
        yield batch(format, texts[first : first + rows])


def batch(format: str, texts: list[bytes]) -> pa.RecordBatch:
    """Return one batch of minified records, ordinals from 0."""
    source = FORMATS[format]
    decoder = msgspec.json.Decoder(source.Record)
    rows = records.Rows()
    for ordinal, (uid, text) in enumerate(zip(uids(format, texts), texts, strict=True)):
        rows.uids.append(uid)
        rows.homes.append(records.Home(archetype="blaster", powerset=_powerset(uid), name="", title=None))
        rows.ordinals.append(ordinal)
        rows.offsets.append(0)
        rows.digests.append(xxhash.xxh3_128_digest(text))
        rows.sizes.append(len(text))
        rows.records.append(decoder.decode(text))
    return columns.builder(source.Record, source.NAMES)(rows, 0)


def context(*known: str) -> model.LeafContext:
    """Return a context that knows these powers and their powersets, ids from 1 in order of name."""
    powersets = sorted({_powerset(uid) for uid in known})
    ids = {uid: number for number, uid in enumerate(sorted(known), 1)}
    return model.LeafContext(
        archetype_ids=defaultdict(lambda: 7),
        powerset_ids={uid: number for number, uid in enumerate(powersets, 1)},
        power_ids=ids,
        power_order={},
        resolve=lambda names: {name: ids[name] for name in names if name in ids},
    )


def context_of(format: str, texts: Iterable[bytes]) -> model.LeafContext:
    """Return a context that knows the powers of the records."""
    return context(*uids(format, texts))


def _powerset(uid: str) -> str:
    return ".".join(uid.split(".")[:2])
