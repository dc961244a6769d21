"""What a look-up by etl.read costs, from each tier, beside what the alternatives cost; `scripts/bench.py read` runs it.

Two data sets: the December export, and --records generated ones (flat). For each: one process asking one tier after the
other, five times over (medians, and the quietest round); --readers processes (0: none) with a mixture of questions for
--seconds; the same while `etl rebuild` runs. Requests are Zipf-distributed (exponent 1.1), words and effects too. The
embedded server has no trigrams for the search; --server system may have. "plain query" is the same row through
SQLAlchemy, "JSON in Redis" a service that keeps json.dumps of the row under its id (both need: pip install '.[bench]').
"""

import argparse
import bisect
import itertools
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis
from psycopg.rows import dict_row

from benches import common as bench
from etl.read import PoolOptions, PowerReader
from etl.read.mget import ShortWay

sys.path.insert(0, str(bench.ROOT / "tests"))
from redis_server import RedisServer, find_binary  # tests and bench start the same one

# What is promised, in milliseconds: median and 99th percentile; for the last ones the mean.
PROMISED = {
    "in-process hit": (0.005, 0.050),
    "Redis hit": (0.3, 2.0),
    "database, by id": (2.0, 10.0),
    "database, by name": (2.0, 10.0),
    "database, powerset": (20.0, 20.0),
}
MOST_MEAN_MS = 100.0
ROUNDS = 5
MIX = {"power": 60, "power by name": 20, "powers": 10, "build_summary": 5, "search": 3, "with_effect": 2}


