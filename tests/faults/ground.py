"""The ground on which strikes happen: one private server, small splits, and what an undisturbed run makes of them."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import conninfo, sql

from etl import ddl, generate, migrations, postgres, server, tables

ROOT = Path(__file__).resolve().parents[2]
ETL = [sys.executable, "-m", "etl"]
LIMIT_S = 180.0
# Processes of one run carry this variable; what still has it in the end is an orphan.
MARK = "ETL_FAULT_RUN"

Tables = dict[str, tuple[int, int]]
"""Rows and a checksum of the content, per published relation."""


@dataclass(frozen=True, slots=True)
class Split:
    """A source with the store in which it is split."""

    source: Path
    store: Path
    split_id: str


@dataclass
class Ground:
    """What all strikes of a campaign share."""

    folder: Path
    binaries: Path
    old: Split
    new: Split
    dsn: str = ""
    templates: dict[str, str] = field(default_factory=dict)
    expected: dict[str, Any] = field(default_factory=dict)
    durations: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "server"

    def start_server(self) -> None:
        self.dsn = server.start_with(self.binaries, self.home, {"shared_buffers": "64MB", "max_wal_size": "1GB"})

    def crash_server(self) -> None:
        """Do what ``pg_ctl stop -m immediate`` does."""
        pid = server.status(self.home).pid
        assert pid
        os.kill(pid, signal.SIGQUIT)
        until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 60)

    def admin(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.dsn, autocommit=True)

    @contextmanager
    def database(self, template: str, tablespace: str | None = None) -> Iterator[str]:
        """Yield the DSN of a clone of a database, dropped at the end."""
        name = f"fault_{uuid.uuid4().hex[:10]}"
        place = sql.SQL(" tablespace {}").format(sql.Identifier(tablespace)) if tablespace else sql.SQL("")
        make = sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        with self.admin() as connection:
            connection.execute(make + place)
            # A cloned sequence hands out numbers without WAL until a checkpoint: a crash would let them come again.
            connection.execute("checkpoint")
        try:
            yield conninfo.make_conninfo(self.dsn, dbname=name)
        finally:
            with self.admin() as connection:
                connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


@contextmanager
def ground(folder: Path, records: int = 1_000) -> Iterator[Ground]:
    """Yield a ground in ``folder``, and leave nothing of it behind.

    There are two databases to begin with: "empty" has the schema ``etl``, "loaded" the old split published.
    """
    folder.chmod(0o755)
    old, new = _sources(folder, records)
    made = Ground(folder, postgres.find_binaries(), old, new)
    try:
        made.start_server()
        with made.database("template0") as empty:
            with psycopg.connect(empty, autocommit=True) as connection:
                migrations.migrate(connection)
            made.templates["empty"] = conninfo.conninfo_to_dict(empty)["dbname"]
            with made.database(made.templates["empty"]) as loaded:
                _learn(made, "load", loaded)
                made.templates["loaded"] = conninfo.conninfo_to_dict(loaded)["dbname"]
                for scenario in ("reload", "update", "split"):
                    with made.database(made.templates["loaded"]) as dsn:
                        _learn(made, scenario, dsn)
                yield made
    finally:
        server.stop(made.home)
        shutil.rmtree(made.home, ignore_errors=True)


def _sources(folder: Path, records: int) -> tuple[Split, Split]:
    """Write two small exports of a few powersets, so that there are few leaves, and split them."""
    everything = folder / "everything.json"
    generate.generate("i12", 12 * records, 5, everything)
    sets: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in json.loads(everything.read_text()):
        sets[record["PowersetFullName"]].append(record)
    everything.unlink()
    archetypes: dict[str, list[str]] = defaultdict(list)
    for name in sorted(sets, key=lambda name: (-len(sets[name]), name)):
        archetypes[sets[name][0]["ArchetypeName"]].append(name)
    chosen = [name for names in list(archetypes.values())[:5] for name in names[:2]]
    share = max(1, records // len(chosen))
    old = [record for name in chosen for record in sets[name][:share]]
    new = [
        {**record, "Accuracy": 1.75, "Description": "changed"} if number % 7 == 0 else record
        for number, record in enumerate(old)
        if number % 31
    ] + [record for name in chosen for record in sets[name][share : share + 3]]
    return _split(folder / "old.json", folder / "old", old), _split(folder / "new.json", folder / "new", new)


def _split(source: Path, store: Path, records: list[dict[str, Any]]) -> Split:
    source.write_text(json.dumps(records))
    done = subprocess.run(
        [*ETL, "split", str(source), "--store", str(store), "--jobs", "1", "--json", "--quiet"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return Split(source, store, json.loads(done.stdout)["split_id"])


def command(made: Ground, scenario: str, dsn: str, store: Path | None = None) -> list[str]:
    """Return the arguments of ``etl`` in a scenario."""
    split = made.old if scenario == "load" else made.new
    where = str(store or split.store)
    if scenario == "split":
        return ["split", str(split.source), "--store", where, "--jobs", "2", "--json"]
    head = ["update", str(split.source)] if scenario == "update" else ["load"]
    return [*head, "--store", where, "--dsn", dsn, "--jobs", "2", "--json"]


def _learn(made: Ground, scenario: str, dsn: str) -> None:
    """Run a scenario undisturbed: what comes of it, and how long its phases last."""
    store = made.folder / "undisturbed" if scenario == "split" else None
    run = Run(command(made, scenario, dsn, store), made.folder)
    assert run.wait() == 0, run.errors()
    made.durations[scenario] = run.durations()
    made.expected[scenario] = contents(store, made.new) if store else checksums(dsn)
    if store:
        shutil.rmtree(store)


class Run:
    """One ``etl …`` as a process, with what it said and when."""

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.scratch = folder / f"scratch-{self.mark[:8]}"
        self.scratch.mkdir()
        self.lines: list[tuple[float, str]] = []
        self._news = threading.Condition()
        self._began = time.monotonic()
        self.process = subprocess.Popen(
            [*ETL, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                MARK: self.mark,
                "TMPDIR": str(self.scratch),
                **(environment or {}),
            },
            start_new_session=True,
            preexec_fn=before,
        )
        self._output: list[str] = []
        self._threads = [
            threading.Thread(target=self._listen, daemon=True),
            threading.Thread(target=lambda: self._output.append(self.process.stdout.read()), daemon=True),  # type: ignore[union-attr]
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._news:
                self.lines.append((time.monotonic(), line.rstrip("\n")))
                self._news.notify_all()
        with self._news:
            self.lines.append((time.monotonic(), ""))
            self._news.notify_all()

    def saw(self, text: str, timeout_s: float = LIMIT_S) -> bool:
        """Wait until a line begins with the text; False if the process ends without one."""
        deadline = time.monotonic() + timeout_s
        with self._news:
            while not any(line.startswith(text) for _, line in self.lines):
                if (self.lines and self.lines[-1][1] == "") or time.monotonic() > deadline:
                    return False
                self._news.wait(0.5)
        return True

    def wait(self) -> int:
        """Wait for the end; return the exit code (negative for a signal)."""
        try:
            code = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"{self.process.args} hangs:\n{self.errors()}") from None
        for thread, pipe in zip(self._threads, (self.process.stderr, self.process.stdout), strict=True):
            thread.join(10)  # orphans hold the other end until they notice
            if pipe and not thread.is_alive():
                pipe.close()
        return code

    def errors(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def output(self) -> str:
        return "".join(self._output)

    def durations(self) -> dict[str, float]:
        """Return how long each phase lasted, by the lines that announce them."""
        starts = [(at, line[:-2]) for at, line in self.lines if line.endswith(" …")]
        ends = [at for at, _ in starts[1:]] + [self.lines[-1][0]]
        found = {"start": (starts[0][0] if starts else self.lines[-1][0]) - self._began}
        for (at, name), end in zip(starts, ends, strict=True):
            found[name] = found.get(name, 0.0) + end - at
        return found

    def workers(self) -> list[psutil.Process]:
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
            return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        except psutil.Error:
            return []

    def orphans(self) -> list[str]:
        """Return the processes of this run that are still there some seconds after its end."""
        deadline = time.monotonic() + 6.0
        while (found := marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def leftovers(self) -> list[str]:
        """Return temporary files and sockets of this run, and take them away."""
        found = [f"temporary file {path.name}" for path in self.scratch.rglob("*")]
        shutil.rmtree(self.scratch)
        return found


def marked(mark: str) -> list[str]:
    """Return the live processes that carry a mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environment = (folder / "environ").read_bytes()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                if mark.encode() in environment and state != "Z":
                    found.append(f"process {folder.name} {(folder / 'cmdline').read_bytes()[:80]!r}")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found


