"""Two relations compared by the server: rows and a content checksum first, single rows only where these differ.

The checksum is a sum of hashes of rows as text, without the times at which they came: it does not depend on order.
"""

from collections.abc import Sequence

import msgspec
from psycopg import sql

from etl import db
from etl.verify.proofs import SHOWN, Finding, RowDifference

_TIMES = ("created_at", "updated_at")


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A relation and what it should be: both have the ``columns``, "id" among them.

    ``owner`` is the column whose id ``registry`` (a table of schema ``etl``) gives a name to; ``condition`` says which
    rows of ``actual`` (alias ``t``) count.
    """

    actual: sql.Composable
    expected: sql.Composable
    columns: Sequence[str]
    owner: str = "id"
    registry: str = "power_key"
    condition: sql.Composable = msgspec.field(default_factory=lambda: sql.SQL("true"))


def columns_of(connection: db.Connection, schema: str, name: str) -> list[str]:
    """Return the columns of a relation that say something about its content."""
    rows = connection.execute(db.query("columns_of"), {"schema": schema, "name": name}).fetchall()
    return [column for (column,) in rows if column not in _TIMES]


def finding(
    connection: db.Connection,
    pair: Pair,
    check: str,
    table: str,
    *,
    leaf: str | None = None,
    wanted: str = "as in the split",
) -> tuple[int, list[Finding]]:
    """Return (rows that are there, nothing or one finding); ``wanted`` says in words what the rows should be."""
    here = _checksum(connection, pair, pair.actual, pair.condition)
    there = _checksum(connection, pair, pair.expected, sql.SQL("true"))
    if here == there:
        return here[0], []
    total, rows = _differences(connection, pair)
    counts = f" ({here[0]:,} rows instead of {there[0]:,})" if here[0] != there[0] else ""
    message = f"{total:,} row{'s are' if total != 1 else ' is'} not {wanted}{counts}"
    return here[0], [Finding(check=check, table=table, leaf=leaf, message=message, rows=rows)]


def count(connection: db.Connection, pair: Pair) -> int:
    """Return the rows that are there."""
    row = connection.execute(db.query("count_where", relation=pair.actual, condition=pair.condition)).fetchone()
    return int(row[0]) if row else 0


def exists(connection: db.Connection, schema: str, name: str) -> bool:
    """Return whether there is a relation of this name."""
    row = connection.execute(db.query("relation_exists"), {"schema": schema, "name": name}).fetchone()
    return bool(row and row[0])


def _checksum(
    connection: db.Connection, pair: Pair, relation: sql.Composable, condition: sql.Composable
) -> tuple[int, int]:
    statement = db.query("checksum", columns=_listed(pair.columns), relation=relation, condition=condition)
    row = connection.execute(statement).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def _listed(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(column)) for column in columns)


def _differences(connection: db.Connection, pair: Pair) -> tuple[int, tuple[RowDifference, ...]]:
    """Return (number of differing rows, the first of them)."""
    statement = db.query(
        "differing_rows",
        columns=_listed(pair.columns),
        expected=pair.expected,
        actual=pair.actual,
        condition=pair.condition,
        owner=sql.Identifier(pair.owner),
        registry=db.identifier("etl", pair.registry),
    )
    found = connection.execute(statement, {"limit": SHOWN}).fetchall()
    rows = []
    for number, name, extra, missing, _ in found:
        how = "extra" if extra else "missing" if missing else "differs"
        columns = _columns(connection, pair, number) if how == "differs" else ()
        rows.append(RowDifference(id=number, name=name, how=how, columns=columns))
    return (found[0][-1] if found else 0), tuple(rows)


def _columns(connection: db.Connection, pair: Pair, number: int) -> tuple[str, ...]:
    """Return the columns in which two rows differ; as text, since 1.0 and 1.00 are equal as numbers of jsonb."""
    case = sql.SQL("case when e.{column}::text is distinct from a.{column}::text then {name} end")
    cases = [case.format(column=sql.Identifier(column), name=sql.Literal(column)) for column in pair.columns]
    statement = db.query(
        "differing_columns", differences=sql.SQL(", ").join(cases), expected=pair.expected, actual=pair.actual
    )
    row = connection.execute(statement, {"id": number}).fetchone()
    return tuple(row[0]) if row else ()
