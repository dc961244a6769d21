#!/usr/bin/env python
"""Break etl on purpose, many times, and count what was lost.

    scripts/faults.py --runs 200 --seed 1            every kind of strike in turn, at moments that the seed chooses
    scripts/faults.py --runs 5 --only "worker: SIGKILL"
    scripts/faults.py --list                         the kinds of strikes, and what this machine lacks for others

Each strike starts a command on a private server, breaks something in the middle, runs the same command again, and
compares every table with an undisturbed run by checksum; then it looks for processes, sessions, schemas, files and
locks that were left. The exit code is 1 where anything was found. The same seed makes the same choices; what the
operating system makes of them in time is its own. Run it with the project's environment: .venv/bin/python scripts/faults.py
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "faults")]

import strikes  # noqa: E402
from ground import ground  # noqa: E402


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server is stopped and its folder removed
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=len(strikes.STRIKES), help="strikes [default: one of each kind]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--only", action="append", help="a kind of strike, or the beginning of its name; may be repeated"
    )
    parser.add_argument("--records", type=int, default=1_000, help="records of the sources")
    parser.add_argument("--work", default=default_work(), help="folder for server and stores [default: %(default)s]")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object at the end")
    given = parser.parse_args()
    if given.list:
        print("\n".join([*strikes.STRIKES, *(f"{name}: left out, {why}" for name, why in strikes.LEFT_OUT.items())]))
        return
    kinds = [name for name in strikes.STRIKES if not given.only or any(map(name.startswith, given.only))]
    if not kinds:
        sys.exit(f"there is no such strike; the kinds are:\n{chr(10).join(strikes.STRIKES)}")
    started = time.monotonic()
    outcomes = campaign(kinds, given)
    sys.exit(report(outcomes, given, time.monotonic() - started))


def default_work() -> str:
    memory = Path("/dev/shm")
    has_room = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30
    return str(memory) if has_room else tempfile.gettempdir()


def campaign(kinds: list[str], given: argparse.Namespace) -> list[strikes.Outcome]:
    """Strike ``--runs`` times, every kind in turn in an order that the seed shuffles."""
    rng = random.Random(given.seed)
    order: list[str] = []
    while len(order) < given.runs:
        order += rng.sample(kinds, len(kinds))
    seeds = rng.sample(range(10**9), given.runs)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="etl-faults-", dir=given.work) as folder:
        os.environ["ETL_HOME"] = f"{folder}/home"
        with ground(Path(folder), given.records) as made:
            for number, (kind, seed) in enumerate(zip(order, seeds, strict=False), 1):
                outcome = strikes.perform(made, kind, seed)
                outcomes.append(outcome)
                told = "equal" if outcome.is_equal else "; ".join(outcome.findings)
                codes = " then ".join(map(str, outcome.codes))
                print(
                    f"{number:4} of {given.runs}  {kind} ({outcome.detail}): exit {codes}, {outcome.seconds:.1f} s, {told}",
                    file=sys.stderr,
                    flush=True,
                )
    return outcomes


def report(outcomes: list[strikes.Outcome], given: argparse.Namespace, seconds: float) -> int:
    """Print a line per kind and the sum; return the exit code."""
    kinds: dict[str, list[strikes.Outcome]] = defaultdict(list)
    for outcome in outcomes:
        kinds[outcome.kind].append(outcome)
    wide = max(map(len, kinds))
    print(f"{'strike':{wide}}  strikes  went on  equal  seconds each")
    for kind, own in sorted(kinds.items()):
        went_on = sum(outcome.codes[:1] == [0] for outcome in own)
        equal = sum(outcome.is_equal for outcome in own)
        print(f"{kind:{wide}}  {len(own):7}  {went_on:7}  {equal:5}  {sum(o.seconds for o in own) / len(own):12.1f}")
    equal = sum(outcome.is_equal for outcome in outcomes)
    lost, doubled = sum(outcome.lost for outcome in outcomes), sum(outcome.doubled for outcome in outcomes)
    other = sum(not outcome.is_equal for outcome in outcomes)
    print(
        f"{len(outcomes)} strikes, seed {given.seed}, {seconds / 60:.1f} min: {equal} equal, {lost} rows lost, "
        f"{doubled} rows doubled, {other} with findings"
    )
    for name, why in strikes.LEFT_OUT.items():
        print(f"left out: {name} ({why})")
    if given.json:
        print(json.dumps({"runs": len(outcomes), "seed": given.seed, "equal": equal, "lost": lost, "doubled": doubled}))
    return 0 if equal == len(outcomes) else 1


if __name__ == "__main__":
    main()
