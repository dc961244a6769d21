"""Finishing a build: what is left to attach, keys and indexes, the view, and the proof that all rows are there."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from etl import db, ddl, tables
from etl.errors import MismatchError
from etl.plan import Leaf
from etl.receipts import Receipt


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the server was asked before a build is finished: whose its relations are, what is attached, which views it has."""

    homes: ddl.Asked
    partitions: db.Cursor
    views: ddl.Asked


def ask(connection: db.Connection, schema: str) -> Asked:
    """Ask what ``finish`` wants to know, maybe beside other questions."""
    return Asked(
        homes=ddl.ask_homes(connection, schema, ddl.relations(tables.TABLES)),
        partitions=ddl.ask_partitions(connection, schema),
        views={name: _ask_whether_there(connection, schema, name) for name, _ in ddl.views()},
    )


def plain_tables(wanted: Sequence[str]) -> list[str]:
    """Return those of the wanted tables that many leaves append to, and that are indexed when all rows are there."""
    return [name for name in wanted if name in tables.LEAF_TABLES and not tables.spec(name).partitioned]


def finish(
    connection: db.Connection,
    build: int,
    schema: str,
    leaves: Sequence[Leaf],
    wanted: Sequence[str],
    done: Mapping[tuple[str, str], Receipt],
    extensions: Mapping[str, str | None],
    gather: Callable[[Sequence[str], Callable[[], None]], None],
    *,
    asked: Asked | None = None,
    beside: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Attach the leaves that are not yet; add the foreign keys, build the views, prove the counts, and say that it is done.

    ``extensions`` are those that the views' indexes need, as ``ddl.extension_homes`` has them.

    Meanwhile ``gather(tables, views)`` has plain tables indexed and the statistics of the partitioned tables gathered, in
    other sessions, and calls ``views``. Foreign keys take a lock that ANALYZE waits for, so they are committed before the
    views are built; these are committed while others are at work, since their files have to be on the disk by then. What
    a run that was stopped has committed is kept: a view comes with its indexes and statistics, after all leaves.

    What ``beside`` asks of the same connection goes along with the last questions. ``asked`` is what ``ask`` has asked,
    since when nothing was attached.

    Each leaf is attached in a transaction of its own, which a later run need not do again: the server tells every session
    of each relation that is touched, and a session that is told of some 4,000 at once forgets all it knew of the
    catalogs (MAXNUMMESSAGES in its sinvaladt.c); all readers would plan from nothing at once.

    Returns the rows per table. What a renewal has from the build below it is finished.

    Raises:
        MismatchError: a table does not hold the rows its receipts name.
    """
    if asked is None:
        with connection.pipeline():
            asked = ask(connection, schema)
    homes = ddl.found_homes(asked.homes, schema)
    own = [name for name in wanted if homes[name] == schema]
    partitioned = [name for name in own if name in tables.LEAF_TABLES and tables.spec(name).partitioned]
    if missing := list(ddl.attachments(asked.partitions, schema, partitioned, leaves)):
        db.each_at_once(connection, missing)
    keys = [key for key in ddl.FOREIGN_KEYS if homes[key[0]] == schema]
    # Those into the published build, which a renewal stands on, hold it once they are committed.
    inner = [key for key in keys if homes[key[2]] == schema]
    there = {name for name, cursor in asked.views.items() if cursor.fetchone() == (True,)}

    counts: dict[str, db.Cursor] = {}

    def views() -> None:
        with db.at_once(connection):
            for key in inner:
                connection.execute(ddl.link(*key, homes))
            connection.execute("commit")
            connection.execute("begin")
            connection.execute(db.query("sample_lightly"), {"part": ddl.WHOLE})
            for name, path in ddl.views():
                if homes[name] == schema and name not in there:
                    ddl.create_view(connection, schema, name, path, extensions)
            connection.execute("commit")
            connection.execute("begin")
            counts.update(_ask_counts(connection, schema, wanted))

    gather(partitioned, views)
    rows = _proven({name: counts[name] for name in wanted}, done)
    with db.at_once(connection):
        for key in keys:
            if key not in inner:
                connection.execute(ddl.link(*key, homes))
        if "power_prerequisites" in own:
            connection.execute(db.query("unresolve_missing", schema=db.identifier(schema)))
        connection.execute(db.query("finish_build"), {"build": build})
        beside()
    return rows


def _ask_whether_there(connection: db.Connection, schema: str, name: str) -> db.Cursor:
    return connection.execute(db.query("relation_exists"), {"schema": schema, "name": name})


def counted(
    connection: db.Connection, schema: str, wanted: Sequence[str], done: Mapping[tuple[str, str], Receipt]
) -> dict[str, int]:
    """Return the rows per table of a build that a stopped run has finished already, proven as ``finish`` proves them."""
    return _proven(_ask_counts(connection, schema, wanted), done)


def ask_finished(connection: db.Connection, build: int) -> db.Cursor:
    """Ask whether a build has gone through ``finish`` already: one row, true or false."""
    return connection.execute(db.query("build_is_finished"), {"build": build})


def _ask_counts(connection: db.Connection, schema: str, names: Sequence[str]) -> dict[str, db.Cursor]:
    return {name: connection.execute(db.query("count_rows", relation=db.identifier(schema, name))) for name in names}


def _proven(asked: Mapping[str, db.Cursor], done: Mapping[tuple[str, str], Receipt]) -> dict[str, int]:
    """Return the rows of each table, proven equal to the sum of its receipts."""
    rows = {}
    for name, cursor in asked.items():
        row = cursor.fetchone()
        rows[name] = int(row[0]) if row else 0
        expected = sum(receipt.rows for (table, _), receipt in done.items() if table == name)
        if rows[name] != expected:
            raise MismatchError(f"table {name} holds {rows[name]} rows, its receipts name {expected}", "etl rebuild")
    return rows
