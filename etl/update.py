"""Update: only the rows that differ are changed, in the published build, in one transaction, the view included.

Three steps: the workers compare digests; they make the rows of what differs, which the coordinator stages; the
coordinator replaces rows, directory, entities and view together and raises the generation. Readers are
never blocked: they see the state before or the state after.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import msgspec

from etl import (
    apply,
    audit,
    builds,
    config,
    db,
    dsn,
    keys,
    ledger,
    limits,
    loaded,
    metrics,
    migrations,
    outcome,
    parallel,
    publish,
    retry,
    session,
    sizing,
    staged,
    storage,
    tables,
    timings,
    work,
)
from etl.errors import Busy, Interrupted, SchemaError, UsageError
from etl.model import Event, Manifest, Progress
from etl.plan import KINDS, CheckTask, Difference, DiffTask, Leaf, NamesTask, StageTask, shares
from etl.scope import Scope, other_ddl
from etl.store import entities
from etl.store import manifest as manifests

T = TypeVar("T")
N = TypeVar("N", bound=tuple[str, ...])

# A source that would remove more than this share of the powers is asked about first.
MOST_GONE = 0.10
# Above this share of changed powers a rebuild is cheaper, and is proposed.
MOST_CHANGED = 0.20

# Up to here one worker compares, which has been starting since the beginning, or this process does: others would still be
# starting (0.4 s of a core each; measured by scripts/bench.py update).
_TASK_BYTES = 64 << 20
# What a published power weighs in a comparison beside the record texts: its names and digest as objects, about.
_LOADED_BYTES = 1 << 10
# As much record text one task takes, by the averages of the powersets; its rows come back through a pipe.
_STAGE_BYTES = 16 << 20


class UpdateResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an update did, or would do: the powers by kind (full lower-case names), counts per archetype and kind.

    ``generation`` is 0 for a dry run and when nothing differed. ``rows`` are those written per table. Afterwards
    ``records = loaded + superseded + rejected``, unless only a part was updated: then ``records`` is 0, and ``rejected``
    counts what was set aside of that part.
    """

    build: int
    generation: int
    split_id: str
    changed: tuple[str, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]
    renewed: int
    unchanged: int
    archetypes: Mapping[str, Mapping[str, int]]
    rows: Mapping[str, int]
    records: int
    loaded: int
    superseded: int
    rejected: int
    reject_codes: Mapping[str, int]
    reject_paths: tuple[str, ...]
    dry_run: bool
    seconds: float
    timings: Mapping[str, float]
    notes: tuple[str, ...] = ()


class _Live(msgspec.Struct, frozen=True, kw_only=True):
    """The published build."""

    build: int
    schema: str
    split_id: str
    format: str
    leaves: tuple[Leaf, ...]
    versions: Mapping[str, str]


def update(
    options: config.LoadOptions,
    scope: Scope,
    progress: Progress | None = None,
    *,
    dry_run: bool = False,
    confirm: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    made_from: str | None = None,
    pool: parallel.Pool | None = None,
    clock: timings.Clock | None = None,
) -> UpdateResult:
    """Bring the published build to ``options.split_id`` (default: the store's latest split), row by row.

    ``confirm`` is asked before more than a tenth of the powers would go; it raises to refuse. ``made_from`` is the split
    that the new one was made from: it must still be the published one. ``pool`` are workers that are starting already.

    Raises:
        SchemaError: nothing is published yet.
        UsageError: the scope names what is not there, or tables of another split than the published one.
        Busy, DatabaseError, StoreError: as for a load; nothing has changed for readers.
    """
    clock = clock or timings.Clock()
    report = progress or (lambda _: None)
    manifest = manifests.read(options.store, options.split_id)
    where = dsn.resolve(options.dsn)
    asked = _once(confirm)
    name = f"etl update of {options.schema} by {db.whoami()}"[:63]
    with session.hold(where, name=name, live_schema=options.schema) as line:
        migrations.require(line.connection)
        line.lock()
        ledger.close_lost(line.connection, options.schema)

        def attempt() -> UpdateResult:
            live = _live(line.connection, options.schema)
            if made_from is not None and live.split_id not in (made_from, manifest.split_id):
                raise Busy(
                    f"build {live.build} is split {live.split_id} by now, not {made_from}", "run the command again"
                )
            _check(scope, manifest, live)
            with metrics.PeakMemory() as memory, nullcontext(pool) if pool else _pool(options, where) as workers:
                parts = (line.connection, workers, where, options, manifest, scope, live, report, stop, clock)
                update_of = _Update(*parts)
                return update_of.run(dry_run, asked, memory)

        def come_back() -> None:
            clock.lap("database away")
            line.restore()
            ledger.close_lost(line.connection, options.schema)

        # Nothing has changed before the one transaction at the end; if the answer to its commit was lost, nothing is
        # left to do the second time.
        result = retry.persist(attempt, come_back, retry.Patience(options.retry_timeout_s, stop))
    clock.lap("end")
    return msgspec.structs.replace(result, seconds=clock.total, timings=dict(clock.seconds))


