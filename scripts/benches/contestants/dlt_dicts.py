"""dlt takes dicts from a generator, normalises them and loads them with two workers each, into a table of its own make.

It has no text[]: lists become jsonb, and the checksum reads them as the lists they are. It loads by INSERT, its default:
through its csv files an empty text of a nullable column comes back as null, and bytes do not come back at all.
"""

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import dlt
import psycopg

from benches.contestants import task

_KINDS: dict[str, dict[str, Any]] = {
    "int2": {"data_type": "bigint", "precision": 16},
    "int4": {"data_type": "bigint", "precision": 32},
    "int8": {"data_type": "bigint"},
    "float8": {"data_type": "double"},
    "bool": {"data_type": "bool"},
    "text": {"data_type": "text"},
    "jsonb": {"data_type": "json"},
    "text[]": {"data_type": "json"},
    "bytea": {"data_type": "binary"},
}
_BATCH = 1_000


def main() -> None:
    given = task.read()
    jobs = str(given.jobs)
    os.environ |= {
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "CRITICAL",
        "NORMALIZE__WORKERS": jobs,
        "LOAD__WORKERS": jobs,
        "DATA_WRITER__FILE_MAX_ITEMS": "20000",
        "DATA_WRITER__DISABLE_COMPRESSION": "true",
    }
    with tempfile.TemporaryDirectory(prefix="dlt-", dir=given.rows) as folder:
        pipeline = dlt.pipeline(
            pipeline_name="bench",
            pipelines_dir=folder,
            destination=dlt.destinations.postgres(credentials=_credentials(given.dsn), create_indexes=False),
            dataset_name="bench",
        )
        hints = {name: {"name": name, **_KINDS[kind]} for name, kind in given.columns.items()}
        resource = dlt.resource(_batches(given), name="powers", columns=hints, max_table_nesting=0)
        pipeline.run(resource).raise_on_failed_jobs()
    with psycopg.connect(given.dsn) as connection:
        connection.execute(f"alter table {task.TABLE} add created_at timestamptz not null default now()")
        connection.execute(f"alter table {task.TABLE} add updated_at timestamptz not null default now()")
    given.finish()


def _credentials(dsn: str) -> str:
    """Dlt insists on a host and a password in the address; libpq takes the socket's folder from the end of it."""
    return dsn.replace("@/", ":unused@localhost/", 1)


def _batches(given: task.Task) -> Iterator[list[dict[str, Any]]]:
    batch = []
    for record in given.records():
        batch.append(record)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch


if __name__ == "__main__":
    main()
