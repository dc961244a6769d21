"""The relations of a build schema: what the files of ``sql/tables`` and ``sql/views`` say, made for one build.

Geometry: ``powers`` and ``power_effects`` are LIST by archetype; the table of an archetype is its leaf, or where it has
several, a branch that is RANGE by powerset id into leaves. A leaf is made standalone, with a CHECK that repeats the
bounds of both levels, so that ATTACH needs no scan.
"""

import functools
import hashlib
import itertools
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from psycopg import sql

from etl import db, resources, tables
from etl.errors import SchemaError
from etl.plan import Leaf

_PLAIN = "create index {index} on {table}"
_SCALARS = ("int2", "int4", "int8", "float8", "bool", "text")

WHOLE = 3
"""What is planned as a whole has statistics in this part of the server's detail: 9,900 rows by default, of each table."""
LEAF = 20
"""Leaves have theirs in this part of it, 1,500 rows of each: twenty of them as many as ANALYZE would take of one table."""

FOREIGN_KEYS = (("powersets", "archetype_id", "archetypes"), ("powers", "powerset_id", "powersets"))
"""Made when all rows are there: which column of which table names a row of which other."""

Asked = Mapping[str, db.Cursor]
"""Questions that the server was asked together, by name; the answers may be read behind a pipeline."""


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """One index section: its published name, its statement with holes {index} and {table}, what it needs.

    ``is_late`` says that it may be built after the publication: it serves queries, and no rule rests on it.
    """

    name: str
    statement: str
    requires: str | None

    @property
    def is_late(self) -> bool:
        """Return True for neither a key nor a unique index."""
        return _PLAIN in self.statement

    @property
    def method(self) -> str:
        """Return the access method, for example gin."""
        found = re.search(r"\busing (\w+)", self.statement)
        return found[1] if found else "btree"

    def waits(self, deferred: str) -> bool:
        """Whether it is built after the publication; ``deferred`` says which are: none, all, or those of a method."""
        return self.is_late and deferred in ("all", self.method)

    def variant(self, *, concurrently: bool = False, only: bool = False) -> str:
        """Return the statement that may be run twice, without locking out writers, or for a parent alone."""
        how = "concurrently " if concurrently else ""
        text = f"create index {how}if not exists {{index}} on {'only ' if only else ''}{{table}}"
        return self.statement.replace(_PLAIN, text)


def indexes(relative_path: str) -> tuple[Index, ...]:
    """Return the index sections of a file of ``sql/``, in order; primary keys are among them."""
    return _indexes(tuple(db.sections(relative_path)))


@functools.cache
def _indexes(sections: tuple[tuple[str, str], ...]) -> tuple[Index, ...]:
    found = []
    for heading, body in sections:
        if heading.startswith("index: "):
            needs = re.search(r"^-- requires: (\w+)", body, flags=re.MULTILINE)
            found.append(Index(name=heading[7:], statement=body, requires=needs[1] if needs else None))
    return tuple(found)


def table_file(name: str) -> str:
    """Return the file in ``sql/`` that makes the table."""
    return f"tables/{name}.sql"


@functools.cache
def views() -> list[tuple[str, str]]:
    """Return (view name, file) of the materialized views, in the order of their numbers."""
    return [(re.sub(r".*/?\d+_(\w+)\.sql$", r"\1", path), path) for path in resources.sql_files("views")]


def version(name: str) -> str:
    """Return what a receipt says of how its rows came to be: the transform's version and a digest of the DDL.

    The directory and the views have no transform of their own.
    """
    text = resources.sql_text(dict(views()).get(name) or table_file(name))
    transform = tables.spec(name).version if name in tables.TABLES else "1"
    return f"{transform}:{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def home(connection: db.Connection, schema: str, name: str) -> str:
    """Return the schema that holds the rows of a build's relation: another one where the build only has a view of it."""
    row = connection.execute(db.query("home"), {"schema": schema, "name": name}).fetchone()
    return str(row[0]) if row else schema


