"""A renewal: a build of which some relations are made anew, and all others are those of the published build.

What is not made anew is a view of the relation below it, with a copy of its receipts: so a table whose DDL changed, a
new table or a new view loads alone, and is published, gone on with and rolled back like any other build.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from etl import db, ddl, publish, resources, tables


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """What of a published build is to be made anew: the names of ``tables`` and ``views``, one of them at least.

    ``base`` is the published build and ``schema`` its schema.
    """

    base: int
    schema: str
    tables: tuple[str, ...]
    views: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return everything that is made anew."""
        return (*self.tables, *self.views)


def versions(wanted: Iterable[str]) -> dict[str, str]:
    """Return the versions of the wanted tables, of the directory and of the views: what a build's row says."""
    return {name: ddl.version(name) for name in (*wanted, "power_directory", *(name for name, _ in ddl.views()))}


def stale(wanted: Sequence[str], loaded: Mapping[str, str]) -> list[str]:
    """Return the relations that a build with the versions ``loaded`` lacks, or has of another version; mostly none.

    Builds from before versions of it were kept have the directory as it is.
    """
    return [n for n, v in versions(wanted).items() if loaded.get(n, v if n == "power_directory" else None) != v]


def find(connection: db.Connection, live_schema: str, split_id: str, wanted: Sequence[str]) -> Renewal | None:
    """Return the renewal that gives a split's published build what it lacks; None where a fresh build is needed.

    That is so where nothing is published of the split, where parts of the build are of another one, and where the
    directory is another one, which everything else is found by.
    """
    row = connection.execute(db.query("live"), {"schema": live_schema}).fetchone()
    if row is None or row[4] != split_id:
        return None
    base, loaded = int(row[0]), row[6]
    whole = connection.execute(db.query("build_is_of_one_split"), {"build": base}).fetchone()
    missing = set(stale(wanted, loaded))
    if not (whole and whole[0]) or not missing or "power_directory" in missing:
        return None
    names = tuple(name for name in tables.TABLES if name in _with_dependents(missing))
    views = tuple(name for name, path in ddl.views() if name in missing or _reads(path) & set(names))
    return Renewal(base=base, schema=publish.schema_of(live_schema, base), tables=names, views=views)


def made(connection: db.Connection, renewal: Renewal | None) -> tuple[str, ...]:
    """Return the tables that a build begins empty: all of them, or those that a renewal does not take from below."""
    every = (*tables.TABLES, "power_directory")
    if renewal is None:
        return every
    stays = set(_staying(connection, renewal))
    return tuple(name for name in every if name not in stays)


def lean(connection: db.Connection, renewal: Renewal, build: int, schema: str) -> None:
    """Let a new build show what stays: by views, and by copies of the receipts and of the records set aside.

    To be called in the transaction that makes the build.
    """
    for name in _staying(connection, renewal):
        below = db.identifier(ddl.home(connection, renewal.schema, name), name)
        connection.execute(db.query("create_view_below", view=db.identifier(schema, name), below=below))
    values = {"build": build, "base": renewal.base, "renewed": list(renewal.tables)}
    connection.execute(db.query("copy_receipts"), values)
    connection.execute(db.query("copy_rejects"), values)


def fits(connection: db.Connection, renewal: Renewal | None, schema: str, wanted: Sequence[str]) -> bool:
    """Whether an unfinished build's schema is what this renewal (None: a fresh build) would have begun."""
    names = [*wanted, "power_directory"]
    homes = {name: ddl.home(connection, schema, name) for name in names}
    if renewal is None:
        return all(home == schema for home in homes.values())
    wanted_homes = {
        name: schema if name in renewal.tables else ddl.home(connection, renewal.schema, name) for name in names
    }
    return homes == wanted_homes


def _staying(connection: db.Connection, renewal: Renewal) -> list[str]:
    """Return the relations that are not made anew."""
    rows = connection.execute(db.query("relation_names"), {"schema": renewal.schema}).fetchall()
    there = {name for (name,) in rows}
    return [name for name in ddl.relations(tables.TABLES) if name in there and name not in renewal.names]


def _with_dependents(names: set[str]) -> set[str]:
    """Return the names with those that have foreign keys to them."""
    found = set(names)
    for name in tables.TABLES:
        if any(table == name and other in found for table, _, other in ddl.FOREIGN_KEYS):
            found.add(name)
    return found


def _reads(path: str) -> set[str]:
    """Return the tables that the query of a view names."""
    return set(re.findall(r"\{schema\}\.(\w+)", resources.sql_text(path)))
