"""The split: its parts per core and two processes against one, beside their limits; and validation beside it."""

import argparse
import gc
import shutil
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from benches.common import PACK, etl, say, unpack
from etl import config, parallel, splitter
from etl.sources import exactness, inputs, ranges

LIMITS = {"cod": {"decode": 800, "whole": 400}, "i12": {"decode": 450, "whole": 160}}
"""Megabytes per second and core that are asked for: read, cut and decode; and the whole split."""
TWO_TO_ONE = 1.7
PARTS = {
    "sources/streams.py": "read",
    "sources/cutting.py": "cut",
    "sources/typed.py": "cut, decode",
    "sources/cleaning.py": "checks",
    "sources/utf8.py": "checks",
    "sources/vast.py": "checks",
    "numbers.py": "checks",
    "sources/records.py": "digests, names",
    "store/packed.py": "Arrow columns",
    "store/sums.py": "digests, names",
    "sources/joined.py": "Arrow columns",
    "sources/turned.py": "Arrow columns",
    "store/columns.py": "Arrow columns",
    "store/writer.py": "order, compress, write",
}
"""What the files of ``etl`` do for a split; the others are "the rest"."""
_SAMPLE_S = 0.001
_LIST_BYTES = 64 << 20
_TENTH = {"cod": 10, "i12": 1}  # a nested record is fourteen times as long as a flat one


@dataclass(frozen=True, slots=True)
class Run:
    """What one worker is to do, alone on its core."""

    source: str
    store: str


