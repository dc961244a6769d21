"""Publication: widen, flip, settle. Readers see one build whole at every moment, and wait for nothing.

A view of the live schema reads a function of schema ``etl`` that the planner puts in its place, and that is all it ever
does: what is replaced at a publication is the function, for which nobody's lock is needed, so that the views keep their
identity and no reader ever stands in a queue behind us.

1. *widen*: the functions come to select from the old build or the new one, by the row in ``etl.live``; nobody sees a
   difference. Builds that they name already, because they have not settled since an earlier flip, stay in them: their
   readers may still be there. Then we wait for those transactions that have read the views by now (they hold the views'
   locks to their end): a statement that was planned before may still be on its way.
2. *flip*: one UPDATE of that row. MVCC gives every statement, and every REPEATABLE READ transaction, one build whole.
3. *settle*: once every transaction that was open at the flip has ended, the functions name the new build alone.

The planner puts the function in place with the rights of whoever asks. So the relations of a build may be read by
everybody, and nobody gets there but through the views: the build's schema and schema ``etl`` are closed.
"""

import hashlib
import itertools
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from psycopg import sql

from etl import db, ddl, tables
from etl.errors import DatabaseError, SchemaError

_log = logging.getLogger(__name__)

_PAUSE_S = 0.05
# Pauses after a function that sessions plan with anew, and after one over partitioned tables, which costs each of them
# tens of milliseconds of a core: eight on two cores are done with it in this time (the longest reads that
# scripts/rebuild_while_read.py lists).
_BREATH_S = 0.1
_LONG_BREATH_S = 0.5

Shapes = Mapping[tuple[str, str], Mapping[str, str]]
"""The columns, with their types, of each (schema, relation), in order."""

# Views of the live schema over schema etl, which is closed to readers; <name>_view is their query.
LEDGER_VIEWS = ("import_logs", "generation", "changes", "powerset_changes", "power_names")


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """What a publication did: the generation now live, and whether the views are settled already.

    ``seconds`` are those of widen, wait (for the readers of that moment), flip and settle.
    """

    generation: int
    settled: bool
    seconds: Mapping[str, float] = msgspec.field(default_factory=dict)


def schema_of(live_schema: str, build: int) -> str:
    """Return the name of a build's schema."""
    return f"{live_schema}_b{build}"


def ask_strangers(connection: db.Connection, live_schema: str, names: Sequence[str]) -> db.Cursor:
    """Ask for what the live schema holds under names that we publish, and is not ours; for ``refuse_strangers``."""
    values = {"schema": live_schema, "names": [*names, *LEDGER_VIEWS]}
    return connection.execute(db.query("foreign_relations_in_live_schema"), values)