def homes(connection: db.Connection, schema: str, names: Iterable[str]) -> dict[str, str]:
    """Return the ``home`` of each of a build's relations."""
    with connection.pipeline():
        asked = ask_homes(connection, schema, names)
    return found_homes(asked, schema)


def ask_homes(connection: db.Connection, schema: str, names: Iterable[str]) -> Asked:
    """Ask for the ``home`` of each of a build's relations, maybe beside other questions; for ``found_homes``."""
    return {name: connection.execute(db.query("home"), {"schema": schema, "name": name}) for name in names}


def found_homes(asked: Asked, schema: str) -> dict[str, str]:
    """Return what was asked for by ``ask_homes``."""
    rows = {name: cursor.fetchone() for name, cursor in asked.items()}
    return {name: str(row[0]) if row else schema for name, row in rows.items()}


def extension_schema(connection: db.Connection, extension: str) -> str | None:
    """Return the schema the extension is installed in; None where this server lacks it.

    An extension that is available, and trusted or allowed, is installed on the way.
    """
    return _installed(connection, extension, connection.execute(db.query("extension"), {"name": extension}).fetchone())


def _installed(connection: db.Connection, extension: str, row: tuple[Any, ...] | None) -> str | None:
    """Return what ``extension_schema`` returns, from what the query says."""
    if row is None or row[0] is not None:
        return row[0] if row else None
    if not row[1]:
        return None
    with db.together(connection):
        connection.execute(db.query("create_extension", name=db.identifier(extension)))
        asked = connection.execute(db.query("extension"), {"name": extension})
    row = asked.fetchone()
    return str(row[0]) if row else None


def extension_homes(connection: db.Connection, paths: Iterable[str]) -> dict[str, str | None]:
    """Return the extensions that indexes of these files need, each with its schema as ``extension_schema`` has it."""
    with connection.pipeline():
        asked = ask_extensions(connection, paths)
    return found_extensions(connection, asked)


def ask_extensions(connection: db.Connection, paths: Iterable[str]) -> Asked:
    """Ask for the extensions that indexes of these files need, maybe beside other questions; for ``found_extensions``."""
    needed = {index.requires for path in paths for index in indexes(path) if index.requires}
    return {name: connection.execute(db.query("extension"), {"name": name}) for name in sorted(needed)}


def found_extensions(connection: db.Connection, asked: Asked) -> dict[str, str | None]:
    """Return what was asked for by ``ask_extensions``, installing what can be; see ``extension_schema``."""
    return {name: _installed(connection, name, cursor.fetchone()) for name, cursor in asked.items()}


def create_indexes(
    connection: db.Connection,
    schema: str,
    table: str,
    path: str,
    *,
    prefix: str | None = None,
    only: str | None = None,
    deferred: str = "none",
    homes: Mapping[str, str | None] | None = None,
) -> None:
    """Make the indexes of ``path`` on a table; named as published, or ``<prefix>_<number>`` on a leaf.

    What needs an extension that the server lacks is left out. ``only`` names a single index; those that wait for the
    publication (``Index.waits``) are left out. ``homes`` is what ``extension_homes`` says, where it was asked.
    """
    for number, index in enumerate(indexes(path)):
        if (only is not None and index.name != only) or index.waits(deferred):
            continue
        if index.requires:
            home = homes[index.requires] if homes is not None else extension_schema(connection, index.requires)
            if home is None:
                continue
            connection.execute(db.query("see_schema"), (f"{home}, pg_catalog",))
        name = f"{prefix}_{number}" if prefix else index.name
        holes = {"index": db.identifier(name), "table": db.identifier(schema, table)}
        connection.execute(db.template(index.statement, holes))


