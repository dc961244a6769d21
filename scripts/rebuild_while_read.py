#!/usr/bin/env python
"""Rebuild again and again while readers read without pause, and prove that nobody notices.

    scripts/rebuild_while_read.py [--rounds 10] [--server embedded|system] [--json]

A private server gets the June export; then `etl rebuild` runs as a process of its own, December and June in turn, while
eight reader processes look up powers by id and by name, list powersets, join the tables and read the materialized view:
with prepared statements and without, one statement at a time, in READ COMMITTED and in REPEATABLE READ transactions.
Each reader and each rebuild is a session of its own, as services and cron's jobs are, and as every process of the server
is: Linux shares the cores out among sessions first (sched(7), autogroup), and would treat all readers and the rebuild's
workers as one.

What makes mixing visible: each statement reads, in its own snapshot, which build counts; counts and sums over every
relation it touches, which must be those of that build's data set, taken beforehand with the same statement from the
build's own tables; and when the rows were loaded, which must be between the begin and the end of that very build. The
powers and powersets asked for are those in which the two exports differ. A value that belongs to the other export is a
mixed statement, one that belongs to neither a partly filled build.

The longest read during the rebuilds is compared with the longest one without them, measured before and after. For each
of the longest, the table says where the time went: on a core, waiting for a core (/proc/*/schedstat of the reader and
of its server process), waiting for a lock (the server logs every wait above 20 ms). The exit code is 1 if a promise was
broken: 0 errors, 0 mixed, 0 partly filled, and no read more than 250 ms longer.

Run it with the project's environment: .venv/bin/python scripts/rebuild_while_read.py … .
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import psycopg
from benches import common as bench
from psycopg import IsolationLevel

from etl import postgres, server

PACKS = bench.ROOT.parent / "shared/data"
JUNE = PACKS / "cod-homecoming-2025.powers.json.zst"
DECEMBER = PACKS / "codfull-homecoming-20251209.powers.json.zst"
MOST_EXCESS_S = 0.250
LOCK_LOG_MS = 20
SETTINGS = {"log_lock_waits": "on", "deadlock_timeout": f"{LOCK_LOG_MS}ms"}

WINDOW = "(select array[w.created_at, w.finished_at] from etl.build w where w.build = l.build)"
READS = {
    "by id": f"""
        select l.build, {WINDOW}, array[p.created_at, s.created_at, a.created_at], jsonb_build_array(
            d.id, encode(p.source_hash, 'hex'), s.id, a.id, b.id, b.name,
            (select count(*) from game.power_effects e where e.archetype_id = d.archetype_id
             and e.powerset_id = d.powerset_id and e.power_id = d.id),
            (select count(*) from game.power_enhancement_compatibility c where c.power_id = d.id),
            (select count(*) from game.power_set_categories c where c.power_id = d.id),
            (select count(*) from game.power_prerequisites c where c.power_id = d.id))::text
        from etl.live l
        left join game.power_directory d on d.id = %(power)s
        left join game.powers p on p.archetype_id = d.archetype_id and p.powerset_id = d.powerset_id and p.id = d.id
        left join game.powersets s on s.id = d.powerset_id
        left join game.archetypes a on a.id = d.archetype_id
        left join game.power_build_summary b on b.id = d.id
        where l.live_schema = 'game'""",
    "by name": f"""
        select l.build, {WINDOW}, array[p.created_at], jsonb_build_array(
            d.id, encode(p.source_hash, 'hex'), p.level_available, b.id)::text
        from etl.live l
        left join game.power_directory d on d.internal_name = %(name)s
        left join game.powers p on p.archetype_id = d.archetype_id and p.powerset_id = d.powerset_id and p.id = d.id
        left join game.power_build_summary b on b.id = d.id
        where l.live_schema = 'game'""",
    "powerset": f"""
        select l.build, {WINDOW}, array[min(p.created_at), max(p.created_at)], jsonb_build_array(
            count(p.id), sum(hashtext(encode(p.source_hash, 'hex'))), sum(p.id), sum(p.level_available),
            (select count(*) from game.power_directory d where d.powerset_id = %(powerset)s),
            (select count(*) from game.powersets s where s.id = %(powerset)s))::text
        from etl.live l
        left join game.powers p on p.archetype_id = %(archetype)s and p.powerset_id = %(powerset)s
        where l.live_schema = 'game'
        group by l.build""",
    "join": f"""
        select l.build, {WINDOW}, array[min(j.first), max(j.last)], jsonb_build_array(
            sum(j.effects), sum(j.seqs), count(j.id), sum(j.hash), sum(j.categories))::text
        from etl.live l
        left join (
            select p.id, min(least(p.created_at, s.created_at, a.created_at)) as first,
                   max(greatest(p.created_at, s.created_at, a.created_at)) as last,
                   count(*) as effects, sum(e.seq) as seqs, min(hashtext(encode(p.source_hash, 'hex'))) as hash,
                   (select count(*) from game.power_set_categories c where c.power_id = p.id) as categories
            from game.archetypes a
            join game.powersets s on s.archetype_id = a.id
            join game.powers p on p.archetype_id = a.id and p.powerset_id = s.id
            join game.power_effects e on e.archetype_id = p.archetype_id and e.powerset_id = p.powerset_id
                 and e.power_id = p.id
            where a.id = %(archetype)s and s.id = %(powerset)s
            group by p.id, p.archetype_id, p.powerset_id
        ) j on true
        where l.live_schema = 'game'
        group by l.build""",
    "view": f"""
        select l.build, {WINDOW}, array[min(s.created_at), max(s.created_at)], jsonb_build_array(
            count(b.id), sum(b.id), count(s.id), count(d.id))::text
        from etl.live l
        left join game.power_build_summary b on b.archetype_id = %(archetype)s and b.level_available <= 10
        left join game.powersets s on s.id = b.powerset_id and s.name = b.powerset_name
        left join game.power_directory d on d.id = b.id and d.powerset_id = b.powerset_id
        where l.live_schema = 'game'
        group by l.build""",
    "totals": f"""
        select l.build, {WINDOW}, array[
            (select min(created_at) from game.archetypes), (select max(created_at) from game.powersets)],
            jsonb_build_array(
            (select count(*) from game.archetypes), (select count(*) from game.powersets),
            (select count(*) from game.power_directory), (select count(*) from game.power_build_summary),
            (select count(*) from game.power_prerequisites))::text
        from etl.live l
        where l.live_schema = 'game'""",
}
# How often each kind is drawn: an application looks up more than it counts.
WEIGHTS = {"by id": 6, "by name": 6, "powerset": 4, "join": 3, "view": 3, "totals": 1}
MODES = [
    (isolation, prepared)
    for isolation in ("autocommit", "read committed", "repeatable read", "repeatable read")
    for prepared in (True, False)
]


@dataclass(slots=True)
class Read:
    """One statement: what it was, when (epoch seconds), how long, and where the time went."""

    kind: str
    mode: str
    pid: int
    started: float
    seconds: float
    on_core: float
    for_core: float


@dataclass(slots=True)
class Report:
    """What one reader found."""

    reads: list[Read] = field(default_factory=list)
    transactions: int = 0
    builds: set[int] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    mixed_transactions: list[str] = field(default_factory=list)
    partly: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Question:
    """A kind of read with its parameters, and the facts that each data set must give."""

    kind: str
    values: dict[str, Any]
    facts: dict[str, list[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--readers", type=int, default=len(MODES))
    parser.add_argument("--server", choices=["embedded", "system"], default="embedded")
    parser.add_argument("--baseline", type=float, default=60.0, help="seconds of reading without a rebuild, in all")
    parser.add_argument("--june", help="the unpacked June export, where it is not beside the checkout")
    parser.add_argument("--december", help="the unpacked December export")
    parser.add_argument("--options", default="", help="options for `etl rebuild`, in one argument")
    parser.add_argument("--work", default=os.environ.get("TMPDIR", "/tmp"), help="folder for inputs, stores, server")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object as well")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="etl-read-", dir=given.work) as name:
        folder = Path(name)
        folder.chmod(0o755)
        sources = {
            "june": Path(given.june) if given.june else bench.unpack(JUNE, folder),
            "december": Path(given.december) if given.december else bench.unpack(DECEMBER, folder),
        }
        binaries = postgres.system_binaries()[0] if given.server == "system" else postgres.find_binaries()
        dsn = server.start_with(binaries, folder / "server", SETTINGS)
        try:
            figures = run(given, folder, sources, dsn)
        finally:
            server.stop(folder / "server")
    show(figures)
    if given.json:
        print(json.dumps({"machine": bench.machine(), "arguments": vars(given), **figures}, indent=1, default=str))
    sys.exit(0 if figures["kept"] else 1)


def run(given: argparse.Namespace, folder: Path, sources: dict[str, Path], dsn: str) -> dict[str, Any]:
    """Prepare, read without a rebuild, read with rebuilds, read without once more; return the figures."""
    say("loading June, and December into another schema for what must be read")
    rebuild(sources["june"], dsn, folder, [])
    rebuild(sources["december"], dsn, folder, ["--schema", "rehearsal"])
    questions = ask(dsn)
    asked = Counter(question.kind for question in questions)
    say("questions: " + ", ".join(f"{count} {kind}" for kind, count in asked.items()))
    stop = multiprocessing.get_context("spawn").Event()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    readers = [
        context.Process(target=reader, args=(number, dsn, questions, stop, results)) for number in range(given.readers)
    ]
    for process in readers:
        process.start()
    time.sleep(5)  # until all are connected and have prepared their statements
    quiet = [wait(given.baseline / 2)]
    rounds = [one_round(number, sources, dsn, folder, given) for number in range(given.rounds)]
    quiet.append(wait(given.baseline / 2))
    stop.set()
    reports = [results.get(timeout=120) for _ in readers]
    for process in readers:
        process.join()
    return figure(reports, quiet, rounds, lock_waits(folder / "server/postgres.log"))


def wait(seconds: float) -> tuple[float, float]:
    started = time.time()
    time.sleep(seconds)
    return started, time.time()


def one_round(
    number: int, sources: dict[str, Path], dsn: str, folder: Path, given: argparse.Namespace
) -> dict[str, Any]:
    """Rebuild once, December first; return when it was, and what it took."""
    name = ("december", "june")[number % 2]
    started = time.time()
    result = rebuild(sources[name], dsn, folder, given.options.split())
    steps = {step: result["timings"][f"publish_{step}"] for step in ("widen", "wait", "flip", "settle")}
    done = {"source": name, "started": started, "ended": time.time(), "build": result["build"], **steps}
    done |= {"seconds": done["ended"] - started, "settled": result["settled"], "timings": result["timings"]}
    say(f"round {number + 1}: {name}, {done['seconds']:.1f} s, " + ", ".join(f"{k} {v:.3f}" for k, v in steps.items()))
    return done


def rebuild(source: Path, dsn: str, folder: Path, options: list[str]) -> dict[str, Any]:
    """Run `etl rebuild` as a process, into a store of its own that is removed; return what it says."""
    store = folder / "store"
    done = bench.etl(
        "rebuild", str(source), "--store", str(store), "--dsn", dsn, "--quiet", "--json", *options, session=True
    )
    shutil.rmtree(store)
    return dict(json.loads(done))


def ask(dsn: str) -> list[Question]:
    """Choose what to ask, and take the facts of both data sets from the builds' own tables."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        schemas = dict(connection.execute("select live_schema, live_schema || '_b' || build from etl.live"))
        homes = {"june": schemas["game"], "december": schemas["rehearsal"]}
        powers = differing(connection, "t.id", homes, 240)
        names = dict(
            connection.execute(
                f"select id, internal_name from {homes['june']}.power_directory union"
                f" select id, internal_name from {homes['december']}.power_directory"
            ).fetchall()
        )
        sets = differing(connection, "concat_ws(' ', t.archetype_id, t.powerset_id)", homes, 120)
        pairs = [tuple(map(int, pair.split())) for pair in sets]
        wanted: list[tuple[str, dict[str, Any]]] = [("totals", {})]
        wanted += [("by id", {"power": int(power)}) for power in powers]
        wanted += [("by name", {"name": names[int(power)]}) for power in powers]
        wanted += [("view", {"archetype": archetype}) for archetype in dict.fromkeys(pair[0] for pair in pairs)]
        for archetype, powerset in pairs:
            values = {"archetype": archetype, "powerset": powerset}
            wanted += [("powerset", values), ("join", values)]
        questions = [Question(kind, values, facts_of(connection, kind, values, homes)) for kind, values in wanted]
    return [question for question in questions if question.facts["june"] != question.facts["december"]]


