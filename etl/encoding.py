"""PostgreSQL's binary COPY format, as pgpq writes it in Rust from Arrow record batches.

A test compares every kind of column with the values that went in, and jsonb with what the server itself makes of the
text.
"""

from collections.abc import Mapping
from typing import Any

import pgpq
import pyarrow as pa
from pgpq import encoders
from pgpq import schema as pg_schema

from etl.errors import MismatchError

EMPTY = b"PGCOPY\n\xff\r\n\x00" + bytes(8) + b"\xff\xff"
"""A binary COPY without rows: header and trailer (manual, "COPY", Binary Format)."""


def encoder(schema: pa.Schema, columns: Mapping[str, str]) -> pgpq.ArrowToPostgresBinaryEncoder:
    """Return an encoder for batches of this schema; jsonb columns hold JSON text.

    ``columns`` maps names to kinds (see ``etl.tables``) in the order of the schema; MismatchError where it is not.
    """
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


def encode(batch: pa.RecordBatch, columns: Mapping[str, str]) -> bytes:
    """Return a whole binary COPY of the rows."""
    writer = encoder(batch.schema, columns)
    return b"".join([writer.write_header(), writer.write_batch(batch), writer.finish()])
