"""Look-ups give what the database holds, from whichever tier they come."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import psycopg
import pytest
from command_line import ROOT
from psycopg import conninfo
from reading import Game, counted, statements
from redis_server import RedisServer

from etl.errors import DatabaseError, SchemaError, UsageError
from etl.read import PoolOptions, PowerReader, results

Maker = Callable[..., PowerReader]


@pytest.fixture
def some(game: Game) -> tuple[int, str, int, str]:
    """A power with its set: id, full name, id and full name of the set, which has several powers."""
    query = """
        select d.id, d.internal_name, s.id, s.full_name
        from game.power_directory d join game.powersets s on s.id = d.powerset_id
        where d.powerset_id = (select powerset_id from game.power_directory group by 1 order by count(*) desc, 1 limit 1)
        order by d.id limit 1"""
    return game.rows(query)[0]  # type: ignore[return-value]


def test_a_power_comes_from_the_database_then_from_memory_and_to_others_from_redis(
    game: Game, new_reader: Maker, shared_redis: RedisServer, some
) -> None:
    """The same power each time, and the figures tell where it came from."""
    one, two = new_reader(shared_redis.url), new_reader(shared_redis.url)
    first, again, other = one.power(some[0]), one.power(some[0]), two.power(some[0])

    assert first is again
    assert first == other
    assert (counted(one, "database")[0], counted(one, "local")) == (1, (1, 1))
    assert (counted(two, "database")[0], counted(two, "redis")) == (0, (1, 0))


def test_a_power_has_what_its_row_has(game: Game, new_reader: Maker, some) -> None:
    """Every column but the hash of its source, and the names around it."""
    power = new_reader().power(some[0])
    query = """
        select to_jsonb(p) - 'source_hash' || jsonb_build_object('powerset_name', s.name, 'powerset_full_name', s.full_name,
            'powerset_display_name', s.display_name, 'archetype_name', a.name)
        from game.powers p join game.powersets s on s.id = p.powerset_id join game.archetypes a on a.id = p.archetype_id
        where p.id = %s"""
    ((row,),) = game.rows(query, some[0])
    told = msgspec.json.decode(msgspec.json.encode(power))

    for name in ("created_at", "updated_at"):
        assert getattr(power, name) == msgspec.convert(row.pop(name), type(power.created_at))
        told.pop(name)
    assert told == row


def test_an_answer_cannot_be_changed_for_others(game: Game, new_reader: Maker) -> None:
    """Fields are frozen, and nested values are made anew for each who asks."""
    reader = new_reader()
    ((number,),) = game.rows("select id from game.powers where effects <> '[]' order by id limit 1")
    power = reader.power(number)
    power.effects.clear()

    assert reader.power(number).effects
    with pytest.raises(AttributeError):
        power.name = "mine"


def test_a_name_is_found_in_any_spelling_of_case(game: Game, new_reader: Maker, some) -> None:
    """As the registry knows it."""
    reader = new_reader()

    assert reader.power_by_name(some[1]).id == some[0]
    assert reader.power_by_name(some[1].upper()) is reader.power_by_name(some[1].lower())


@pytest.mark.parametrize("tier", ["", "redis"])
def test_what_is_unknown_is_none_and_remembered(game: Game, new_reader: Maker, request, tier: str) -> None:
    """A second question about it costs no statement, whoever asks."""
    url = request.getfixturevalue("shared_redis").url if tier else ""
    reader = new_reader(url)
    unknown = [lambda r: r.power(10**9), lambda r: r.power_by_name("No.Such.Power"), lambda r: r.powers("No.Such"),
               lambda r: r.powers(10**8)]  # fmt: skip
    found = [ask(reader) for ask in unknown]
    before = statements(reader)
    again = [ask(reader) for ask in unknown]

    assert found == again == [None] * 4
    assert statements(reader) == before
    if tier:
        other = new_reader(url)
        assert [ask(other) for ask in unknown] == [None] * 4
        assert counted(other, "database") == (0, 0)


def test_powers_of_a_set_come_by_level(game: Game, new_reader: Maker, some) -> None:
    """By id, by name in any case, up to a level."""
    reader = new_reader()
    powers = reader.powers(some[2])
    wanted = game.rows(
        "select id, level_available from game.powers where powerset_id = %s"
        " order by level_available, display_order, internal_name",
        some[2],
    )
    level = wanted[len(wanted) // 2][1]

    assert [(power.id, power.level_available) for power in powers] == wanted
    assert reader.powers(some[3].upper()) is powers
    assert [power.id for power in reader.powers(some[3], max_level=level)] == [n for n, at in wanted if at <= level]


def test_powers_of_a_set_are_those_that_come_by_id(game: Game, new_reader: Maker) -> None:
    """Also where a set has powers of two archetypes, and where it has none."""
    (one, two, home), *_ = game.rows(
        "select min(id), max(id), powerset_id from game.power_directory group by 3 having count(*) > 1 order by 3"
    )
    query = "select id from game.archetypes where id not in (select archetype_id from game.powers where id = %s)"
    other = game.rows(query, one)[0][0]
    for table in ("powers", "power_directory"):
        game.rows(f"update game_b1.{table} set archetype_id = %s where id = %s", other, two)
    (empty,) = game.rows("select powerset_id from game.power_directory group by 1 having count(*) = 1 order by 1")[0]
    for table in ("powers", "power_directory"):
        game.rows(f"update game_b1.{table} set powerset_id = %s where powerset_id = %s", home, empty)
    reader = new_reader()
    powers = reader.powers(home)

    assert {power.id for power in powers} >= {one, two}
    assert len({power.archetype_name for power in powers}) == 2
    assert {power.id: power for power in powers} == new_reader().powers_by_id([power.id for power in powers])
    assert reader.powers(empty) == ()
    game.rows("delete from game_b1.powersets where id = %s", empty)
    assert new_reader().powers(empty) is None


def test_a_list_that_is_not_whole_is_garbage(game: Game, new_reader: Maker, some) -> None:
    """It may lie in Redis, under a key of ours."""
    reader = new_reader()
    assert reader.powers(some[2])
    body = reader._engine.queries.powerset(some[2]).body  # type: ignore[union-attr]
    names, archetypes, columns = msgspec.json.decode(body)
    short = [columns[0][:-1], *columns[1:]]

    assert len(results.powers(body)) == len(columns[0]) > 1
    for rotten in (
        [names, {}, columns],  # the archetype of all powers has no name
        [names[:2], archetypes, columns],
        [names, archetypes, columns[:-1]],
        [names, archetypes, short],
        columns,
    ):
        with pytest.raises(msgspec.MsgspecError):
            results.powers(msgspec.json.encode(rotten))


def test_a_name_of_several_powersets_is_refused(game: Game, new_reader: Maker) -> None:
    """With what to write instead; a full name goes before others' own names."""
    game.rows(
        "update game_b1.powersets set name = 'Twin' where id in (select id from game_b1.powersets order by id limit 2)"
    )
    with pytest.raises(UsageError, match="2 powersets are called twin") as caught:
        new_reader().powers("twin")

    assert "Category.Set" in str(caught.value)