def create_build(
    connection: db.Connection,
    schema: str,
    branches: Mapping[str, int],
    *,
    deferred: str = "none",
    names: Sequence[str] = (*tables.TABLES, "power_directory"),
    homes: Mapping[str, str | None] | None = None,
) -> None:
    """Make a build's schema with the tables named, parents with their branches and indexes, and no rows.

    ``branches`` are the archetypes (key: id) that have several leaves. The parents lack the indexes that wait for
    the publication (``Index.waits``). ``homes`` is what ``extension_homes`` says of all of ``names``, where it was asked.
    """
    holes = {"schema": db.identifier(schema)}
    partitioned = [name for name in names if name in tables.LEAF_TABLES and tables.spec(name).partitioned]
    if homes is None:
        homes = extension_homes(connection, map(table_file, partitioned))
    with db.together(connection):
        connection.execute(db.query("create_schema", schema=db.identifier(schema)))
        for name in names:
            for heading, body in db.sections(table_file(name)):
                if heading == "create":
                    connection.execute(db.template(body, holes))
        for name in partitioned:
            create_indexes(connection, schema, name, table_file(name), deferred=deferred, homes=homes)
            for key, number in branches.items():
                connection.execute(
                    db.query(
                        "create_branch",
                        branch=db.identifier(schema, f"{name}_{key}"),
                        parent=db.identifier(schema, name),
                        archetype=sql.Literal(number),
                    )
                )


def index_directory(connection: db.Connection, schema: str) -> None:
    """Index a build's directory and gather its statistics, in a transaction."""
    create_indexes(connection, schema, "power_directory", table_file("power_directory"))
    connection.execute(db.query("sample_lightly"), {"part": WHOLE})
    connection.execute(db.query("analyze_directory", schema=db.identifier(schema)))


def leaf_table(schema: str, table: str, leaf: str) -> tuple[sql.Identifier, db.Statement]:
    """Return the name of a leaf's own table, and what makes it, standalone and bare, like its parent."""
    relation = db.identifier(schema, f"{table}_{leaf}")
    return relation, db.query("create_leaf", leaf=relation, parent=db.identifier(schema, table))


def create_leaf(connection: db.Connection, schema: str, table: str, leaf: str) -> None:
    """Make the leaf's own table."""
    connection.execute(leaf_table(schema, table, leaf)[1])


def bounds(archetype_id: int, lower: int | None, upper: int | None) -> sql.Composed:
    """Return the condition that both levels of partitioning put on a leaf's rows."""
    parts = [sql.SQL("archetype_id = {}").format(archetype_id)]
    if lower is not None:
        parts.append(sql.SQL("powerset_id >= {}").format(lower))
    if upper is not None:
        parts.append(sql.SQL("powerset_id < {}").format(upper))
    return sql.SQL(" and ").join(parts)


def check_leaf(schema: str, table: str, leaf: str, condition: sql.Composed) -> db.Statement:
    """Return what adds the CHECK that lets the leaf be attached without a scan; while it is empty nothing is read."""
    relation, constraint = db.identifier(schema, f"{table}_{leaf}"), db.identifier("bounds")
    return db.query("check_leaf", leaf=relation, constraint=constraint, condition=condition)


def analyze(connection: db.Connection, schema: str, table: str, name: str, *, columns: Collection[str] = ()) -> None:
    """Gather statistics of a table shaped like ``name``, on some of its columns or on all scalar ones.

    Chewing jsonb would take longer than building all btrees.
    """
    named = sql.SQL(", ").join(map(sql.Identifier, columns or _scalars(name)))
    connection.execute(sql.SQL("analyze {} ({})").format(db.identifier(schema, table), named))


def detail(schema: str, table: str, columns: Collection[str], target: int) -> db.Statement:
    """Return what lets ANALYZE gather so much (-1: the default) of a partitioned table's columns; its leaves stay as they are."""
    change = sql.SQL("alter column {} set statistics {}")
    changes = sql.SQL(", ").join([change.format(sql.Identifier(column), sql.Literal(target)) for column in columns])
    return db.query("change_detail", relation=db.identifier(schema, table), changes=changes)


def searched(name: str) -> list[str]:
    """Return the columns of table ``name`` that a btree is ordered by: those by which its parent is planned, too.

    ANALYZE of a partitioned table gathers them for its leaves as well.
    """
    btrees = [index.statement for index in indexes(table_file(name)) if index.method == "btree"]
    words = set(re.findall(r"\w+", " ".join(statement.partition("include")[0] for statement in btrees)))
    return [column for column in _scalars(name) if column in words]


