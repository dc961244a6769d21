"""Several COPYs in one query string: the answer that one is done comes with the word that the next may begin.

A COPY by itself waits for the server twice, and libpq refuses it in a pipeline. A query string may hold several: a leaf
of five tables then waits six times for its COPYs, and not ten (`scripts/bench.py far` counts the waits of a load).
tests/test_chained.py has both ways put down the same rows.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import psycopg
from psycopg import errors, generators, pq, sql

from etl import bulkload, db
from etl.timings import Clock

if TYPE_CHECKING:
    import pyarrow as pa


class Rows(msgspec.Struct, frozen=True):
    """What one COPY is to put down; ``columns`` and ``freeze`` are those of ``bulkload.copy``, ``name`` is the caller's."""

    name: str
    relation: sql.Composable
    columns: Mapping[str, str]
    batch: "pa.RecordBatch"
    freeze: bool


def copy_each(
    connection: db.Connection, before: Sequence[db.Statement], wanted: Sequence[Rows], clock: Clock
) -> list[tuple[int, int]]:
    """COPY into one relation after another, inside the connection's transaction; return (rows, bytes sent) of each.

    Statements ``before`` them go along; where nothing is to be copied they are not run.

    After an error the connection is good for nothing but closing. The ``clock`` is told what ``bulkload.copy`` tells.

    Raises:
        MismatchError: the server counted other rows than were sent.
        psycopg.Error: the server refused.
    """
    if not wanted:
        return []
    copies = [bulkload.statement(rows.relation, rows.columns, freeze=rows.freeze) for rows in wanted]
    connection.pgconn.send_query(sql.SQL(";\n").join([*before, *copies]).as_bytes(connection))
    connection.wait(generators.send(connection.pgconn))
    for _ in before:
        _expect(connection, pq.ExecStatus.COMMAND_OK)
    totals = [_copy(connection, rows, clock) for rows in wanted]
    _expect(connection, None)
    clock.lap("server_wait")
    return totals


def _copy(connection: db.Connection, rows: Rows, clock: Clock) -> tuple[int, int]:
    """Go through one COPY, from the word that it may begin to its count; return (rows, bytes sent)."""
    from etl import encoding  # after psycopg, which is all that others need

    _expect(connection, pq.ExecStatus.COPY_IN)
    clock.lap("server_wait")
    writer = encoding.encoder(rows.batch.schema, rows.columns)
    parts = [writer.write_header(), writer.write_batch(rows.batch), writer.finish()]
    clock.lap("encode")
    _send(connection, parts)
    clock.lap("send")
    done = _expect(connection, pq.ExecStatus.COMMAND_OK)
    bulkload.prove(connection, rows.relation, rows.batch.num_rows, (done and done.command_tuples) or 0)
    return rows.batch.num_rows, sum(map(len, parts))


def _send(connection: db.Connection, parts: Sequence[bytes]) -> None:
    """Send header, rows and trailer of the COPY that the server is in, and its end; header and trailer go with the rest."""
    for part in parts:
        for piece in bulkload.pieces(part):
            connection.wait(generators.copy_to(connection.pgconn, piece, flush=part is parts[1]))
    while not connection.pgconn.put_copy_end():
        connection.wait(generators.send(connection.pgconn))
    connection.wait(generators.send(connection.pgconn))


def _expect(connection: db.Connection, status: pq.ExecStatus | None) -> "pq.abc.PGresult | None":
    """Return the next answer, which is to be of this status; None: there is to be no more."""
    result: pq.abc.PGresult | None = connection.wait(generators.fetch(connection.pgconn))
    if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
        raise errors.error_from_result(result, encoding=connection.info.encoding)
    found = result and result.status
    if found != status:
        raise psycopg.InternalError(f"the server answered {found} to COPY, and not {status}")
    return result
