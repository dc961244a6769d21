#!/usr/bin/env python
"""Measure etl on this machine: whole processes against private servers with stated settings.

    scripts/bench.py contenders [--shape S]  etl beside other loaders and beside the limit, the same rows and indexes
    scripts/bench.py --quick             the ratios to the limit on small inputs, against the last committed figures
    scripts/bench.py series [--shape S]  a hundredth, a tenth and all of the records: time linear, memory flat
    scripts/bench.py far                 a load through a proxy that adds round-trip time, against a local one
    scripts/bench.py december            the real export: split + load + index + publish, per server (target: under 20 s)
    scripts/bench.py memory [--shape S]  peak memory of all processes at 36,065 and 360,659 generated records
    scripts/bench.py split [FILE]        per core: reading to decoding, the whole split; two processes to one (page-cached)
    scripts/bench.py twins               the fast paths of the split, each beside the slow way that gives the same
    scripts/bench.py validate [FILE]     validation against the split, interleaved (target: at most twice its seconds)
    scripts/bench.py switches            the real export, once per switch of `etl load`, against a load without any
    scripts/bench.py gin [--shape S]     the jsonb indexes: operator class, order, the queries they serve, their share
    scripts/bench.py settings [--shape S]  the server's settings, changed one at a time: what each is worth to a load
    scripts/bench.py update              June to December by `etl update` against a full load (target: under a third)
    scripts/bench.py startup             `etl --help` (limit 0.4 s), and what a load of 100 records costs beside the server (1.2)
    scripts/bench.py read                look-ups by etl.read: tiers, one process and 8, during a rebuild, against others
    scripts/bench.py planning            how long the server plans a look-up by internal name, warm (target: under 3 ms)

Run it with the project's environment: .venv/bin/python scripts/bench.py … . Each figure is printed as a table; with
--json, one JSON object that also names the machine, the versions and the settings goes to stdout and the rest to
stderr. The servers are the embedded PostgreSQL and, where it is installed, the system's own with lz4 TOAST; both lie in
a temporary folder and are stopped at the end. The other loaders come with the extra `bench`; one that is not installed
is left out, and named.
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from benches.common import SETTINGS, machine

PASSES = {
    "contenders": "contenders",
    "quick": "quick",
    "series": "series",
    "far": "far",
    "december": "loads",
    "memory": "loads",
    "switches": "loads",
    "gin": "gin",
    "settings": "settings",
    "split": "splits",
    "validate": "splits",
    "twins": "twins",
    "update": "updates",
    "startup": "startup",
    "planning": "lookups",
    "read": "reads",
}
"""Each sub-command is the function of its name in one of the modules of benches/, which is imported for it alone."""

# Small enough for a minute and a half.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gin": {"shape": "december"},
    "settings": {"shape": "i12", "records": 15_000, "runs": 1, "server": "system"},
}
"""What a sub-command has as defaults of its own."""


def main() -> None:
    given = parse()
    what = "quick" if given.quick and given.what is None else given.what
    if what is None:
        parser().error("name what to measure, or --quick")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the servers are stopped then as well
    run = getattr(importlib.import_module(f"benches.{PASSES[what]}"), what)
    with tempfile.TemporaryDirectory(prefix="etl-bench-", dir=given.work) as folder:
        Path(folder).chmod(0o755)
        with contextlib.redirect_stdout(sys.stderr) if given.json else contextlib.nullcontext():
            figures = run(given, Path(folder))
    if given.json:
        report = {"machine": machine(), "settings": SETTINGS, "arguments": vars(given), "figures": figures}
        print(json.dumps(report, indent=1))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options, with the defaults of the sub-command that they name."""
    options = parser()
    options.set_defaults(**DEFAULTS.get(options.parse_args(arguments).what, {}))
    return options.parse_args(arguments)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=PASSES)
    parser.add_argument("file", nargs="?", help="input, where it is not generated or beside the checkout")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--shape", choices=["i12", "cod", "december"], default="cod")
    parser.add_argument("--records", type=int, default=360_659)
    parser.add_argument("--memory-limit", default="1GB")
    parser.add_argument("--work", default=os.environ.get("TMPDIR", "/tmp"), help="folder for inputs, stores, servers")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")
    parser.add_argument("--quick", action="store_true", help="small inputs; alone: the ratios to the limit, compared")
    parser.add_argument("--save", action="store_true", help="write the figures into docs/ as the ones to compare with")
    parser.add_argument("--server", choices=["system", "embedded", "both"], default="both")
    parser.add_argument("--tables", choices=["powers", "all"], help="of contenders: all is for etl and the limit alone")
    parser.add_argument("--only", help="these alone: contenders, parts of gin, settings")
    parser.add_argument("--round-trip-ms", type=float, default=40.0, help="of far")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each crowd of readers in `read`")
    parser.add_argument("--readers", type=int, default=8, help="processes in `read`")
    return parser


if __name__ == "__main__":
    main()