def differing(connection: psycopg.Connection[Any], key: str, homes: dict[str, str], most: int) -> list[str]:
    """Return keys whose powers differ between the two builds: some changed, some in one of them alone."""
    sums = " union all ".join(
        f"select ({key})::text as key, sum(hashtext(encode(t.source_hash, 'hex'))) as hash from {home}.powers t group by 1"
        for home in homes.values()
    )
    rows = connection.execute(
        f"select key, count(*) from ({sums}) x group by key having count(*) = 1 or min(hash) <> max(hash) order by 1"
    ).fetchall()
    chance = random.Random(1)
    changed = [name for name, count in rows if count == 2]
    alone = [name for name, count in rows if count == 1]
    chance.shuffle(changed)
    chance.shuffle(alone)
    return changed[: most // 2] + alone[: most - len(changed[: most // 2])]


def facts_of(
    connection: psycopg.Connection[Any], kind: str, values: dict[str, Any], homes: dict[str, str]
) -> dict[str, list[Any]]:
    """Ask the same question of each build's own tables."""
    found = {}
    for name, home in homes.items():
        text = READS[kind].replace("game.", f"{home}.").replace("'game'", f"'{home.rpartition('_b')[0]}'")
        row = connection.execute(text, values).fetchone()
        assert row
        found[name] = json.loads(row[3])
    return found


def reader(
    number: int, dsn: str, questions: list[Question], stop: Event, results: "multiprocessing.Queue[Report]"
) -> None:
    """Read without pause until told to stop; report."""
    os.setsid()
    isolation, prepared = MODES[number % len(MODES)]
    mode = f"{isolation}, {'prepared' if prepared else 'plain'}"
    report, chance = Report(), random.Random(number)
    by_kind: dict[str, list[Question]] = {}
    for question in questions:
        by_kind.setdefault(question.kind, []).append(question)
    kinds = [kind for kind in WEIGHTS if kind in by_kind]
    weights = [WEIGHTS[kind] for kind in kinds]

    def some(count: int) -> list[Question]:
        return [chance.choice(by_kind[kind]) for kind in chance.choices(kinds, weights, k=count)]

    while not stop.is_set():
        try:
            with psycopg.connect(dsn, autocommit=isolation == "autocommit", application_name=f"reader {number}") as db:
                db.prepare_threshold = 0 if prepared else None
                if isolation == "repeatable read":
                    db.isolation_level = IsolationLevel.REPEATABLE_READ
                while not stop.is_set():
                    transaction(db, some(1 if db.autocommit else chance.randint(2, 5)), mode, report)
        except psycopg.Error as error:
            report.errors.append(f"{mode}: {type(error).__name__}: {error}")
            time.sleep(0.05)
    results.put(report)


def transaction(db: psycopg.Connection[Any], questions: list[Question], mode: str, report: Report) -> None:
    """Ask the questions in one transaction (in autocommit mode: one question)."""
    seen = [answer(db, question, mode, report) for question in questions]
    if not db.autocommit:
        db.commit()
    report.transactions += 1
    report.builds.update(seen)
    if mode.startswith("repeatable") and len(set(seen)) > 1:
        report.mixed_transactions.append(f"{mode}: builds {seen}")


def answer(db: psycopg.Connection[Any], question: Question, mode: str, report: Report) -> int:
    """Ask one question, measure it and judge the answer; return the build that it came from."""
    pid = db.info.backend_pid
    before, wall, started = spent(pid), time.time(), time.perf_counter()
    row = db.execute(READS[question.kind], question.values).fetchone()
    seconds = time.perf_counter() - started
    after = spent(pid)
    report.reads.append(Read(question.kind, mode, pid, wall, seconds, after[0] - before[0], after[1] - before[1]))
    assert row
    judge(question, mode, row, report)
    return int(row[0])


def judge(question: Question, mode: str, row: tuple[Any, ...], report: Report) -> None:
    """Compare an answer with what the build that it names must give."""
    build, window, times, text = row
    facts, june, december = json.loads(text), question.facts["june"], question.facts["december"]
    expected = june if build == 1 or build % 2 == 0 else december  # 1 is June, 2 the rehearsal, 3 December again, …
    strangers = [str(at) for at in times if at is not None and not window[0] <= at <= window[1]]
    told = f"{mode}, {question.kind} {question.values}: build {build} gave {facts}, not {expected}; {strangers}"
    if facts == expected and not strangers:
        return
    if all(value in pair for value, *pair in zip(facts, june, december, strict=True)):
        report.mixed.append(told)
    else:
        report.partly.append(told)


def spent(server_process: int) -> tuple[float, float]:
    """Return the seconds that this process and its server process were on a core, and waited for one."""
    sums = [0, 0]
    for process in ("self", server_process):
        try:
            numbers = Path(f"/proc/{process}/schedstat").read_text().split()
        except OSError:  # not Linux, or another machine
            continue
        sums = [sums[0] + int(numbers[0]), sums[1] + int(numbers[1])]
    return sums[0] / 1e9, sums[1] / 1e9


def lock_waits(log: Path) -> list[tuple[int, float, float]]:
    """Return (process, end of the wait in epoch seconds, length) of the lock waits that the server logged."""
    found = []
    pattern = re.compile(r"^(\S+ \S+) UTC \[(\d+)\] LOG:  process (\d+) acquired \w+ on .* after ([\d.]+) ms")
    for line in log.read_text(errors="replace").splitlines():
        match = pattern.match(line)
        if match:
            at = datetime.fromisoformat(f"{match[1]}+00:00").timestamp()
            found.append((int(match[3]), at, float(match[4]) / 1000))
    return found


def figure(
    reports: list[Report],
    quiet: list[tuple[float, float]],
    rounds: list[dict[str, Any]],
    waits: list[tuple[int, float, float]],
) -> dict[str, Any]:
    """Turn what was seen into figures."""
    reads = [read for report in reports for read in report.reads]
    calm = [read for read in reads if any(a <= read.started and read.started + read.seconds <= b for a, b in quiet)]
    busy = [
        read
        for read in reads
        if any(r["started"] <= read.started + read.seconds and read.started <= r["ended"] for r in rounds)
    ]
    of_readers = [wait for wait in waits if wait[0] in {read.pid for read in reads}]
    excess = max(read.seconds for read in busy) - max(read.seconds for read in calm)
    counts = {
        "errors": sum(len(report.errors) for report in reports),
        "mixed_statements": sum(len(report.mixed) for report in reports),
        "mixed_transactions": sum(len(report.mixed_transactions) for report in reports),
        "partly_filled": sum(len(report.partly) for report in reports),
    }
    examples = [text for r in reports for text in (*r.errors, *r.mixed, *r.mixed_transactions, *r.partly)]
    return {
        "kept": not any(counts.values()) and excess <= MOST_EXCESS_S,
        "rounds": rounds,
        "reads": len(reads),
        "transactions": sum(report.transactions for report in reports),
        "builds_seen": len(set().union(*(report.builds for report in reports))),
        **counts,
        "excess_s": excess,
        "without": latencies(calm),
        "with": latencies(busy),
        "lock_waits": {
            "above_ms": LOCK_LOG_MS,
            "count": len(of_readers),
            "longest_s": max((wait[2] for wait in of_readers), default=0.0),
            "share_of_reading": sum(wait[2] for wait in of_readers) / sum(read.seconds for read in busy),
        },
        "longest": [explain(read, rounds, of_readers) for read in sorted(busy, key=lambda r: -r.seconds)[:10]],
        "examples": examples[:20],
    }


def latencies(reads: list[Read]) -> dict[str, Any]:
    """Return count, median, 99th percentile and maximum, and the share of the time spent waiting for a core."""
    ordered = sorted(read.seconds for read in reads)
    longest = {kind: max((read.seconds for read in reads if read.kind == kind), default=0.0) for kind in READS}
    return {
        "reads": len(ordered),
        "median_s": ordered[len(ordered) // 2],
        "p99_s": ordered[len(ordered) * 99 // 100],
        "longest_s": ordered[-1],
        "longest_without_core_wait_s": max(read.seconds - read.for_core for read in reads),
        "for_core": sum(read.for_core for read in reads) / sum(ordered),
        "longest_by_kind": longest,
    }


def explain(read: Read, rounds: list[dict[str, Any]], waits: list[tuple[int, float, float]]) -> dict[str, Any]:
    """Say of a long read when it was and where its time went."""
    end = read.started + read.seconds
    locked = sum(wait[2] for wait in waits if wait[0] == read.pid and read.started <= wait[1] <= end + 0.01)
    inside = next(number for number, r in enumerate(rounds, 1) if r["started"] <= end and read.started <= r["ended"])
    return {
        "kind": read.kind,
        "mode": read.mode,
        "round": inside,
        "after_s": read.started - rounds[inside - 1]["started"],
        "seconds": read.seconds,
        "on_core": read.on_core,
        "for_core": read.for_core,
        "for_lock": locked,
    }


def show(figures: dict[str, Any]) -> None:
    """Print the figures as tables."""
    rounds, longest = figures["rounds"], figures["longest"]
    print(f"\n{'round':>5} {'source':9} {'seconds':>8} {'widen':>7} {'wait':>7} {'flip':>7} {'settle':>7}")
    for number, r in enumerate(rounds, 1):
        print(
            f"{number:5} {r['source']:9} {r['seconds']:8.1f}"
            f" {r['widen']:7.3f} {r['wait']:7.3f} {r['flip']:7.3f} {r['settle']:7.3f}"
            + ("" if r["settled"] else "  not settled")
        )
    print(f"\n{'':22} {'reads':>8} {'median':>8} {'99 %':>8} {'longest':>8} {'*':>8}   waiting for a core")
    for title, name in (("without a rebuild", "without"), ("during rebuilds", "with")):
        f = figures[name]
        print(
            f"{title:22} {f['reads']:8,} {f['median_s'] * 1e3:5.0f} ms {f['p99_s'] * 1e3:5.0f} ms"
            f" {f['longest_s'] * 1e3:5.0f} ms {f['longest_without_core_wait_s'] * 1e3:5.0f} ms   {f['for_core']:.0%} of the time"
        )
    print("* the longest, less what it waited for a core")
    print(
        f"\n{'the longest reads':38} {'round':>5} {'at s':>6} {'ms':>6} {'on core':>8} {'for core':>9} {'for lock':>9}"
    )
    for r in longest:
        print(
            f"{r['kind']:8} {r['mode']:29} {r['round']:5} {r['after_s']:6.1f} {r['seconds'] * 1e3:6.0f}"
            f" {r['on_core'] * 1e3:8.0f} {r['for_core'] * 1e3:9.0f} {r['for_lock'] * 1e3:9.0f}"
        )
    locks = figures["lock_waits"]
    print(
        f"\nlock waits of readers above {locks['above_ms']} ms: {locks['count']}, longest"
        f" {locks['longest_s'] * 1e3:.0f} ms, {locks['share_of_reading']:.2%} of the reading time"
    )
    for text in figures["examples"]:
        print(f"! {text[:400]}")
    print(
        f"{len(rounds)} rebuilds, {figures['reads']:,} reads in {figures['transactions']:,} transactions over"
        f" {figures['builds_seen']} builds: {figures['errors']} errors, {figures['mixed_statements']} mixed statements,"
        f" {figures['mixed_transactions']} mixed REPEATABLE READ transactions, {figures['partly_filled']} partly filled;"
        f" longest read {figures['excess_s'] * 1e3:+.0f} ms against none at work"
        f" ({'kept' if figures['kept'] else 'BROKEN'}: at most +{MOST_EXCESS_S * 1e3:.0f} ms)"
    )


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
