"""Older builds: the way back to the previous one, and freeing the space of the others."""

import msgspec

from etl import db, ddl, publish, receipts, tables
from etl.errors import SchemaError, UsageError


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """One build of a live schema: ``state`` is live, previous, older or unfinished."""

    build: int
    schema: str
    split_id: str
    game_version: str | None
    state: str
    bytes: int
    published_at: str | None


def overview(connection: db.Connection, live_schema: str) -> list[Build]:
    """Return the builds of a live schema that still exist, newest first; maybe none."""
    rows = connection.execute(db.query("build_overview"), {"schema": live_schema}).fetchall()
    names = ("build", "schema", "split_id", "game_version", "state", "bytes", "published_at")
    return [Build(**dict(zip(names, row, strict=True))) for row in rows]


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """A build that was begun and not published: how many of its leaves are done, and which are to do."""

    build: int
    store: str
    split_id: str
    leaves: int
    done: int
    todo: tuple[str, ...]
    rejects: int


def unfinished(connection: db.Connection, live_schema: str) -> Unfinished | None:
    """Return what is left to do of the newest unfinished build, if there is one: wanted less receipts."""
    row = connection.execute(db.query("newest_unfinished"), {"schema": live_schema}).fetchone()
    if row is None:
        return None
    build, store, split_id, wanted, plan, rejects = row
    done = receipts.read(connection, build)
    names = [name for name in wanted if name in tables.LEAF_TABLES]
    todo = [leaf["name"] for leaf in plan if not all((name, leaf["name"]) in done for name in names)]
    return Unfinished(
        build=build,
        store=store,
        split_id=split_id,
        leaves=len(plan),
        done=len(plan) - len(todo),
        todo=tuple(todo),
        rejects=rejects,
    )


def rollback(connection: db.Connection, live_schema: str, *, timeout_s: float = 600.0) -> publish.Publication:
    """Publish the previous build again; the present one becomes the previous, so a second call goes forward.

    Raises:
        UsageError: there is no previous build.
        DatabaseError: a reader held a view for longer than ``timeout_s``; nothing has changed.
    """
    previous = next((build for build in overview(connection, live_schema) if build.state == "previous"), None)
    if previous is None:
        raise UsageError(f"schema {live_schema} has no previous build to go back to")
    return publish.publish(connection, live_schema, previous.build, timeout_s=timeout_s, kind="rollback")


def prunable(connection: db.Connection, live_schema: str, keep: int) -> list[Build]:
    """Return the builds that ``prune`` would drop: all but the newest ``keep``, and never the live or previous one.

    Nor one whose relations a build that stays has views of (``etl.renewal``).
    """
    every = overview(connection, live_schema)
    older = [build for build in every if build.state in ("older", "unfinished")]
    spared = max(0, keep - 2)
    kept = {build.build for build in every} - {build.build for build in older}
    kept |= {build.build for build in [b for b in older if b.state == "older"][:spared]}
    below = connection.execute(db.query("builds_below"), {"schema": live_schema}).fetchall()
    kept |= {base for build, base in below if build in kept}
    return [build for build in older if build.build not in kept]


def prune(connection: db.Connection, live_schema: str, keep: int, *, timeout_s: float = 60.0) -> list[Build]:
    """Drop the builds of ``prunable``; return them.

    Raises:
        SchemaError: something outside a build depends on it; nothing of that build was dropped.
    """
    if not publish.settle(connection, live_schema, wait_s=timeout_s):
        raise SchemaError("readers may still be in an older build", "end long transactions, or prune later")
    gone = prunable(connection, live_schema, keep)
    for build in gone:
        refuse_dependents(connection, build.schema)
        ddl.drop_build(connection, build.schema, timeout_s=timeout_s)
        with connection.transaction():
            connection.execute(db.query("forget_build"), {"build": build.build})
            connection.execute(db.query("drop_build_row"), {"build": build.build})
    return gone


def known_splits(connection: db.Connection, keep: int) -> dict[str, bool]:
    """Return every split that this database was ever a function of, and whether it may need it again.

    It needs those of all builds that are there, those that parts of them were renewed from, and those of the last
    ``keep`` states of each live schema, the one before an update among them.
    """
    return dict(connection.execute(db.query("known_splits"), {"keep": keep}).fetchall())


def refuse_dependents(connection: db.Connection, schema: str) -> None:
    """Raise SchemaError, with a list, where objects outside a build schema point straight into it."""
    found = connection.execute(db.query("outside_dependents"), {"schema": schema}).fetchall()
    if found:
        names = "; ".join(f"{what} depends on {schema}.{on}" for what, on in found[:10])
        raise SchemaError(
            f"{len(found)} object(s) outside {schema} point into it: {names}",
            "let them read the live schema's views, and foreign keys point to etl.power_key; then prune again",
        )
