"""polars reads the JSON lines, ADBC ingests them into an unlogged table of text, and the server casts to the columns.

ADBC cannot write jsonb, hence the cast. A file is read in blocks of 64 MB, because reading it whole needs several times
its size.
"""

import io
from collections.abc import Iterator
from typing import IO, Any

import adbc_driver_postgresql.dbapi as adbc
import polars as pl
import psycopg

from benches.contestants import task

_KINDS: dict[str, Any] = {
    "int2": pl.Int16,
    "int4": pl.Int32,
    "int8": pl.Int64,
    "float8": pl.Float64,
    "bool": pl.Boolean,
    "text": pl.String,
    "jsonb": pl.String,
    "text[]": pl.List(pl.String),
    "bytea": pl.String,
}
_BLOCK_BYTES = 64 << 20


def main() -> None:
    given = task.read()
    schema = {name: _KINDS[kind] for name, kind in given.columns.items() if name not in given.constants}
    with psycopg.connect(given.dsn) as connection:
        connection.execute(
            "create unlogged table bench.staging (like_only int); alter table bench.staging drop column like_only"
        )
        for name in schema:
            kind = given.columns[name]
            connection.execute(f"alter table bench.staging add {name} {'text' if kind == 'jsonb' else kind}")
    with given.file.open("rb") as file, adbc.connect(given.dsn) as connection, connection.cursor() as cursor:
        for block in _blocks(file):
            frame = pl.read_ndjson(io.BytesIO(block), schema=schema).with_columns(
                pl.col("source_hash").str.decode("hex")
            )
            arrow = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            cursor.adbc_ingest("staging", arrow, mode="append", db_schema_name="bench")
        connection.commit()
    values = [_value(name, kind, given.constants) for name, kind in given.columns.items()]
    with psycopg.connect(given.dsn) as connection:
        connection.execute(given.fill(given.plan["create"]))
        names, casts = ", ".join(given.columns), ", ".join(values)
        connection.execute(f"insert into {task.TABLE} ({names}) select {casts} from bench.staging")
    given.finish()
    with psycopg.connect(given.dsn) as connection:
        connection.execute("drop table bench.staging")


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(_BLOCK_BYTES):
        yield block + file.readline()


def _value(name: str, kind: str, constants: dict[str, Any]) -> str:
    if name not in constants:
        return f"{name}::jsonb" if kind == "jsonb" else name
    value = constants[name]
    if isinstance(value, list):
        value = "{" + ",".join(f'"{item}"' for item in value) + "}"
    return f"{psycopg.sql.Literal(value).as_string()}::{kind}"


if __name__ == "__main__":
    main()