def unsearched(name: str) -> list[str]:
    """Return the other scalar columns: statistics of a leaf alone."""
    known = searched(name)
    return [column for column in _scalars(name) if column not in known]


def _scalars(name: str) -> list[str]:
    return [column for column, kind in tables.spec(name).columns.items() if kind in _SCALARS]


def foreign_key(table: str, column: str) -> str:
    """Return the name of a foreign key."""
    return f"{table}_{column}_fkey"


def link(table: str, column: str, other: str, homes: Mapping[str, str]) -> db.Statement:
    """Return what adds one of ``FOREIGN_KEYS``, unless it is there; ``homes`` has the schema of each table."""
    return db.query(
        "link",
        table=db.identifier(homes[table], table),
        key=db.identifier(foreign_key(table, column)),
        column=db.identifier(column),
        other=db.identifier(homes[other], other),
    )


def ask_partitions(connection: db.Connection, schema: str) -> db.Cursor:
    """Ask for the partitions of a schema: name, parent, whether it is a leaf."""
    return connection.execute(db.query("partitions_of_schema"), {"schema": schema})


def attachments(
    partitions: Iterable[tuple[Any, ...]], schema: str, names: Iterable[str], leaves: Sequence[Leaf]
) -> Iterator[db.Statement]:
    """Yield what attaches each table's leaves to their archetype's branch, or in its place; parents adopt their indexes.

    ``partitions`` is the answer to ``ask_partitions``; a leaf that is attached already is left out.
    """
    is_leaf = {name: bool(whether) for name, _, whether in partitions}
    for table, leaf in itertools.product(names, leaves):
        name, branch = f"{table}_{leaf.name}", f"{table}_{leaf.archetype}"
        if name in is_leaf:
            continue
        own = db.identifier(schema, name)
        if is_leaf.get(branch, True):
            parent, archetype = db.identifier(schema, table), sql.Literal(leaf.archetype_id)
            yield db.query("attach_only_leaf", parent=parent, leaf=own, archetype=archetype)
        else:
            lower = sql.SQL("minvalue") if leaf.lower is None else sql.Literal(leaf.lower)
            upper = sql.SQL("maxvalue") if leaf.upper is None else sql.Literal(leaf.upper)
            yield db.query("attach_leaf", branch=db.identifier(schema, branch), leaf=own, lower=lower, upper=upper)


def drop_build(connection: db.Connection, schema: str, *, timeout_s: float = 60.0) -> None:
    """Drop a build schema relation by relation, each in its own transaction (one DROP of all runs out of locks).

    Locks are waited for patiently, ``timeout_s`` in all: autovacuum may be at work on what was just loaded.
    """
    deadline = time.monotonic() + timeout_s
    rows = connection.execute(db.query("relations_of_schema"), {"schema": schema}).fetchall()
    kinds = {"m": "drop_view", "r": "drop_table", "p": "drop_table", "v": "drop_view_below"}
    ours = set(relations(tables.TABLES))
    for name, kind in rows:
        if kind == "v" and name not in ours:
            raise SchemaError(f"{schema}.{name} is no relation of ours", f"drop view {schema}.{name}")
        db.patiently(connection, db.query(kinds[kind], relation=db.identifier(schema, name)), deadline)
    db.patiently(connection, db.query("drop_schema", schema=db.identifier(schema)), deadline)


def relations(schema_tables: tuple[str, ...]) -> Iterator[str]:
    """Yield the relations of a build that applications see, tables first."""
    yield from schema_tables
    yield "power_directory"
    for name, _ in views():
        yield name


def create_view(
    connection: db.Connection, schema: str, name: str, path: str, homes: Mapping[str, str | None] | None = None
) -> None:
    """Make a materialized view with its rows, indexes and statistics; see ``create_indexes`` for ``homes``."""
    for heading, body in db.sections(path):
        if heading == "create":
            connection.execute(db.template(body, {"schema": db.identifier(schema)}))
    create_indexes(connection, schema, name, path, homes=homes)
    connection.execute(db.query("analyze", relation=db.identifier(schema, name)))
