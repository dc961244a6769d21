"""The build of a load: one that was stopped and is gone on with, or one that is begun."""

import json
import logging

import msgspec

from etl import db, ddl, finish, keys, ledger, publish, receipts, renewal, storage, tables
from etl.plan import Leaf, cut_leaves, target_of
from etl.receipts import Receipt
from etl.run import Run
from etl.store import entities

_log = logging.getLogger(__name__)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the server was asked before a build is begun: for extensions, builds to go on with, and those half gone."""

    extensions: ddl.Asked
    unfinished: db.Cursor
    half_dropped: db.Cursor


def ask(run: Run) -> Asked:
    """Ask what ``plan`` wants to know, maybe beside other questions."""
    paths = [*map(ddl.table_file, tables.TABLES), *(path for _, path in ddl.views())]  # a build has all tables
    values = {"schema": run.options.schema}
    return Asked(
        extensions=ddl.ask_extensions(run.connection, paths),
        unfinished=run.connection.execute(db.query("unfinished_builds"), values),
        half_dropped=run.connection.execute(db.query("half_dropped_builds"), values),
    )


def plan(run: Run, asked: Asked) -> None:
    """Find the build to go on with, or begin one; from here on, older workers of it are gone."""
    run.build, run.leaves, run.powerset_ids = 0, [], {}
    run.extensions = ddl.found_extensions(run.connection, asked.extensions)
    for build, split_id, names, versions, cut in asked.unfinished.fetchall():
        current = versions == renewal.versions(run.wanted) and tuple(names) == run.wanted
        epoch = take_over(run.connection, build)
        leaves = [Leaf.of(values) for values in cut]
        if split_id == run.manifest.split_id and current and not run.build and _stands(run, build, leaves):
            run.build, run.epoch, run.leaves = build, epoch, leaves
        else:
            drop(run.connection, run.options.schema, build)
    for (build,) in asked.half_dropped.fetchall():
        drop(run.connection, run.options.schema, build)
    if not run.build:
        _begin(run)
    run.schema = publish.schema_of(run.options.schema, run.build)


def read_what_is_done(run: Run) -> None:
    """Read where the build stands, and write the run's line into the import log unless it is there."""
    begun: db.Cursor | None = None
    with run.connection.pipeline():
        done = receipts.ask(run.connection, run.build)
        finished = finish.ask_finished(run.connection, run.build)
        # Near the server leaves are attached while others load, and it is asked again; far away they all are in the end.
        run.asked = finish.ask(run.connection, run.schema) if run.pool.threads > 1 else None
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


def _stands(run: Run, build: int, leaves: list[Leaf]) -> bool:
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
    return [Leaf.of(values) for values in row[0]] if row else []


def take_over(connection: db.Connection, build: int) -> int:
    """Raise the build's epoch, end the workers of older coordinators, and wait until they are gone."""
    with db.at_once(connection):
        raised = connection.execute(db.query("raise_epoch"), {"build": build})
        connection.execute("commit")  # who comes from here on is to see it
        connection.execute("begin")
        _ask_to_end_workers(connection, build)
    row = raised.fetchone()
    return int(row[0]) if row else 0


def end_workers(connection: db.Connection, build: int) -> None:
    """End what the server still does for workers of a build, and wait until their transactions are gone."""
    with db.at_once(connection):
        _ask_to_end_workers(connection, build)


def _ask_to_end_workers(connection: db.Connection, build: int) -> None:
    connection.execute(db.query("end_older_workers"), {"space": db.LOCK_SPACE, "build": build})
    connection.execute(db.query("lock_build_alone"), {"space": db.LOCK_SPACE, "build": build})


def drop(connection: db.Connection, live_schema: str, build: int) -> None:
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


def _begin(run: Run) -> None:
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
            target = target_of((p.bytes for p in manifest.partitions), run.pool.workers)
            run.leaves = cut_leaves(manifest.partitions, archetype_ids, powerset_ids, target)
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
    run.powerset_ids = powerset_ids
