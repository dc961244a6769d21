"""Bulk load: COPY of Arrow record batches into a table, in PostgreSQL's binary format (``etl.encoding``)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from etl import db
from etl.errors import MismatchError
from etl.timings import Clock

if TYPE_CHECKING:
    import pgpq
    import pyarrow as pa

# libpq buffers what is sent; slices of this size keep a big batch from lying in memory twice.
_SEND_BYTES = 1 << 20


def copy(
    connection: db.Connection,
    relation: sql.Composable,
    columns: Mapping[str, str],
    batches: "Iterable[pa.RecordBatch]",
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
    from etl import encoding  # what is encoded elsewhere can be sent without

    rows = sent = 0
    clock = clock or Clock()
    encoder: pgpq.ArrowToPostgresBinaryEncoder | None = None
    with connection.cursor() as cursor:
        with cursor.copy(statement(relation, columns, freeze=freeze)) as stream:
            clock.lap("server_wait")
            for batch in batches:
                clock.lap("read")
                if encoder is None:
                    encoder = encoding.encoder(batch.schema, columns)
                    sent += _send(stream, encoder.write_header())
                data = encoder.write_batch(batch)
                clock.lap("encode")
                sent += _send(stream, data)
                clock.lap("send")
                rows += batch.num_rows
            sent += _send(stream, encoder.finish() if encoder else encoding.EMPTY)
        clock.lap("server_wait")
        prove(connection, relation, rows, cursor.rowcount)
    return rows, sent


def send(
    connection: db.Connection,
    relation: sql.Composable,
    columns: Mapping[str, str],
    data: bytes,
    rows: int,
) -> None:
    """COPY what ``etl.encoding.encode`` made of so many rows into the relation; raises as ``copy`` does."""
    with connection.cursor() as cursor:
        with cursor.copy(statement(relation, columns)) as stream:
            _send(stream, data)
        prove(connection, relation, rows, cursor.rowcount)


def statement(relation: sql.Composable, columns: Mapping[str, str], *, freeze: bool = False) -> sql.Composed:
    """Return the COPY of these columns; see ``copy``."""
    options = sql.SQL("format binary, freeze") if freeze else sql.SQL("format binary")
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    return sql.SQL("copy {} ({}) from stdin ({})").format(relation, names, options)


def prove(connection: db.Connection, relation: sql.Composable, sent: int, arrived: int) -> None:
    """Raise MismatchError where the server counted other rows than were sent."""
    if arrived != sent:
        raise MismatchError(f"{sent} rows were sent to {relation.as_string(connection)}, {arrived} arrived")


def pieces(data: bytes) -> Iterator[memoryview]:
    """Yield what was encoded in pieces that libpq may buffer."""
    view = memoryview(data)
    for start in range(0, len(data), _SEND_BYTES):
        yield view[start : start + _SEND_BYTES]


def _send(stream: psycopg.Copy, data: bytes) -> int:
    """Send what the encoder gave; return its bytes. A small batch comes out of it with the next one, or at the end."""
    for piece in pieces(data):
        stream.write(piece)
    return len(data)
