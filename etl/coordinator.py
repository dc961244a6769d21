"""The coordinator: plan = wanted - receipts; runs it, finishes, publishes. It holds the one lock of a live schema.

It imports neither polars nor pyarrow: those live in the workers.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import msgspec

from etl import (
    config,
    db,
    ddl,
    dsn,
    finish,
    keys,
    lateindex,
    ledger,
    limits,
    metrics,
    migrations,
    outcome,
    parallel,
    preflight,
    publish,
    receipts,
    renewal,
    retry,
    session,
    splitter,
    storage,
    tables,
    timings,
    work,
)
from etl.config import COORDINATOR_BYTES, MIB
from etl.errors import EtlError, Incomplete, InputError, Interrupted, StoreError, TooManyRejects, Transient, UsageError
from etl.model import Event, Manifest, Progress, Reject
from etl.outcome import LoadResult
from etl.plan import (
    CheckTask,
    EnrolTask,
    IndexTask,
    Leaf,
    LeafResult,
    LeafTask,
    RegisterTask,
    StatisticsTask,
    cut_leaves,
)
from etl.receipts import Receipt
from etl.store import entities
from etl.store import manifest as manifests
from etl.workers import MOST_THREADS

T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger(__name__)

# What a worker needs before it holds any data: the interpreter, polars, pyarrow, psycopg.
WORKER_BASE_BYTES = 110 * MIB
MIN_BATCH_BYTES = 2 * MIB
# From this round trip on a server is far away, and workers wait for it as long as they work: a leaf waits nine times. A
# busy machine of its own answers sooner.
FAR_S = 0.01
# From this share of the memory limit on, a run slows down.
PRESSURE = 0.9
MAX_BATCH_BYTES = 16 * MIB
# How often a worker holds a batch: as read, as Python objects, as columns of the tables, as encoded for COPY.
_BATCH_COPIES = 12

lock = session.lock


class _Run(msgspec.Struct, kw_only=True):
    """What the steps of one load share."""

    options: config.LoadOptions
    manifest: Manifest
    session: session.Session
    progress: Progress
    pool: parallel.Pool
    stop: Callable[[], bool]
    patience: retry.Patience
    memory: metrics.PeakMemory
    is_tight: bool = False
    is_finished: bool = False
    enrols: bool = False
    came_back: bool = False
    extensions: dict[str, str | None] = msgspec.field(default_factory=dict)
    build: int = 0
    epoch: int = 0
    schema: str = ""
    number: int = 0
    leaves: list[Leaf] = msgspec.field(default_factory=list)
    wanted: tuple[str, ...] = ()
    below: renewal.Renewal | None = None
    done: dict[tuple[str, str], Receipt] = msgspec.field(default_factory=dict)
    failed: dict[str, Exception] = msgspec.field(default_factory=dict)
    loaded_now: int = 0
    clock: timings.Clock
    spans: list[timings.Span] = msgspec.field(default_factory=list)
    stints: list[timings.Stint] = msgspec.field(default_factory=list)
    publish_steps: dict[str, float] = msgspec.field(default_factory=dict)
    sent: Counter[str] = msgspec.field(default_factory=Counter)

    @property
    def connection(self) -> db.Connection:
        """The coordinator's connection as it is now: it may be lost, and another one take its place."""
        return self.session.connection

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Attribute the wall time since the phase before to this one, and say that it began."""
        self.progress(Event(phase=name, done=0, total=0, unit="steps"))
        try:
            yield
        finally:
            span = self.clock.lap(name)
            if name == timings.LOAD:
                self.spans.append(span)

    def parts(self) -> dict[str, float]:
        """Return what the time up to the last lap went to; see ``etl.timings``."""
        workers = timings.of_workers(self.stints, self.spans, self.pool.tasks) if self.spans else {}
        return {**self.clock.seconds, **timings.named(workers, self.publish_steps)}


def load(
    options: config.LoadOptions,
    progress: Progress | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    clock: timings.Clock | None = None,
    pool: parallel.Pool | None = None,
    line: session.Session | None = None,
) -> LoadResult:
    """Load the store's latest split (or ``options.split_id``) into a build and publish it; go on where one was stopped.

    A ``clock`` that runs already, because the run began before, is gone on with: its laps are among the timings. ``pool``
    are workers of ``options.executor`` that are starting already, and end when the load is done, or else with the caller.
    ``line`` is a session that the caller has opened for the load (``hold``), and closes.

    Raises:
        StoreError: the store holds no finished split, or one of another version.
        TooManyRejects: more records are set aside than the options allow; nothing was published.
        DatabaseError: the server is down or refuses.
        SchemaError: the database holds something else, or an old or newer schema.
        Busy, Incomplete: another run is loading the same live schema, or has taken the build over.
        WorkerDied, MismatchError: a leaf could not be loaded; the others are kept, and nothing was published.
        Interrupted: ``stop`` said so; the same command goes on.
    """
    clock = clock or timings.Clock()
    report = progress or _silent
    manifest = manifests.read(options.store, options.split_id)
    _check_tables(options)
    if options.split_id is None:
        _check_sources(manifest)
    where = dsn.resolve(options.dsn)
    with metrics.PeakMemory() as memory, nullcontext(line) if line else hold(options) as line:
        with line.connection.pipeline():
            lock, facts, ledger_facts = (
                line.ask_lock(),
                preflight.ask(line.connection, options),
                migrations.ask(line.connection),
            )
        free = preflight.require(facts, options, manifest)
        with pool or parallel.Pool(options.executor, {config.DSN_VARIABLE: where}) as pool:
            if (several := threads(options, line.round_trip_s, free)) > 1:
                pool.widen(several)
                pool.warm(*work.LOAD_MODULES, function=work.connect)
            migrations.ensure(line.connection, ledger_facts)
            line.lock(lock)
            run = _Run(
                options=options,
                manifest=manifest,
                session=line,
                progress=report,
                pool=pool,
                stop=stop,
                patience=retry.Patience(options.retry_timeout_s, stop),
                memory=memory,
                clock=clock,
            )
            try:
                result = retry.persist(lambda: _run(run), lambda: _come_back(run), run.patience)
            except BaseException as error:
                if run.number:
                    ledger.fail(run.connection, run.number, error, run.parts(), memory.peak_bytes)
                raise
    clock.lap("end")
    return msgspec.structs.replace(result, seconds=clock.total, timings=run.parts())


def hold(options: config.LoadOptions) -> AbstractContextManager[session.Session]:
    """Yield a session for a load, and close it; psycopg's errors leave the block as ``db.connect`` translates them."""
    name = f"etl load into {options.schema} by {db.whoami()}"[:63]
    return session.hold(dsn.resolve(options.dsn), name=name, live_schema=options.schema)