def refuse_strangers(live_schema: str, asked: db.Cursor) -> None:
    """Raise SchemaError where the live schema holds something that is not ours under a name that we publish."""
    strangers = [name for (name,) in asked]
    if strangers:
        raise SchemaError(
            f"schema {live_schema} holds something else under our names: {', '.join(strangers)}",
            f"choose another one: --schema NAME; or, if they are views whose schema etl was lost: drop schema {live_schema}",
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

    ``timeout_s`` bounds the wait for transactions that have read the views and go on; nobody waits behind us meanwhile.
    ``lock_timeout_s`` bounds each attempt to replace a view itself, which only other columns call for. ``settle_s``
    bounds the wait for transactions that were open at the flip: if they last longer, the next occasion settles.
    ``kind`` ("build" or "rollback") and ``run`` go into the history.

    Raises:
        DatabaseError: a reader stayed in its transaction for longer than ``timeout_s``; nothing has changed for anybody.
        SchemaError: a column has another type than in the live schema's view, which cannot follow.
    """
    deadline = time.monotonic() + timeout_s
    with connection.pipeline():
        live = connection.execute(db.query("live"), {"schema": live_schema})
        named = connection.execute(db.query("named_builds"), {"schema": live_schema})
        asked = _ask_shapes(connection, [live_schema, schema_of(live_schema, build)])
        read_by_views = connection.execute(db.query("functions_read"), {"schema": live_schema})
        readers = connection.execute(db.query("transactions_reading"), {"schema": live_schema})
    row = live.fetchone()
    builds = sorted({*(number for (number,) in named), build, *([int(row[0])] if row else [])})
    shapes = _shapes(asked)
    if older := [schema_of(live_schema, one) for one in builds if one != build]:
        shapes |= _shapes(_ask_shapes(connection, older))
    _check_types(shapes, live_schema, build)
    times = [time.monotonic()]
    _widen(connection, shapes, live_schema, builds, build, is_read=bool(readers.fetchall()))
    reading = _show(connection, shapes, live_schema, build, set(read_by_views), deadline, lock_timeout_s)
    times.append(time.monotonic())
    _await_readers(connection, live_schema, reading, deadline)
    times.append(time.monotonic())
    generation, asked_then = _flip(connection, live_schema, build, kind, run)
    times.append(time.monotonic())
    settled = settle(connection, live_schema, wait_s=settle_s, build=build, asked=asked_then)
    times.append(time.monotonic())
    seconds = {step: times[i + 1] - times[i] for i, step in enumerate(("widen", "wait", "flip", "settle"))}
    return Publication(generation=generation, settled=settled, seconds=seconds)


def settle(
    connection: db.Connection,
    live_schema: str,
    *,
    wait_s: float = 0.0,
    build: int = 0,
    asked: "_Settling | None" = None,
) -> bool:
    """Let the views read the live build alone, if nobody can be reading another one any more; return whether they do.

    Waits at most ``wait_s`` seconds for the transactions that are open now. ``build`` is the live one, where it is known, and
    ``asked`` what has been asked about it already.
    """
    if asked is None:
        with connection.pipeline():
            asked = _ask_for_settling(connection, live_schema, build)
    row, asks = asked.live.fetchone(), asked.widened.fetchone()
    if row is None or not (asks and asks[0]):  # no function asks the row in etl.live any more which build counts
        return True
    deadline = time.monotonic() + wait_s
    before = {str(name) for (name,) in asked.open_now}
    is_old = bool(before) or int(row[0]) != build  # what was asked for beside
    while before:
        if time.monotonic() >= deadline:
            _log.info("readers from before the flip linger; the views settle at the next occasion")
            return False
        time.sleep(_PAUSE_S)
        before &= _transactions(connection, "transactions_in_progress")
    build = int(row[0])
    schema = schema_of(live_schema, build)
    if is_old:
        with connection.pipeline():
            asked = _ask_for_settling(connection, live_schema, build)
    shapes = _shapes(asked.shapes)
    # First what nobody reads: as long as another function is still to be settled, a killed run's next one comes here again.
    if names := [name for (name,) in asked.unread]:
        with connection.pipeline():
            for name in names:
                connection.execute(db.query("drop_function", function=_function_by_name(name)))
    steps = {}
    for name in sorted(_relations(shapes, schema), key=_is_partitioned, reverse=True):
        columns = shapes[schema, name]
        branch = _branch(shapes, live_schema, name, build, columns, "settled_branch")
        steps[name] = _function(live_schema, name, columns, branch)
    _replace(connection, live_schema, steps, is_read=bool(asked.readers.fetchall()))
    return True


class _Settling(msgspec.Struct, frozen=True, kw_only=True):
    """What the server was asked before views settle; ``shapes`` are those of a build, ``unread`` functions of no view."""

    live: db.Cursor
    widened: db.Cursor
    open_now: db.Cursor
    unread: db.Cursor
    shapes: db.Cursor
    readers: db.Cursor


def _ask_for_settling(connection: db.Connection, live_schema: str, build: int) -> _Settling:
    """Ask which build is live and whether views are widened, what is open, and what settling on ``build`` has to know."""
    values = {"schema": live_schema}
    return _Settling(
        live=connection.execute(db.query("live"), values),
        widened=connection.execute(db.query("functions_are_widened"), values),
        open_now=connection.execute(db.query("transactions_in_progress")),
        unread=connection.execute(db.query("unread_functions"), values),
        shapes=_ask_shapes(connection, [schema_of(live_schema, build)]),
        readers=connection.execute(db.query("transactions_reading"), values),
    )


def named_builds(connection: db.Connection, live_schema: str) -> list[int]:
    """Return the builds that the views of a live schema read or may read, in order."""
    return [build for (build,) in connection.execute(db.query("named_builds"), {"schema": live_schema})]


def retract(connection: db.Connection, live_schema: str) -> None:
    """Drop the views of a live schema and the functions behind them; what users built on them stops it."""
    for name in (*ddl.relations(tables.TABLES), *LEDGER_VIEWS):
        connection.execute(db.query("drop_live_view", view=db.identifier(live_schema, name)))
    for (name,) in connection.execute(db.query("unread_functions"), {"schema": live_schema}).fetchall():
        connection.execute(db.query("drop_function", function=_function_by_name(name)))


def _widen(
    connection: db.Connection, shapes: Shapes, live_schema: str, builds: Sequence[int], new: int, *, is_read: bool
) -> None:
    """Let the functions name every build that somebody may still read, and the new one, which is among ``builds``.

    Until the flip a relation that the old build lacks is empty: its rows belong to the new build. Each session that reads
    plans anew, and looks up the new build's tables and indexes in the catalogs for it, tens of milliseconds of a core
    for the partitioned ones. So that they do not have to do all of that at once, there is a pause after each function;
    the partitioned ones come last, because planning a query over two builds of them costs four times as much.
    """
    schema = schema_of(live_schema, new)
    steps = {}
    for name in sorted(_relations(shapes, schema), key=_is_partitioned):
        columns = shapes[schema, name]
        found = [build for build in builds if (schema_of(live_schema, build), name) in shapes]
        branches = [_branch(shapes, live_schema, name, build, columns, "gated_branch") for build in found]
        query = db.query(
            "gated_branches",
            names=sql.SQL(", ").join(map(db.identifier, columns)),
            branches=sql.SQL("\nunion all\n").join(branches),
            live=sql.Literal(live_schema),
        )
        open_to_all = db.query("let_everybody_read", relation=db.identifier(schema, name))
        steps[name] = [open_to_all, *_function(live_schema, name, columns, query)]
    _replace(connection, live_schema, steps, is_read=is_read)


def _replace(
    connection: db.Connection, live_schema: str, steps: Mapping[str, Sequence[db.Statement]], *, is_read: bool
) -> None:
    """Run the statements of each relation as a transaction, with a pause behind it; all as one where nobody reads.

    The pauses leave the cores to the sessions that read, which plan anew then.
    """
    if not is_read:
        with db.at_once(connection):
            for statement in itertools.chain.from_iterable(steps.values()):
                connection.execute(statement)
        return
    for name, statements in steps.items():
        with db.at_once(connection):
            for statement in statements:
                connection.execute(statement)
        if _is_read(connection, live_schema):
            time.sleep(_LONG_BREATH_S if _is_partitioned(name) else _BREATH_S)


def _is_read(connection: db.Connection, live_schema: str) -> bool:
    return bool(_transactions(connection, "transactions_reading", {"schema": live_schema}))


def _is_partitioned(name: str) -> bool:
    return name in tables.TABLES and tables.spec(name).partitioned


def _check_types(shapes: Shapes, live_schema: str, build: int) -> None:
    """Refuse what no view can follow while it stays itself: another type of a column that it has."""
    for name in _relations(shapes, schema_of(live_schema, build)):
        new, shown = shapes[schema_of(live_schema, build), name], shapes.get((live_schema, name), {})
        for column, kind in shown.items():
            if new.get(column, kind) != kind:
                raise SchemaError(
                    f"{name}.{column} is {new[column]} now, and {kind} in view {live_schema}.{name}, which keeps its "
                    f"identity and cannot change that; build {build} is not published",
                    f"give the column another name, or drop view {live_schema}.{name} and what is built on it, "
                    "and run the same command again",
                )


def _show(
    connection: db.Connection,
    shapes: Shapes,
    live_schema: str,
    build: int,
    reads: Collection[tuple[Any, ...]],
    deadline: float,
    lock_timeout_s: float,
) -> set[str]:
    """Make the views that are not there, and replace those whose columns are others now, one lock at a time.

    Returns the transactions of other sessions that have read the views by then.

    A view that is there keeps its columns in their order, and has new ones behind them; one that is gone is null.
    ``reads`` are the (view, function) pairs of now.
    """
    schema = schema_of(live_schema, build)
    missing: list[db.Statement] = []
    other: list[db.Statement] = []
    for name in _relations(shapes, schema):
        columns, shown = shapes[schema, name], shapes.get((live_schema, name))
        function = _function_name(live_schema, name, columns)
        if (name, function) not in reads:
            (missing if shown is None else other).append(_view(live_schema, name, function, columns, shown or {}))
    missing += [
        db.query(f"{name}_view", schema=db.identifier(live_schema), live=sql.Literal(live_schema))
        for name in LEDGER_VIEWS
        if (live_schema, name) not in shapes
    ]
    with db.at_once(connection):
        connection.execute(db.query("create_live_schema", schema=db.identifier(live_schema)))
        for view in missing:
            connection.execute(view)
        reading = connection.execute(db.query("transactions_reading"), {"schema": live_schema})
    for view in other:
        db.patiently(connection, view, deadline, longest_wait_s=lock_timeout_s)
    if other:
        return _transactions(connection, "transactions_reading", {"schema": live_schema})
    return {str(name) for (name,) in reading}


def _view(
    live_schema: str, name: str, function: str, columns: Mapping[str, str], shown: Mapping[str, str]
) -> db.Statement:
    """Return the statement that makes or replaces a view that shows the columns ``shown`` now."""
    listed = [
        db.identifier(column)
        if column in columns
        else sql.SQL("null::{} as {}").format(db.type_name(shown[column]), db.identifier(column))
        for column in {**shown, **columns}
    ]
    return db.query(
        "replace_view",
        view=db.identifier(live_schema, name),
        columns=sql.SQL(", ").join(listed),
        function=_function_by_name(function),
    )


def _await_readers(connection: db.Connection, live_schema: str, before: set[str], deadline: float) -> None:
    """Wait until the transactions that had read the views ``before`` have ended; later ones know both builds.

    A transaction without a view's lock has planned nothing yet that it still can run: it plans anew, or has its cached
    plan checked, after it has taken the lock, and taking a lock brings it up to date.
    """
    while before:
        if time.monotonic() >= deadline:
            raise DatabaseError(
                f"{len(before)} transaction(s) that have read schema {live_schema} stay open; nothing has changed",
                "end them, or run the same command again",
            )
        time.sleep(_PAUSE_S)
        before &= _transactions(connection, "transactions_reading", {"schema": live_schema})


def _ask_shapes(connection: db.Connection, schemas: Sequence[str]) -> db.Cursor:
    """Ask for the shapes of our relations in these schemas: of builds, or of a live schema."""
    names = [*ddl.relations(tables.TABLES), *LEDGER_VIEWS]
    return connection.execute(db.query("shapes"), {"schemas": list(schemas), "names": names})


def _shapes(asked: db.Cursor) -> dict[tuple[str, str], dict[str, str]]:
    found: dict[tuple[str, str], dict[str, str]] = {}
    for schema, name, column, kind in asked:
        columns = found.setdefault((schema, name), {})
        if column is not None:
            columns[column] = kind
    return found


def _relations(shapes: Shapes, schema: str) -> list[str]:
    """Return the relations of a build that applications see."""
    return [name for name in ddl.relations(tables.TABLES) if (schema, name) in shapes]


def _branch(
    shapes: Shapes, live_schema: str, name: str, build: int, columns: Mapping[str, str], query: str
) -> sql.Composed:
    """Return the query of one build's relation: the rows alone ("settled_branch"), or with the build of each.

    A column that an older build lacks is null there.
    """
    own = shapes[schema_of(live_schema, build), name]
    values = [
        sql.SQL("t.{}").format(db.identifier(column))
        if column in own
        else sql.SQL("null::{} as {}").format(db.type_name(kind), db.identifier(column))
        for column, kind in columns.items()
    ]
    holes: dict[str, sql.Composable] = {
        "columns": sql.SQL(", ").join(values),
        "relation": db.identifier(schema_of(live_schema, build), name),
    }
    return db.query(query, **holes, build=sql.Literal(build))


def _function_name(live_schema: str, name: str, columns: Mapping[str, str]) -> str:
    """Return the name of the function behind a view: another one for other columns, which a function cannot change."""
    shape = f"{live_schema} {' '.join(f'{column} {kind}' for column, kind in columns.items())}"
    return f"{name}_{hashlib.sha256(shape.encode()).hexdigest()[:12]}"


def _function_by_name(function: str) -> sql.Identifier:
    return db.identifier("etl", function)


def _function(
    live_schema: str, name: str, columns: Mapping[str, str], branches: sql.Composed
) -> tuple[db.Statement, ...]:
    """Return what makes or replaces the function behind a view: statements of one transaction."""
    pairs = [sql.SQL("{} {}").format(db.identifier(column), sql.SQL(kind)) for column, kind in columns.items()]
    function = _function_by_name(_function_name(live_schema, name, columns))
    return (
        db.query("replace_function", function=function, columns=sql.SQL(", ").join(pairs), branches=branches),
        db.query("mark_function", function=function, live=sql.Literal(live_schema)),
        db.query("let_everybody_call", function=function),
    )


def _flip(connection: db.Connection, live_schema: str, build: int, kind: str, run: int | None) -> tuple[int, _Settling]:
    """Change the one row that counts, with its line in the history and its notification.

    Returns the new generation, and what the server says after the commit of what is there to settle.
    """
    with db.at_once(connection):
        # Commits of an unpublished build may wait for nobody (--durability fast); this one reaches the disk, and with
        # it all WAL before it. Tables made and filled under wal_level minimal were synced before their own commit.
        connection.execute(db.query("commit_durably"))
        values = {"schema": live_schema, "build": build}
        connection.execute(db.query("record_build"), {**values, "kind": kind, "run": run})
        flipped = connection.execute(db.query("flip"), values)
        connection.execute(db.query("mark_published"), {"build": build})
        connection.execute(db.query("notify_of_flip"), {"schema": live_schema})
        connection.execute("commit")
        connection.execute("begin")
        asked = _ask_for_settling(connection, live_schema, build)
    row = flipped.fetchone()
    return (int(row[0]) if row else 0), asked


def _transactions(connection: db.Connection, which: str, values: Mapping[str, str] | None = None) -> set[str]:
    return {str(name) for (name,) in connection.execute(db.query(which), values)}
