"""The commands that look after builds and runs: status, rollback, prune, log."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click
from psycopg.rows import dict_row

from etl import builds, coordinator, db, dsn, migrations
from etl.cli import common


@click.command()
@common.DSN
@common.SCHEMA
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@common.JSON
def log(dsn: str | None, schema: str, limit: int, as_json: bool) -> None:
    """Show the import log, newest run first.

    \b
    Example: etl log --limit 5
    """
    rows = _runs(dsn, schema, limit)
    if as_json:
        common.emit(rows)
        return
    header = [
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
    ]
    lines = []
    for row in rows:
        seconds = (row["completed_at"] - row["started_at"]).total_seconds() if row["completed_at"] else None
        peak = common.size(row["peak_memory_bytes"]) if row["peak_memory_bytes"] else ""
        lines.append(
            [
                row["id"],
                f"{row['started_at']:%Y-%m-%d %H:%M:%S}",
                row["state"],
                row["source_file"],
                row["build"],
                row["records_seen"],
                row["records_loaded"],
                row["records_superseded"],
                row["records_rejected"],
                seconds,
                peak,
            ]  # fmt: skip
        )
    click.echo(common.table(header, lines))


def _runs(where: str | None, schema: str, limit: int) -> list[dict[str, Any]]:
    with _connection(where, "etl log") as connection:
        cursor = connection.cursor(row_factory=dict_row)
        return cursor.execute(db.query("latest_runs"), {"schema": schema, "limit": limit}).fetchall()


@click.command()
@common.DSN
@common.SCHEMA
@common.STORE
@common.JSON
def status(dsn: str | None, schema: str, store: str, as_json: bool) -> None:
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
        common.emit(
            {"builds": [asdict(build) for build in found], "unfinished": left and asdict(left), "last_run": runs}
        )
        return
    header = ["build", "state", "split", "game version", "size", "published"]
    lines = [[b.build, b.state, b.split_id, b.game_version, common.size(b.bytes), b.published_at] for b in found]
    click.echo(common.table(header, lines))
    if runs:
        click.echo(f"last run: {runs['state']}" + (f" ({runs['message']})" if runs["message"] else ""))
    if left:
        click.echo(
            f"build {left.build}: {left.done} of {left.leaves} leaves done, {len(left.todo)} to do"
            + (f" ({', '.join(left.todo[:8])}{' …' if len(left.todo) > 8 else ''})" if left.todo else "")
            + f", {left.rejects} rejects so far"
        )
        click.echo(f"next: etl load --store {left.store} --split {left.split_id}")


@click.command()
@common.DSN
@common.SCHEMA
@common.YES
def rollback(dsn: str | None, schema: str, yes: bool) -> None:
    """Publish the previous build again, at once; calling it twice goes forward again."""
    with _connection(dsn, "etl rollback") as connection:
        coordinator.lock(connection, schema)
        common.confirm(f"Go back to the previous build of schema {schema}?", yes)
        done = builds.rollback(connection, schema)
        live = next(build for build in builds.overview(connection, schema) if build.state == "live")
    click.echo(f"published build {live.build} (split {live.split_id}) again, generation {done.generation}")


@click.command()
@click.option("--keep", type=click.IntRange(min=2), default=2, show_default=True, help="Published builds to keep.")
@common.DSN
@common.SCHEMA
@common.YES
def prune(keep: int, dsn: str | None, schema: str, yes: bool) -> None:
    """Drop old builds and free their space; the live and the previous one always stay."""
    with _connection(dsn, "etl prune") as connection:
        coordinator.lock(connection, schema)
        going = builds.prunable(connection, schema, keep)
        if not going:
            click.echo("nothing to prune")
            return
        names = ", ".join(build.schema for build in going)
        freed = common.size(sum(build.bytes for build in going))
        common.confirm(f"Drop {names} ({freed})?", yes)
        builds.prune(connection, schema, keep)
    click.echo(f"dropped {names}, {freed}")


@contextmanager
def _connection(where: str | None, name: str) -> Iterator[db.Connection]:
    """Yield a connection to a database that has the schema of this version."""
    with db.connect(dsn.resolve(where), name=name) as connection:
        migrations.require(connection)
        yield connection