def has_room(options: config.LoadOptions, workers: int) -> bool:
    """Whether so many processes stay under the memory limit while they hold no data."""
    return COORDINATOR_BYTES + workers * WORKER_BASE_BYTES <= options.memory_limit_bytes


def threads(options: config.LoadOptions, round_trip_s: float, free: int) -> int:
    """Return how many leaves a worker loads at once: several if the server is far away, since most of them wait.

    As many as there is memory for, and connections (``free``); unless somebody said how many workers.
    """
    if not options.more_when_far or round_trip_s < FAR_S:
        return 1
    workers = parallel.parse(options.executor)[1]
    each = (options.memory_limit_bytes - COORDINATOR_BYTES) // workers - WORKER_BASE_BYTES
    found = max(1, min(MOST_THREADS, each // (_BATCH_COPIES * MIN_BATCH_BYTES), free // workers))
    away = "the server is %.0f ms away: each worker loads %s leaves at once"
    _log.info(away, 1000 * round_trip_s, found, extra={"action": "far"})
    return found


def _run(run: _Run) -> LoadResult:
    """Do what is left to do of a load, and leave its line in the import log; what is done already is skipped."""
    with run.connection.pipeline():
        if not run.number:
            ledger.close_lost(run.connection, run.options.schema)
            strangers = publish.ask_strangers(run.connection, run.options.schema, list(ddl.relations(tables.TABLES)))
        found = run.connection.execute(db.query("live"), {"schema": run.options.schema})
    if not run.number:
        publish.refuse_strangers(run.options.schema, strangers)
    row = found.fetchone()
    run.wanted = _wanted(run, row)
    if not run.number:
        live = _live(run, row)
        run.clock.lap("start")
        if live is not None:
            run.pool.kill()  # there is nothing for the workers to do
            return live
        if not run.pool.is_started:
            run.pool.warm(*work.LOAD_MODULES)
        with run.phase("plan"):
            _plan(run)
            _read_what_is_done(run)
    _work(run)
    with run.phase("finish"):
        gather = partial(_round_off, run)
        if run.is_finished:
            rows = finish.counted(run.connection, run.schema, run.wanted, run.done)
        else:
            rows = finish.finish(
                run.connection, run.build, run.schema, run.leaves, run.wanted, run.done, run.extensions, gather
            )
        set_aside = outcome.load_rejects(run.connection, run.build)
        counts = outcome.counts(run.manifest, rows, set_aside)
    with run.phase("publish"):
        published = _publish(run)
    _index_late(run)
    run.clock.lap("end")
    result = _result(run, run.build, published.generation, counts, set_aside, settled=published.settled)
    ledger.end(run.connection, run.number, outcome.ending(result, run.options.store, run.manifest, set_aside))
    return result


def _come_back(run: _Run) -> None:
    """Stand where the run stood before the database went away: the lock, the build, and the receipts as they are now.

    Receipts tell what is done, also where the answer to a commit was lost, and where a crash of the server took back
    what ``--durability fast`` had not yet brought to the disk.

    Raises:
        Busy, Incomplete: another run has taken the lock, or has had it in the meantime.
    """
    run.clock.lap("database away")
    run.came_back = True
    run.session.restore()
    if not run.number:
        return
    row = run.connection.execute(db.query("build_is_ours"), {"build": run.build, "epoch": run.epoch}).fetchone()
    if row is None or not row[0]:
        raise Incomplete(f"another run has taken over build {run.build}; it is left to it", "etl status")
    _end_workers(run.connection, run.build)
    before = run.done
    _read_what_is_done(run)
    if run.done.keys() - before.keys():
        run.patience.progress()


def _silent(event: Event) -> None:
    """Take an event and show nothing."""


def _check_tables(options: config.LoadOptions) -> None:
    unknown = [name for name in options.tables if name not in tables.TABLES]
    if unknown:
        raise UsageError(f"there is no table {', '.join(unknown)}", f"the tables are {', '.join(tables.TABLES)}")


def _check_sources(manifest: Manifest) -> None:
    """Refuse to load the latest split of a source that is another one by now: that is hardly what was meant."""
    changed = splitter.source_changed(manifest)
    if changed:
        raise InputError(
            f"{'; '.join(changed)}; the split {manifest.split_id} is of what it was before",
            f"etl split again, or load the old one: etl load --split {manifest.split_id}",
        )


def _wanted(run: _Run, row: tuple[Any, ...] | None) -> tuple[str, ...]:
    """Return the tables of the build: those asked for, and those that the published one of the same split (``row``) has."""
    asked = run.options.tables or tables.TABLES
    there = row[5] if row and row[4] == run.manifest.split_id and not run.options.fresh else ()
    return tuple(name for name in tables.TABLES if name in asked or name in there)


def _live(run: _Run, row: tuple[Any, ...] | None) -> LoadResult | None:
    """Return the result to report where the published build (``row``) is already what is wanted, else None."""
    if row is None:
        return None
    build, generation, _, _, split_id, names, versions, *_ = row
    publish.settle(run.connection, run.options.schema)
    lost = [name for name in names if name not in run.wanted]
    if split_id == run.manifest.split_id and not run.options.fresh and not renewal.stale(run.wanted, versions):
        run.build, run.schema = build, publish.schema_of(run.options.schema, build)
        _index_late(run)
        rows = Counter[str]()
        for (table, _), receipt in receipts.read(run.connection, build).items():
            rows[table] += receipt.rows
        kept = {name: rows[name] for name in names}
        set_aside = outcome.load_rejects(run.connection, build)
        counts = outcome.counts(run.manifest, kept, set_aside)
        return _result(run, build, generation, counts, set_aside, nothing_to_do=True)
    if lost:
        raise UsageError(
            f"a build without {', '.join(lost)} would take these tables from the readers of {run.options.schema}",
            "leave out --tables",
        )
    if not run.options.fresh:
        run.below = renewal.find(run.connection, run.options.schema, run.manifest.split_id, run.wanted)
    return None


def _plan(run: _Run) -> None:
    """Find the build to go on with, or begin one; from here on, older workers of it are gone."""
    run.build, run.leaves = 0, []
    paths = [*map(ddl.table_file, tables.TABLES), *(path for _, path in ddl.views())]  # a build has all tables
    values = {"schema": run.options.schema}
    with run.connection.pipeline():
        extensions = ddl.ask_extensions(run.connection, paths)
        unfinished = run.connection.execute(db.query("unfinished_builds"), values)
        half_dropped = run.connection.execute(db.query("half_dropped_builds"), values)
    run.extensions = ddl.found_extensions(run.connection, extensions)
    for build, split_id, names, versions, plan in unfinished:
        current = versions == renewal.versions(run.wanted) and tuple(names) == run.wanted
        _take_over(run.connection, build)
        leaves = [leaf_of(values) for values in plan]
        if split_id == run.manifest.split_id and current and not run.build and _stands(run, build, leaves):
            run.build, run.leaves = build, leaves
        else:
            _drop(run.connection, run.options.schema, build)
    for (build,) in half_dropped:
        _drop(run.connection, run.options.schema, build)
    if run.build:
        run.epoch = _take_over(run.connection, run.build)
    else:
        _begin(run)
    run.schema = publish.schema_of(run.options.schema, run.build)


def _read_what_is_done(run: _Run) -> None:
    """Read where the build stands, and write the run's line into the import log unless it is there."""
    begun: db.Cursor | None = None
    with run.connection.pipeline():
        done = receipts.ask(run.connection, run.build)
        finished = finish.ask_finished(run.connection, run.build)
        enrols = keys.ask_enrolment(run.connection, run.schema)
        if not run.number:
            begun = ledger.begin(
                run.connection,
                manifest=run.manifest,
                command=run.options.command,
                live_schema=run.options.schema,
                build=run.build,
                workers=run.pool.workers,
            )
    run.number = int(begun.fetchall()[0][0]) if begun else run.number
    run.done, run.is_finished = receipts.answered(done), bool(finished.fetchall()[0][0])
    run.enrols = bool(enrols.fetchall()[0][0])


def _stands(run: _Run, build: int, leaves: list[Leaf]) -> bool:
    """Whether an unfinished build stands on what this run's would stand on: on nothing, or on the published build.

    Nor does one stand that enrols the first powers of a database which has others by now.
    """
    schema = publish.schema_of(run.options.schema, build)
    if keys.is_overtaken(run.connection, schema):
        return False
    if run.below is not None and leaves != _leaves_of(run.connection, run.below.base):
        return False
    return renewal.fits(run.connection, run.below, schema, run.wanted)


def _leaves_of(connection: db.Connection, build: int) -> list[Leaf]:
    row = connection.execute(db.query("build_plan"), {"build": build}).fetchone()
    return [leaf_of(values) for values in row[0]] if row else []


def leaf_of(values: dict[str, object]) -> Leaf:
    """Return a leaf from what ``asdict`` made of it in a build's plan."""
    return Leaf(**{**values, "powersets": tuple(values["powersets"])})  # type: ignore[arg-type]  # as asdict wrote it


def _take_over(connection: db.Connection, build: int) -> int:
    """Raise the build's epoch, end the workers of older coordinators, and wait until they are gone."""
    with db.at_once(connection):
        raised = connection.execute(db.query("raise_epoch"), {"build": build})
        connection.execute("commit")  # who comes from here on is to see it
        connection.execute("begin")
        _ask_to_end_workers(connection, build)
    row = raised.fetchone()
    return int(row[0]) if row else 0


def _end_workers(connection: db.Connection, build: int) -> None:
    """End what the server still does for workers of a build, and wait until their transactions are gone."""
    with db.at_once(connection):
        _ask_to_end_workers(connection, build)


def _ask_to_end_workers(connection: db.Connection, build: int) -> None:
    connection.execute(db.query("end_older_workers"), {"space": db.LOCK_SPACE, "build": build})
    connection.execute(db.query("lock_build_alone"), {"space": db.LOCK_SPACE, "build": build})


def _drop(connection: db.Connection, live_schema: str, build: int) -> None:
    """Drop a build that was never published and will not be gone on with.

    It is forgotten first, so that no run goes on with what a killed one has left of it. Views that name it since a
    publication that failed keep it until they have settled: it goes with a later run.
    """
    schema = publish.schema_of(live_schema, build)
    if build in publish.named_builds(connection, live_schema):
        _log.info("build %s is still named by the views of %s; a later run drops it", build, live_schema)
        return
    with connection.transaction():
        connection.execute(db.query("forget_build"), {"build": build})
        connection.execute(db.query("drop_build_row"), {"build": build})
    ddl.drop_build(connection, schema)


def _begin(run: _Run) -> None:
    """Begin a build in one transaction: ids of archetypes and powersets, its plan, its empty tables, its entities.

    A renewal has the plan of the build below it, and views of what it does not make anew.
    """
    manifest, connection, below = run.manifest, run.connection, run.below
    archetypes = entities.read(run.options.store, manifest, "archetypes")
    powersets = entities.read(run.options.store, manifest, "powersets")
    with db.at_once(connection):
        asked = keys.ask_register(connection, archetypes, powersets)
        numbered = connection.execute(db.query("next_build"))
        archetype_ids, powerset_ids = keys.registered(asked)
        run.build, run.epoch = int(numbered.fetchall()[0][0]), 0  # etl.build.epoch begins there
        if below is None:
            run.leaves = cut_leaves(manifest.partitions, archetype_ids, powerset_ids)
        else:
            run.leaves = _leaves_of(connection, below.base)
        connection.execute(
            db.query("create_build"),
            {
                "build": run.build,
                "schema": run.options.schema,
                "split_id": manifest.split_id,
                "store": storage.absolute(run.options.store),
                "format": manifest.format,
                "game_version": manifest.game_version,
                "tables": list(run.wanted),
                "versions": json.dumps(renewal.versions(run.wanted)),
                "plan": json.dumps([msgspec.structs.asdict(leaf) for leaf in run.leaves]),
            },
        )
        schema = publish.schema_of(run.options.schema, run.build)
        branches = {leaf.archetype: leaf.archetype_id for leaf in run.leaves if not leaf.is_only}
        made = renewal.made(connection, below)
        ddl.create_build(connection, schema, branches, deferred=run.options.deferred, names=made, homes=run.extensions)
        if below is None and "powers" in run.wanted:
            keys.begin_enrolment(connection, schema)
        if below is not None:
            renewal.lean(connection, below, run.build, schema)
        entity_rows = keys.entity_rows(archetypes, powersets, archetype_ids, powerset_ids)
        rows = keys.insert_entities(connection, schema, entity_rows, names=[n for n in keys.ENTITY_TABLES if n in made])
        keys.index_entities(connection, schema, rows)
        for name, count in rows.items():
            receipt = Receipt(
                table=name,
                leaf="all",
                digest=manifest.entities_digest,
                version=ddl.version(name),
                rows=count,
                bytes=0,
            )
            receipts.record(connection, run.build, receipt)


def _work(run: _Run) -> None:
    """Do what comes before a build is finished.

    Raises:
        StoreError: a part is not what was written. The build is dropped: what changes while it is read may pass for data,
            and nobody knows since when it is so.
    """
    try:
        _fill(run)
    except StoreError as error:
        _end_workers(run.connection, run.build)
        _drop(run.connection, run.options.schema, run.build)
        raise StoreError(
            f"{error.message}; build {run.build}, which may have read it, was dropped", error.hint
        ) from error


def _fill(run: _Run) -> None:
    """Register the names, load the leaves that have no receipt, index the plain tables; prove the parts before and after."""
    with run.phase("check"):
        _check_parts(run, [leaf for leaf in run.leaves if not _is_loaded(run, leaf)])
    with run.phase("register"):
        if not run.enrols and ("power_directory", "all") not in run.done:
            task = RegisterTask(
                build=run.build,
                epoch=run.epoch,
                schema=run.schema,
                store=run.options.store,
                split_id=run.manifest.split_id,
                version="1",
            )
            for receipt in collect(run.pool, work.register, [task], run.stop):
                run.sent[receipt.table] += receipt.bytes
            _stop_here(run)
    with run.phase("load"):
        _load_leaves(run)
    with run.phase("index"):
        tasks = [
            IndexTask(
                build=run.build,
                epoch=run.epoch,
                schema=run.schema,
                table=name,
                version=ddl.version(name),
                durability=run.options.durability,
                deferred=run.options.deferred,
            )
            for name in finish.plain_tables(run.wanted)
            if (name, "indexes") not in run.done
        ]
        _each(run, work.index_table, tasks)
    if not run.is_finished:  # else they were proven, and may be gone by now
        with run.phase("check again"):
            _check_parts(run, run.leaves)


def _check_parts(run: _Run, leaves: Sequence[Leaf]) -> None:
    """Prove the parts that leaves are read from: a flipped bit can pass for data (3 of 6 did)."""
    todo = {name for leaf in leaves for name in leaf.powersets}
    named = {ref.part for p in run.manifest.partitions if p.powerset in todo for ref in p.batches}
    tasks = [
        CheckTask(store=run.options.store, split_id=run.manifest.split_id, part=part)
        for part in run.manifest.parts
        if part.name in named
    ]
    _each(run, work.check_part, tasks)


def _round_off(run: _Run, names: Sequence[str], meanwhile: Callable[[], None]) -> None:
    """Have workers register what the leaves enrolled, and analyze partitioned tables; call ``meanwhile`` while they do."""
    tasks: list[StatisticsTask | EnrolTask] = [
        StatisticsTask(build=run.build, epoch=run.epoch, schema=run.schema, table=name) for name in names
    ]
    if run.enrols:
        enrolment = EnrolTask(
            build=run.build,
            epoch=run.epoch,
            schema=run.schema,
            split_id=run.manifest.split_id,
            version="1",
            rows=run.manifest.rows,
            resolves="power_prerequisites" in run.wanted,
        )
        tasks.insert(0, enrolment)
    _stop_here(run)
    if len(list(collect(run.pool, work.round_off, tasks, run.stop, len(tasks), meanwhile))) < len(tasks):
        _stop_here(run)


def _publish(run: _Run) -> publish.Publication:
    """Publish the build, unless it is live already: the answer to the flip may have been lost with the connection."""
    row = run.connection.execute(db.query("live"), {"schema": run.options.schema}).fetchone() if run.came_back else None
    if row is not None and row[0] == run.build:
        return publish.Publication(generation=row[1], settled=publish.settle(run.connection, run.options.schema))
    published = publish.publish(
        run.connection,
        run.options.schema,
        run.build,
        timeout_s=run.options.publish_timeout_s,
        lock_timeout_s=run.options.lock_timeout_s,
        run=run.number,
    )
    run.publish_steps = dict(published.seconds)
    _log.info(
        "build %s is published: generation %s", run.build, published.generation,
        extra={"action": "published", "build": run.build, **published.seconds},
    )  # fmt: skip
    return published


def _index_late(run: _Run) -> None:
    """Build the indexes that the published build lacks, because they were left for later, or somebody dropped them."""
    homes: dict[str, list[str]] = {}
    names = [name for name in run.wanted if name in tables.LEAF_TABLES]
    for name, schema in _homes(run, names).items():
        homes.setdefault(schema, []).append(name)
    extensions = run.extensions or None
    for schema, wanted in homes.items():
        if not lateindex.missing(run.connection, schema, wanted, run.build, run.epoch, extensions):
            continue
        with run.phase("index later"):
            run.epoch = _take_over(run.connection, run.build)
            _each(run, work.index_late, lateindex.missing(run.connection, schema, wanted, run.build, run.epoch))
            lateindex.attach(
                run.connection,
                schema,
                wanted,
                timeout_s=run.options.publish_timeout_s,
                lock_timeout_s=run.options.lock_timeout_s,
            )


def _homes(run: _Run, names: list[str]) -> dict[str, str]:
    """Return the schema that holds each table; a build of this run that stands on no other one has them all itself."""
    if run.number and run.below is None:
        return dict.fromkeys(names, run.schema)
    return ddl.homes(run.connection, run.schema, names)


def _each(run: _Run, function: Callable[[T], object], tasks: list[T]) -> None:
    """Run small tasks; the first failure is raised."""
    list(collect(run.pool, function, tasks, run.stop))
    _stop_here(run)


def collect(
    pool: parallel.Pool,
    function: Callable[[T], R],
    tasks: Sequence[T],
    stop: Callable[[], bool],
    window: int | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[R]:
    """Yield the results of tasks as they end; the first failure is raised. For the rest see ``parallel.Pool.run``."""
    with closing(pool.run(function, tasks, window=window, stop=stop, meanwhile=meanwhile)) as outcomes:
        for _, ended in outcomes:
            if isinstance(ended, Exception):
                raise ended
            yield ended


def _stop_here(run: _Run) -> None:
    if run.stop():
        raise Interrupted("stopped; what is finished is kept", "the same command goes on from here")


def _load_leaves(run: _Run) -> None:
    """Load what has no receipt, biggest leaves first; a failed leaf does not keep the others from being loaded.

    Raises:
        Transient: some leaves failed because the database went away, or was too busy; they are worth another round.
        EtlError: other leaves failed, and all that could be loaded is.
    """
    todo = [leaf for leaf in run.leaves if not _is_loaded(run, leaf) and leaf.name not in run.failed]
    total = sum(leaf.rows for leaf in run.leaves)
    ready = total - sum(leaf.rows for leaf in todo)
    lost: list[Exception] = []
    with run.connection.pipeline():
        refused = outcome.count_rejects(run.connection, run.build)
        found = keys.powerset_ids(run.connection, [uid for leaf in todo for uid in leaf.powersets])
    ids: dict[str, int] = dict(found.fetchall())
    rejected = run.manifest.rejects + refused.fetchall()[0][0]
    limits.check_all(run.options.max_rejects, rejected, run.manifest.records)
    run.progress(_loading(run, ready, total, len(todo)))
    firsts = (
        dict(zip((leaf.name for leaf in run.leaves), keys.first_ids(run.leaves), strict=True)) if run.enrols else {}
    )
    tasks = [_task(run, leaf, ids, firsts.get(leaf.name)) for leaf in sorted(todo, key=lambda leaf: -leaf.bytes)]
    outcomes = run.pool.run(
        work.load_leaf,
        tasks,
        stop=lambda: run.stop() or run.session.is_lost,
        throttle=lambda: _is_tight(run),
    )
    for number, (task, ended) in enumerate(outcomes, 1):
        if isinstance(ended, TooManyRejects):
            raise ended
        if isinstance(ended, Exception):
            _note_failure(run, task.leaf.name, ended, lost)
            continue
        ready += task.leaf.rows
        run.loaded_now += 1
        _note_leaf(run, ended)
        rejected += ended.rejects
        limits.check_all(run.options.max_rejects, rejected, run.manifest.records)
        run.progress(replace(_loading(run, ready, total, len(todo) - number), message=ended.leaf))
    _stop_here(run)
    if lost or run.session.is_lost:
        raise lost[0] if lost else Transient("the connection of the coordinator was lost")
    if run.failed:
        raise _failed(run.failed)
    run.done = receipts.read(run.connection, run.build)


def _loading(run: _Run, ready: int, total: int, leaves: int) -> Event:
    """Return where loading is, with ``leaves`` to come: those in flight are what a stopped run waits for."""
    flying = min(leaves, run.pool.window)
    return Event(phase="load", done=ready, total=total, unit="rows", facts={"leaves_in_flight": flying})


def _is_tight(run: _Run) -> bool:
    """Whether the processes are near the memory limit: then leaves come one after another, rather than not at all."""
    was, run.is_tight = run.is_tight, run.memory.now_bytes > PRESSURE * run.options.memory_limit_bytes
    if run.is_tight and not was:
        facts = {"action": "memory_pressure", "bytes": run.memory.now_bytes}
        _log.warning("%d MB are in use, near the limit: one leaf at a time", run.memory.now_bytes // MIB, extra=facts)
    return run.is_tight


def _note_failure(run: _Run, leaf: str, error: Exception, lost: list[Exception]) -> None:
    """Tell a leaf that is worth another round from one that is not."""
    if retry.is_transient(error):
        _log.warning("leaf %s: %s", leaf, error, extra={"action": "leaf_retry", "leaf": leaf})
        lost.append(error)
    else:
        _log.error("leaf %s failed: %s", leaf, error)
        run.failed[leaf] = error


def _failed(failures: Mapping[str, Exception]) -> EtlError:
    """Return the error to end with: the first one's kind and way on, naming every leaf that failed."""
    first = next(iter(failures.values()))
    kind = type(first) if isinstance(first, EtlError) else EtlError
    text = first.message if isinstance(first, EtlError) else f"{type(first).__name__}: {first}"
    hint = first.hint if isinstance(first, EtlError) else None
    return kind(
        f"{len(failures)} of the leaves failed ({', '.join(failures)}); nothing was published. {text}",
        hint or "run the same command again; finished leaves are kept",
    )


def _is_loaded(run: _Run, leaf: Leaf) -> bool:
    return all((name, leaf.name) in run.done for name in run.wanted if name in tables.LEAF_TABLES)


def _task(run: _Run, leaf: Leaf, ids: Mapping[str, int], first_id: int | None) -> LeafTask:
    return LeafTask(
        run=run.number,
        build=run.build,
        epoch=run.epoch,
        schema=run.schema,
        store=run.options.store,
        split_id=run.manifest.split_id,
        leaf=leaf,
        tables=tuple(
            (name, ddl.version(name))
            for name in run.wanted
            if name in tables.LEAF_TABLES and (name, leaf.name) not in run.done
        ),
        powerset_ids=tuple(ids[uid] for uid in leaf.powersets),
        extensions=tuple(run.extensions.items()),
        renews=run.below is not None,
        batch_rows=run.options.batch_rows,
        batch_bytes=batch_bytes(run.options, run.pool.workers, run.pool.threads),
        durability=run.options.durability,
        indexes=run.options.indexes,
        deferred=run.options.deferred,
        freeze=run.options.freeze,
        most_rejects=run.options.max_rejects.of(run.manifest.records) if run.options.max_rejects else None,
        first_id=first_id,
    )


def batch_bytes(options: config.LoadOptions, workers: int, threads: int = 1) -> int:
    """Return how many bytes of records each thread of a worker may take at once within the memory limit.

    A worker holds a batch several times over: as read, as Python objects, as columns of the tables, as encoded for COPY.
    """
    budget = (options.memory_limit_bytes - COORDINATOR_BYTES) // workers - WORKER_BASE_BYTES
    return max(MIN_BATCH_BYTES, min(MAX_BATCH_BYTES, budget // threads // _BATCH_COPIES))


def _note_leaf(run: _Run, result: LeafResult) -> None:
    """Add a leaf to what the run has done."""
    run.sent.update(result.bytes)
    if result.stint:
        run.stints.append(result.stint)
    facts = {"action": "leaf_loaded", "leaf": result.leaf, "rows": result.rows, "seconds": round(result.seconds, 3)}
    _log.info("leaf %s: %s powers in %.2f s", result.leaf, result.rows.get("powers", 0), result.seconds, extra=facts)


def _result(
    run: _Run,
    build: int,
    generation: int,
    counts: Mapping[str, Any],
    set_aside: list[Reject],
    *,
    settled: bool = True,
    nothing_to_do: bool = False,
) -> LoadResult:
    """Return what a load has come to."""
    return LoadResult(
        **counts,
        split_id=run.manifest.split_id,
        build=build,
        generation=generation,
        settled=settled,
        nothing_to_do=nothing_to_do,
        reject_paths=outcome.reject_paths(run.options.store, run.manifest, build, set_aside),
        bytes=dict(run.sent),
        leaves_loaded=run.loaded_now,
        leaves_kept=len(run.leaves) - run.loaded_now,
        seconds=run.clock.total,
        timings=run.parts(),
        peak_bytes=run.memory.peak_bytes,
        run=run.number,
        renewed=run.below.names if run.below else (),
        notes=run.manifest.notes,
    )
