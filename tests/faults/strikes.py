"""The strikes: each starts a command on the ground, breaks something in the middle, and says what came of it.

A new one is a function with ``@strike``; it is handed a ``Case``, whose ``rng`` makes all of its choices. What a strike
needs and this machine lacks (root, a compiler) leaves it out, with the reason.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psutil
from ground import (
    Ground,
    Run,
    Tables,
    checksums,
    choose,
    command,
    contents,
    stray,
    until,
)
from proxy import proxy
from psycopg import conninfo
from redis_server import RedisServer, find_binary

from etl.read import PowerReader

LOADING = ("plan", "check", "register", "load", "finish", "publish")
UPDATING = ("compare", "stage", "apply")
TEMPLATES = {"load": "empty", "reload": "loaded", "update": "loaded"}
FAR = 1 << 62


@dataclass
class Outcome:
    """What a strike came to: exit codes in order, and whatever should not be."""

    kind: str
    detail: str = ""
    codes: list[int] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_equal(self) -> bool:
        return not self.findings


@dataclass
class Case:
    """One strike under way."""

    ground: Ground
    rng: random.Random
    folder: Path
    outcome: Outcome

    def run(self, arguments: list[str], **more: object) -> Run:
        return Run(arguments, self.folder, **more)  # type: ignore[arg-type]

    def end(self, run: Run, *allowed: int) -> int:
        """Wait for a run, look for what it left behind; any other exit code than those allowed is a finding."""
        code = run.wait()
        self.outcome.codes.append(code)
        self.outcome.findings += run.orphans() + run.leftovers()
        if allowed and code not in allowed:
            self.outcome.findings.append(f"exit code {code}: {run.errors()[-1500:]} {run.output()[-300:]}")
        return code

    def again(self, arguments: list[str]) -> None:
        """Run the same command again, which must end well."""
        self.end(self.run(arguments), 0)

    def compare(self, dsn: str, scenario: str) -> None:
        """Compare the database with that of an undisturbed run, and look for what a run has left."""
        expected: Tables = self.ground.expected[scenario]
        try:
            found = checksums(dsn)
        except Exception as error:  # noqa: BLE001  # a missing view is a finding
            self.outcome.findings.append(f"cannot be read: {error}")
            return
        for name, (rows, digest) in expected.items():
            self.outcome.lost += max(0, rows - found[name][0])
            self.outcome.doubled += max(0, found[name][0] - rows)
            if found[name] != (rows, digest):
                self.outcome.findings.append(f"{name}: {found[name]} instead of {(rows, digest)}")
        self.outcome.findings += stray(dsn, self.ground)


Strike = Callable[[Case], None]
STRIKES: dict[str, Strike] = {}
LEFT_OUT: dict[str, str] = {}


def strike(name: str, *, lacks: str | None = None) -> Callable[[Strike], Strike]:
    def enter(function: Strike) -> Strike:
        if lacks:
            LEFT_OUT[name] = lacks
        else:
            STRIKES[name] = function
        return function

    return enter


def perform(made: Ground, kind: str, seed: int) -> Outcome:
    """Do one strike and all that follows it."""
    outcome = Outcome(kind)
    folder = made.folder / f"case-{seed}"
    folder.mkdir(mode=0o755)
    started = time.monotonic()
    try:
        STRIKES[kind](Case(made, random.Random(seed), folder, outcome))
    except Exception as error:  # noqa: BLE001  # a strike that cannot be finished is a finding, not the end of the campaign
        outcome.findings.append(f"{type(error).__name__}: {error}")
    shutil.rmtree(folder, ignore_errors=True)
    outcome.seconds = time.monotonic() - started
    return outcome


Hit = Callable[[Case, Run], None]


def disturb(
    case: Case, hit: Hit, *allowed: int, scenarios: tuple[str, ...] = ("load", "reload", "update"), phases: tuple[str, ...] = ()
) -> None:  # fmt: skip
    """Hit a command at some moment, run it again, and compare."""
    scenario = case.rng.choice(scenarios)
    possible = phases or ("start", *(UPDATING if scenario == "update" else LOADING))
    phase, delay = choose(case.rng, case.ground.durations[scenario], possible)
    case.outcome.detail = f"{scenario}, {phase} + {delay:.2f} s"
    with case.ground.database(case.ground.templates[TEMPLATES[scenario]]) as dsn:
        arguments = command(case.ground, scenario, dsn)
        run = case.run(arguments)
        if phase == "start" or run.saw(f"{phase} …"):
            time.sleep(delay)
            hit(case, run)
        case.end(run, *allowed)
        case.again(arguments)
        case.compare(dsn, scenario)


def send(number: int, *, group: bool = False) -> Hit:
    def hit(case: Case, run: Run) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(run.process.pid, number)

    return hit


def send_twice(number: int) -> Hit:
    def hit(case: Case, run: Run) -> None:
        send(number)(case, run)
        run.saw("stopping", 5)
        time.sleep(case.rng.uniform(0, 0.1))
        send(number)(case, run)

    return hit


def to_workers(number: int, *, everyone: bool = False) -> Hit:
    def hit(case: Case, run: Run) -> None:
        found = until(lambda: run.workers() or run.process.poll() is not None, 10, give_up=False)
        if isinstance(found, list):
            for worker in found if everyone else [case.rng.choice(found)]:
                with contextlib.suppress(psutil.Error):
                    worker.send_signal(number)

    return hit


@strike("coordinator: SIGKILL")
def kill(case: Case) -> None:
    disturb(case, send(signal.SIGKILL), 0, -9)


@strike("coordinator: SIGTERM")
def terminate(case: Case) -> None:
    disturb(case, send(signal.SIGTERM), 0, 143, -15)


@strike("coordinator: Ctrl-C")
def interrupt(case: Case) -> None:
    disturb(case, send(signal.SIGINT, group=True), 0, 130, -2)


@strike("coordinator: Ctrl-C twice")
def interrupt_twice(case: Case) -> None:
    disturb(case, send_twice(signal.SIGINT), 0, 130, -2)


@strike("coordinator: SIGTERM twice")
def terminate_twice(case: Case) -> None:
    disturb(case, send_twice(signal.SIGTERM), 0, 143, -15)


@strike("worker: SIGKILL")
def kill_worker(case: Case) -> None:
    disturb(case, to_workers(signal.SIGKILL), 0)


@strike("worker: SIGTERM")
def terminate_worker(case: Case) -> None:
    disturb(case, to_workers(signal.SIGTERM), 0)


@strike("worker: SIGINT")
def interrupt_worker(case: Case) -> None:
    disturb(case, to_workers(signal.SIGINT), 0)


@strike("all workers: SIGKILL")
def kill_workers(case: Case) -> None:
    disturb(case, to_workers(signal.SIGKILL, everyone=True), 0)


@strike("worker: no memory left")
def starve_worker(case: Case) -> None:
    """An allocation fails: the worker dies, or its task does."""

    def hit(case: Case, run: Run) -> None:
        found = until(lambda: run.workers() or run.process.poll() is not None, 10, give_up=False)
        if isinstance(found, list):
            worker = case.rng.choice(found)
            with contextlib.suppress(psutil.Error, OSError):
                limit = worker.memory_info().vms + case.rng.randrange(1 << 20)
                worker.rlimit(psutil.RLIMIT_AS, (limit, limit))

    disturb(case, hit, 0, 1, phases=("plan", "check", "register", "load", "stage"))


BACKENDS = "select pid, application_name from pg_stat_activity where datname = %s and application_name like 'etl%%' order by pid"


def end_backends(choice: str) -> Hit:
    def hit(case: Case, run: Run) -> None:
        name = conninfo.conninfo_to_dict(run.process.args[run.process.args.index("--dsn") + 1])["dbname"]  # type: ignore[index,union-attr]
        with case.ground.admin() as connection:
            found = connection.execute(BACKENDS, (name,)).fetchall()
            if choice == "coordinator":
                found = [(pid, own) for pid, own in found if " by " in own]
            elif found and choice == "one":
                found = [case.rng.choice(found)]
            for pid, _ in found:
                connection.execute("select pg_terminate_backend(%s)", (pid,))

    return hit


IN_RUN = LOADING[1:]  # before that nothing was done yet, and the command ends with 4 like one that finds no server


@strike("server: one backend terminated")
def end_one(case: Case) -> None:
    disturb(case, end_backends("one"), 0, phases=(*IN_RUN, *UPDATING))


@strike("server: all backends terminated")
def end_all(case: Case) -> None:
    disturb(case, end_backends("all"), 0, phases=(*IN_RUN, *UPDATING))


@strike("server: the coordinator's backend terminated")
def end_coordinator(case: Case) -> None:
    disturb(case, end_backends("coordinator"), 0, phases=(*IN_RUN, *UPDATING))


def restart(case: Case, run: Run) -> None:
    case.ground.crash_server()
    time.sleep(case.rng.uniform(0, 1.0))
    case.ground.start_server()


@strike("server: immediate stop and restart, COPY")
def restart_in_copy(case: Case) -> None:
    disturb(case, restart, 0, scenarios=("load", "reload"), phases=("register", "load"))


@strike("server: immediate stop and restart, indexes")
def restart_in_index(case: Case) -> None:
    disturb(case, restart, 0, scenarios=("load", "reload"), phases=("load", "finish"))


@strike("server: immediate stop and restart, view")
def restart_in_view(case: Case) -> None:
    disturb(case, restart, 0, phases=("finish", "apply"))


@strike("server: immediate stop and restart, publication")
def restart_in_publication(case: Case) -> None:
    disturb(case, restart, 0, scenarios=("load", "reload"), phases=("publish",))


@strike("server: away for up to a minute")
def long_outage(case: Case) -> None:
    def away(case: Case, _: Run) -> None:
        case.ground.crash_server()
        time.sleep(case.rng.uniform(1, 60))
        case.ground.start_server()

    disturb(case, away, 0, phases=(*IN_RUN, *UPDATING))


@strike("Redis: SIGKILL", lacks=None if find_binary() else "there is no redis-server; scripts/redis gets one")
def kill_redis(case: Case) -> None:
    """What is loaded and published does not depend on the cache, nor do answers that come through it."""
    scenario = case.rng.choice(("load", "reload", "update"))
    phase, delay = choose(case.rng, {**case.ground.durations[scenario], "warm": 0.3}, ("publish", "apply", "warm"))
    case.outcome.detail = f"{scenario}, {phase} + {delay:.2f} s"
    cache = RedisServer(find_binary() or Path(), case.folder).start()
    try:
        with case.ground.database(case.ground.templates[TEMPLATES[scenario]]) as dsn:
            arguments = [*command(case.ground, scenario, dsn), "--warm"]
            run = case.run(arguments, environment={"REDIS_URL": cache.url})
            if run.saw(f"{phase} …"):
                time.sleep(delay)
                cache.kill()
            case.end(run, 0)
            cache.kill()
            compare_answers(case, dsn, cache)
            cache.start()
            case.end(case.run(arguments, environment={"REDIS_URL": cache.url}), 0)
            case.compare(dsn, scenario)
            compare_answers(case, dsn, cache)
    finally:
        cache.kill()


def compare_answers(case: Case, dsn: str, cache: RedisServer) -> None:
    """Ask for powers with the cache and without it."""
    with PowerReader(dsn, "") as plain, PowerReader(dsn, cache.url) as cached:
        for number in case.rng.sample(range(1, 500), 20):
            if plain.power(number) != cached.power(number):
                case.outcome.findings.append(f"the cache has another power {number}")


@strike("connection cut after some bytes")
def cut(case: Case) -> None:
    scenario = case.rng.choice(("load", "reload", "update"))
    total = case.ground.durations.setdefault("bytes", {}).get(scenario) or _measure_bytes(case, scenario)
    after = case.rng.randrange(20_000, int(total))
    case.outcome.detail = f"{scenario}, after {after:,} of {int(total):,} bytes"
    with case.ground.database(case.ground.templates[TEMPLATES[scenario]]) as dsn:
        with _proxied(dsn, after) as (through, _):
            case.end(case.run(command(case.ground, scenario, through)), 0)
        case.again(command(case.ground, scenario, dsn))
        case.compare(dsn, scenario)


def _measure_bytes(case: Case, scenario: str) -> float:
    with (
        case.ground.database(case.ground.templates[TEMPLATES[scenario]]) as dsn,
        _proxied(dsn, FAR) as (through, left),
    ):
        assert case.run(command(case.ground, scenario, through)).wait() == 0
        total = float(FAR - left())
    case.ground.durations["bytes"][scenario] = total
    return total


@contextlib.contextmanager
def _proxied(dsn: str, after: int) -> Iterator[tuple[str, Callable[[], int]]]:
    parts = conninfo.conninfo_to_dict(dsn)
    socket = Path(str(parts["host"]), f".s.PGSQL.{parts['port']}")
    with proxy(socket, after) as between:
        yield conninfo.make_conninfo(dsn, host="127.0.0.1", port=between.port), lambda: between._left


# The store


def struck_split(case: Case, hit: Hit, *allowed: int) -> None:
    """Hit ``etl split`` at some moment, run it again, and compare the store."""
    delay = case.rng.uniform(0, sum(case.ground.durations["split"].values()))
    case.outcome.detail = f"split + {delay:.2f} s"
    store = case.folder / "store"
    arguments = command(case.ground, "split", "", store)
    run = case.run(arguments)
    time.sleep(delay)
    hit(case, run)
    case.end(run, *allowed)
    case.again(arguments)
    compare_store(case, store)


def compare_store(case: Case, store: Path) -> None:
    found, expected = contents(store, case.ground.new), case.ground.expected["split"]
    case.outcome.findings += [
        f"the manifest's {key} differs"
        for key in expected["manifest"]
        if found["manifest"].get(key) != expected["manifest"][key]
    ]
    case.outcome.findings += [f"file {name}" for name in set(found["files"]) ^ set(expected["files"])]


@strike("split: SIGKILL")
def kill_split(case: Case) -> None:
    struck_split(case, send(signal.SIGKILL), 0, -9)


@strike("split: Ctrl-C")
def interrupt_split(case: Case) -> None:
    struck_split(case, send(signal.SIGINT, group=True), 0, 130, -2)


@strike("split: worker SIGKILL")
def kill_splitter(case: Case) -> None:
    struck_split(case, to_workers(signal.SIGKILL), 0)


@strike("store: disk full", lacks=None if os.geteuid() == 0 else "a small file system takes root")
def fill_store(case: Case) -> None:
    needed = sum(path.stat().st_size for path in case.ground.new.store.rglob("*"))
    size = int(needed * case.rng.uniform(0.1, 1.1))
    case.outcome.detail = f"split into {size:,} of {needed:,} bytes"
    with _small(case.folder / "small", size) as folder:
        arguments = command(case.ground, "split", "", folder / "store")
        run = case.run(arguments)
        if case.end(run, 0, 75) and "no space left" not in run.errors():
            case.outcome.findings.append(f"nobody says that the disk is full: {run.errors()}")
        _resize(folder, 100 << 20)
        case.again(arguments)
        compare_store(case, folder / "store")


@strike("store: file size limit")
def limit_files(case: Case) -> None:
    limit = case.rng.randrange(100, max(path.stat().st_size for path in case.ground.new.store.rglob("*")))
    case.outcome.detail = f"split with files of at most {limit:,} bytes"
    store = case.folder / "store"
    arguments = command(case.ground, "split", "", store)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    case.end(case.run(arguments, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))), 0, 75)
    case.again(arguments)
    compare_store(case, store)


@strike("server: disk full", lacks=None if os.geteuid() == 0 else "a small file system takes root")
def fill_server(case: Case) -> None:
    template = case.ground.templates["empty"]
    with case.ground.admin() as connection:
        row = connection.execute("select pg_database_size(%s)", (template,)).fetchone()
    assert row
    size = row[0] + case.rng.randrange(1 << 20, 8 << 20)
    case.outcome.detail = f"load with {(size - row[0]) / (1 << 20):.1f} MB left"
    name = f"small_{case.folder.name.replace('-', '_')}"
    with _small(case.folder / "small", size) as folder:
        shutil.chown(folder, (case.ground.home / "run").owner())
        with case.ground.admin() as connection:
            connection.execute(f"create tablespace {name} location '{folder}'")
        try:
            with case.ground.database(template, name) as dsn:
                arguments = command(case.ground, "load", dsn)
                run = case.run(arguments)
                if case.end(run, 0, 4) and "full" not in run.errors():
                    case.outcome.findings.append(f"nobody says that the disk is full: {run.errors()}")
                _resize(folder, size + (200 << 20))
                case.again(arguments)
                case.compare(dsn, "load")
        finally:
            with case.ground.admin() as connection:
                connection.execute("checkpoint")
                connection.execute(f"drop tablespace {name}")


@contextlib.contextmanager
def _small(folder: Path, size: int) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def _damage(case: Case, how: str, store: Path) -> None:
    part = case.rng.choice(sorted(store.rglob("*.arrow")))
    data = bytearray(part.read_bytes())
    if how == "missing":
        part.unlink()
    elif how == "truncated":
        os.truncate(part, case.rng.randrange(len(data)))
    else:
        data[case.rng.randrange(len(data))] ^= 1 << case.rng.randrange(8)
        part.write_bytes(data)


def damaged(how: str) -> Strike:
    def act(case: Case) -> None:
        store = case.folder / "store"
        shutil.copytree(case.ground.old.store, store)
        before = case.rng.random() < 0.6
        phase, delay = choose(case.rng, case.ground.durations["load"], ("plan", "check", "register", "load"))
        case.outcome.detail = "before the load" if before else f"load, {phase} + {delay:.2f} s"
        with case.ground.database(case.ground.templates["empty"]) as dsn:
            arguments = command(case.ground, "load", dsn, store)
            if before:
                _damage(case, how, store)
            run = case.run(arguments)
            if not before and run.saw(f"{phase} …"):
                time.sleep(delay)
                _damage(case, how, store)
            allowed = (5,) if before else (0, 1, 5)  # a part that is cut off under a reader's eyes kills it: SIGBUS
            case.end(run, *allowed)
            split = ["split", str(case.ground.old.source), "--store", str(store), "--jobs", "2", "--json"]
            case.end(case.run(split), 0)
            case.again(arguments)
            case.compare(dsn, "load")

    return act


for _how in ("damaged", "truncated", "missing"):
    strike(f"part {_how}")(damaged(_how))


@strike("source truncated or replaced after the split")
def change_source(case: Case) -> None:
    source, store = case.folder / "powers.json", case.folder / "store"
    shutil.copyfile(case.ground.old.source, source)
    split = ["split", str(source), "--store", str(store), "--jobs", "1", "--json"]
    assert case.run(split).wait() == 0
    how = case.rng.choice(("truncated", "replaced"))
    case.outcome.detail = how
    with case.ground.database(case.ground.templates["empty"]) as dsn:
        arguments = command(case.ground, "load", dsn, store)
        if how == "truncated":
            os.truncate(source, case.rng.randrange(source.stat().st_size))
        else:
            shutil.copyfile(case.ground.new.source, source)
        case.end(case.run(arguments), 5)
        shutil.copyfile(case.ground.old.source, source)
        case.again(arguments)
        case.compare(dsn, "load")


@strike("source truncated during the split")
def truncate_source(case: Case) -> None:
    source, store = case.folder / "powers.json", case.folder / "store"
    shutil.copyfile(case.ground.old.source, source)
    whole = source.read_bytes()
    split = ["split", str(source), "--store", str(store), "--jobs", "2", "--json"]
    run = case.run(split)
    delay = case.rng.uniform(0, sum(case.ground.durations["split"].values()))
    case.outcome.detail = f"split + {delay:.2f} s"
    time.sleep(delay)
    os.truncate(source, case.rng.randrange(len(whole)))
    case.end(run, 0, 3, 5)
    source.write_bytes(whole)
    case.end(case.run(split), 0)
    with case.ground.database(case.ground.templates["empty"]) as dsn:
        case.again(command(case.ground, "load", dsn, store))
        case.compare(dsn, "load")


# The clock

CLOCK = Path(__file__).with_name("clock.c")


@strike("clock jumps", lacks=None if shutil.which("cc") else "the clock that jumps takes a C compiler")
def jump(case: Case) -> None:
    library, clock = case.ground.folder / "clock.so", case.folder / "clock"
    if not library.exists():
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(CLOCK), "-ldl"], check=True)
    scenario = case.rng.choice(("load", "reload", "update"))
    phase, delay = choose(
        case.rng, case.ground.durations[scenario], UPDATING if scenario == "update" else ("start", *LOADING)
    )
    seconds = case.rng.choice((-1, 1)) * case.rng.choice((7, 3_600, 400 * 86_400))
    case.outcome.detail = f"{scenario}, {phase} + {delay:.2f} s, by {seconds:,} s"
    clock.write_text("0")
    with case.ground.database(case.ground.templates[TEMPLATES[scenario]]) as dsn:
        arguments = command(case.ground, scenario, dsn)
        run = case.run(arguments, environment={"LD_PRELOAD": quote(str(library)), "FAULT_CLOCK": str(clock)})
        if phase == "start" or run.saw(f"{phase} …"):
            time.sleep(delay)
            clock.write_text(str(seconds))
        case.end(run, 0)
        case.again(arguments)
        case.compare(dsn, scenario)