@pytest.mark.parametrize("is_there", [True, False], ids=["view", "join"])
def test_the_build_summary_is_that_of_the_view_or_of_the_join(
    game: Game, new_reader: Maker, some, is_there: bool
) -> None:
    """By archetype, powerset and level, in every combination."""
    rows = game.rows("select id, archetype_name, powerset_id, level_available from game.power_build_summary")
    if not is_there:
        game.rows("drop view game.power_build_summary")
    reader = new_reader()
    archetype = game.rows("select archetype_name from (select a.name as archetype_name, count(*) from game.powers p"
                          " join game.archetypes a on a.id = p.archetype_id group by 1 order by 2 desc) x limit 1")[0][0]  # fmt: skip
    for name in (None, archetype):
        for powerset in (None, some[2]):
            for level in (None, 12):
                lines = reader.build_summary(name, powerset, level)
                wanted = {
                    row[0]
                    for row in rows
                    if (name is None or row[1] == name)
                    and (powerset is None or row[2] == powerset)
                    and (level is None or row[3] <= level)
                }

                assert {line.id for line in lines} == wanted
                assert [line.level_available for line in lines] == sorted(line.level_available for line in lines)
    assert reader.build_summary("nobody") == reader.build_summary(powerset="No.Such") == ()


@pytest.mark.parametrize("server", ["game", "with_trigrams"])
def test_a_search_finds_names_that_hold_the_text(server: str, game: Game, new_reader: Maker, request) -> None:
    """In any case, the closest first; what looks like a pattern is none."""
    dsn = request.getfixturevalue(server).dsn if server == "game" else request.getfixturevalue(server)
    reader = new_reader(dsn=dsn)
    with psycopg.connect(dsn) as connection:
        names = [name for (name,) in connection.execute("select display_name from game.powers")]
    whole = max(names, key=len)
    part = whole[1:6].upper()
    found = [line.display_name for line in reader.search(part, limit=1000)]

    assert sorted(found) == sorted(name for name in names if part.lower() in name.lower())
    assert reader.search(whole.lower())[0].display_name == whole
    assert [line for line in reader.search("_%", limit=1000) if "_%" not in line.display_name] == []
    assert len(reader.search("a", limit=3)) == 3


