"""The import log: one row per run, begun before the work and ended with its counts."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import psycopg

from etl import audit, config, db
from etl.model import Manifest, Reject

_log = logging.getLogger(__name__)

# import_data shows this many rejects in full; all of them are in the store and in etl.reject.
SHOWN_REJECTS = 100


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended: its state (done, stopped, failed) and what it came to."""

    state: str
    records: int = 0
    loaded: int = 0
    superseded: int = 0
    rejected: int = 0
    peak_bytes: int = 0
    timings: Mapping[str, float] = msgspec.field(default_factory=dict)
    data: Mapping[str, Any] = msgspec.field(default_factory=dict)
    message: str | None = None


def begin(
    connection: db.Connection,
    *,
    manifest: Manifest,
    command: str,
    live_schema: str,
    build: int,
    workers: int,
    kind: str = "powers",
) -> db.Cursor:
    """Write the first half of a run's row; one row, its number. Rows that a killed run left open are closed."""
    values = {
        "type": f"{manifest.format} {kind}",
        "command": config.redact_command(command),
        "schema": live_schema,
        "source": ", ".join(source.path for source in manifest.sources),
        "hash": ", ".join(source.sha256 for source in manifest.sources),
        "game_version": manifest.game_version,
        "build": build,
        "who": db.whoami(),
        "workers": workers,
    }
    with db.together(connection):
        close_lost(connection, live_schema)
        begun = connection.execute(db.query("begin_run"), values)
        audit.record(connection, command=command, live_schema=live_schema, build=build, outcome=audit.BEGUN)
    return begun


def close_lost(connection: db.Connection, live_schema: str) -> None:
    """Close the rows of runs that ended without a word; only the holder of the coordinator's lock may say so."""
    connection.execute(db.query("close_lost_runs"), {"schema": live_schema})


def end(connection: db.Connection, run: int, ending: Ending) -> None:
    """Write the second half of a run's row, and what the audit trail says of it."""
    values = {
        "run": run,
        "state": ending.state,
        "records": ending.records,
        "loaded": ending.loaded,
        "superseded": ending.superseded,
        "rejected": ending.rejected,
        "peak": ending.peak_bytes,
        "timings": json.dumps({name: round(seconds, 4) for name, seconds in ending.timings.items()}),
        "data": json.dumps(ending.data, ensure_ascii=False).replace("\\u0000", ""),
        "message": ending.message,
    }
    with db.together(connection):
        connection.execute(db.query("end_run"), values)
        audit.record_end(connection, run, outcome=ending.state, message=ending.message)


def fail(
    connection: db.Connection, run: int, error: BaseException, timings: Mapping[str, float], peak_bytes: int
) -> None:
    """End a run that did not end well, if the database still listens: it was stopped, or it failed."""
    state = audit.outcome_of(error)
    message = config.redact_command(f"{type(error).__name__}: {error}")
    try:
        end(connection, run, Ending(state=state, peak_bytes=peak_bytes, timings=timings, message=message))
    except psycopg.Error as lost:
        _log.warning("the end of run %s could not be written: %s", run, lost)


def log_leaf(connection: db.Connection, run: int, build: int, leaf: str, totals: Mapping[str, tuple[int, int]]) -> None:
    """Write a line for each of a leaf's tables, (rows, bytes), in their transaction, with the seconds since that began."""
    for table, (rows, size) in totals.items():
        values = {"run": run, "build": build, "table": table, "leaf": leaf, "rows": rows, "bytes": size}
        connection.execute(db.query("record_leaf_log"), values)


def summary_data(codes: Mapping[str, int], rejects: Sequence[Reject], counts: Mapping[str, int]) -> dict[str, Any]:
    """Return ``import_data``: counts per reject reason, cleaning counts, and the first rejects without their text."""
    shown = [
        {
            "source": reject.source,
            "file": reject.file,
            "ordinal": reject.ordinal,
            "offset": reject.offset,
            "uid": reject.uid,
            "stage": reject.stage,
            "code": reject.code,
            "reason": reject.reason,
        }
        for reject in rejects[:SHOWN_REJECTS]
    ]
    return {"reject_codes": dict(codes), "cleaned": dict(counts), "rejects": shown}


def reject_values(reject: Reject) -> dict[str, object]:
    """Return the columns of ``etl.reject`` that a reject fills."""
    return {name: getattr(reject, name) for name in Reject.__dataclass_fields__}