def _pool(options: config.LoadOptions, where: str) -> parallel.Pool:
    return parallel.Pool(options.executor, {config.DSN_VARIABLE: where})


def _once(confirm: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that asks each question once, however often the update has to begin again."""
    asked: set[str] = set()

    def ask(question: str) -> None:
        if question not in asked:
            confirm(question)
            asked.add(question)

    return ask


def rollback(
    options: config.LoadOptions, progress: Progress | None = None, *, confirm: Callable[[str], None] = lambda _: None
) -> str:
    """Go back one publication: to the previous build, or, after an update, to the split before it; say what was done.

    A second call goes forward again. ``confirm`` is asked before anything is done; it raises to refuse.

    Raises:
        UsageError: there is nothing to go back to.
        StoreError: the split to go back to is not in the store any more.
    """
    where = dsn.resolve(options.dsn)
    with db.connect(where, name="etl rollback") as connection:
        migrations.require(connection)
        session.lock(connection, options.schema)
        last = connection.execute(db.query("last_publication"), {"schema": options.schema}).fetchone()
        if last is not None and last[1] == "update":
            _, _, _, _, split_id, store = last
            confirm(f"Go back to split {split_id} in schema {options.schema}?")
        else:
            confirm(f"Go back to the previous build of schema {options.schema}?")
            with audit.watched(connection, command=options.command, live_schema=options.schema, build=None):
                done = builds.rollback(connection, options.schema)
            live = next(b for b in builds.overview(connection, options.schema) if b.state == "live")
            return f"published build {live.build} (split {live.split_id}) again, generation {done.generation}"
    back = update(replace(options, store=store, split_id=split_id), Scope(), progress)
    return f"went back to split {split_id} in build {back.build}, generation {back.generation}"


def _live(connection: db.Connection, live_schema: str) -> _Live:
    row = connection.execute(db.query("live"), {"schema": live_schema}).fetchone()
    if row is None:
        raise SchemaError(f"nothing is published in schema {live_schema} that could be updated", "etl load")
    publish.settle(connection, live_schema)
    stored = connection.execute(db.query("build_plan"), {"build": row[0]}).fetchone()
    leaves = tuple(Leaf.of(values) for values in stored[0]) if stored else ()
    return _Live(
        build=row[0],
        schema=publish.schema_of(live_schema, row[0]),
        split_id=row[4],
        format=row[7],
        leaves=leaves,
        versions=row[6],
    )


def _check(scope: Scope, manifest: Manifest, live: _Live) -> None:
    """Refuse a scope that names nothing, or that would mix two splits in one build."""
    unknown = [name for name in scope.tables if name not in tables.TABLES]
    if unknown:
        raise UsageError(f"there is no table {', '.join(unknown)}", f"the tables are {', '.join(tables.TABLES)}")
    for kind, names in (("archetype", scope.archetypes), ("powerset", scope.powersets)):
        known = {getattr(partition, kind) for partition in manifest.partitions}
        missing = [name for name in names or () if name not in known]
        if missing:
            raise UsageError(f"the split has no {kind} {', '.join(missing)}", "etl status, or etl powerset NAME")
    if manifest.format != live.format:
        raise UsageError(
            f"the published build was loaded from {live.format}, this split is {manifest.format}", "etl rebuild SOURCE…"
        )
    if scope.tables and manifest.split_id != live.split_id:
        raise UsageError("some tables of another split would not fit the others", "etl update SOURCE…")
    other = [name for name, version in live.versions.items() if name in tables.TABLES and other_ddl(name, version)]
    if other:
        raise SchemaError(
            f"the published build has {', '.join(other)} as an older etl made it",
            f"etl load --split {live.split_id}, which renews that alone, or etl rebuild SOURCE…",
        )
    if scope.first_record and len(manifest.sources) > 1:
        raise UsageError("--from-record needs a split of one source", "etl load")


class _Update:
    """One update: its steps share the connection, the workers, and what is being compared."""

    def __init__(
        self,
        connection: db.Connection,
        pool: parallel.Pool,
        where: str,
        options: config.LoadOptions,
        manifest: Manifest,
        scope: Scope,
        live: _Live,
        report: Progress,
        stop: Callable[[], bool],
        clock: timings.Clock,
    ) -> None:
        self._connection, self._pool, self._dsn, self._options = connection, pool, where, options
        self._manifest, self._scope, self._live = manifest, scope, live
        self._report, self._stop, self._clock = report, stop, clock
        self._schema = db.identifier(live.schema)
        self._archetypes = entities.read(options.store, manifest, "archetypes")
        self._powersets = entities.read(options.store, manifest, "powersets")
        self._skipped = 0
        self._ids: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._power_ids: dict[str, int] = {}
        self._loaded: dict[tuple[str, str], int] = {}
        self._lost_rejects: tuple[str, ...] = ()
        self._prepared = apply.Prepared((), Counter())
        self._entities_wanted = not scope.tables or bool({"archetypes", "powersets"} & set(scope.tables))
        self._tables = [n for n in tables.LEAF_TABLES if not scope.tables or n in scope.tables]

    def run(self, dry_run: bool, confirm: Callable[[str], None], memory: metrics.PeakMemory) -> UpdateResult:
        """Compare, stage, apply; say what was done."""
        self._clock.lap("start")
        differences = self._timed("compare", self._compare)
        result = self._result(differences, dry_run)
        if dry_run:
            return result
        self._ask(result, confirm)
        self._clock.lap("question")
        if not (result.changed or result.new or result.gone or result.renewed) and self._entities_equal():
            return self._nothing(result)
        begun = ledger.begin(
            self._connection,
            manifest=self._manifest,
            command=self._options.command,
            live_schema=self._options.schema,
            build=self._live.build,
            workers=self._pool.workers,
            kind="update",
        )
        run = int(begun.fetchall()[0][0])
        try:
            self._timed("register", lambda: self._register(differences))
            with self._connection.transaction():  # what needs no staged rows is done while the workers stage them
                rows = self._timed("stage", lambda: self._stage(differences, run))
                self._timed("check", self._check_parts)
                generation, rejected = self._timed("apply", lambda: self._apply(run))
            self._clock.lap("apply")
        except BaseException as error:
            ledger.fail(self._connection, run, error, self._clock.seconds, memory.peak_bytes)
            raise
        result = msgspec.structs.replace(result, generation=generation, rows=rows, timings=dict(self._clock.seconds))
        result = msgspec.structs.replace(result, **self._counts(rejected))
        ledger.end(self._connection, run, _ending(result, self._manifest, memory))
        return result

    def _timed(self, phase: str, function: Callable[[], T]) -> T:
        self._report(Event(phase=phase, done=0, total=0, unit="steps"))
        try:
            done = function()
        finally:
            self._clock.lap(phase)
        if self._stop():
            raise Interrupted("stopped; nothing has changed for readers", self._way_on())
        return done

    def _way_on(self) -> str:
        """Return the command that goes on; an update is one transaction, so what was stopped begins where it began."""
        if self._scope.first_record:
            return f"etl load --from-record {self._scope.first_record}"
        return "run the same command again"

    def _compare(self) -> list[Difference]:
        """Return the differences, per group of powersets."""
        wanted = self._candidates()
        records = {(p.archetype, p.powerset): p.bytes for p in self._manifest.partitions}
        sizes = {pair: records.get(pair, 0) + _LOADED_BYTES * self._loaded.get(pair, 0) for pair in wanted}
        size = sum(sizes.values())
        is_little = size <= _TASK_BYTES
        most = math.inf if is_little else min(_TASK_BYTES, size / self._pool.workers)
        pool = self._here() if is_little and not self._pool.is_started else self._pool
        tasks = [
            DiffTask(
                schema=self._live.schema,
                store=self._options.store,
                split_id=self._manifest.split_id,
                partitions=partitions,
                first_record=self._scope.first_record,
                everything=self._scope.everything,
                loaded=loaded.digests(self._connection, self._live.schema, partitions) if is_little else None,
            )
            for partitions in _pieces(wanted, sizes.__getitem__, most)
        ]
        window = 1 if is_little else None
        found = _moved(list(parallel.collect(pool, work.difference, tasks, self._stop, window)))
        if "powers" not in self._tables:  # rows of powers that are not there would be nobody's
            found = [msgspec.structs.replace(difference, new=(), gone=()) for difference in found]
        if self._scope.keep_missing:
            found = [msgspec.structs.replace(difference, gone=()) for difference in found]
        return found

    def _candidates(self) -> list[tuple[str, str]]:
        """Return the partitions whose digests differ from those of the published split, or that are asked for."""
        before = self._published_digests()
        now = {(p.archetype, p.powerset): p for p in self._manifest.partitions}
        found = self._connection.execute(db.query("loaded_powersets", schema=self._schema)).fetchall()
        self._loaded = {(archetype, powerset): powers for archetype, powerset, powers in found}
        wanted = [
            pair
            for pair in sorted(self._loaded.keys() | now.keys())
            if self._in_scope(pair)
            and (self._scope.everything or pair not in now or before.get(pair) != now[pair].digest)
        ]
        chosen = set(wanted)
        self._skipped = sum(p.rows for pair, p in now.items() if self._in_scope(pair) and pair not in chosen)
        return wanted

    def _here(self) -> parallel.Pool:
        """Return this process as a worker, for what takes less time than the workers take to start."""
        return parallel.Pool("inline://", {config.DSN_VARIABLE: self._dsn})

    def _in_scope(self, pair: tuple[str, str]) -> bool:
        archetype, powerset = pair
        return (self._scope.archetypes is None or archetype in self._scope.archetypes) and (
            self._scope.powersets is None or powerset in self._scope.powersets
        )

    def _published_digests(self) -> Mapping[tuple[str, str], str]:
        """Return the digests of the split that is published; none where the store lost it, and all is compared."""
        if self._scope.first_record or not self._is_known():
            return {}
        published = manifests.read(self._options.store, self._live.split_id)
        return {(p.archetype, p.powerset): p.digest for p in published.partitions}

    def _is_known(self) -> bool:
        """Whether the published rows are those of one split that the store still has, so that digests can be trusted."""
        row = self._connection.execute(db.query("build_is_of_one_split"), {"build": self._live.build}).fetchone()
        return bool(row and row[0]) and manifests.is_finished(self._options.store, self._live.split_id)

    def _ask(self, result: UpdateResult, confirm: Callable[[str], None]) -> None:
        row = self._connection.execute(
            db.query("count_rows", relation=db.identifier(self._live.schema, "power_directory"))
        ).fetchone()
        total = int(row[0]) if row else 0
        if len(result.gone) > MOST_GONE * total:
            confirm(f"The source lacks {len(result.gone):,} of the {total:,} published powers. Remove them?")

    def _entities_equal(self) -> bool:
        """Whether archetypes and powersets are those of the published split."""
        if not self._is_known():
            return False
        published = manifests.read(self._options.store, self._live.split_id)
        return published.entities_digest == self._manifest.entities_digest

    def _nothing(self, result: UpdateResult) -> UpdateResult:
        """Let the build be named after the split that it is equal to."""
        self._pool.kill()  # there is nothing for the worker to do
        if self._scope.is_whole and self._live.split_id != self._manifest.split_id:
            with self._connection.transaction():
                self._ids = keys.register(self._connection, self._archetypes, self._powersets)
                apply.rename_build(self._connection, self._application(0), self._live.leaves)
        return result

    def _register(self, differences: list[Difference]) -> None:
        """Give ids to what is new; learn those of all that is touched."""
        with self._connection.transaction():
            self._ids = keys.register(self._connection, self._archetypes, self._powersets)
            new = [name for d in differences for name in d.new]
            uids, archetypes, powersets = map(list, zip(*new, strict=True)) if new else ([], [], [])
            names = {"uids": uids, "archetypes": archetypes, "powersets": powersets}
            self._connection.execute(db.query("register_named_powers"), names)
            uids = [name[0] for d in differences for kind in (d.changed, d.new, d.renewed) for name in kind]
            found = self._connection.execute(db.query("registered_powers"), {"uids": uids})
            self._power_ids = dict(found.fetchall())

    def _stage(self, differences: list[Difference], run: int) -> dict[str, int]:
        """Stage the rows of all that is touched, which the workers make; return the rows per table."""
        rows = Counter[str]()
        tasks = list(self._stage_tasks(differences))
        window = 1 if len(tasks) <= 1 else self._pool.workers  # what they made waits in memory
        prepare = partial(self._prepare, differences, run)
        for made in parallel.collect(self._pool, work.stage, tasks, self._stop, window, prepare):
            staged.put(self._connection, self._live.build, made)
            for name, count, _ in made.copies:
                rows[name] += count
        if "power_prerequisites" in self._tables:
            staged.resolve(self._connection, self._live.schema)
        self._judge_rejects()
        self._pool.close(wait=False)  # there is enough to do meanwhile
        return dict(rows)

    def _check_parts(self) -> None:
        """Prove the parts now that they were read: the split proved them before, and what changed since passes for data.

        Raises:
            StoreError: a part is not what was written; nothing has changed for readers.
        """
        where = {"store": self._options.store, "split_id": self._manifest.split_id}
        found = self._manifest.parts
        pool = self._pool if sum(part.bytes for part in found) > _TASK_BYTES else self._here()
        tasks = [CheckTask(parts=share, **where) for share in shares(found, pool.tasks)]
        for _ in parallel.collect(pool, work.check_parts, tasks, self._stop):
            pass

    def _judge_rejects(self) -> None:
        """Learn which rejects of before the split does not have any more; give up where too many would be left."""
        values = {"build": self._live.build}
        found = self._connection.execute(db.query("untouched_rejects"), values).fetchall()
        if found and self._scope.is_whole:
            store, uids = self._options.store, tuple(uid for (uid,) in found)
            task = NamesTask(store=store, split_id=self._manifest.split_id, uids=uids)
            (self._lost_rejects,) = parallel.collect(self._pool, work.lost_names, [task], lambda: False, 1)
        counted = {**values, "gone": list(self._lost_rejects)}
        row = self._connection.execute(db.query("count_staged_rejects"), counted).fetchone()
        rejected = self._manifest.rejects + (row[0] if row else 0)
        limits.check_all(self._options.max_rejects, rejected, self._manifest.records)

    def _counts(self, rejected: int) -> dict[str, Any]:
        """Return the counts of the result; ``rejected`` records of what was touched were set aside."""
        if not self._scope.is_whole:
            return {"rejected": rejected}
        values, manifest = {"build": self._live.build}, self._manifest
        codes: Counter[str] = Counter(dict(self._connection.execute(db.query("reject_codes_of"), values).fetchall()))
        set_aside = outcome.load_rejects(self._connection, self._live.build) if codes else []
        return {
            "records": manifest.records,
            "loaded": manifest.rows - codes.total(),
            "superseded": manifest.superseded,
            "rejected": manifest.rejects + codes.total(),
            "reject_codes": dict(Counter(manifest.reject_codes) + codes),
            "reject_paths": outcome.reject_paths(self._options.store, manifest, self._live.build, set_aside),
        }

    def _prepare(self, differences: list[Difference], run: int) -> None:
        """Make the tables that rows are staged in; stage archetypes and powersets, and bring them up."""
        staged.create(self._connection, self._live.schema, self._tables)
        staged.touch(self._connection, self._live.schema, differences)
        rows = keys.entity_rows(self._archetypes, self._powersets, *self._ids)
        keys.insert_entities(self._connection, staged.SCHEMA, rows, "staged_")
        self._prepared = apply.prepare(self._connection, self._application(run))

    def _apply(self, run: int) -> tuple[int, int]:
        return apply.apply(self._connection, self._application(run), self._prepared)

    def _stage_tasks(self, differences: list[Difference]) -> Iterator[StageTask]:
        """Yield tasks of about even size over the powers that have something to stage."""
        touched = sorted(
            (archetype, powerset, uid)
            for d in differences
            for kind in (d.changed, d.new, d.renewed)
            for uid, archetype, powerset in kind
        )
        sizes = {(p.archetype, p.powerset): p.bytes / p.rows for p in self._manifest.partitions if p.rows}
        # A worker that is alone may take what all would.
        is_small = sum(sizes[name[:2]] for name in touched) <= self._stage_bytes(1)
        most = math.inf if is_small else self._stage_bytes(self._pool.workers)
        for names in _pieces(touched, lambda name: sizes[name[:2]], most):
            pairs = sorted({name[:2] for name in names})
            mine = {powerset for _, powerset in pairs}
            lists = sorted((e["uid"], e.get("power_order") or ()) for e in self._powersets if e["uid"] in mine)
            yield StageTask(
                store=self._options.store,
                split_id=self._manifest.split_id,
                partitions=tuple(pairs),
                archetype_ids={archetype: self._ids[0][archetype] for archetype, _ in pairs},
                powerset_ids={powerset: self._ids[1][powerset] for powerset in mine},
                power_ids={uid: self._power_ids[uid] for _, _, uid in names},
                power_order={uid: position for _, members in lists for position, uid in enumerate(members)},
                tables=tuple(self._tables),
                batch_rows=self._options.batch_rows,
                batch_bytes=sizing.batch_bytes(self._options, 1 if is_small else self._pool.workers),
            )

    def _stage_bytes(self, workers: int) -> int:
        """Return how much record text a task may take: what it makes lies in memory at once, beside one batch."""
        return min(_STAGE_BYTES, 2 * sizing.batch_bytes(self._options, workers))

    def _application(self, run: int) -> apply.Application:
        return apply.Application(
            live_schema=self._options.schema,
            build=self._live.build,
            schema=self._live.schema,
            leaves=self._live.leaves,
            manifest=self._manifest,
            store=storage.absolute(self._options.store),
            previous_split_id=self._live.split_id,
            tables=tuple(self._tables),
            entities=self._entities_wanted,
            remove_missing=not self._scope.keep_missing,
            whole=self._scope.is_whole,
            all_rows=self._scope.is_whole and self._scope.everything,
            run=run,
            lost_rejects=self._lost_rejects,
            archetype_ids=self._ids[0],
            powerset_ids=self._ids[1],
        )

    def _result(self, differences: list[Difference], dry_run: bool) -> UpdateResult:
        """Return what differs, per kind and archetype."""
        names = {kind: tuple(sorted(n[0] for d in differences for n in getattr(d, kind))) for kind in KINDS}
        archetypes: dict[str, Counter[str]] = {}
        for kind in KINDS:
            for _, archetype, _ in (name for d in differences for name in getattr(d, kind)):
                archetypes.setdefault(archetype, Counter())[kind] += 1
        notes = []
        if self._scope.is_whole and len(names["changed"]) + len(names["new"]) > MOST_CHANGED * self._manifest.rows:
            notes.append("more than a fifth differs: etl rebuild would be cheaper")
        return UpdateResult(
            build=self._live.build,
            generation=0,
            split_id=self._manifest.split_id,
            changed=names["changed"],
            new=names["new"],
            gone=names["gone"],
            renewed=len(names["renewed"]),
            unchanged=self._skipped + sum(difference.same for difference in differences),
            archetypes={key: dict(counts) for key, counts in sorted(archetypes.items())},
            rows={},
            records=0,
            loaded=0,
            superseded=0,
            rejected=0,
            reject_codes={},
            reject_paths=(),
            dry_run=dry_run,
            seconds=0.0,
            timings=dict(self._clock.seconds),
            notes=tuple(notes),
        )


def _moved(found: list[Difference]) -> list[Difference]:
    """Return the differences with each power once: one that is gone in one task and new in another was moved."""
    moved = {name[0] for d in found for name in d.gone} & {name[0] for d in found for name in d.new}
    if not moved:
        return found
    return [
        msgspec.structs.replace(
            d,
            gone=tuple(name for name in d.gone if name[0] not in moved),
            new=tuple(name for name in d.new if name[0] not in moved),
            changed=(*d.changed, *(name for name in d.new if name[0] in moved)),
        )
        for d in found
    ]


def _pieces(items: Sequence[N], size_of: Callable[[N], float], most: float) -> Iterator[tuple[N, ...]]:
    """Yield neighbours together, as many as come to ``most``."""
    piece: list[N] = []
    size = 0.0
    for item in items:
        piece.append(item)
        size += size_of(item)
        if size >= most:
            yield tuple(piece)
            piece, size = [], 0.0
    if piece:
        yield tuple(piece)


def _ending(result: UpdateResult, manifest: Manifest, memory: metrics.PeakMemory) -> ledger.Ending:
    counts = {kind: len(getattr(result, kind)) for kind in ("changed", "new", "gone")}
    return ledger.Ending(
        state="done",
        records=manifest.records,
        loaded=result.loaded or manifest.rows - result.rejected,
        superseded=manifest.superseded,
        rejected=result.rejected if result.records else manifest.rejects + result.rejected,
        peak_bytes=memory.peak_bytes,
        timings=result.timings,
        data={**counts, "archetypes": result.archetypes, "rows": result.rows},
    )
