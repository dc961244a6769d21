"""The commands of ``etl db``: the embedded server, and what every database needs."""

import os
import sys

import click

from etl import config, db, ddl, dsn, migrations, postgres, preflight, publish, resources, server, session
from etl.cli import common
from etl.errors import DatabaseError, UsageError


class _InOrder(click.Group):
    """Lists its commands in the order in which they are written here."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return list(self.commands)


@click.group("db", cls=_InOrder)
def database() -> None:
    """The database: start, stop and url are the embedded server's; the others work on whatever is configured.

    \b
    Example: etl db start
    """


@database.command()
def start() -> None:
    """Start the embedded server, and print its URL.

    One that runs already is left as it is.

    \b
    Example: etl db start
    """
    click.echo(server.start())


@database.command()
def stop() -> None:
    """Stop the embedded server.

    \b
    Example: etl db stop
    """
    click.echo("stopped" if server.stop() else "it was not running")


@database.command()
def url() -> None:
    """Print the URL of the embedded server.

    It holds no password.

    \b
    Example: psql "$(etl db url)"
    """
    found = server.url()
    if found is None:
        raise DatabaseError("the embedded server does not run", "etl db start")
    click.echo(found)


@database.command(context_settings={"ignore_unknown_options": True})
@common.DSN
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def shell(dsn: str | None, arguments: tuple[str, ...]) -> None:
    """Open psql on the database; ARGUMENTS go to psql.

    \b
    Example: etl db shell -c "select count(*) from game.powers"
    """
    found = postgres.find_psql()
    if found is None:
        raise UsageError(
            "psql is not installed", "pip install 'hero-etl[embedded]', or your system's PostgreSQL client"
        )
    # What is on a command line, everybody can read.
    where, password = db.split_secret(_where(dsn))
    environment = {**os.environ, "PGPASSWORD": password} if password else dict(os.environ)
    command = [str(found), *([where] if where else []), *arguments]
    os.execve(found, command, environment)  # noqa: S606  # the arguments are the user's own


@database.command()
@common.DSN
@common.SCHEMA
@common.JSON
def status(dsn: str | None, schema: str, as_json: bool) -> None:
    """Show the server, its schema and the published build.

    \b
    Example: etl db status --json
    """
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
@common.SCHEMA
@common.JOBS
@common.JSON
def check(dsn: str | None, schema: str, jobs: int | None, as_json: bool) -> None:
    """Say what would be in the way of a load.

    Rights, connections, locks, each with its remedy. Every load looks at them first. Exit code 4 if a load cannot work.
    What the server's settings are worth is told by etl health.

    \b
    Example: etl db check
    """
    options = config.LoadOptions(dsn=dsn, schema=schema, executor=config.executor_url(None, jobs))
    with db.connect(_where(dsn), name="etl db check") as connection:
        found = preflight.check(connection, options)
    if as_json:
        common.emit({"problems": found})
    for problem in [] if as_json else found:
        click.echo(f"{'advice' if problem.is_advice else 'problem'}: {problem}")
    bad = sum(not problem.is_advice for problem in found)
    if not as_json and not bad:
        click.echo("nothing is in the way of a load")
    if bad:
        sys.exit(DatabaseError.exit_code)


@database.command()
@common.DSN
def migrate(dsn: str | None) -> None:
    """Bring schema etl up to this version of etl.

    \b
    Example: etl db migrate
    """
    with db.connect(_where(dsn), name="etl db migrate") as connection:
        done = migrations.migrate(connection)
    for migration in done:
        click.echo(f"applied {migration.version:04d} {migration.name}")
    if not done:
        click.echo("nothing to do")


@database.command("migration-create")
@click.argument("description")
def migration_create(description: str) -> None:
    """Write the next migration, for developers.

    It works in a checkout of the sources, not in an installed package.

    \b
    Example: etl db migration-create "remember who asked"
    """
    click.echo(migrations.create(description, resources.migrations_folder()))


@database.command()
@common.DSN
@common.SCHEMA
@common.YES
def reset(dsn: str | None, schema: str, yes: bool) -> None:
    """Drop everything that etl made in a schema.

    That is its builds and views; and the registry of ids and the import log, unless another schema needs them.

    \b
    Example: etl db reset --yes
    """
    where = _where(dsn)
    common.confirm(f"Drop every build, schema {schema} and schema etl of {db.redact(where)}?", yes)
    with db.connect(where, name="etl db reset") as connection:
        dropped, others = drop_all(connection, schema)
    click.echo(f"dropped {', '.join(dropped)}" if dropped else "nothing to drop")
    if others:
        click.echo(f"schema etl stays: it also serves {', '.join(others)}")


def drop_all(connection: db.Connection, schema: str) -> tuple[list[str], list[str]]:
    """Drop the live schema's views, every build of it, and schema ``etl`` unless others need it.

    Return the names of what went, and the other live schemas. The live schema itself goes too if nothing else lives in
    it, except ``public``, which every database has. Views that users built on ours stop it before anything is gone,
    named by the server. Run again after a failure, it goes on.

    Raises:
        Busy: a run is at work on this schema.
    """
    migrations.pending(connection)
    if not migrations.applied(connection):
        return [], []
    session.lock(connection, schema)
    with connection.transaction():
        publish.retract(connection, schema)
        connection.execute(db.query("forget_live"), {"schema": schema})
    dropped = []
    for (build,) in connection.execute(db.query("builds_of"), {"schema": schema}).fetchall():
        ddl.drop_build(connection, publish.schema_of(schema, build))
        with connection.transaction():
            connection.execute(db.query("forget_build"), {"build": build})
            connection.execute(db.query("drop_build_row"), {"build": build})
        dropped.append(publish.schema_of(schema, build))
    row = connection.execute(db.query("schema_is_empty"), {"schema": schema}).fetchone()
    if dropped and schema != "public" and row and row[0]:
        connection.execute(db.query("drop_schema", schema=db.identifier(schema)))
        dropped.append(schema)
    others = [name for (name,) in connection.execute(db.query("other_live_schemas"), {"schema": schema})]
    if not others:
        connection.execute(db.query("drop_ledger"))
        dropped.append("etl")
    return dropped, others


def _where(given: str | None) -> str:
    return dsn.resolve(given)
