"""The table that every contender fills: the product's columns, indexes and ANALYZE, and the checksum of what is in it."""

from typing import Any

import psycopg

from etl import db, ddl, tables

_SCALARS = ("int2", "int4", "int8", "float8", "bool", "text")


def plan(name: str, extensions: list[str]) -> dict[str, Any]:
    """Return how to make one table in schema bench: its statement, key and index statements, ANALYZE, column kinds.

    ``{table}`` stands for the table and ``{prefix}`` for what its indexes are called. ``extensions`` are those that the
    server has: what needs another one is left out, as etl does. Indexes come with the longest to build first.
    """
    path = ddl.table_file(name)
    create = next(body for heading, body in db.sections(path) if heading == "create")
    columns = create[create.index("(") : create.rindex("\n)")]
    found = [index for index in ddl.indexes(path) if not index.requires or index.requires in extensions]
    kinds = dict(tables.spec(name).columns)
    statements = {
        index.name: _bare(index.statement).format(index=f"{{prefix}}_{number}", table="{table}")
        for number, index in enumerate(found)
    }
    keys = [statement for statement in statements.values() if statement.startswith("alter")]
    others = sorted(set(statements.values()) - set(keys), key=lambda text: ("using gin" not in text, text))
    scalars = ", ".join(column for column, kind in kinds.items() if kind in _SCALARS)
    return {
        "table": name,
        "create": f"create table {{table}} {columns}\n)",
        "keys": keys,
        "indexes": others,
        "analyze": f"analyze {{table}} ({scalars})",
        "columns": kinds,
    }


def _bare(statement: str) -> str:
    lines = (line for line in statement.splitlines() if not line.startswith("--"))
    return " ".join(" ".join(lines).split()).rstrip(";")


def extensions(dsn: str) -> list[str]:
    """Return the extensions that a database has."""
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute("select extname from pg_extension")]


def indexes(dsn: str, relation: str) -> list[str]:
    """Return method and columns of a table's indexes, sorted, without their names."""
    found = "select regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', '') from pg_index where indrelid = %s::regclass"
    with psycopg.connect(dsn) as connection:
        return sorted(row[0] for row in connection.execute(found, (relation,)))


def column(dsn: str, relation: str, name: str) -> list[Any]:
    """Return the values of a column."""
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute(f"select {name} from {relation}")]


def fill(statement: str, table: str) -> str:
    """Return a statement of a plan for one table."""
    return statement.format(table=table, prefix=table.rpartition(".")[2])


def checksum(dsn: str, relations: list[str], kinds: dict[str, str], where: str = "") -> tuple[int, int]:
    """Return (rows, sum of the rows' hashes) over relations that hold a table's rows together.

    A row's hash covers every column that a contender fills, jsonb by value (1.0 is 1, keys in any order), so it does not
    depend on the order of rows. A text[] that a loader can only write as jsonb is compared as the list that it is.
    """
    rows, sums = _sums(dsn, relations, [kinds], where)
    return rows, sums[0]


def columns_that_differ(ours: str, own: str, dsn: str, relations: list[str], kinds: dict[str, str]) -> list[str]:
    """Return the columns whose values are not those of the reference, for the person who has to find out why."""
    alone = [{name: kind} for name, kind in kinds.items()]
    wanted, got = _sums(ours, [own], alone, "")[1], _sums(dsn, relations, alone, "")[1]
    return [name for name, one, other in zip(kinds, wanted, got, strict=True) if one != other]


def _sums(dsn: str, relations: list[str], groups: list[dict[str, str]], where: str) -> tuple[int, list[int]]:
    """Return the number of rows, and for each group of columns the sum of their rows' hashes."""
    rows, totals = 0, [0] * len(groups)
    with psycopg.connect(dsn) as connection:
        connection.execute("set max_parallel_workers_per_gather = 2; set parallel_setup_cost = 0")
        for relation in relations:
            types = "select attname, format_type(atttypid, null) from pg_attribute where attrelid = %s::regclass"
            found = dict(connection.execute(types, (relation,)).fetchall())
            sums = ", ".join(f"coalesce(sum({_hash(group, found)}::numeric), 0)" for group in groups)
            count, *more = connection.execute(f"select count(*), {sums} from {relation} {where}").fetchone()
            rows, totals = rows + count, [total + int(one) for total, one in zip(totals, more, strict=True)]
    return rows, totals


def _hash(kinds: dict[str, str], found: dict[str, str]) -> str:
    values = ", ".join(_comparable(name, kind, found.get(name, "")) for name, kind in kinds.items())
    return f"hash_record_extended(row({values}), 0)"


def _comparable(name: str, kind: str, found: str) -> str:
    if kind == "text[]" and found == "jsonb":
        return f"array(select jsonb_array_elements_text({name}))"
    return f"{name}::{kind}"