def read(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure both data sets on the embedded server, or on the one named."""
    binary = find_binary()
    if binary is None:
        sys.exit("there is no redis-server: scripts/redis gets one")
    figures: list[dict[str, Any]] = []
    sources = []
    if given.file or bench.PACK.exists():
        source = Path(given.file) if given.file else bench.unpack(bench.PACK, folder)
        sources.append((Path(given.file).name if given.file else "december", source))
    if given.records:
        generated = folder / "generated.json"
        bench.etl("generate", "--shape", "i12", "--records", str(given.records), "--out", str(generated), "--quiet")
        sources.append((f"{given.records:,} generated", generated))
    with bench.servers(folder, "embedded" if given.server == "both" else given.server) as found:
        (dsn,) = found.values()
        for name, source in sources:
            bench.rebuild(source, dsn, folder / "store", given)
            server = RedisServer(binary, folder).start()
            try:
                for figure in measure(dsn, server, given, source, folder):
                    figures.append({"data": name, **figure})
                    bench.say(figures[-1])
            finally:
                server.kill()
            bench.etl("db", "reset", "--yes", "--dsn", dsn)
    return figures


def measure(
    dsn: str, server: RedisServer, given: argparse.Namespace, source: Path, folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield the figures of one data set, which is published in the database."""
    world = World(dsn)
    yield from in_process(dsn, world)
    yield from in_rounds(lambda: tiers(dsn, server.url, world))
    if not given.readers:
        return
    with warmed(dsn, server.url) as figure:
        yield figure
    yield from crowd("readers", dsn, server.url, given)
    rebuild = subprocess.Popen(
        [sys.executable, "-m", "etl", "rebuild", str(source), "--store", str(folder / "store"), "--dsn", dsn,
         "--jobs", str(given.jobs), "--quiet", "--json"],
        cwd=bench.ROOT, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    yield from crowd("readers, rebuild beside", dsn, server.url, given, rebuild)


class World:
    """What there is to ask for, the popular first; the same in every process."""

    def __init__(self, dsn: str) -> None:
        with psycopg.connect(dsn) as connection:
            query = "select id, internal_name, powerset_id from game.power_directory order by md5(id::text)"
            self.powers = connection.execute(query).fetchall()
            self.archetypes = [
                name
                for (name,) in connection.execute("select name from game.archetypes where is_player order by 1")
            ]  # fmt: skip
            self.words = [
                word
                for (word,) in connection.execute(
                    "select word from (select distinct lower(split_part(display_name, ' ', 1)) as word"
                    " from game.power_build_summary) w where length(word) > 2 order by md5(word) limit 500"
                )
            ]
            self.effects = [
                kind
                for (kind,) in connection.execute(
                    "select g ->> 'type' from (select effect_groups from game.powers limit 5000) p,"
                    " jsonb_array_elements(effect_groups) g group by 1 order by count(*) desc limit 20"
                )
            ]
        self.weights = list(itertools.accumulate(1 / rank**1.1 for rank in range(1, len(self.powers) + 1)))

    def power(self, dice: random.Random) -> tuple[int, str, int]:
        """Draw a power: id, name, powerset."""
        found: tuple[int, str, int] = self.powers[bisect.bisect(self.weights, dice.random() * self.weights[-1])]
        return found

    def popular(self, things: list[str], dice: random.Random) -> str:
        """Draw one of a few things, the first most often."""
        return things[bisect.bisect(self.weights, dice.random() * self.weights[len(things) - 1])]

    def question(self, kind: str, dice: random.Random) -> Callable[[PowerReader], object]:
        """Draw a question of a kind."""
        number, name, powerset = self.power(dice)
        archetype, level = dice.choice(self.archetypes or ["npc"]), dice.choice((10, 20, 30, 50))
        word, effect = self.popular(self.words, dice), self.popular(self.effects, dice)
        return {
            "power": lambda reader: reader.power(number),
            "power by name": lambda reader: reader.power_by_name(name),
            "powers": lambda reader: reader.powers(powerset),
            "build_summary": lambda reader: reader.build_summary(archetype, max_level=level),
            "search": lambda reader: reader.search(word),
            "with_effect": lambda reader: reader.with_effect(effect, dice.choice((archetype, None)), level, 100),
        }[kind]


def in_process(dsn: str, world: World) -> Iterator[dict[str, Any]]:
    """Ask for what is in this process."""
    dice = random.Random(1)
    drawn = [world.power(dice) for _ in range(20_000)]
    with PowerReader(dsn, "", local_bytes=1 << 29) as reader:
        for number, name, _ in drawn:
            reader.power(number), reader.power_by_name(name)
        yield told("in-process hit", timed([lambda n=n: reader.power(n) for n, _, _ in drawn]))
        yield told("in-process hit, by name", timed([lambda n=n: reader.power_by_name(n) for _, n, _ in drawn]))
        yield {"what": "in-process memory", **reader.stats()["local"]}
    yield from cachetools_hit([number for number, _, _ in drawn])


def in_rounds(ask: Callable[[], Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Ask several times over; yield the median of each figure, and what it was in the quietest round, which is judged.

    What else the machine does comes and goes, and makes no round faster.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(ROUNDS):
        for figure in ask():
            found.setdefault(figure["what"], []).append(figure)
    for same in found.values():
        times = [name for name in same[0] if name.endswith("_us")]
        quietest = min(same, key=lambda one: one.get("mean_us", 0))
        yield {
            **quietest,
            **{name: statistics.median(one[name] for one in same) for name in times},
            **{f"quietest_{name}": quietest[name] for name in times if name in ("p50_us", "p99_us")},
        }


def tiers(dsn: str, url: str, world: World) -> Iterator[dict[str, Any]]:
    """Ask Redis, then the database, on connections of their own, then the alternatives."""
    dice = random.Random(1)
    drawn = [world.power(dice) for _ in range(3_000)]
    some = random.Random(2).sample(world.powers, min(len(world.powers), 2_000))
    known = sorted({number for _, _, number in world.powers})
    sets = random.Random(3).sample(known, min(len(known), 1_000))  # a list is missed once, big or small
    popular = list({number: (number, name) for number, name, _ in drawn}.values())
    with PowerReader(dsn, url, local_bytes=0) as reader:
        for number, name in popular:
            reader.power(number), reader.power_by_name(name)
        yield told("Redis hit", timed([lambda n=n: reader.power(n) for n, _ in popular]))
        yield told("Redis hit, by name", timed([lambda n=n: reader.power_by_name(n) for _, n in popular]))
        if reader.stats()["events"].get("redis_bytes_stored"):  # in the first round
            yield {"what": "compression", "ratio": ratio(reader)}
    with PowerReader(dsn, "", local_bytes=0) as reader:
        reader.powers_by_id([some[0][0]]), reader.powers(some[0][2]), reader.power(some[0][0])
        half = len(some) // 2
        yield told("database, by id", timed([lambda n=n: reader.power(n) for n, _, _ in some[:half]]))
        yield told("database, by name", timed([lambda n=n: reader.power_by_name(n) for _, n, _ in some[half:]]))
        yield told("database, powerset", timed([lambda n=n: reader.powers(n) for n in sets]))
        drawn_sets = [number for _, _, number in some[:200]]
        yield told("database, powerset of a power", timed([lambda n=n: reader.powers(n) for n in drawn_sets]))
        for kind in ("build_summary", "search", "with_effect"):
            asked = [world.question(kind, dice) for _ in range(60)]
            yield told(f"database, {kind}", timed([lambda q=q: q(reader) for q in asked]))
    yield from alternatives(dsn, url, some[:1_000])


def alternatives(dsn: str, url: str, some: list[tuple[int, str, int]]) -> Iterator[dict[str, Any]]:
    """The plain query through SQLAlchemy, and a row as JSON under its id in Redis."""
    client = redis.Redis.from_url(url)
    query = "select p.*, s.name as powerset_name from game.powers p join game.powersets s on s.id = p.powerset_id"
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        ids = [number for number, _, _ in some]
        for row in connection.execute(f"{query} where p.id = any (%s)", (ids,)):  # type: ignore[arg-type]
            client.set(f"old:power:{row['id']}", json.dumps(row, default=str), ex=3600)
    yield told("JSON in Redis", timed([lambda n=n: json.loads(client.get(f"old:power:{n}") or b"") for n in ids]))
    client.mset({"old:all": bytes(8), "old:lists": bytes(8)})
    few = ["old:all", "old:lists", f"old:power:{ids[0]}", "old:nothing"]
    ours = ShortWay(client.connection_pool)
    times = timed([lambda: client.mget(few), lambda: ours.mget(few)] * 2_000)  # in turns
    for place, what in enumerate(("the client's", "ours")):
        yield told(f"MGET of two marks, a row and nothing, {what}", times[place::2])
    client.close()
    with suppress(ImportError):
        import sqlalchemy

        engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
        for column, values in (("id", ids), ("internal_name", [name for _, name, _ in some])):
            text = sqlalchemy.text(f"{query} where p.{column} = :value")
            with engine.connect() as session:
                calls = [lambda v=v, t=text: session.execute(t, {"value": v}).mappings().one() for v in values[:300]]
                yield told(f"plain query, by {column}", timed(calls))
        engine.dispose()


def cachetools_hit(numbers: list[int]) -> Iterator[dict[str, Any]]:
    """The same hits in cachetools' cache with bytes and times to live, under a lock."""
    with suppress(ImportError):
        import threading

        import cachetools

        cache: Any = cachetools.TLRUCache(
            1 << 29, lambda _k, v, now: now + v[1], time.monotonic, getsizeof=lambda v: v[2]
        )
        lock = threading.Lock()
        for number in numbers:
            cache["power", number] = (object(), 3600.0, 5000)

        def hit(number: int) -> object:
            with lock:
                return cache.get(("power", number))

        yield told("cachetools hit (the bare cache)", timed([lambda n=n: hit(n) for n in numbers]))


@contextmanager
def warmed(dsn: str, url: str) -> Iterator[dict[str, Any]]:
    """Read everything ahead into Redis."""
    with PowerReader(dsn, url, pool=PoolOptions(overflow=4), redis_timeout_s=2.0) as reader:
        started = time.perf_counter()
        counts = reader.warm(jobs=4)
        yield {"what": "warm", "seconds": time.perf_counter() - started, **counts, "ratio": ratio(reader)}


def ratio(reader: PowerReader) -> float:
    """Return bytes of JSON per byte in Redis."""
    events = reader.stats()["events"]
    return float(events["redis_bytes_before"] / max(1, events["redis_bytes_stored"]))


def crowd(
    what: str, dsn: str, url: str, given: argparse.Namespace, until: subprocess.Popen[bytes] | None = None
) -> Iterator[dict[str, Any]]:
    """Let processes ask a mixture for some time, or until a process has ended."""
    spawn = multiprocessing.get_context("spawn")
    stop, ready = spawn.Event(), spawn.Barrier(given.readers + 1)
    with spawn.Pool(given.readers, initializer=take, initargs=(stop, ready)) as pool:
        waiting = [pool.apply_async(ask_on, (dsn, url, seed)) for seed in range(given.readers)]
        ready.wait()
        started = time.perf_counter()
        processes = psutil.Process().children()
        if until is not None:
            until.wait()
        time.sleep(max(0.0, given.seconds - (time.perf_counter() - started)))
        memory = [memory_mb(process) for process in processes]
        stop.set()
        reports = [report.get() for report in waiting]
        seconds = time.perf_counter() - started
    times: dict[str, list[float]] = {kind: [] for kind in MIX}
    for report in reports:
        for kind, found in report["times"].items():
            times[kind] += found
    asked = sum(map(len, times.values()))
    errors = [error for report in reports for error in report["errors"]]
    yield {"what": what, "asked": asked, "per_s": asked / seconds, "seconds": seconds, "errors": errors[:3],
           "MB per reader": statistics.mean(filter(None, memory) or [0]), "hits": together(reports)}  # fmt: skip
    for kind, found in times.items():
        yield told(f"{what}: {kind}", found)


_shared: dict[str, Any] = {}


def take(stop: Any, ready: Any) -> None:
    """Keep what the processes of a crowd share; each is a session of its own, as the processes of services are."""
    os.setsid()
    _shared.update(stop=stop, ready=ready)


def ask_on(dsn: str, url: str, seed: int) -> dict[str, Any]:
    """Ask until it is time to stop; return the milliseconds per kind."""
    world, dice = World(dsn), random.Random(seed)
    times: dict[str, list[float]] = {kind: [] for kind in MIX}
    errors: list[str] = []
    with PowerReader(dsn, url) as reader:
        reader.generation()
        _shared["ready"].wait()
        while not _shared["stop"].is_set():
            for kind in dice.choices(list(MIX), list(MIX.values()), k=50):
                question = world.question(kind, dice)
                started = time.perf_counter_ns()
                try:
                    question(reader)
                except Exception as error:  # noqa: BLE001  # counted, and shown
                    errors.append(repr(error))
                times[kind].append((time.perf_counter_ns() - started) / 1e6)
        tiers = reader.stats()["tiers"]
    return {"times": times, "errors": errors, "hits": {tier: kinds["all"]["hits"] for tier, kinds in tiers.items()}}


def together(reports: list[dict[str, Any]]) -> dict[str, int]:
    """Return the hits of all processes per tier."""
    return {tier: sum(report["hits"].get(tier, 0) for report in reports) for tier in ("local", "redis", "database")}


def memory_mb(process: psutil.Process) -> float:
    """Return a process's share of memory."""
    try:
        return float(process.memory_full_info().pss / 1e6)
    except psutil.Error:
        return 0.0


def timed(calls: list[Callable[[], object]]) -> list[float]:
    """Return the milliseconds of each call."""
    times = []
    for call in calls:
        started = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - started) / 1e6)
    return times


def told(what: str, times: list[float]) -> dict[str, Any]:
    """Return the figures of a series."""
    if not times:
        return {"what": what, "calls": 0}
    ordered = sorted(times)
    return judged({
        "what": what,
        "calls": len(times),
        "p50_us": round(1000 * ordered[len(ordered) // 2], 1),
        "p99_us": round(1000 * ordered[int(0.99 * len(ordered))], 1),
        "mean_us": round(1000 * statistics.mean(times), 1),
        "max_us": round(1000 * ordered[-1], 1),
    })  # fmt: skip


def judged(figure: dict[str, Any]) -> dict[str, Any]:
    """Add whether the figure is as promised, where anything is."""
    if figure["what"] in PROMISED:
        median, last = PROMISED[figure["what"]]
        return {**figure, "kept": figure["p50_us"] <= 1000 * median and figure["p99_us"] <= 1000 * last}
    if figure["what"].endswith(("build_summary", "search", "with_effect")):
        return {**figure, "kept": figure["mean_us"] <= 1000 * MOST_MEAN_MS}
    return figure
