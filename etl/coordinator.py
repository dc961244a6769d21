"""The coordinator: plan = wanted - receipts; runs it, finishes, publishes. It holds the one lock of a live schema.

It imports neither polars nor pyarrow: those live in the workers.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import msgspec

from etl import (
    begin,
    config,
    db,
    ddl,
    dsn,
    fill,
    finish,
    lateindex,
    ledger,
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
    sizing,
    splitter,
    tables,
    timings,
    work,
)
from etl.errors import Incomplete, InputError, UsageError
from etl.model import Event, Manifest, Progress, Reject
from etl.outcome import LoadResult
from etl.plan import REFERENCES, EnrolTask, IndexTask, StatisticsTask
from etl.run import Run, each, stop_here
from etl.store import manifest as manifests

_log = logging.getLogger(__name__)


def load(
    options: config.LoadOptions,
    progress: Progress | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    clock: timings.Clock | None = None,
    pool: parallel.Pool | None = None,
    opening: "Opening | None" = None,
) -> LoadResult:
    """Load the store's latest split (or ``options.split_id``) into a build and publish it; go on where one was stopped.

    A ``clock`` that runs already, because the run began before, is gone on with: its laps are among the timings. ``pool``
    are workers of ``options.executor`` that are starting already, and end when the load is done, or else with the caller.
    ``opening`` is what the caller has opened for the load (``hold``), and closes.

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
    with (
        db.translated(where),
        metrics.PeakMemory() as memory,
        nullcontext(opening) if opening else hold(options) as opened,
    ):
        line = opened.line
        free = preflight.require(opened.facts, options, manifest)
        with pool or parallel.Pool(options.executor, {config.DSN_VARIABLE: where}) as pool:
            migrations.ensure(line.connection, opened.ledger)
            line.lock(opened.lock)
            if (several := sizing.threads(options, line.round_trip_s, free)) > 1:
                pool.widen(several)
                if not pool.is_started:
                    pool.warm(*work.LOAD_MODULES)
                pool.warm(function=work.connect)
            run = Run(
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


class Opening(msgspec.Struct, frozen=True):
    """A session for a load, and what the server was asked when it began."""

    line: session.Session
    lock: db.Cursor
    facts: preflight.Asked
    ledger: migrations.Asked


@contextmanager
def hold(options: config.LoadOptions) -> Iterator[Opening]:
    """Yield a session for a load, and close it; psycopg's errors leave the block as ``db.connect`` translates them.

    It may have the lock of the live schema, which is its first question.
    """
    asked: list[tuple[db.Cursor, preflight.Asked, migrations.Asked]] = []

    def ask(connection: db.Connection) -> None:
        lock = session.ask_lock(connection, options.schema)
        asked.append((lock, preflight.ask(connection, options), migrations.ask(connection)))

    name = f"etl load into {options.schema} by {db.whoami()}"[:63]
    with session.hold(dsn.resolve(options.dsn), name=name, live_schema=options.schema, ask=ask) as line:
        yield Opening(line, *asked[0])


def _run(run: Run) -> LoadResult:
    """Do what is left to do of a load, and leave its line in the import log; what is done already is skipped."""
    with run.connection.pipeline():
        if not run.number:
            ledger.close_lost(run.connection, run.options.schema)
            strangers = publish.ask_strangers(run.connection, run.options.schema, list(ddl.relations(tables.TABLES)))
            asked = begin.ask(run)
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
            begin.plan(run, asked)
            begin.read_what_is_done(run)
    fill.fill(run)
    with run.phase("finish"):
        gather = partial(_round_off, run)
        rejects: list[db.Cursor] = []

        def ask() -> None:
            rejects.append(outcome.ask_rejects(run.connection, run.build))

        if run.is_finished:
            rows = finish.counted(run.connection, run.schema, run.wanted, run.done)
            ask()
        else:
            parts = run.connection, run.build, run.schema, run.leaves, run.wanted, run.done, run.extensions, gather
            rows = finish.finish(*parts, asked=run.asked, beside=ask)
        set_aside = outcome.answered(rejects[-1])
        counts = outcome.counts(run.manifest, rows, set_aside)
    with run.phase("publish"):
        published = _publish(run)
    if not _is_all_indexed(run):
        _index_late(run)
    run.clock.lap("end")
    result = _result(run, run.build, published.generation, counts, set_aside, settled=published.settled)
    ledger.end(run.connection, run.number, outcome.ending(result, run.options.store, run.manifest, set_aside))
    return result


def _come_back(run: Run) -> None:
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
    begin.end_workers(run.connection, run.build)
    before = run.done
    begin.read_what_is_done(run)
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


def _wanted(run: Run, row: tuple[Any, ...] | None) -> tuple[str, ...]:
    """Return the tables of the build: those asked for, and those that the published one of the same split (``row``) has."""
    asked = run.options.tables or tables.TABLES
    there = row[5] if row and row[4] == run.manifest.split_id and not run.options.fresh else ()
    return tuple(name for name in tables.TABLES if name in asked or name in there)


def _live(run: Run, row: tuple[Any, ...] | None) -> LoadResult | None:
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


def _round_off(run: Run, names: Sequence[str], meanwhile: Callable[[], None]) -> None:
    """Have workers register what the leaves enrolled, index plain tables and analyze those of ``names``; see ``finish``.

    ``meanwhile`` is called while they do. Enrolment and the statistics of powers go one after the other near the server. What
    enrolment changes is indexed last: until it is done, that would wait.
    """
    tasks: list[tuple[StatisticsTask | IndexTask | EnrolTask, ...]] = [(task,) for task in _indexes(run)]
    tasks.sort(key=lambda each: isinstance(each[0], IndexTask) and each[0].table == REFERENCES)
    statistics = {
        name: StatisticsTask(build=run.build, epoch=run.epoch, schema=run.schema, table=name) for name in names
    }
    if run.enrols:
        enrolment = EnrolTask(
            build=run.build,
            epoch=run.epoch,
            schema=run.schema,
            split_id=run.manifest.split_id,
            version="1",
            rows=run.manifest.rows,
            resolves=REFERENCES in run.wanted,
        )
        # One after the other: the view takes as long as both, and is ready sooner with a core of its own. Where the server
        # is far away the way takes longer than the work.
        if run.pool.threads > 1:
            tasks.insert(0, (enrolment,))
        else:
            tasks.insert(0, (enrolment, statistics.pop("powers")))
    tasks[1:1] = [(task,) for task in statistics.values()]
    stop_here(run)
    if len(list(parallel.collect(run.pool, work.round_off, tasks, run.stop, len(tasks), meanwhile))) < len(tasks):
        stop_here(run)


def _indexes(run: Run) -> list[StatisticsTask | IndexTask | EnrolTask]:
    """Return a task for each plain table that is not indexed yet."""
    return [
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


def _publish(run: Run) -> publish.Publication:
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


def _is_all_indexed(run: Run) -> bool:
    """Whether this run made all tables itself, with all indexes: then nobody need look for what is missing.

    A build that another run began, with parents that may lack some, has been taken over: its epoch is higher.
    """
    made_all = run.below is None and not run.epoch
    return made_all and run.options.deferred == "none" and not run.came_back


def _index_late(run: Run) -> None:
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
            run.epoch = begin.take_over(run.connection, run.build)
            each(run, work.index_late, lateindex.missing(run.connection, schema, wanted, run.build, run.epoch))
            lateindex.attach(
                run.connection,
                schema,
                wanted,
                timeout_s=run.options.publish_timeout_s,
                lock_timeout_s=run.options.lock_timeout_s,
            )


def _homes(run: Run, names: list[str]) -> dict[str, str]:
    """Return the schema that holds each table; a build of this run that stands on no other one has them all itself."""
    if run.number and run.below is None:
        return dict.fromkeys(names, run.schema)
    return ddl.homes(run.connection, run.schema, names)


def _result(
    run: Run,
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
