"""Which database a run works on."""

import os
import re

_LIBPQ_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGSERVICE", "PGUSER")


def resolve(dsn: str | None) -> str:
    """Return the database to use: ``dsn``, else DATABASE_URL, else libpq's PG* variables, else the embedded server.

    The embedded server is started if it does not run. The ``postgresql+driver://`` URLs of ORMs are understood.

    Raises:
        EtlError: no database is named, and the embedded server is not installed or does not start.
    """
    text = dsn or os.environ.get("DATABASE_URL") or ""
    if text:
        return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", text)
    if any(os.environ.get(name) for name in _LIBPQ_VARIABLES):
        return ""
    from etl import server  # the start of a command to a server that is named does without

    return server.start()
