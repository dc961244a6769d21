"""The command that gives advice on a server: health."""

import click

from etl import db
from etl import dsn as dsns
from etl import health as advice
from etl.cli import common


@click.command()
@common.DSN
@common.JSON
def health(dsn: str | None, as_json: bool) -> None:
    """Compare the server's settings with what loading wants, and say what each was measured to gain.

    They are looked at as the role has them. It is advice: the exit code is 0, whatever they are; 4 where no server answers.

    \b
    Example: etl health --json
    """
    with db.connect(dsns.resolve(dsn), name="etl health") as connection:
        found = advice.look(connection)
    if as_json:
        common.emit(found)
    else:
        _show(found)


def _show(found: advice.Health) -> None:
    """Print the table of the settings, where its figures are from, and what changes those that are not as wanted."""
    rows = [(one.name, one.value, one.wanted, one.otherwise) for one in found.settings]
    click.echo(f"PostgreSQL {found.server_version}, as {found.role}")
    click.echo(common.table(("setting", "value", "loading wants", "a load took otherwise"), rows))
    click.echo(f"measured on a machine with two cores: {found.source}")
    for one in found.settings:
        if one.remedy:
            click.echo(f"to change {one.name}: {one.remedy}")
    if found.changeable and not found.is_superuser:
        click.echo(f"{found.role} is no superuser: `alter system` is for one, or for the provider's own parameters")
