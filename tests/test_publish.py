"""Readers see one build whole, and the views keep their identity."""

import re
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from etl import db, ddl, finish, publish, tables
from etl.errors import DatabaseError, SchemaError
from etl.plan import Leaf

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
    assert (published.generation, published.settled) == (2, True)


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


@pytest.mark.parametrize("server", ["dsn", "debian_dsn"])
def test_joins_use_indexes_while_two_builds_are_named(server: str, request: pytest.FixtureRequest) -> None:
    """The planner takes the union apart; else a look-up around a publication would read whole tables."""
    dsn = request.getfixturevalue(server)
    with db.connect(dsn) as connection:
        make_build(connection, 1, "one")
        publish.publish(connection, "game", 1)
        make_build(connection, 2, "two")
        for schema in ("game_b1", "game_b2"):
            ddl.create_indexes(connection, schema, "powersets", ddl.table_file("powersets"))
        with psycopg.connect(dsn) as lingering:
            lingering.execute("select pg_current_xact_id()")
            assert not publish.publish(connection, "game", 2, settle_s=0.1).settled
            connection.execute("set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off")
            plan = "\n".join(
                line
                for (line,) in connection.execute(
                    "explain select * from game.powersets a"
                    " left join game.powersets b on b.id = a.archetype_id where a.full_name = 'C.s7'"
                )
            )

    assert "Subquery Scan" not in plan
    assert len(re.findall(r"Index Cond: \(id = \w+\.archetype_id\)", plan)) == 2, plan


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


class Reads:
    """Reads on a connection of its own, in a thread; afterwards ``seconds`` has how long each read lasted."""

    def __init__(self, dsn: str) -> None:
        self.seconds: list[float] = []
        self._stop = threading.Event()
        self._dsn = dsn
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> "Reads":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stop.is_set():
                started = time.perf_counter()
                connection.execute("select count(*) from game.powersets join game.archetypes a on a.id = archetype_id")
                self.seconds.append(time.perf_counter() - started)
                time.sleep(0.01)


def test_a_reader_that_stays_in_its_transaction_delays_the_publication_alone(
    connection: db.Connection, dsn: str
) -> None:
    """Neither the other readers, nor the flip."""
    make_build(connection, 2, "two")
    with psycopg.connect(dsn) as holder, Reads(dsn) as reads:
        assert marks(holder) == {"one"}
        end = threading.Timer(5.0, holder.rollback)
        end.start()
        published = publish.publish(connection, "game", 2)
        end.join()

    assert 1.0 < published.seconds["wait"] < 10
    assert published.seconds["flip"] < 1
    assert len(reads.seconds) > 50
    assert max(reads.seconds) < 1
    assert marks(connection) == {"two"}


def test_a_publication_that_runs_out_of_time_changes_nothing_and_may_be_tried_again(
    connection: db.Connection, dsn: str
) -> None:
    """The same build, or another one, is published when the reader is gone."""
    make_build(connection, 2, "two")
    make_build(connection, 3, "three")
    with psycopg.connect(dsn) as holder, Reads(dsn) as reads:
        assert marks(holder) == {"one"}
        with pytest.raises(DatabaseError, match="stay open"):
            publish.publish(connection, "game", 2, timeout_s=0.5)
        assert marks(connection) == marks(holder) == {"one"}
    assert max(reads.seconds) < 1
    publish.publish(connection, "game", 3)

    assert marks(connection) == {"three"}
    assert publish.named_builds(connection, "game") == [3]


def test_a_snapshot_from_before_two_flips_still_sees_its_build(connection: db.Connection, dsn: str) -> None:
    """A build that somebody may still read stays in the views, however many are published meanwhile."""
    make_build(connection, 2, "two")
    make_build(connection, 3, "three")
    with psycopg.connect(dsn) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("select pg_current_snapshot()")
        for build in (2, 3, 2):
            assert not publish.publish(connection, "game", build, settle_s=0.1).settled

        assert marks(reader) == {"one"}
        assert marks(connection) == {"two"}
    assert publish.settle(connection, "game", wait_s=5)
    assert publish.named_builds(connection, "game") == [2]


def test_a_publication_never_waits_for_a_lock_of_a_view(connection: db.Connection, dsn: str) -> None:
    """Not one lock that readers would have to wait for is taken on schema game."""
    make_build(connection, 2, "two")
    ours, stop = connection.info.backend_pid, threading.Event()
    seen: list[tuple[str, ...]] = []
    held = (
        "select l.mode from pg_locks l join pg_class c on c.oid = l.relation where l.pid = %s"
        " and c.relnamespace = 'game'::regnamespace and l.mode <> 'AccessShareLock'"
    )

    def watch() -> None:
        with psycopg.connect(dsn, autocommit=True) as watcher:
            while not stop.is_set():
                seen.extend(watcher.execute(held, (ours,)).fetchall())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(10):
        publish.publish(connection, "game", 1 + number % 2)
    stop.set()
    watcher.join()

    assert seen == []


