"""Preflight: what would stop a load is said before work starts.

Each problem is one line with what to do about it. What only makes a load slower, or leaves something out, is advice; what
the settings of a server are worth is ``etl.health``'s.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
from psycopg.rows import namedtuple_row

from etl import config, db, ddl, health, parallel, storage, tables
from etl.errors import DatabaseError
from etl.model import Manifest
from etl.plan import MOST_LEAVES

_log = logging.getLogger(__name__)

OLDEST_VERSION = 140_000
# Bytes of tables and indexes per byte of record text: 0.78 for the December export, 0.97 for generated nested records,
# 3.1 for flat ones. What surely fails is refused, not what may.
SIZE_FACTORS = {"cod": 0.75, "mids": 0.75, "i12": 3.0}
_SPARE_BYTES = 64 << 20
_ARCHETYPES = 30

Asked = tuple[health.Asked, health.Asked]
_LOCKS_ELSEWHERE = 500


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One line and its remedy; a load cannot work while it lasts, unless it ``is_advice``."""

    message: str
    remedy: str
    is_advice: bool = False

    def __str__(self) -> str:
        """Return both on one line."""
        return f"{self.message} – {self.remedy}"


def check(connection: db.Connection, options: config.LoadOptions, manifest: Manifest | None = None) -> list[Problem]:
    """Return what is in the way of a load with these options (of this split), worst first; maybe nothing."""
    with db.together(connection):
        asked = ask(connection, options)
    return _look(asked, options, manifest)[0]


def ask(connection: db.Connection, options: config.LoadOptions) -> Asked:
    """Ask the server what there is to know, maybe beside other questions; for ``require``."""
    cursor = connection.cursor(row_factory=namedtuple_row)
    cursor.execute(db.query("preflight_facts"), {"schema": options.schema})
    return cursor, health.ask(connection)


def _look(
    asked: Asked, options: config.LoadOptions, manifest: Manifest | None
) -> tuple[list[Problem], SimpleNamespace]:
    """Return the problems, and the facts that they come from."""
    row: Any = asked[0].fetchone()
    facts = SimpleNamespace(**row._asdict()) if row else SimpleNamespace()
    found = [*_rights(facts, options.schema), *_capacity(facts, options, manifest), *_space(facts, manifest)]
    found += _advice(facts, health.compared(asked[1]).changeable)
    return sorted(found, key=lambda problem: problem.is_advice), facts


def require(asked: Asked, options: config.LoadOptions, manifest: Manifest) -> int:
    """Log what is advice; refuse to begin what cannot end well. Return how many more connections the server would take.

    Raises:
        DatabaseError: with every problem on a line of its own.
    """
    problems, facts = _look(asked, options, manifest)
    for problem in problems:
        if problem.is_advice:
            _log.info("preflight: %s", problem)
    bad = [problem for problem in problems if not problem.is_advice]
    if len(bad) == 1:
        raise DatabaseError(f"{bad[0].message}; nothing was begun", bad[0].remedy)
    if bad:
        lines = "".join(f"\n  {problem}" for problem in bad)
        raise DatabaseError(f"the load cannot work, for {len(bad)} reasons; nothing was begun:{lines}", "etl db check")
    return _free(facts)


def _rights(facts: SimpleNamespace, schema: str) -> Iterator[Problem]:
    role = f'"{facts.role}"'
    if facts.version < OLDEST_VERSION:
        yield Problem(message=f"PostgreSQL {facts.version_name} is too old", remedy="use PostgreSQL 14 or newer")
    if facts.encoding != "UTF8":
        yield Problem(
            message=f"database {facts.database} is in {facts.encoding}, which does not hold every name and text",
            remedy="name another one: create database game encoding 'UTF8' template template0",
        )
    if facts.read_only:
        yield Problem(message="the server is read-only (a replica?)", remedy="name the primary: --dsn")
    if not facts.may_create:
        yield Problem(
            message=f"{facts.role} may not create schemas in database {facts.database}",
            remedy=f'grant create on database "{facts.database}" to {role}',
        )
    if facts.has_ledger and not facts.may_use_ledger:
        yield Problem(message=f"{facts.role} may not write into schema etl", remedy="grants are in docs/security.md")
    if not facts.may_use_live:
        yield Problem(
            message=f"{facts.role} may not create views in schema {schema}",
            remedy=f'grant usage, create on schema "{schema}" to {role}',
        )


def _capacity(facts: SimpleNamespace, options: config.LoadOptions, manifest: Manifest | None) -> Iterator[Problem]:
    workers, free = parallel.parse(options.executor)[1], _free(facts)
    if free < workers:
        yield Problem(
            message=f"{workers} workers need as many connections, {max(free, 0)} are free (max_connections)",
            remedy=f"use --jobs {max(free, 1)}, end idle sessions, or raise max_connections",
        )
    needed = locks_needed(manifest)
    if facts.lock_table < needed:
        enough = -(-facts.locks * needed // max(facts.lock_table, 1))
        yield Problem(
            message=f"attaching the leaves takes about {needed:,} locks, the server has room for {facts.lock_table:,}",
            remedy=f"set max_locks_per_transaction = {enough} and restart the server",
        )


def _free(facts: SimpleNamespace) -> int:
    free = int(facts.connections - facts.connected)
    return free if facts.role_connections < 0 else min(free, facts.role_connections - 1)


def locks_needed(manifest: Manifest | None) -> int:
    """Return how many locks one transaction may take: every leaf of each partitioned table with its indexes and TOAST."""
    archetypes = len({partition.archetype for partition in manifest.partitions}) if manifest else _ARCHETYPES
    leaves = archetypes + MOST_LEAVES
    partitioned = [name for name in tables.LEAF_TABLES if tables.spec(name).partitioned]
    each = sum(3 + len(ddl.indexes(ddl.table_file(name))) for name in partitioned)
    return leaves * each + _LOCKS_ELSEWHERE


def _space(facts: SimpleNamespace, manifest: Manifest | None) -> Iterator[Problem]:
    if manifest is None or not facts.data_directory or not os.access(facts.data_directory, os.X_OK):
        return
    needed = (
        int(SIZE_FACTORS[manifest.format] * sum(partition.bytes for partition in manifest.partitions)) + _SPARE_BYTES
    )
    free = storage.free_bytes(facts.data_directory) or 0
    if free < needed:
        yield Problem(
            message=f"the build needs about {needed >> 20:,} MB, the server has {free >> 20:,} MB free"
            f" in {facts.data_directory}",
            remedy="free space, drop old builds (etl prune), or name another server",
        )


def _advice(facts: SimpleNamespace, settings: Sequence[str]) -> Iterator[Problem]:
    if settings:
        yield Problem(
            message=f"loading wants other settings: {', '.join(settings)}",
            remedy="etl health says what each was measured to gain",
            is_advice=True,
        )
    if not facts.has_trigrams:
        yield Problem(
            message="the extension pg_trgm is not installed: searching in names has no index",
            remedy="install postgresql-contrib",
            is_advice=True,
        )
