"""DuckDB reads the JSON lines and inserts through its Postgres extension, in one transaction with the table.

So PostgreSQL writes no WAL for the rows where wal_level is minimal. DuckDB sends them over one connection.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import duckdb

from benches.contestants import task

_KINDS = {
    "int2": "SMALLINT",
    "int4": "INTEGER",
    "int8": "BIGINT",
    "float8": "DOUBLE",
    "bool": "BOOLEAN",
    "text": "VARCHAR",
    "jsonb": "JSON",
    "text[]": "VARCHAR[]",
    "bytea": "VARCHAR",
}
_LINE_BYTES = 64 << 20


def main() -> None:
    given = task.read()
    spec = importlib.util.find_spec("duckdb_extension_postgres_scanner")
    extension = next(Path(spec.submodule_search_locations[0]).glob(f"extensions/v{duckdb.__version__}/*"))
    con = duckdb.connect(config={"threads": given.jobs})
    con.execute(f"load '{extension}'")
    con.execute("set preserve_insertion_order = false")
    con.execute(f"attach '{given.dsn}' as pg (type postgres)")
    con.execute("begin")
    con.execute("call postgres_execute('pg', ?)", [given.fill(given.plan["create"])])
    in_file = {name: _KINDS[kind] for name, kind in given.columns.items() if name not in given.constants}
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in in_file.items())
    values = ", ".join(_value(name, kind, given.constants) for name, kind in given.columns.items())
    con.execute(
        f"insert into pg.{task.TABLE} ({', '.join(given.columns)}) select {values} from read_json('{given.file}', "
        f"format = 'newline_delimited', maximum_object_size = {_LINE_BYTES}, columns = {{{columns}}})"
    )
    con.execute("commit")
    given.finish()


def _value(name: str, kind: str, constants: dict[str, Any]) -> str:
    if name not in constants:
        return f"unhex({name})" if kind == "bytea" else name
    value = constants[name]
    if value is None:
        return f"null::{_KINDS[kind]}"
    text = json.dumps(value) if kind == "text[]" else str(value)
    literal = "'" + text.replace("'", "''") + "'"
    return f"({literal}::JSON)::VARCHAR[]" if kind == "text[]" else f"{literal}::{_KINDS[kind]}"


if __name__ == "__main__":
    main()
