"""Publication: widen, flip, settle. Readers see one build whole at every moment, and the views keep their identity.

1. *widen*: each view comes to select from the old build or the new one, by the row in ``etl.live``; nobody sees a
   difference. One view's lock is held at a time, with a short ``lock_timeout``, longer after each miss.
2. *flip*: one UPDATE of that row. MVCC gives every statement, and every REPEATABLE READ transaction, one build whole.
3. *settle*: once every transaction that was open at the flip has ended, the views name the new build alone.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from etl import db, ddl, tables
from etl.errors import DatabaseError, SchemaError

_log = logging.getLogger(__name__)

_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What a publication did: the generation now live, and whether the views are settled already."""

    generation: int
    settled: bool


def schema_of(live_schema: str, build: int) -> str:
    """Return the name of a build's schema."""
    return f"{live_schema}_b{build}"


def check_live_schema(connection: db.Connection, live_schema: str, names: Sequence[str]) -> None:
    """Raise SchemaError where the live schema holds something that is not ours under a name that we publish."""
    values = {"schema": live_schema, "names": [*names, "import_logs"]}
    strangers = [name for (name,) in connection.execute(db.query("foreign_relations_in_live_schema"), values)]
    if strangers:
        raise SchemaError(
            f"schema {live_schema} holds something else under our names: {', '.join(strangers)}",
            "choose another one: --schema NAME",
        )


def publish(
    connection: db.Connection,
    live_schema: str,
    build: int,
    *,
    timeout_s: float = 600.0,
    settle_s: float = 5.0,
) -> Publication:
    """Make ``build`` the one that applications read; the connection is in autocommit mode.

    ``timeout_s`` bounds the wait for readers that hold a view's lock, ``settle_s`` the wait for transactions that were
    open at the flip: if they last longer, the views stay widened until the next occasion (``settle``).

    Raises:
        DatabaseError: a reader held a view for longer than ``timeout_s``; nothing has changed for anybody.
    """
    deadline = time.monotonic() + timeout_s
    row = connection.execute(db.query("live"), {"schema": live_schema}).fetchone()
    old = int(row[0]) if row else None
    names = _relations(connection, schema_of(live_schema, build))
    connection.execute(db.query("create_live_schema", schema=db.identifier(live_schema)))
    for name in names:
        db.patiently(connection, _view_statement(connection, live_schema, name, old, build), deadline)
    logs = db.query("import_logs_view", schema=db.identifier(live_schema), live=sql.Literal(live_schema))
    db.patiently(connection, logs, deadline)
    generation = _flip(connection, live_schema, build)
    settled = old is None or settle(connection, live_schema, wait_s=settle_s)
    return Publication(generation=generation, settled=settled)


def settle(connection: db.Connection, live_schema: str, *, wait_s: float = 0.0) -> bool:
    """Let the views name the live build alone, if nobody can be reading another one any more; return whether they do.

    Waits at most ``wait_s`` seconds for the transactions that are open now.
    """
    row = connection.execute(db.query("live"), {"schema": live_schema}).fetchone()
    if row is None:
        return True
    deadline = time.monotonic() + wait_s
    before = _open_transactions(connection)
    while before:
        if time.monotonic() >= deadline:
            _log.info("readers from before the flip linger; the views settle at the next occasion")
            return False
        time.sleep(_PAUSE_S)
        before &= _open_transactions(connection)
    schema = schema_of(live_schema, int(row[0]))
    try:
        for name in _relations(connection, schema):
            db.patiently(connection, _settled(connection, live_schema, name, schema), deadline + 1)
    except DatabaseError:
        return False
    return True


def _relations(connection: db.Connection, schema: str) -> list[str]:
    """Return the relations of a build that applications see."""
    found = []
    for name in ddl.relations(tables.TABLES):
        row = connection.execute(db.query("relation_exists"), {"schema": schema, "name": name}).fetchone()
        if row and row[0]:
            found.append(name)
    return found


def _columns(connection: db.Connection, schema: str, name: str) -> sql.Composed:
    rows = connection.execute(db.query("columns_of"), {"schema": schema, "name": name}).fetchall()
    return sql.SQL(", ").join(sql.Identifier(column) for (column,) in rows)


def _settled(connection: db.Connection, live_schema: str, name: str, schema: str) -> sql.Composed:
    return db.query(
        "view_settled",
        view=db.identifier(live_schema, name),
        columns=_columns(connection, schema, name),
        new=db.identifier(schema, name),
    )


def _view_statement(connection: db.Connection, live_schema: str, name: str, old: int | None, new: int) -> sql.Composed:
    """Return the widened view, or the settled one where the old build has no such relation."""
    new_schema = schema_of(live_schema, new)
    if old is not None and old != new:
        old_schema = schema_of(live_schema, old)
        row = connection.execute(db.query("relation_exists"), {"schema": old_schema, "name": name}).fetchone()
        if row and row[0]:
            return db.query(
                "view_widened",
                view=db.identifier(live_schema, name),
                columns=_columns(connection, new_schema, name),
                old=db.identifier(old_schema, name),
                new=db.identifier(new_schema, name),
                live=sql.Literal(live_schema),
                old_build=sql.Literal(old),
                new_build=sql.Literal(new),
            )
    return _settled(connection, live_schema, name, new_schema)


def _flip(connection: db.Connection, live_schema: str, build: int) -> int:
    """Change the one row that counts, with its notification."""
    with connection.transaction():
        row = connection.execute(db.query("flip"), {"schema": live_schema, "build": build}).fetchone()
        generation = int(row[0]) if row else 0
        connection.execute(db.query("mark_published"), {"build": build})
        connection.execute(db.query("notify_generation"), {"schema": live_schema, "generation": generation})
    return generation


def _open_transactions(connection: db.Connection) -> set[str]:
    return {str(name) for (name,) in connection.execute(db.query("transactions_in_progress"))}