@pytest.fixture
def with_trigrams(debian_dsn: str, game: Game) -> str:
    """A database with pg_trgm in which the same records are published."""
    from etl.config import LoadOptions
    from etl.coordinator import load

    ((split,),) = game.rows("select split_id from etl.build")
    load(LoadOptions(store=str(game.store), split_id=split, dsn=debian_dsn, executor="inline://", command="test"))
    with psycopg.connect(debian_dsn) as connection:
        if connection.execute("select from pg_extension where extname = 'pg_trgm'").fetchone() is None:
            pytest.skip("the system's PostgreSQL has no pg_trgm")
    return debian_dsn


def test_powers_are_found_by_what_they_do(game: Game, new_reader: Maker) -> None:
    """By the type of an effect and by the attribute of a modifier; of one archetype, up to a level."""
    reader = new_reader()
    typed = "select id, archetype_id, level_available from game.powers where effect_groups @> %s"
    ((kind,),) = game.rows(
        "select g ->> 'type' from game.powers, jsonb_array_elements(effect_groups) g group by 1 order by count(*) desc limit 1"
    )
    rows = game.rows(typed, f'[{{"type": "{kind}"}}]')
    ((archetype, name),) = game.rows("select a.id, a.name from game.archetypes a where a.id = %s", rows[0][1])
    attribute = game.rows("select m ->> 'Attribute' from game.powers, jsonb_array_elements(effects) e, jsonb_array_elements(e -> 'AttributeModifiers') m limit 1")  # fmt: skip

    assert {line.id for line in reader.with_effect(kind)} >= {row[0] for row in rows}
    assert {line.id for line in reader.with_effect(kind, name, 20)} >= {
        row[0] for row in rows if row[1] == archetype and row[2] <= 20
    }
    assert {line.archetype_id for line in reader.with_effect(kind, name)} == {archetype}
    assert reader.with_effect(attribute[0][0])
    assert reader.with_effect("Nothing") == reader.with_effect(kind, "nobody") == ()


def test_several_powers_cost_one_round_trip_per_tier(game: Game, new_reader: Maker, shared_redis: RedisServer) -> None:
    """In the order asked; those that there are not are left out."""
    ids = [number for (number,) in game.rows("select id from game.power_directory order by id desc limit 40")]
    reader = new_reader(shared_redis.url)
    reader.powers_by_id(ids[:10])
    before, gets = statements(reader), shared_redis.calls("mget")
    found = reader.powers_by_id([*ids, 10**9])

    assert list(found) == ids
    assert all(found[number].id == number for number in ids)
    assert (statements(reader) - before, shared_redis.calls("mget") - gets) == (1, 1)
    assert new_reader(shared_redis.url).powers_by_id(ids) == found


