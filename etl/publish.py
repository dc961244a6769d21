"""Publication: widen, flip, settle. Readers see one build whole at every moment, and the views keep their identity.

1. *widen*: each view comes to select from the old build or the new one, by the row in ``etl.live``; nobody sees a
   difference. One view's lock is held at a time, with a short ``lock_timeout``, longer after each miss. Builds that a
   view names already, because it has not settled since an earlier flip, stay in it: their readers may still be there.
2. *flip*: one UPDATE of that row. MVCC gives every statement, and every REPEATABLE READ transaction, one build whole.
3. *settle*: once every transaction that was open at the flip has ended, the views name the new build alone.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from etl import db, ddl, tables
from etl.errors import DatabaseError, SchemaError

_log = logging.getLogger(__name__)

_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What a publication did: the generation now live, and whether the views are settled already.

    ``seconds`` are those of widen, flip and settle; ``misses`` counts the attempts that gave up a view's lock.
    """

    generation: int
    settled: bool
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    misses: int = field(default=0, compare=False)


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
    lock_timeout_s: float = 1.0,
    settle_s: float = 10.0,
    kind: str = "build",
    run: int | None = None,
) -> Publication:
    """Make ``build`` the one that applications read; the connection is in autocommit mode.

    ``timeout_s`` bounds the wait for readers that hold a view's lock, ``lock_timeout_s`` each attempt to get it;
    ``settle_s`` bounds the wait for transactions that were open at the flip: if they last longer, the views stay
    widened until the next occasion (``settle``). ``kind`` ("build" or "rollback") and ``run`` go into the history.

    Raises:
        DatabaseError: a reader held a view for longer than ``timeout_s``; nothing has changed for anybody.
    """
    deadline = time.monotonic() + timeout_s
    row = connection.execute(db.query("live"), {"schema": live_schema}).fetchone()
    old = int(row[0]) if row else None
    times = [time.monotonic()]
    connection.execute(db.query("create_live_schema", schema=db.identifier(live_schema)))
    misses = 0
    for name in _relations(connection, schema_of(live_schema, build)):
        statement = _widened(connection, live_schema, name, old, build)
        misses += _replace(connection, live_schema, name, statement, deadline, lock_timeout_s)
    logs = db.query("import_logs_view", schema=db.identifier(live_schema), live=sql.Literal(live_schema))
    misses += _replace(connection, live_schema, "import_logs", logs, deadline, lock_timeout_s)
    times.append(time.monotonic())
    generation = _flip(connection, live_schema, build, kind, run)
    times.append(time.monotonic())
    settled = settle(connection, live_schema, wait_s=settle_s, lock_timeout_s=lock_timeout_s)
    times.append(time.monotonic())
    seconds = {step: times[i + 1] - times[i] for i, step in enumerate(("widen", "flip", "settle"))}
    return Publication(generation=generation, settled=settled, seconds=seconds, misses=misses)


def settle(connection: db.Connection, live_schema: str, *, wait_s: float = 0.0, lock_timeout_s: float = 1.0) -> bool:
    """Let the views name the live build alone, if nobody can be reading another one any more; return whether they do.

    Waits at most ``wait_s`` seconds for the transactions that are open now, then about as long for the views' locks.
    """
    row = connection.execute(db.query("live"), {"schema": live_schema}).fetchone()
    widened = _widened_views(connection, live_schema)
    if row is None or not widened:
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
    deadline = time.monotonic() + max(1.0, 2 * wait_s)
    try:
        for name in widened:
            if _exists(connection, schema, name):
                statement = _settled(connection, live_schema, name, schema)
                _replace(connection, live_schema, name, statement, deadline, lock_timeout_s)
    except DatabaseError:
        return False
    return True


def _replace(
    connection: db.Connection, live_schema: str, name: str, statement: db.Statement, deadline: float, longest_s: float
) -> int:
    """Replace a view when its readers let us; return the attempts that missed."""
    view = db.identifier(live_schema, name).as_string(connection)
    return db.patiently(connection, statement, deadline, longest_wait_s=longest_s, relation=view)


def _relations(connection: db.Connection, schema: str) -> list[str]:
    """Return the relations of a build that applications see."""
    return [name for name in ddl.relations(tables.TABLES) if _exists(connection, schema, name)]


def _columns(connection: db.Connection, schema: str, name: str) -> sql.Composed:
    rows = connection.execute(db.query("columns_of"), {"schema": schema, "name": name}).fetchall()
    return sql.SQL(", ").join(sql.Identifier(column) for (column,) in rows)


