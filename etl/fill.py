"""Filling a build: names registered, leaves loaded by workers, and attached; the parts proven before and after."""

import contextlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import psycopg

from etl import begin, db, ddl, keys, limits, outcome, parallel, receipts, retry, sizing, tables, work
from etl.config import MIB
from etl.errors import EtlError, StoreError, TooManyRejects, Transient
from etl.model import Event
from etl.plan import CheckTask, Leaf, LeafResult, LeafTask, RegisterTask, shares
from etl.run import Run, each, is_loaded, stop_here

_log = logging.getLogger(__name__)

# From this share of the memory limit on, a run slows down.
PRESSURE = 0.9
# Nobody but a dump, say, looks at a leaf that was just loaded; workers wait for the coordinator meanwhile.
_ATTACH_S = 0.2


def fill(run: Run) -> None:
    """Do what comes before a build is finished.

    Raises:
        StoreError: a part is not what was written. The build is dropped: what changes while it is read may pass for data,
            and nobody knows since when it is so.
    """
    try:
        _fill_tables(run)
    except StoreError as error:
        begin.end_workers(run.connection, run.build)
        begin.drop(run.connection, run.options.schema, run.build)
        raise StoreError(
            f"{error.message}; build {run.build}, which may have read it, was dropped", error.hint
        ) from error


def _fill_tables(run: Run) -> None:
    """Register the names, load the leaves that have no receipt; prove the parts before and after."""
    with run.phase("check"):
        _check_parts(run, [leaf for leaf in run.leaves if not is_loaded(run, leaf)])
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
            for receipt in parallel.collect(run.pool, work.register, [task], run.stop):
                run.sent[receipt.table] += receipt.bytes
            stop_here(run)
    with run.phase("load"):
        _load_leaves(run)
    if not run.is_finished:  # else they were proven, and may be gone by now
        with run.phase("check again"):
            _check_parts(run, run.leaves)


def _check_parts(run: Run, leaves: Sequence[Leaf]) -> None:
    """Prove the parts that leaves are read from: a flipped bit can pass for data (3 of 6 did)."""
    todo = {name for leaf in leaves for name in leaf.powersets}
    named = {ref.part for p in run.manifest.partitions if p.powerset in todo for ref in p.batches}
    found = [part for part in run.manifest.parts if part.name in named]
    tasks = [
        CheckTask(store=run.options.store, split_id=run.manifest.split_id, parts=share)
        for share in shares(found, run.pool.tasks)
    ]
    each(run, work.check_parts, tasks)


def _load_leaves(run: Run) -> None:
    """Load what has no receipt, biggest leaves first; a failed leaf does not keep the others from being loaded.

    Raises:
        Transient: some leaves failed because the database went away, or was too busy; they are worth another round.
        EtlError: other leaves failed, and all that could be loaded is.
    """
    todo = [leaf for leaf in run.leaves if not is_loaded(run, leaf) and leaf.name not in run.failed]
    total = sum(leaf.rows for leaf in run.leaves)
    ready = total - sum(leaf.rows for leaf in todo)
    lost: list[Exception] = []
    with run.connection.pipeline():
        refused = outcome.count_rejects(run.connection, run.build)
        if not run.powerset_ids:
            wanted = [uid for leaf in todo for uid in leaf.powersets]
            found = keys.powerset_ids(run.connection, wanted)
        attached = ddl.ask_partitions(run.connection, run.schema)
    ids = run.powerset_ids or dict(found.fetchall())
    partitions = attached.fetchall()
    rejected = run.manifest.rejects + refused.fetchall()[0][0]
    limits.check_all(run.options.max_rejects, rejected, run.manifest.records)
    run.progress(_loading(run, ready, total, len(todo)))
    firsts = (
        dict(zip((leaf.name for leaf in run.leaves), keys.first_ids(run.leaves), strict=True)) if run.enrols else {}
    )
    tasks = [_task(run, leaf, ids, firsts.get(leaf.name)) for leaf in _in_order(todo, run.pool.threads)]
    outcomes = run.pool.run(
        work.load_leaf,
        tasks,
        stop=lambda: run.stop() or run.session.is_lost,
        throttle=lambda: _is_tight(run),
    )
    with contextlib.closing(outcomes):
        for number, (task, ended) in enumerate(outcomes, 1):
            if isinstance(ended, TooManyRejects):
                raise ended
            if isinstance(ended, Exception):
                _note_failure(run, task.leaf.name, ended, lost)
                continue
            ready += task.leaf.rows
            run.loaded_now += 1
            _note_leaf(run, ended)
            _attach(run, task, partitions)
            rejected += ended.rejects
            limits.check_all(run.options.max_rejects, rejected, run.manifest.records)
            run.progress(replace(_loading(run, ready, total, len(todo) - number), message=ended.leaf))
    stop_here(run)
    if lost or run.session.is_lost:
        raise lost[0] if lost else Transient("the connection of the coordinator was lost")
    if run.failed:
        raise _failed(run.failed)
    run.done = receipts.read(run.connection, run.build)