def test_of_a_hundred_threads_one_goes(game: Game, new_reader: Maker, some) -> None:
    """One missing key, one query; all have its answer."""
    reader = new_reader()
    reader.generation()
    barrier = threading.Barrier(100)

    def ask(_: int) -> object:
        barrier.wait()
        return reader.powers(some[2])

    with ThreadPoolExecutor(100) as pool:
        found = list(pool.map(ask, range(100)))

    assert len({id(answer) for answer in found}) == 1
    assert counted(reader, "database", "powerset")[0] == 1


def test_a_reader_needs_the_live_schema_alone(game: Game, new_reader: Maker, some) -> None:
    """USAGE and SELECT there, nothing else; without, the error says what to grant."""
    role = conninfo.conninfo_to_dict(game.dsn)["dbname"]
    game.rows(f"create role {role}")
    try:
        reader = new_reader(dsn=conninfo.make_conninfo(game.dsn, options=f"-c role={role}"))
        with pytest.raises(DatabaseError, match="grant usage on schema game"):
            reader.power(some[0])
        game.rows(f"grant usage on schema game to {role}")
        game.rows(f"grant select on all tables in schema game to {role}")

        assert reader.power_by_name(some[1]).id == some[0]
        assert reader.powers(some[3])
        assert reader.build_summary(max_level=5) is not None
        assert reader.search("a") and reader.forget_power(some[0])
    finally:
        for reader_role in (f"drop owned by {role}", f"drop role {role}"):
            game.rows(reader_role)


def test_broken_connections_are_replaced(game: Game, new_reader: Maker, some) -> None:
    """A server that ended all of them is asked again at once."""
    reader = new_reader(pool=PoolOptions(size=4))
    reader.power(some[0])
    for _ in range(3):
        game.rows("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'etl.read%'"
                  " and datname = current_database()")  # fmt: skip
        reader.forget_all()

        assert reader.power(some[0]).id == some[0]


def test_a_database_that_cannot_tell_is_an_error(game: Game, new_reader: Maker, some) -> None:
    """An answer that might be stale is none, and the message names the next step."""
    reader = new_reader(
        dsn=conninfo.make_conninfo(game.dsn, dbname="no_such_database"), pool=PoolOptions(timeout_s=0.5)
    )
    with pytest.raises(DatabaseError) as caught:
        reader.power(some[0])

    assert "check" in str(caught.value)


def test_a_schema_without_a_build_is_answered_with_a_command(dsn: str, game: Game, new_reader: Maker) -> None:
    """Before the first load, and for another name."""
    for where, schema in ((dsn, "game"), (game.dsn, "other")):
        with pytest.raises(SchemaError, match="etl load"):
            new_reader(dsn=where, schema=schema).power(1)


FORK = """
import os, sys
from etl.read import PowerReader

reader = PowerReader(sys.argv[1], sys.argv[2])
number = int(sys.argv[3])
before = reader.power(number)
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        assert reader.power(number) == before
        assert reader.powers_by_id([number, number + 1])[number] == before
        if len(children):
            reader.close()
        sys.exit(0)
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
assert reader.powers_by_id([number + 2, number + 3]) is not None
assert reader.power(number) is before
print(codes)
"""


def test_a_reader_goes_on_in_forked_processes(game: Game, shared_redis: RedisServer, some) -> None:
    """Each with connections of its own, and the parent's go on; whether they are closed in the end or not."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, game.dsn, shared_redis.url, str(some[0])],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert (done.stdout.strip(), done.stderr) == ("[0, 0, 0]", "")


def test_etl_does_not_import_what_only_readers_need() -> None:
    """Neither the package nor its help pays for Redis and the pool."""
    script = "import sys, etl, etl.cli; print([n for n in ('redis', 'psycopg_pool', 'etl.read') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)

    assert done.stdout.strip() == "[]"


def test_a_closed_reader_says_so(game: Game, new_reader: Maker) -> None:
    """And closing twice is nothing."""
    reader = new_reader()
    reader.generation()
    reader.close()
    reader.close()
    with pytest.raises(UsageError, match="closed"):
        reader.power(1)
