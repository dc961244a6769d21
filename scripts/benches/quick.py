"""The guard: ratios to the limit on small inputs, compared with the figures that were last committed.

A small input costs etl its start as well, so these ratios are far above those of a long run; what counts is that they do
not change. A ratio is compared with docs/figures.json: a warning where the new median lies outside the range of the old
runs by more than the usual noise. Warnings do not change the exit code: a busy machine is no reason to fail.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benches import cases, contenders, field, report
from benches.common import ROOT, machine

FIGURES = ROOT / "docs/figures.json"
NOISE = 0.15
"""Share of a median beyond the old range that is not yet warned of: a choice, to be seen beside the printed ranges."""

_INPUTS = {"i12": 40_000, "cod": 4_000}
_ENTRANTS = (field.LIMIT, "etl load", "etl rebuild")


def quick(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure both shapes on the binding server, print the ratios and what has changed; --save commits to them."""
    given.server = "system" if given.server == "both" else given.server
    summary = []
    for shape, records in _INPUTS.items():
        with cases.prepared(given, folder / shape, shape, records, ["powers"]) as found:
            entrants = [one for one in field.field(given.memory_limit, given.jobs) if one.name in _ENTRANTS]
            runs = [run for case in found for run in contenders.compare(case, entrants, max(given.runs, 5))]
        summary += [{"shape": shape, "records": records, **entry} for entry in report.summarise(runs)]
    print(report.table(summary))
    for line in changes(summary, json.loads(FIGURES.read_text())["summary"] if FIGURES.exists() else []):
        print(line)
    if given.save:
        facts = {
            "machine": machine(),
            "arguments": {name: value for name, value in vars(given).items() if name != "work"},
            "summary": summary,
        }
        FIGURES.write_text(json.dumps(facts, indent=1) + "\n")
        print(f"written: {FIGURES.relative_to(ROOT)}")
    return summary


def changes(new: list[dict[str, Any]], old: list[dict[str, Any]]) -> list[str]:
    """Return a line for each ratio that is beyond noise, or that there is nothing to compare with."""
    before = {(entry["shape"], entry["contender"]): entry for entry in old if entry["counts"]}
    lines = []
    for entry in new:
        name = f"{entry['contender']}, {entry['records']:,} {entry['shape']} records"
        known = before.get((entry["shape"], entry["contender"]))
        if not entry["counts"]:
            lines.append(f"WARNING: {name}: {entry['why']}")
        elif known is None:
            lines.append(f"{name}: nothing to compare with; --save writes docs/figures.json")
        elif entry["contender"] != field.LIMIT:
            lines.append(compared(name, entry, known))
    return lines


def compared(name: str, new: dict[str, Any], old: dict[str, Any]) -> str:
    """Return what became of a ratio. Noise is the range of the committed runs, and NOISE of it on either side."""
    low, high = min(old["ratios"]) * (1 - NOISE), max(old["ratios"]) * (1 + NOISE)
    change = f"{name}: {new['ratio']:.2f} times the limit, committed {old['ratio']:.2f} (noise: {low:.2f} – {high:.2f})"
    if new["ratio"] > high:
        return f"WARNING: slower: {change}"
    return f"faster, beyond noise; --save keeps it: {change}" if new["ratio"] < low else f"as before: {change}"
