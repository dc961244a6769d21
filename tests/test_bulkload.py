"""What is copied in is what the server itself would have made of the values."""

import json

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl import bulkload, db
from etl.errors import MismatchError

# Bytes of a binary COPY (manual, "COPY", Binary Format); a tuple has two, and four before each field.
HEADER, TRAILER = 19, 2

KINDS = {
    "a": ("int2", pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "b": ("int4", pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "c": ("int8", pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "d": ("float8", pa.float64(), st.floats(allow_nan=False)),
    "e": ("bool", pa.bool_(), st.booleans()),
    "f": ("text", pa.utf8(), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    "g": (
        "text[]",
        pa.list_(pa.utf8()),
        st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    ),
    "h": ("bytea", pa.binary(), st.binary()),
}
COLUMNS = {name: kind for name, (kind, _, _) in KINDS.items()}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), inner)
    ),
    max_leaves=10,
)


def test_every_kind_of_column_comes_back_equal(dsn: str) -> None:
    """Encode → COPY → select is the identity, nulls included."""
    types = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"create table t (n serial, {types}, j jsonb)")

        @settings(max_examples=50)
        @given(
            st.lists(st.tuples(*(st.none() | values for _, _, values in KINDS.values()), st.none() | JSON), max_size=5)
        )
        def check(rows: list[tuple[object, ...]]) -> None:
            connection.execute("truncate t restart identity")
            arrays = [pa.array([row[i] for row in rows], kind) for i, (_, kind, _) in enumerate(KINDS.values())]
            texts = [None if row[-1] is None else json.dumps(row[-1]) for row in rows]
            batch = pa.record_batch([*arrays, pa.array(texts, pa.utf8())], names=[*COLUMNS, "j"])
            copied = bulkload.copy(connection, db.identifier("t"), {**COLUMNS, "j": "jsonb"}, [batch])

            assert copied[0] == len(rows)
            found = connection.execute("select a, b, c, d, e, f, g, h, j from t order by n").fetchall()
            assert found == rows

        check()


def test_json_is_stored_as_the_server_reads_it(dsn: str) -> None:
    """A jsonb column holds the object, not a string of its text."""
    text = '{"a": [1, 2.50, -0, 1e3], "b": "\\\\u0000", "c": null}'
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table t (j jsonb)")
        batch = pa.record_batch([pa.array([text])], names=["j"])
        bulkload.copy(connection, db.identifier("t"), {"j": "jsonb"}, [batch])

        assert connection.execute("select j = %s::jsonb, jsonb_typeof(j) from t", (text,)).fetchone() == (
            True,
            "object",
        )


def test_no_batches_are_no_rows(dsn: str) -> None:
    """An empty COPY is valid."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table t (a int)")

        assert bulkload.copy(connection, db.identifier("t"), {"a": "int4"}, []) == (0, HEADER + TRAILER)


@pytest.mark.parametrize("batches", [1, 3])
def test_every_byte_that_is_sent_counts(dsn: str, batches: int) -> None:
    """Also those of small batches, which the encoder keeps until the end."""
    batch = pa.record_batch([pa.array([1, 2], pa.int32())], names=["a"])
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table t (a int)")
        copied = bulkload.copy(connection, db.identifier("t"), {"a": "int4"}, [batch] * batches)

        assert copied == (2 * batches, HEADER + 2 * batches * (2 + 4 + 4) + TRAILER)


def test_other_columns_than_the_table_wants_are_refused(dsn: str) -> None:
    """Before anything is sent."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table t (a int)")
        batch = pa.record_batch([pa.array([1], pa.int32())], names=["b"])

        with pytest.raises(MismatchError, match="columns"):
            bulkload.copy(connection, db.identifier("t"), {"a": "int4"}, [batch])
        assert connection.execute("select count(*) from t").fetchone() == (0,)