def split(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Both shapes, or one file: decoding, the whole, one process and two in turns; the figures are medians."""
    figures = []
    for source in [Path(given.file)] if given.file else [_generated(given, folder, shape) for shape in _TENTH]:
        source.read_bytes()
        turns = [_turn(source, folder) for _ in range(given.runs)]
        size = source.stat().st_size
        names = ("msgspec", "decode", "whole")
        rates = {name: size / statistics.median(turn[name] for turn in turns) / 1e6 for name in names}
        ratio = statistics.median(turn["one"] / turn["two"] for turn in turns)
        limits = LIMITS.get(str(turns[0]["format"]), {})
        for name, what in (
            ("msgspec", "msgspec alone, one core"),
            ("decode", "read, cut, decode, one core"),
            ("whole", "whole split, one core"),
        ):
            figures.append(
                {
                    "source": source.name,
                    "what": what,
                    "megabytes_per_s": rates[name],
                    **({"limit": limits[name], "kept": rates[name] >= limits[name]} if name in limits else {}),
                    "seconds": [turn[name] for turn in turns],
                }
            )
        figures.append(
            {
                "source": source.name,
                "what": "etl split, two processes to one",
                "times": round(ratio, 2),
                "limit": TWO_TO_ONE,
                "kept": ratio >= TWO_TO_ONE,
                "seconds": [[turn["one"], turn["two"]] for turn in turns],
            }
        )
        figures.append({"source": source.name, "what": "parts of the whole split", **turns[-1]["parts"]})
        for figure in figures[-5:]:
            say({name: value for name, value in figure.items() if name != "seconds"})
    return figures


def _generated(given: argparse.Namespace, folder: Path, shape: str) -> Path:
    source = folder / f"{shape}.json"
    count = str(max(1, given.records // _TENTH[shape]))
    etl("generate", "--shape", shape, "--records", count, "--seed", "1", "--out", str(source), "--quiet")
    return source


def _turn(source: Path, folder: Path) -> dict[str, Any]:
    """Return the seconds of each measurement: the first two inside a worker, the others of whole commands."""
    store = folder / "store"
    found: dict[str, Any] = {}
    for name, function in (("msgspec", listed), ("decode", decoded), ("whole", written), ("parts", sampled)):
        found[name], found["format"] = _alone(function, Run(str(source), str(store)))
        shutil.rmtree(store, ignore_errors=True)
    for name, jobs in (("one", "1"), ("two", "2")):
        started = time.perf_counter()
        etl("split", str(source), "--store", str(store), "--jobs", jobs, "--quiet", "--json")
        found[name] = time.perf_counter() - started
        shutil.rmtree(store)
    return found


def _alone(function: Callable[[Run], tuple[Any, str]], run: Run) -> tuple[Any, str]:
    """Return what a fresh worker process, with the settings of all workers, says."""
    with parallel.Pool("process://1") as pool:
        outcome = next(iter(pool.run(function, [run])))[1]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def listed(run: Run) -> tuple[float, str]:
    """Decode records with their fields as one JSON array each 64 MB, without a look at them; return (seconds, format)."""
    form = inputs.learn(inputs.find(run.source), "auto", None)
    decoder = msgspec.json.Decoder(list[form.record])  # type: ignore[name-defined]
    gc.disable()
    seconds, held, lines = 0.0, 0, list[bytes]()
    with Path(run.source).open("rb") as stream:
        for line in stream:
            text = line.strip(b"[], \n")
            lines.append(text)
            held += len(text)
            if held >= _LIST_BYTES:
                seconds, held = seconds + _timed(decoder, lines), 0
    return seconds + _timed(decoder, lines), form.name


def _timed(decoder: Any, lines: list[bytes]) -> float:
    whole = b"[%b]" % b",".join(filter(None, lines))
    lines.clear()
    started = time.perf_counter()
    decoder.decode(whole)
    return time.perf_counter() - started


def sampled(run: Run) -> tuple[dict[str, str], str]:
    """Split the source; return what part of the time each of ``PARTS`` took, and the format.

    A timer asks a thousand times a second which file is at work, and gives it the time since the last answer: in the
    midst of a long call there is none.
    """
    parts, last = Counter[str](), time.perf_counter()

    def look(_: int, frame: FrameType | None) -> None:
        nonlocal last
        while frame is not None and "/etl/" not in frame.f_code.co_filename:
            frame = frame.f_back
        now = time.perf_counter()
        file = frame.f_code.co_filename.rpartition("/etl/")[2] if frame else ""
        parts[PARTS.get(file, "the rest")] += now - last
        last = now

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, _SAMPLE_S, _SAMPLE_S)
    _, name = written(run)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return {part: f"{seconds / parts.total():.0%}" for part, seconds in parts.most_common()}, name


def decoded(run: Run) -> tuple[float, str]:
    """Read, cut and decode all records; return (seconds, format)."""
    source = inputs.find(run.source)
    form = inputs.learn(source, "auto", None)
    assert source.layout is not None
    gc.disable()  # as a worker does
    started = time.perf_counter()
    task = ranges.RangeTask(
        store="", split_id="", number=0, source=0, path=run.source, kind=ranges.BYTES, format=form.name,
        layout=source.layout, start=source.layout.start,
    )  # fmt: skip
    slow = msgspec.json.Decoder(exactness.guarded(form.record))
    for _, lot in ranges.RangeReader(task, form).lots():
        lot.records = lot.records or list(map(slow.decode, lot.texts))
    return time.perf_counter() - started, form.name


def written(run: Run) -> tuple[float, str]:
    """Split the source; return (seconds, format)."""
    done = splitter.run(config.SplitOptions(sources=(run.source,), store=run.store, executor="inline://"))
    return done.seconds, done.manifest.format


def validate(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Validation against the split of the same file, whole processes, interleaved; --jobs processes each."""
    source = Path(given.file) if given.file else unpack(PACK, folder)
    size = source.stat().st_size
    source.read_bytes()
    figures = []
    for number in range(given.runs):
        store = folder / f"split-{number}"
        times = {}
        for words in (["split", str(source), "--store", str(store)], ["validate", str(source)]):
            started = time.perf_counter()
            etl(*words, "--jobs", str(given.jobs), "--quiet", "--json")
            times[words[0]] = time.perf_counter() - started
        ratio = times["validate"] / times["split"]
        figures.append({**times, "validate_megabytes_per_s": size / times["validate"] / 1e6, "ratio": ratio})
        say(figures[-1])
        shutil.rmtree(store)
    return figures