def _attach(run: Run, task: LeafTask, partitions: Sequence[tuple[Any, ...]]) -> None:
    """Attach the tables of a leaf that is loaded, while others are.

    What cannot be attached at once is left to ``finish``, which has nothing else to wait for, and tells what is wrong; so are
    the leaves of a build that another run began, whose parents may want indexes that this run's leaves do not have, and all
    where the server is far away: there each would be a wait for workers that have nothing to do, and together they are one.
    """
    if run.epoch or run.pool.threads > 1 or run.session.is_lost:
        return
    names = [name for name, _ in task.tables if tables.spec(name).partitioned]
    statements = list(ddl.attachments(partitions, run.schema, names, [task.leaf]))
    try:
        db.each_at_once(run.connection, statements, lock_timeout_s=_ATTACH_S)
    except psycopg.Error as error:
        _log.info("leaf %s is loaded, and attached later: %s", task.leaf.name, str(error).strip())


def _in_order(leaves: Sequence[Leaf], threads: int) -> list[Leaf]:
    """Return leaves in the order in which they are begun: biggest first, so that no core is left with a big one at the end.

    Where the server is far away, a small leaf waits more than it works: each goes beside a big one then.
    """
    found = sorted(leaves, key=lambda leaf: -leaf.bytes)
    if threads == 1:
        return found
    middle = -(-len(found) // 2)
    pairs = itertools.zip_longest(found[:middle], reversed(found[middle:]))
    return [leaf for pair in pairs for leaf in pair if leaf is not None]


def _loading(run: Run, ready: int, total: int, leaves: int) -> Event:
    """Return where loading is, with ``leaves`` to come: those in flight are what a stopped run waits for."""
    flying = min(leaves, run.pool.window)
    return Event(phase="load", done=ready, total=total, unit="rows", facts={"leaves_in_flight": flying})


def _is_tight(run: Run) -> bool:
    """Whether the processes are near the memory limit: then leaves come one after another, rather than not at all."""
    was, run.is_tight = run.is_tight, run.memory.now_bytes > PRESSURE * run.options.memory_limit_bytes
    if run.is_tight and not was:
        facts = {"action": "memory_pressure", "bytes": run.memory.now_bytes}
        _log.warning("%d MB are in use, near the limit: one leaf at a time", run.memory.now_bytes // MIB, extra=facts)
    return run.is_tight


def _note_failure(run: Run, leaf: str, error: Exception, lost: list[Exception]) -> None:
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


def _task(run: Run, leaf: Leaf, ids: Mapping[str, int], first_id: int | None) -> LeafTask:
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
        batch_bytes=sizing.batch_bytes(run.options, run.pool.workers, run.pool.threads),
        durability=run.options.durability,
        indexes=run.options.indexes,
        deferred=run.options.deferred,
        freeze=run.options.freeze,
        most_rejects=run.options.max_rejects.of(run.manifest.records) if run.options.max_rejects else None,
        first_id=first_id,
    )


def _note_leaf(run: Run, result: LeafResult) -> None:
    """Add a leaf to what the run has done."""
    run.sent.update(result.bytes)
    if result.stint:
        run.stints.append(result.stint)
    facts = {"action": "leaf_loaded", "leaf": result.leaf, "rows": result.rows, "seconds": round(result.seconds, 3)}
    _log.info("leaf %s: %s powers in %.2f s", result.leaf, result.rows.get("powers", 0), result.seconds, extra=facts)
