"""The command ``etl``: parse, settle, call, print. The only place that ends the process with an exit code.

A command's module is imported when the command is called, so that ``etl --help`` stays quick.
"""

import importlib
import logging
import re
import signal
import sys
import traceback

import click

from etl.errors import EtlError, Terminated

_LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

_COMMANDS = {
    "split": ("etl.cli.split:split", "Cut a JSON export into Arrow record batches, one partition each."),
    "load": ("etl.cli.load:load", "Load a split into PostgreSQL and publish it."),
    "rebuild": ("etl.cli.load:rebuild", "Split, load into a fresh build, publish: all in one go."),
    "update": ("etl.cli.change:update", "Change only the powers that differ, in the published build."),
    "validate": ("etl.cli.records:validate", "Say what a load would reject, without a database."),
    "rejects": ("etl.cli.records:rejects", "Rejected records: list, show, export, replay."),
    "generate": ("etl.cli.split:generate", "Write synthetic records, for tests and measurements."),
    "power": ("etl.cli.read:power", "Show one power by name or id."),
    "powerset": ("etl.cli.read:powerset", "Show the powers of a powerset."),
    "status": ("etl.cli.operate:status", "Show the builds, and what is left to do."),
    "verify": ("etl.cli.check:verify", "Prove the published build against its split."),
    "health": ("etl.cli.health:health", "Compare the server's settings with what loading wants."),
    "rollback": ("etl.cli.operate:rollback", "Publish the previous build again."),
    "prune": ("etl.cli.operate:prune", "Drop old builds."),
    "log": ("etl.cli.operate:log", "Show the import log."),
    "cache": ("etl.cli.cache:cache", "What readers cache: stats, clear, warm."),
    "db": ("etl.cli.server:database", "The database: start, stop, url, shell, status, migrate, reset."),
}


class _Commands(click.Group):
    """The commands by name; each is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of use."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="hero-etl", prog_name="etl")
@click.option("--verbose", "-v", count=True, help="Log to stderr, one line per event; -vv says more.")
def cli(verbose: int) -> None:
    """Turn a big game-data JSON export into a PostgreSQL database that an application can read at once.

    \b
    etl split powers.json   JSON -> Arrow record batches under a manifest
    etl load                record batches -> PostgreSQL, published in one instant

    The database is --dsn, else DATABASE_URL, else PG*, else the embedded server.

    Exit codes: 0 done, 1 failed, 2 usage, 3 done with rejects, 4 database, 5 input, 6 mismatch or wrong schema,
    75 stopped (the same command goes on), 76 another run is at work, 130/143 interrupted.

    \b
    Example: etl -v load
    """
    if verbose:
        level = logging.INFO if verbose == 1 else logging.DEBUG
        logging.basicConfig(level=logging.WARNING, format=_LOG_FORMAT, stream=sys.stderr)
        logging.getLogger("etl").setLevel(level)


def main() -> None:
    """Run the command line; always ends by SystemExit."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(cli.main(prog_name="etl", standalone_mode=False) or 0)
    except click.exceptions.Abort as error:
        _fail_interrupted(error.__cause__ or error.__context__)
    except KeyboardInterrupt as error:
        _fail_interrupted(error)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except EtlError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
    except Exception as error:  # noqa: BLE001  # the outermost edge: a bug becomes one sentence and an exit code
        _fail_with_bug(error)


def _terminate(*_: object) -> None:
    raise Terminated


def _fail(text: str, code: int) -> None:
    click.echo(f"etl: {text}", err=True)
    sys.exit(code)


def _fail_interrupted(cause: BaseException | None) -> None:
    """End after Ctrl-C, SIGTERM, or a question that was not answered."""
    if isinstance(cause, KeyboardInterrupt):
        # CPython remembers an interrupt of a text that it runs (named tuples are made of one) even where it was handled,
        # and would end by SIGINT, whatever the exit code; running another text makes it forget.
        exec("")  # noqa: S102
        _fail("interrupted\n  next: the same command goes on", 143 if isinstance(cause, Terminated) else 130)
    _fail("aborted; nothing was done", 130)


def _fail_with_bug(error: Exception) -> None:
    """Say where an error came from that nobody foresaw; the whole traceback is for those who ask."""
    if logging.getLogger("etl").isEnabledFor(logging.INFO):
        traceback.print_exception(error)
    told = "".join(traceback.format_exception(error))
    place = re.findall(r'/etl/(\S+\.py)", line (\d+)', told)
    where = f" (etl/{place[-1][0]}:{place[-1][1]})" if place else ""
    _fail(f"a bug: {type(error).__name__}: {error}{where}\n  next: run it as `etl -v …`, and report what it prints", 1)
