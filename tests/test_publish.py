"""Readers see one build whole, and the views keep their identity."""

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from etl import db, ddl, publish, tables
from etl.errors import DatabaseError, SchemaError

POWERSET = (
    "insert into {}.powersets (id, name, full_name, display_name, archetype_id, powerset_type, category)"
    " select g, 's' || g, 'C.s' || g, %s, 1, 'npc', 'C' from generate_series(1, 20) g"
)


def make_build(connection: db.Connection, number: int, mark: str) -> None:
    """Make a finished build whose powersets and archetypes all carry a mark."""
    connection.execute(
        "insert into etl.build (build, live_schema, split_id, store, format, tables, versions, plan)"
        " values (%s, 'game', %s, 's', 'cod', %s, '{}', '[]')",
        (number, mark, list(tables.TABLES)),
    )
    schema = publish.schema_of("game", number)
    ddl.create_build(connection, schema, {"npc": 1})
    connection.execute(
        f"insert into {schema}.archetypes (id, name, display_name, is_player) values (1, 'npc', %s, false)", (mark,)
    )
    connection.execute(POWERSET.format(schema), (mark,))
    for name, path in ddl.views():
        ddl.create_view(connection, schema, name, path)


@pytest.fixture
def connection(dsn: str) -> Iterator[db.Connection]:
    with db.connect(dsn) as opened:
        make_build(opened, 1, "one")
        publish.publish(opened, "game", 1)
        yield opened


def marks(connection: db.Connection) -> set[str]:
    return {mark for (mark,) in connection.execute("select display_name from game.powersets")}


def test_a_publication_changes_what_is_read_and_raises_the_generation(connection: db.Connection) -> None:
    """The second build replaces the first."""
    before = marks(connection)
    make_build(connection, 2, "two")
    published = publish.publish(connection, "game", 2)

    assert (before, marks(connection)) == ({"one"}, {"two"})
    assert published == publish.Publication(generation=2, settled=True)


def test_views_keep_oids_grants_comments_and_what_users_built_on_them(connection: db.Connection) -> None:
    """Everything that points to schema game goes on working."""
    connection.execute("create role planner_reader")
    try:
        connection.execute("grant select on game.powersets to planner_reader")
        connection.execute("comment on view game.powersets is 'sets of powers'")
        connection.execute("create view public.mine as select display_name from game.powersets")
        identity = "select oid, relacl::text, obj_description(oid), relowner from pg_class where oid = 'game.powersets'::regclass"
        before = connection.execute(identity).fetchone()
        make_build(connection, 2, "two")
        publish.publish(connection, "game", 2)

        assert connection.execute(identity).fetchone() == before
        assert connection.execute("select distinct display_name from public.mine").fetchall() == [("two",)]
    finally:
        connection.execute("drop owned by planner_reader")
        connection.execute("drop role planner_reader")


def test_a_repeatable_read_transaction_keeps_its_build_over_a_flip(connection: db.Connection, dsn: str) -> None:
    """And settling waits for it."""
    make_build(connection, 2, "two")
    with psycopg.connect(dsn) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("select pg_current_snapshot()")
        published = publish.publish(connection, "game", 2, settle_s=0.2)
        first = reader.execute("select display_name from game.archetypes").fetchone()
        second = reader.execute("select distinct display_name from game.powersets").fetchall()

        assert not published.settled
        assert (first, second) == (("one",), [("one",)])
    assert publish.settle(connection, "game", wait_s=5)
    assert "etl.live" not in str(connection.execute("select pg_get_viewdef('game.powersets'::regclass)").fetchone())


def test_no_statement_mixes_two_builds(connection: db.Connection, dsn: str) -> None:
    """Joins of several tables, without pause, over several publications."""
    stop, seen, mixed = threading.Event(), [0], []

    def read() -> None:
        with psycopg.connect(dsn, autocommit=True) as reader:
            while not stop.is_set():
                row = reader.execute(
                    "select array_agg(distinct a.display_name || s.display_name), count(*)"
                    " from game.powersets s join game.archetypes a on a.id = s.archetype_id"
                ).fetchone()
                seen[0] += 1
                if row not in ((["oneone"], 20), (["twotwo"], 20)):
                    mixed.append(row)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    make_build(connection, 2, "two")
    for number in range(6):
        publish.publish(connection, "game", 1 + number % 2, settle_s=0.2)
    stop.set()
    for reader in readers:
        reader.join()

    assert mixed == []
    assert seen[0] > 20


def test_a_reader_that_holds_a_view_delays_only_the_publication(connection: db.Connection, dsn: str) -> None:
    """Other readers do not queue behind us, and after the time limit nothing has changed."""
    make_build(connection, 2, "two")
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as other:
        holder.execute("lock table game.powersets in access share mode")
        waits: list[float] = []

        def read() -> None:
            for _ in range(20):
                started = time.perf_counter()
                other.execute("select count(*) from game.powersets")
                waits.append(time.perf_counter() - started)
                time.sleep(0.02)

        reader = threading.Thread(target=read)
        reader.start()
        with pytest.raises(DatabaseError, match="lock"):
            publish.publish(connection, "game", 2, timeout_s=0.5)
        reader.join()

    assert max(waits) < 2.5
    assert marks(connection) == {"one"}


def test_a_live_schema_with_a_table_of_our_name_is_refused(empty_dsn: str) -> None:
    """What is not ours is not touched."""
    from etl import migrations

    with db.connect(empty_dsn) as connection:
        migrations.migrate(connection)
        connection.execute("create schema game")
        connection.execute("create table game.powers (precious int)")
        with pytest.raises(SchemaError, match="powers") as caught:
            publish.check_live_schema(connection, "game", ["powers"])

    assert "--schema" in str(caught.value)
