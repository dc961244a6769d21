"""What the loaders have in common: what to load where, and the indexes and statistics at the end."""

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg

TABLE = "bench.powers"


@dataclasses.dataclass(frozen=True)
class Task:
    """One load: ``limit`` rows at most, 0 for all; ``plan`` as ``benches.target.plan`` made it, with the constants."""

    dsn: str
    rows: Path
    jobs: int
    limit: int
    plan: dict[str, Any]

    @property
    def file(self) -> Path:
        """The JSON lines."""
        return self.rows / "powers.ndjson"

    @property
    def columns(self) -> dict[str, str]:
        """Every column with its kind, in the table's order."""
        return self.plan["columns"]

    @property
    def constants(self) -> dict[str, Any]:
        """Columns that are the same in every row; they are not in the file."""
        return self.plan["constants"]

    def fill(self, statement: str) -> str:
        """Return a statement of the plan for the table."""
        return statement.format(table=TABLE, prefix="powers")

    def create(self) -> None:
        """Make the table, without indexes."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute(self.fill(self.plan["create"]))

    def finish(self) -> None:
        """Make keys, then indexes over ``jobs`` connections, the longest first, then statistics of scalar columns."""
        self.execute([self.plan["keys"]])
        self.execute([[statement] for statement in self.plan["indexes"]])
        self.execute([[self.plan["analyze"]]])

    def execute(self, chains: list[list[str]]) -> None:
        """Run chains of statements beside each other."""

        def run(chain: list[str]) -> None:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                for statement in chain:
                    connection.execute(self.fill(statement))

        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(run, chains))

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the rows as dicts with every column; nested JSON as Python values, bytea as bytes."""
        import msgspec

        decode = msgspec.json.decode
        constants = {name: self.value(name, value) for name, value in self.constants.items()}
        with self.file.open("rb") as file:
            for line in itertools.islice(file, self.limit or None):
                row = decode(line)
                row["source_hash"] = bytes.fromhex(row["source_hash"])
                yield {**constants, **row}

    def value(self, name: str, value: Any) -> Any:
        """Return a constant as a Python value: jsonb is kept as text."""
        return json.loads(value) if self.columns[name] == "jsonb" and value is not None else value


def read() -> Task:
    dsn, rows, jobs, limit = sys.argv[1:]
    folder = Path(rows)
    return Task(dsn, folder, int(jobs), int(limit), json.loads((folder / "plan.json").read_text()))