def test_a_view_is_replaced_patiently_where_its_columns_changed(connection: db.Connection, dsn: str) -> None:
    """A new column comes with the new build; one view's lock is held at a time, and the build before has null there."""
    make_build(connection, 2, "two")
    connection.execute("alter table game_b2.powersets add column season text default 'autumn'")
    connection.execute("alter table game_b2.archetypes add column season text default 'autumn'")
    ours, stop, seen = connection.info.backend_pid, threading.Event(), [0]
    held = (
        "select count(distinct l.relation) from pg_locks l join pg_class c on c.oid = l.relation where l.pid = %s"
        " and l.granted and c.relnamespace = 'game'::regnamespace and l.mode = 'AccessExclusiveLock'"
    )

    def watch() -> None:
        with psycopg.connect(dsn, autocommit=True) as watcher:
            while not stop.is_set():
                row = watcher.execute(held, (ours,)).fetchone()
                seen.append(row[0] if row else 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with psycopg.connect(dsn) as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("select pg_current_snapshot()")
        publish.publish(connection, "game", 2, settle_s=0.1)
        before = old.execute("select distinct display_name, season from game.powersets").fetchall()
    stop.set()
    watcher.join()
    after = connection.execute("select distinct display_name, season from game.powersets").fetchall()

    assert max(seen) <= 1
    assert (before, after) == ([("one", None)], [("two", "autumn")])
    assert publish.settle(connection, "game", wait_s=5)
    functions = "select count(*) from pg_proc where pronamespace = 'etl'::regnamespace and proname like 'powersets%'"
    assert connection.execute(functions).fetchone() == (1,)


def test_nobody_reads_a_build_but_through_the_views(connection: db.Connection) -> None:
    """The planner reads a build with the rights of whoever asks; its schema is closed to him all the same."""
    connection.execute("create role planner_stranger")
    try:
        connection.execute("grant usage on schema game to planner_stranger")
        connection.execute("grant select on game.powersets to planner_stranger")
        connection.execute("set role planner_stranger")

        assert marks(connection) == {"one"}
        refused = ("select from game.archetypes", "select from game_b1.powersets", "select from etl.live")
        for text in refused:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(text)  # type: ignore[call-overload]
    finally:
        connection.execute("reset role")
        connection.execute("drop owned by planner_stranger")
        connection.execute("drop role planner_stranger")


@pytest.mark.parametrize("server", ["dsn", "debian_dsn"])
def test_the_planner_sees_through_the_views(server: str, request: pytest.FixtureRequest) -> None:
    """An index is used and partitions are pruned as if the build's table had been named, with a parameter too."""
    with db.connect(request.getfixturevalue(server)) as connection:
        make_build(connection, 1, "one")
        publish.publish(connection, "game", 1)
        connection.execute("set plan_cache_mode = force_generic_plan")
        connection.execute("prepare one as select * from game.powersets where id = $1")
        plan = str(connection.execute("explain execute one (7)").fetchall())
        powers = str(connection.execute("explain select * from game.powers where archetype_id = 99").fetchall())

    assert "powersets" in plan
    assert "Function Scan" not in plan + powers
    assert "Append" not in powers


def test_a_live_schema_with_a_table_of_our_name_is_refused(empty_dsn: str) -> None:
    """What is not ours is not touched."""
    from etl import migrations

    with db.connect(empty_dsn) as connection:
        migrations.migrate(connection)
        connection.execute("create schema game")
        connection.execute("create table game.powers (precious int)")
        with pytest.raises(SchemaError, match="powers") as caught:
            publish.refuse_strangers("game", publish.ask_strangers(connection, "game", ["powers"]))

    assert "--schema" in str(caught.value)


def test_archetypes_whose_names_look_like_leaves_have_their_place(connection: db.Connection) -> None:
    """Leaf 00 of "x" is called like an archetype "x_00" would be; what is attached is not attached again."""
    ddl.create_build(connection, "game_b7", {"cut": 3})
    leaves = [
        Leaf(
            name=name, archetype=archetype, archetype_id=number, lower=lower, upper=upper,
            powersets=(), rows=0, bytes=0, digest="",
        )
        for name, archetype, number, lower, upper in (
            ("x_00", "x", 1, None, None), ("x_00_00", "x_00", 2, None, None),
            ("cut_00", "cut", 3, None, 50), ("cut_01", "cut", 3, 50, None),
        )
    ]  # fmt: skip
    for leaf in leaves:
        ddl.create_leaf(connection, "game_b7", "powers", leaf.name)
    db.each_at_once(
        connection, list(ddl.attachments(ddl.ask_partitions(connection, "game_b7"), "game_b7", ["powers"], leaves))
    )
    again = list(ddl.attachments(ddl.ask_partitions(connection, "game_b7"), "game_b7", ["powers"], leaves))
    parents = "select c.relname, p.relname from pg_inherits h join pg_class c on c.oid = inhrelid join pg_class p on p.oid = inhparent where c.relkind = 'r' and c.relname like 'powers%' order by 1"

    assert not again
    assert [row for row in connection.execute(parents) if "npc" not in row[0]] == [
        ("powers_cut_00", "powers_cut"),
        ("powers_cut_01", "powers_cut"),
        ("powers_x_00", "powers"),
        ("powers_x_00_00", "powers"),
    ]


def test_views_read_no_table_that_is_indexed_beside_them() -> None:
    """Its key would wait for the view's transaction, and that for the worker which makes the key."""
    read = {
        name: set(re.findall(r"(?:from|join) \{schema\}\.(\w+)", body))
        for name, path in ddl.views()
        for heading, body in db.sections(path)
        if heading == "create"
    }

    assert read["power_build_summary"] == {"powers", "powersets", "archetypes"}
    assert not set.union(*read.values()) & set(finish.plain_tables(tables.TABLES))
