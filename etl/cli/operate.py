"""The commands that look after builds and runs: status, rollback, prune, log."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from psycopg.rows import dict_row

from etl import audit, builds, db, dsn, migrations, session
from etl.cli import common, timetable
from etl.store import splits


@click.command()
@common.DSN
@common.SCHEMA
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--audit", "trail", is_flag=True, help="The audit trail instead: who did what, from which host.")
@click.option("--timings", "with_timings", is_flag=True, help="Print what each run's time went to as well.")
@common.JSON
def log(dsn: str | None, schema: str, limit: int, trail: bool, with_timings: bool, as_json: bool) -> None:
    """Show the import log, newest run first.

    \b
    Example: etl log --limit 1 --timings
    """
    if trail:
        _show_trail(_lines("latest_audit", dsn, schema, limit), as_json)
        return
    rows = _lines("latest_runs", dsn, schema, limit)
    if as_json:
        common.emit(rows)
        return
    if not rows:
        click.echo(f"no run has loaded into schema {schema} yet; next: etl load")
        return
    click.echo(common.table(list(_LOG_COLUMNS), [_log_line(row) for row in rows]))
    for row in rows if with_timings else ():
        click.echo(f"\nrun {row['id']}, {row['workers']} workers")
        timetable.show(row["timings"])


_LOG_COLUMNS = (
    "run",
    "started",
    "state",
    "source",
    "build",
    "seen",
    "loaded",
    "superseded",
    "rejected",
    "seconds",
    "peak",
    "sent",
)


def _log_line(row: dict[str, Any]) -> list[object]:
    """Return a run's cells, in the order of _LOG_COLUMNS."""
    seconds = round((row["completed_at"] - row["started_at"]).total_seconds(), 1) if row["completed_at"] else None
    counts = [row[f"records_{name}"] for name in ("seen", "loaded", "superseded", "rejected")]
    peak, sent = (common.size(row[name]) if row[name] else "" for name in ("peak_memory_bytes", "bytes_sent"))
    started = f"{row['started_at']:%Y-%m-%d %H:%M:%S}"
    return [row["id"], started, row["state"], row["source_file"], row["build"], *counts, seconds, peak, sent]


def _show_trail(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print the audit trail."""
    if as_json:
        common.emit(rows)
        return
    header = ["at", "database user", "who", "build", "outcome", "command"]
    lines = [
        [f"{row['at']:%Y-%m-%d %H:%M:%S}", row["db_user"], f"{row['who']}@{row['host']}", row["build"], row["outcome"],
         row["command"]]
        for row in rows
    ]  # fmt: skip
    click.echo(common.table(header, lines))


def _lines(query: str, where: str | None, schema: str, limit: int) -> list[dict[str, Any]]:
    with _connection(where, "etl log") as connection:
        cursor = connection.cursor(row_factory=dict_row)
        return cursor.execute(db.query(query), {"schema": schema, "limit": limit}).fetchall()


@click.command()
@common.DSN
@common.SCHEMA
@common.JSON
def status(dsn: str | None, schema: str, as_json: bool) -> None:
    """Show the builds, what is left to do of an unfinished one, and the command that goes on.

    \b
    Example: etl status
    """
    with _connection(dsn, "etl status") as connection:
        found = builds.overview(connection, schema)
        left = builds.unfinished(connection, schema)
        runs = (
            connection.cursor(row_factory=dict_row)
            .execute(db.query("latest_runs"), {"schema": schema, "limit": 1})
            .fetchone()
        )
    if as_json:
        common.emit({"builds": found, "unfinished": left, "last_run": runs})
        return
    if found:
        header = ["build", "state", "split", "game version", "size", "published"]
        lines = [[b.build, b.state, b.split_id, b.game_version, common.size(b.bytes), b.published_at] for b in found]
        click.echo(common.table(header, lines))
    if runs:
        message = f" ({' '.join(runs['message'].split())})" if runs["message"] else ""
        click.echo(f"last run: {runs['state']}{message}")
    if left:
        _print_left(left, schema)
    elif not any(build.state == "live" for build in found):
        click.echo(f"nothing is published in schema {schema}; next: etl load")


def _print_left(left: builds.Unfinished, schema: str) -> None:
    names = ", ".join(left.todo[:8]) + (" …" if len(left.todo) > 8 else "")
    click.echo(
        f"build {left.build}: {left.done} of {left.leaves} leaves done, {len(left.todo)} to do"
        + (f" ({names})" if names else "")
        + f", {left.rejects} rejects so far"
    )
    elsewhere = "" if schema == "game" else f" --schema {shlex.quote(schema)}"
    click.echo(f"next: etl load --store {shlex.quote(left.store)} --split {left.split_id}{elsewhere}")


@click.command()
@common.DSN
@common.SCHEMA
@common.JOBS
@common.YES
def rollback(dsn: str | None, schema: str, jobs: int | None, yes: bool) -> None:
    """Publish the previous build again, at once; after an update, go back to the split before it.

    Calling it twice goes forward again.

    \b
    Example: etl rollback --yes
    """
    from etl import config, update

    options = config.LoadOptions(
        dsn=dsn, schema=schema, executor=config.executor_url(None, jobs), command="etl rollback"
    )
    click.echo(update.rollback(options, confirm=lambda question: common.confirm(question, yes)))


@click.command()
@click.option("--keep", type=click.IntRange(min=2), default=2, show_default=True, help="Published states to keep.")
@common.DSN
@common.SCHEMA
@common.STORE
@common.YES
def prune(keep: int, dsn: str | None, schema: str, store: str, yes: bool) -> None:
    """Drop old builds, free their splits in the store.

    The live and the previous build always stay, and the splits of all that stays, the store's latest, and those that
    this database never knew. Another database that was loaded from the same store is not asked.

    \b
    Example: etl prune --keep 3
    """
    with _connection(dsn, "etl prune") as connection:
        session.lock(connection, schema)
        with audit.watched(connection, command=None, live_schema=schema, build=None):
            dropped, freed = _prune_builds(connection, schema, keep, yes), _prune_splits(connection, store, keep, yes)
    if not dropped and not freed:
        click.echo("nothing to prune")


def _prune_builds(connection: db.Connection, schema: str, keep: int, yes: bool) -> bool:
    going = builds.prunable(connection, schema, keep)
    if not going:
        return False
    for build in going:
        builds.refuse_dependents(connection, build.schema)
    names = ", ".join(build.schema for build in going)
    size = common.size(sum(build.bytes for build in going))
    common.confirm(f"Drop {names} ({size})?", yes)
    builds.prune(connection, schema, keep)
    click.echo(f"dropped {names}, {size}")
    return True


def _prune_splits(connection: db.Connection, store: str, keep: int, yes: bool) -> bool:
    going = splits.prunable(store, builds.known_splits(connection, keep))
    if not going:
        return False
    names = ", ".join(split.split_id for split in going)
    size = common.size(sum(split.bytes for split in going))
    common.confirm(f"Free {names} of store {store} ({size})?", yes)
    for split in going:
        splits.free(store, split.split_id)
    click.echo(f"freed {names}, {size}")
    return True


@contextmanager
def _connection(where: str | None, name: str) -> Iterator[db.Connection]:
    """Yield a connection to a database that has the schema of this version."""
    with db.connect(dsn.resolve(where), name=name) as connection:
        migrations.require(connection)
        yield connection