def _settled(connection: db.Connection, live_schema: str, name: str, schema: str) -> sql.Composed:
    """Return the statement that lets a view name one build alone."""
    columns, relation = _columns(connection, schema, name), db.identifier(schema, name)
    branch = db.query("settled_branch", columns=columns, relation=relation)
    return _view(connection, live_schema, name, [schema], branch)


def _widened(connection: db.Connection, live_schema: str, name: str, old: int | None, new: int) -> sql.Composed:
    """Return the statement that lets a view name every build that somebody may still read, and the new one.

    Until the flip a relation that the old build lacks is empty: its rows belong to the new build.
    """
    columns = _columns(connection, schema_of(live_schema, new), name)
    builds = {*_named_builds(connection, live_schema, name), new, *([] if old is None else [old])}
    found = [build for build in sorted(builds) if _exists(connection, schema_of(live_schema, build), name)]
    branches = [
        db.query(
            "widened_branch",
            columns=columns,
            relation=db.identifier(schema_of(live_schema, build), name),
            live=sql.Literal(live_schema),
            build=sql.Literal(build),
        )
        for build in found
    ]
    schemas = [schema_of(live_schema, build) for build in found]
    return _view(connection, live_schema, name, schemas, sql.SQL("\nunion all\n").join(branches))


def _view(
    connection: db.Connection, live_schema: str, name: str, schemas: Iterable[str], branches: sql.Composed
) -> sql.Composed:
    """Return the statement that replaces a view, with the options (``security_barrier``, …) that it has.

    A view reads with the rights of its owner: where that is somebody else, the statement begins with what they need.
    """
    row = connection.execute(db.query("view_identity"), {"schema": live_schema, "name": name}).fetchone()
    owner, is_ours, options = row or (None, True, [])
    pairs = [sql.SQL("{} = {}").format(db.identifier(key), sql.Literal(value)) for key, value in options]
    given = sql.SQL("with ({})").format(sql.SQL(", ").join(pairs)) if pairs else sql.Composed([])
    view = db.query("replace_view", view=db.identifier(live_schema, name), options=given, branches=branches)
    if is_ours:
        return view
    grants = [
        db.query("let_owner_read", schema=db.identifier(schema), name=db.identifier(name), owner=db.identifier(owner))
        for schema in schemas
    ]
    return sql.SQL(";\n").join([*grants, db.query("let_owner_see_live", owner=db.identifier(owner)), view])


def _exists(connection: db.Connection, schema: str, name: str) -> bool:
    row = connection.execute(db.query("relation_exists"), {"schema": schema, "name": name}).fetchone()
    return bool(row and row[0])


def _named_builds(connection: db.Connection, live_schema: str, name: str) -> list[int]:
    """Return the builds from which a view selects now."""
    values = {"schema": live_schema, "name": name}
    return [build for (build,) in connection.execute(db.query("builds_of_view"), values)]


def _widened_views(connection: db.Connection, live_schema: str) -> list[str]:
    """Return our views of the live schema that ask the row in ``etl.live`` which build counts."""
    values = {"schema": live_schema, "names": list(ddl.relations(tables.TABLES))}
    return [name for (name,) in connection.execute(db.query("widened_views"), values)]


def _flip(connection: db.Connection, live_schema: str, build: int, kind: str, run: int | None) -> int:
    """Change the one row that counts, with its line in the history and its notification."""
    with connection.transaction():
        # Commits of an unpublished build may wait for nobody (--durability fast); this one reaches the disk, and with
        # it all WAL before it. Tables made and filled under wal_level minimal were synced before their own commit.
        connection.execute(db.query("commit_durably"))
        before = connection.execute(db.query("live"), {"schema": live_schema}).fetchone()
        row = connection.execute(db.query("flip"), {"schema": live_schema, "build": build}).fetchone()
        generation = int(row[0]) if row else 0
        connection.execute(db.query("mark_published"), {"build": build})
        values = {"schema": live_schema, "generation": generation, "kind": kind, "build": build, "run": run}
        connection.execute(db.query("record_build"), {**values, "previous": before[4] if before else None})
        connection.execute(db.query("notify_generation"), {"schema": live_schema, "generation": generation})
    return generation


def _open_transactions(connection: db.Connection) -> set[str]:
    return {str(name) for (name,) in connection.execute(db.query("transactions_in_progress"))}
