"""Bulk load: COPY of Arrow record batches into a table, in PostgreSQL's binary format.

The format is written by pgpq, in Rust, batch by batch. A test compares every kind of column with the values that went
in, and jsonb with what the server itself makes of the text.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pgpq
import psycopg
import pyarrow as pa
from pgpq import encoders
from pgpq import schema as pg_schema
from psycopg import sql

from etl import db
from etl.errors import MismatchError
from etl.timings import Clock

# libpq buffers what is sent; slices of this size keep a big batch from lying in memory twice.
_SEND_BYTES = 1 << 20


def copy(
    connection: db.Connection,
    relation: sql.Composable,
    columns: Mapping[str, str],
    batches: Iterable[pa.RecordBatch],
    *,
    freeze: bool = False,
    clock: Clock | None = None,
) -> tuple[int, int]:
    """COPY the batches into the relation; return (rows, bytes sent).

    ``columns`` maps names to kinds (see ``etl.tables``) in the order of the batches' columns. ``freeze`` needs a table
    that was made in the same transaction and no savepoint between. The ``clock`` is told what the time went to: read
    (waiting for a batch), encode, send, server_wait.

    Raises:
        MismatchError: the server counted other rows than were sent.
        psycopg.Error: the server refused.
    """
    options = sql.SQL("format binary, freeze") if freeze else sql.SQL("format binary")
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("copy {} ({}) from stdin ({})").format(relation, names, options)
    rows = sent = 0
    clock = clock or Clock()
    encoder: pgpq.ArrowToPostgresBinaryEncoder | None = None
    with connection.cursor() as cursor:
        with cursor.copy(statement) as stream:
            clock.lap("server_wait")
            for batch in batches:
                clock.lap("read")
                if encoder is None:
                    encoder = _encoder(batch.schema, columns)
                    sent += _send(stream, encoder.write_header())
                data = encoder.write_batch(batch)
                clock.lap("encode")
                sent += _send(stream, data)
                clock.lap("send")
                rows += batch.num_rows
            sent += _send(stream, encoder.finish() if encoder else _EMPTY)
        clock.lap("server_wait")
        if cursor.rowcount != rows:
            raise MismatchError(f"{rows} rows were sent to {relation.as_string(connection)}, {cursor.rowcount} arrived")
    return rows, sent


def _send(stream: psycopg.Copy, data: bytes) -> int:
    """Send what the encoder gave; return its bytes. A small batch comes out of it with the next one, or at the end."""
    view = memoryview(data)
    for start in range(0, len(data), _SEND_BYTES):
        stream.write(view[start : start + _SEND_BYTES])
    return len(data)


# The header and the trailer of a binary COPY without rows (manual, "COPY", Binary Format).
_EMPTY = b"PGCOPY\n\xff\r\n\x00" + bytes(8) + b"\xff\xff"


def _encoder(schema: pa.Schema, columns: Mapping[str, str]) -> pgpq.ArrowToPostgresBinaryEncoder:
    """Return an encoder for batches of this schema; jsonb columns hold JSON text."""
    if schema.names != list(columns):
        raise MismatchError(f"the transform gave columns {schema.names}, the table wants {list(columns)}")
    builders: dict[str, Any] = {}
    for name, kind in columns.items():
        field = schema.field(name)
        if kind == "jsonb":
            large = pa.types.is_large_string(field.type)
            builder = encoders.LargeStringEncoderBuilder if large else encoders.StringEncoderBuilder
            builders[name] = builder.new_with_output(field, pg_schema.Jsonb())
        else:
            builders[name] = pgpq.ArrowToPostgresBinaryEncoder.infer_encoder(field)
    return pgpq.ArrowToPostgresBinaryEncoder.new_with_encoders(schema, builders)
