"""The fast paths, each beside the slow way that gives the same (which the tests prove)."""

import argparse
import gc
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benches.common import etl, say
from etl import numbers
from etl.sources import FORMATS, cleaning, exactness, shapes, turned, typed, utf8, vast
from etl.store import sums
from etl.transforms import cod, i12, nested

_BYTES = 1 << 19
_TIMES = 31
_DIGEST_BYTES, _RUN = 16, 20
_RECORDS = {"cod": 600, "i12": 6_000}


def twins(_given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Milliseconds per megabyte of generated records, in one buffer as the split reads it: the best of 31, in turns."""
    figures = []
    gc.disable()
    for shape, records in _RECORDS.items():
        source = folder / f"{shape}.json"
        etl("generate", "--shape", shape, "--records", str(records), "--seed", "1", "--out", str(source), "--quiet")
        for what, slow, fast, size in _pairs(shape, source):
            times = [(_seconds(slow), _seconds(fast)) for _ in range(_TIMES)]
            worst, best = (min(found) * 1e9 / size for found in zip(*times, strict=True))
            figures.append({"shape": shape, "what": what, "slow_ms": worst, "fast_ms": best, "times": worst / best})
            say(figures[-1])
    return figures


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _pairs(shape: str, source: Path) -> list[tuple[str, Callable[[], object], Callable[[], object], int]]:
    record = FORMATS[shape].record
    with source.open("rb") as stream:
        layout, _, _ = shapes.probe(stream, str(source))
        stream.seek(layout.start)
        buffer = stream.read(_BYTES)
    end = buffer.rfind(layout.separator)
    raws = msgspec.json.Decoder(list[msgspec.Raw])
    records = msgspec.json.Decoder(list[exactness.guarded(record)])  # type: ignore[misc]
    whole = buffer[:end]
    texts = list(map(bytes, raws.decode(b"[" + whole + b"]")))

    def twice() -> object:
        array = b"[" + whole + b"]"
        return list(map(bytes, raws.decode(array))), records.decode(array)

    decoded = records.decode(b"[" + whole + b"]")
    fields = decoded[0].__struct_fields__
    digests, runs = random.Random(1).randbytes(_DIGEST_BYTES * _RUN * len(texts)), [_RUN] * len(texts)
    kind, effects = _effects(shape, texts)
    names = kind.__struct_fields__
    taker = typed.Taker(record, layout.separator, layout.lead)
    return [
        ("cut and decode", twice, lambda: taker.cut(buffer, end), end),
        (
            "utf-8",
            lambda: [cleaning.invalid_utf8(t) for t in texts if not t.isascii()],
            lambda: utf8.is_valid(whole),
            end,
        ),
        ("vast numbers", lambda: numbers.may_be_huge(whole), lambda: vast.may_hold(whole), end),
        (
            "records turned",
            lambda: {name: turned.one(decoded, name) for name in fields},
            lambda: turned.turned(decoded),
            end,
        ),
        ("sums of digests, runs of 20", lambda: _sums(digests), lambda: list(sums.of_runs(digests, runs)), end),
        (
            "fields of effects",
            lambda: [[getattr(effect, name) for effect in effects] for name in names],
            lambda: list(nested.fields_of(kind, effects)),
            end,
        ),
    ]


def _sums(digests: bytes) -> list[int]:
    """Return the sum of the digests of each run, by their halves."""
    halves = struct.unpack(f">{len(digests) // 8}Q", digests)
    high, low = halves[::2], halves[1::2]
    starts = range(0, len(high), _RUN)
    return [((sum(high[n : n + _RUN]) << 64) + sum(low[n : n + _RUN])) % (1 << 128) for n in starts]


def _effects(shape: str, texts: list[bytes]) -> tuple[type[msgspec.Struct], list[Any]]:
    """Return what the records' rows of power_effects are made of, and its kind."""
    members = list(map(msgspec.json.Decoder(dict[str, msgspec.Raw]).decode, texts))
    if shape == "i12":
        lists = msgspec.json.Decoder(list[i12.Effect])
        return i12.Effect, [effect for record in members for effect in lists.decode(record["Effects"])]
    groups = msgspec.json.Decoder(list[cod.Group])
    found = [group for record in members for group in groups.decode(record["effects"])]
    return cod.Template, [template for group in found for template in group.templates]