def checksums(dsn: str, schema: str = "game") -> Tables:
    """Return rows and a content checksum of every published relation, times left out."""
    found: Tables = {}
    with psycopg.connect(dsn) as connection:
        for name in ddl.relations(tables.TABLES):
            columns = connection.execute(
                "select string_agg(format('t.%%I', attname), ', ' order by attnum) from pg_attribute"
                " where attrelid = %s::regclass and attnum > 0 and attname not in ('created_at', 'updated_at')",
                (f"{schema}.{name}",),
            ).fetchone()
            assert columns
            query = f"select count(*), coalesce(sum(hashtextextended(row({columns[0]})::text, 0)), 0) from {schema}.{name} t"
            row = connection.execute(query).fetchone()  # type: ignore[call-overload]
            found[name] = (int(row[0]), int(row[1]))
    return found


def contents(store: Path, split: Split) -> dict[str, Any]:
    """Return what a split came to, and the files that a store holds."""
    manifest = json.loads((store / split.split_id / "manifest.json").read_text())
    manifest.pop("created_at")
    return {"manifest": manifest, "files": sorted(str(path.relative_to(store)) for path in store.rglob("*"))}


def stray(dsn: str, made: Ground, *, schema: str = "game") -> list[str]:
    """Return what should not be in the database after a finished run: sessions, locks, schemas, builds, tables."""
    name = conninfo.conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(dsn, autocommit=True) as connection:

        def ask(query: str, *values: object) -> list[str]:
            return [str(row[0]) for row in connection.execute(query, values)]  # type: ignore[call-overload]

        sessions = "select application_name from pg_stat_activity where datname = %s and pid <> pg_backend_pid() and backend_type = 'client backend'"
        until(lambda: not ask(sessions, name), 6, give_up=False)
        found = [f"session {one}" for one in ask(sessions, name)]
        found += [
            f"lock {one}"
            for one in ask(
                "select objid from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"
            )
        ]
        kept = set(
            ask(
                "select live_schema || '_b' || build from etl.live union select live_schema || '_b' || previous from etl.live"
            )
        )
        schemas = ask("select nspname from pg_namespace where nspname like %s", f"{schema}\\_b%")
        found += [f"schema {one}" for one in schemas if one not in kept]
        found += [
            f"unfinished build {one}"
            for one in ask("select build from etl.build where published_at is null and dropped_at is null")
        ]
        found += [
            f"staged table {one}"
            for one in ask("select relname from pg_class where relname like 'staged\\_%%' and relkind = 'r'")
        ]
        found += [f"run {one} left open" for one in ask("select id from etl.run where state = 'running'")]
        receipts = connection.execute(
            "select r.table_name, sum(r.rows) from etl.receipt r join etl.live using (build) group by 1"
        ).fetchall()
        for table, rows in receipts:
            counted = connection.execute(
                sql.SQL("select count(*) from {}").format(sql.Identifier(schema, table))
            ).fetchone()
            if table != "power_directory" and counted != (rows,):
                found.append(f"receipts of {table} name {rows} rows, it has {counted}")
    return found


def until(ask: Callable[[], Any], seconds: float, *, give_up: bool = True) -> Any:
    """Ask until the answer is something."""
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        if time.monotonic() > deadline:
            assert not give_up, "it does not happen"
            return found
        time.sleep(0.01)
    return found


def choose(rng: random.Random, durations: Mapping[str, float], phases: tuple[str, ...]) -> tuple[str, float]:
    """Return a phase and a moment in it, in seconds after its beginning."""
    phase = rng.choice([name for name in phases if name in durations])
    return phase, rng.uniform(0.0, durations[phase])
