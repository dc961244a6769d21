"""A load over a long way: through a proxy that adds round-trip time, against the local one; bytes on the wire.

The proxy needs a core for itself while much is sent, so the fair comparison is with the same proxy without delay; the
direct load, over the socket, is beside it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benches.cases import create_database
from benches.common import PACK, ROOT, etl, say, servers, unpack
from benches.process import Failed, python, run

WINDOW_BYTES = 3 << 20
"""On their way in each direction: half of 6 MiB, Linux's largest TCP window by default (tcp_rmem), because the proxy
counts bytes for half a round trip and a window does for a whole one."""


def far(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Load one split directly, through the proxy without delay, and with it, in turns; then once to count bytes."""
    source = _source(given, folder)
    store = folder / "store"
    etl("split", str(source), "--store", str(store), "--quiet", "--json")
    ways: dict[str, float | None] = {"direct": None, "proxy, no delay": 0.0, "far": given.round_trip_ms}
    figures: list[dict[str, Any]] = []
    with servers(folder, "system" if given.server == "both" else given.server) as found:
        name, dsn = next(iter(found.items()))
        for _ in range(given.runs):
            for way, delay in ways.items():
                figures.append({"server": name, "way": way, **load(given, folder, store, dsn, delay)})
                say(figures[-1])
        counted = load(given, folder, store, dsn, 0.0, "count")
    for way in ways:
        times = [figure["seconds"] for figure in figures if figure["way"] == way]
        print(f"{way:16} median {statistics.median(times):6.1f} s ({min(times):.1f} to {max(times):.1f})")
    for other in ("direct", "proxy, no delay"):
        ratios = [
            far["seconds"] / near["seconds"] for far, near in zip(of(figures, "far"), of(figures, other), strict=True)
        ]
        print(f"far, {given.round_trip_ms:g} ms, against {other}: {statistics.median(ratios):.2f} times (target: 1.2)")
    sent, squeezed = counted["to_server"] / 1e6, counted["to_server_zstd"] / 1e6
    print(
        f"on the wire: {sent:.1f} MB to the server over {counted['connections']} connections, "
        f"{counted['from_server'] / 1e6:.1f} MB back, {source.stat().st_size / 1e6:.1f} MB of JSON; "
        f"zstd 3 makes {squeezed:.1f} MB of what is sent ({squeezed / sent:.0%})"
    )
    waits = counted["waits"]
    print(f"waits for an answer: {sum(waits)}, of each connection {', '.join(map(str, waits))}")
    return [*figures, {"server": name, "way": "counted", **counted}]


def of(figures: list[dict[str, Any]], way: str) -> list[dict[str, Any]]:
    return [figure for figure in figures if figure["way"] == way]


def _source(given: argparse.Namespace, folder: Path) -> Path:
    if given.file or given.shape == "december":
        return Path(given.file) if given.file else unpack(PACK, folder)
    source = folder / f"{given.shape}.json"
    records = str(min(given.records, 2_000) if given.quick else given.records)
    etl("generate", "--shape", given.shape, "--records", records, "--seed", "1", "--out", str(source), "--quiet")
    return source


def load(
    given: argparse.Namespace, folder: Path, store: Path, dsn: str, delay: float | None, *more: str
) -> dict[str, Any]:
    """Load into an empty database; ``delay`` in ms of round trip, None for the socket itself."""
    work = create_database(dsn, "work")
    time.sleep(0.5)
    tables = ["--tables", "powers"] if given.tables == "powers" else []
    options = ["--memory-limit", given.memory_limit, "--quiet", "--json", *tables]
    figures: dict[str, Any] = {}
    try:
        with through(work, folder, delay, figures, *more) as address:
            ran = run([python("etl", "load", "--store", str(store), "--dsn", address, *options)], good=(0, 3))
    except Failed as failed:
        raise SystemExit(f"etl load ({delay} ms): {failed}") from None
    return {"seconds": ran.seconds, **figures}


@contextmanager
def through(dsn: str, folder: Path, delay: float | None, figures: dict[str, Any], *more: str) -> Iterator[str]:
    """Yield the address of a proxy before the server, and add its figures when it has ended."""
    if delay is None:
        yield dsn
        return
    parts = urlsplit(dsn)
    place = {name: values[0] for name, values in parse_qs(parts.query).items()}
    socket, counts = f"{place['host']}/.s.PGSQL.{place['port']}", folder / "proxy.json"
    command = python("benches.proxy", socket, str(delay), str(WINDOW_BYTES), str(counts), *more)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    proxy = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        port = proxy.stdout.readline().strip() if proxy.stdout else ""
        if not port:
            sys.exit("the proxy did not start")
        yield f"postgresql://etl@127.0.0.1:{port}{parts.path}?sslmode=disable&gssencmode=disable"
    finally:
        proxy.terminate()
        proxy.wait()
    figures.update(json.loads(counts.read_text()))
