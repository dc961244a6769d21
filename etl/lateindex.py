"""Indexes of a published build that were left for later (``--indexes deferred``, ``--defer-indexes``): built while it is read.

What is missing is told from the server's catalog alone, so that nothing can be forgotten: leaf by leaf, CREATE INDEX
CONCURRENTLY in the workers; then, by the coordinator, the index of each parent, to which those of the leaves are
attached. An interrupted run leaves a broken index, which the next one drops and builds again.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from etl import config, db, ddl, receipts, tables
from etl.plan import LateIndexTask


class _Catalog(msgspec.Struct, frozen=True, kw_only=True):
    """What a schema has: indexes (whether each is valid), and partitions as (name, parent, whether it is a leaf)."""

    indexes: dict[str, bool]
    partitions: list[tuple[str, str, bool]]


def missing(
    connection: db.Connection,
    schema: str,
    wanted: Sequence[str],
    build: int,
    epoch: int,
    homes: Mapping[str, str | None] | None = None,
) -> list[LateIndexTask]:
    """Return one task per table or leaf that lacks late indexes; empty where every published one is valid.

    ``homes`` is what ``ddl.extension_homes`` says of the tables' indexes, where it was asked.
    """
    catalog = _catalog(connection, schema)
    if homes is None:
        homes = ddl.extension_homes(connection, map(ddl.table_file, wanted))
    found = []
    for table in wanted:
        lacking = [(n, index) for n, index in _late(homes, table) if not catalog.indexes.get(index.name)]
        if not lacking:
            continue
        for name in _leaves(catalog, table):
            names = [(index.name, f"{name}_{n}" if name != table else index.name) for n, index in lacking]
            found.append(
                LateIndexTask(
                    build=build,
                    epoch=epoch,
                    schema=schema,
                    table=table,
                    name=name,
                    indexes=tuple((index, own) for index, own in names if not catalog.indexes.get(own)),
                    broken=tuple(own for _, own in names if catalog.indexes.get(own) is False),
                )
            )
    return found


def build(task: LateIndexTask) -> str:
    """Build the task's indexes concurrently, in a worker; return the name of the table or leaf.

    Raises:
        Incomplete: a newer coordinator has taken the build over.
    """
    with db.connect(os.environ[config.DSN_VARIABLE], name=f"etl index {task.name}") as connection:
        receipts.enter_session(connection, task.build, task.epoch)
        for name in task.broken:
            connection.execute(db.query("drop_index_concurrently", index=db.identifier(task.schema, name)))
        known = {index.name: index for index in ddl.indexes(ddl.table_file(task.table))}
        for published, name in task.indexes:
            index = known[published]
            if index.requires:
                home = ddl.extension_schema(connection, index.requires)
                connection.execute(db.query("see_schema_always"), (f"{home}, pg_catalog",))
            holes = {"index": db.identifier(name), "table": db.identifier(task.schema, task.name)}
            connection.execute(db.template(index.variant(concurrently=True), holes))
    return task.name


def attach(
    connection: db.Connection, schema: str, wanted: Sequence[str], *, timeout_s: float, lock_timeout_s: float
) -> None:
    """Give the partitioned tables their late indexes, made of those of the leaves; a step that is done changes nothing.

    Raises:
        DatabaseError: a reader held a leaf's index for longer than ``timeout_s``; the next run goes on.
    """
    deadline = time.monotonic() + timeout_s
    homes = ddl.extension_homes(connection, map(ddl.table_file, wanted))
    for table in wanted:
        if not tables.spec(table).partitioned:
            continue
        for number, index in _late(homes, table):
            catalog = _catalog(connection, schema)
            if catalog.indexes.get(index.name):
                continue
            home = homes[index.requires] if index.requires else None
            connection.execute(db.query("see_schema_always"), (f"{home}, pg_catalog" if home else "pg_catalog",))
            for statement in _attachments(catalog, schema, table, number, index):
                db.patiently(connection, statement, deadline, longest_wait_s=lock_timeout_s)


def _attachments(catalog: _Catalog, schema: str, table: str, number: int, index: ddl.Index) -> Iterator[db.Statement]:
    """Yield what makes one index of a partitioned table whole: parents first, then leaves, then branches."""
    own = {name: f"{name}_{number}" for name, _, _ in catalog.partitions} | {table: index.name}
    inside = _below(catalog, table)
    branches = [name for name, _, is_leaf in inside if not is_leaf]
    for name in (table, *branches):
        holes = {"index": db.identifier(own[name]), "table": db.identifier(schema, name)}
        yield db.template(index.variant(only=True), holes)
    for name, parent, _ in sorted(inside, key=lambda partition: not partition[2]):
        yield db.query(
            "attach_index", parent=db.identifier(schema, own[parent]), child=db.identifier(schema, own[name])
        )


def _late(homes: Mapping[str, str | None], table: str) -> list[tuple[int, ddl.Index]]:
    """Return the late indexes of a table that this server can have, with their numbers."""
    found = [(number, index) for number, index in enumerate(ddl.indexes(ddl.table_file(table))) if index.is_late]
    return [(number, index) for number, index in found if not index.requires or homes[index.requires] is not None]


def _catalog(connection: db.Connection, schema: str) -> _Catalog:
    with connection.pipeline():
        rows = connection.execute(db.query("indexes_of_schema"), {"schema": schema})
        partitions = connection.execute(db.query("partitions_of_schema"), {"schema": schema})
    return _Catalog(indexes={name: valid for _, name, valid in rows}, partitions=partitions.fetchall())


def _below(catalog: _Catalog, table: str) -> list[tuple[str, str, bool]]:
    """Return the partitions under a table, branches and leaves."""
    branches = {name for name, parent, _ in catalog.partitions if parent == table}
    return [partition for partition in catalog.partitions if partition[0] in branches or partition[1] in branches]


def _leaves(catalog: _Catalog, table: str) -> list[str]:
    """Return the relations that hold a table's rows: its leaves, or itself."""
    if not tables.spec(table).partitioned:
        return [table]
    return [name for name, _, is_leaf in _below(catalog, table) if is_leaf]
