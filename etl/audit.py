"""The audit trail: who changed what, from where, by which command, and how it ended. Append-only, see migration 0002."""

import getpass
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from etl import config, db
from etl.errors import Incomplete, Interrupted

_log = logging.getLogger(__name__)

BEGUN, DONE, STOPPED, FAILED = "begun", "done", "stopped", "failed"


def record(
    connection: db.Connection,
    *,
    command: str,
    live_schema: str,
    build: int | None,
    outcome: str,
    message: str | None = None,
) -> None:
    """Append a line. Passwords of connection strings in the command are left out."""
    values = {
        "who": _user(),
        "host": socket.gethostname(),
        "command": config.redact_command(command),
        "schema": live_schema,
        "build": build,
        "outcome": outcome,
        "message": message and config.redact_command(message),
    }
    connection.execute(db.query("record_audit"), values)


def record_end(connection: db.Connection, run: int, *, outcome: str, message: str | None = None) -> None:
    """Append a line on a run of the import log, whose command stands there without passwords."""
    values = {"who": _user(), "host": socket.gethostname(), "run": run, "outcome": outcome}
    message = message and config.redact_command(message)
    connection.execute(db.query("record_audit_of_run"), {**values, "message": message})


@contextmanager
def watched(connection: db.Connection, *, command: str | None, live_schema: str, build: int | None) -> Iterator[None]:
    """Append a line before the block and one behind it, whatever happens inside; no command: this process's own."""
    what = command or shlex.join(["etl", *sys.argv[1:]])
    record(connection, command=what, live_schema=live_schema, build=build, outcome=BEGUN)
    try:
        yield
    except BaseException as error:
        ended = {"outcome": outcome_of(error), "message": f"{type(error).__name__}: {error}"}
        try:
            record(connection, command=what, live_schema=live_schema, build=build, **ended)
        except psycopg.Error as lost:
            _log.warning("the end of '%s' could not be written into the audit trail: %s", what, lost)
        raise
    record(connection, command=what, live_schema=live_schema, build=build, outcome=DONE)


def outcome_of(error: BaseException) -> str:
    """Return whether somebody stopped it, or it failed."""
    return STOPPED if isinstance(error, Interrupted | KeyboardInterrupt | Incomplete) else FAILED


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
