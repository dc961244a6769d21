"""The split alone, and validation beside it."""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from benches.common import PACK, etl, say, unpack


def split(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The split alone; two processes against one, interleaved."""
    source = Path(given.file) if given.file else unpack(PACK, folder)
    size = source.stat().st_size
    source.read_bytes()
    figures = []
    for number in range(given.runs):
        for jobs in (1, 2):
            store = folder / f"split-{number}-{jobs}"
            started = time.perf_counter()
            etl("split", str(source), "--store", str(store), "--jobs", str(jobs), "--quiet", "--json")
            seconds = time.perf_counter() - started
            figures.append({"jobs": jobs, "seconds": seconds, "megabytes_per_s": size / seconds / 1e6})
            say(figures[-1])
            shutil.rmtree(store)
    return figures


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
