"""No answer is older than promised, and what did not change stays where it is."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from reading import Game, Records, counted, statements
from redis_server import RedisServer

from etl import db, migrations
from etl.read import PowerReader

Maker = Callable[..., PowerReader]


def of_one_set(records: Records) -> Records:
    """The records of the set that has most of them."""
    sets: dict[str, Records] = {}
    for record in records:
        sets.setdefault(record["PowersetFullName"].lower(), []).append(record)
    return max(sets.values(), key=len)


def ids_of(game: Game) -> dict[str, int]:
    return dict(game.rows("select lower(internal_name), id from game.power_directory"))


def listeners(game: Game) -> int:
    """How many readers listen by now: the last thing that their connection did was that, or what comes after it."""
    query = """
        select count(*) from pg_stat_activity
        where application_name = 'etl.read: listening' and datname = current_database()
          and (query = 'listen etl_cache' or query like '%published_at%')"""
    return int(game.rows(query)[0][0])


@pytest.fixture
def fresh(new_reader: Maker) -> Callable[..., PowerReader]:
    """Function that makes a reader which asks for the generation with every call."""
    return lambda *arguments, **settings: new_reader(*arguments, max_staleness_s=0, **settings)


def test_an_update_lets_the_keys_of_what_it_changed_go_and_no_other(
    game: Game, fresh: Maker, shared_redis: RedisServer
) -> None:
    """In memory and in Redis: the changed power and its set are read anew, the others are where they were."""
    ids = ids_of(game)
    members = of_one_set(game.records)
    changed, sibling = (ids[record["InternalName"].lower()] for record in members[:2])
    home = game.rows("select powerset_id from game.power_directory where id = %s", changed)[0][0]
    other = game.rows("select id, powerset_id from game.power_directory where powerset_id <> %s limit 1", home)[0]
    reader = fresh(shared_redis.url)

    def ask(asked: PowerReader) -> list[Any]:
        return [asked.power(changed), asked.power(sibling), asked.power(other[0]), asked.powers(home),
                asked.powers(other[1]), asked.build_summary(powerset=home), asked.build_summary(powerset=other[1])]  # fmt: skip

    before = ask(reader)
    members[0]["Description"] = "after the update"
    game.update(game.records)
    after = ask(reader)
    stranger = fresh(shared_redis.url)

    assert [a is b for a, b in zip(before, after, strict=True)] == [False, True, True, False, True, False, True]
    assert after[0].description == "after the update"
    assert [power.description for power in after[3] if power.id == changed] == ["after the update"]
    assert ask(stranger) == after
    assert counted(stranger, "database") == (0, 0)


def test_lists_searches_and_negative_answers_go_with_every_generation(
    game: Game, fresh: Maker, shared_redis: RedisServer
) -> None:
    """A power that comes is found by all of them; one that goes is in none."""
    reader = fresh(shared_redis.url)
    new = game.records[3] | {
        "InternalName": game.records[3]["InternalName"] + "_Again",
        "DisplayName": "Quite Unheard Of",
    }
    asked = [
        lambda r: r.power_by_name(new["InternalName"]),
        lambda r: r.search("quite unheard"),
        lambda r: [line for line in r.build_summary() if line.internal_name == new["InternalName"]],
        lambda r: [p for p in r.powers(new["PowersetFullName"]) or () if p.internal_name == new["InternalName"]],
    ]

    assert [bool(ask(reader)) for ask in asked] == [False] * 4
    game.update([*game.records, new])
    assert [bool(ask(reader)) for ask in asked] == [True] * 4
    game.update(game.records)
    assert [bool(ask(reader)) for ask in asked] == [False] * 4
    assert [bool(ask(fresh(shared_redis.url))) for ask in asked] == [False] * 4


def test_a_build_and_its_rollback_change_everything(game: Game, fresh: Maker, shared_redis: RedisServer) -> None:
    """The way back is a new generation as well, so what was filed before the first build is not found again."""
    ids = ids_of(game)
    number = ids[game.records[5]["InternalName"].lower()]
    reader = fresh(shared_redis.url)
    first, tags = reader.power(number), [reader.generation().etag]
    game.records[5]["Description"] = "the second build"
    game.rebuild(game.records)
    second = reader.power(number)
    tags.append(reader.generation().etag)
    game.rollback()
    third = reader.power(number)
    tags.append(reader.generation().etag)

    assert second.description == "the second build"
    assert third is not first
    assert third == first
    assert len(set(tags)) == 3
    assert counted(reader, "database", "power")[0] == 3


def test_a_power_goes_with_the_name_of_its_set(game: Game, fresh: Maker) -> None:
    """The names around a power are part of the answer; the change log says that only they changed."""
    members = of_one_set(game.records)
    ids = ids_of(game)
    numbers = [ids[record["InternalName"].lower()] for record in members]
    reader = fresh()
    before = reader.powers_by_id(numbers)
    for record in members:
        record["PowersetName"] = "Renamed"
    game.update(game.records)
    after = reader.powers_by_id(numbers)

    assert {power.powerset_display_name for power in before.values()} != {"Renamed"}
    assert {power.powerset_display_name for power in after.values()} == {"Renamed"}


def test_what_moves_to_another_set_leaves_the_lists_of_the_first(game: Game, fresh: Maker) -> None:
    """Also where nothing else of that set changes."""
    members = of_one_set(game.records)
    source = members[0]["PowersetFullName"]
    reader = fresh()
    name = members[0]["InternalName"].lower()

    def listed() -> set[str]:
        return {power.internal_name.lower() for power in reader.powers(source) or ()}

    assert name in listed()
    with db.connect(game.dsn) as connection:  # as an update leaves it; no export of ours moves a power
        home = connection.execute(
            "select id, powerset_id from game.power_directory where lower(internal_name) = %s", (name,)
        ).fetchone()
        connection.execute("begin")
        connection.execute("update etl.live set generation = generation + 1")
        connection.execute(
            "insert into etl.publication (live_schema, generation, kind, build, split_id)"
            " select live_schema, generation, 'update', build, 'x' from etl.live"
        )
        connection.execute(
            "insert into etl.powerset_change select live_schema, generation, %s from etl.live", (home[1],)
        )
        connection.execute("delete from game_b1.powers where id = %s", (home[0],))
        connection.execute("delete from game_b1.power_directory where id = %s", (home[0],))
        connection.execute("commit")

    assert name not in listed()


def test_an_update_notes_what_reads_differently_and_nothing_else(game: Game) -> None:
    """The set of a changed power; the set that is called otherwise, with its powers as "around"."""
    members = of_one_set(game.records)
    home = game.rows(
        "select powerset_id from game.power_directory where lower(internal_name) = %s",
        members[0]["InternalName"].lower(),
    )
    sets = "select powerset_id from game.powerset_changes where generation = %s"
    kinds = "select kind, count(*) from game.changes where generation = %s group by 1"
    members[0]["Description"] = "another one"
    one = game.update(game.records)
    for record in members:
        record["PowersetName"] = "Renamed"
    two = game.update(game.records)

    assert (game.rows(sets, one), game.rows(kinds, one)) == (home, [("changed", 1)])
    assert game.rows(sets, two) == home
    assert sum(count for _, count in game.rows(kinds, two)) == len(members)


def test_a_reader_that_listens_knows_at_once(game: Game, new_reader: Maker) -> None:
    """Long before it would have asked; and one that was told to ask rarely is told all the same."""
    number = ids_of(game)[game.records[0]["InternalName"].lower()]
    reader = new_reader(max_staleness_s=3600)
    reader.power(number)
    _until(lambda: listeners(game) >= 1)
    game.records[0]["Description"] = "heard of"
    game.update(game.records)

    _until(lambda: reader.power(number).description == "heard of")


def test_what_was_read_before_is_never_filed_as_newer(game: Game, fresh: Maker, shared_redis: RedisServer) -> None:
    """A statement that saw the old state, and comes back after the update, files under the old generation."""
    reader = fresh(shared_redis.url)
    number = ids_of(game)[game.records[0]["InternalName"].lower()]
    reader.power(number)
    with psycopg.connect(game.dsn, autocommit=True) as blocker:
        blocker.execute("begin")
        blocker.execute("lock table game_b1.archetypes in access exclusive mode")
        with ThreadPoolExecutor(1) as pool:
            reader.forget_all()
            slow = pool.submit(reader.power, number)
            _until(lambda: game.rows("select count(*) from pg_locks where not granted")[0][0])
            blocker.execute("update etl.live set generation = generation + 1")
            blocker.execute("insert into etl.publication (live_schema, generation, kind, build, split_id)"
                            " select live_schema, generation, 'update', build, 'x' from etl.live")  # fmt: skip
            blocker.execute(
                "insert into etl.change select live_schema, generation, 'changed', %s, 'x', 1, 1 from etl.live",
                (number,),
            )
            blocker.execute("update game_b1.powers set description = 'newer' where id = %s", (number,))
            blocker.execute("commit")
            slow.result()

    assert reader.power(number).description == "newer"
    assert fresh(shared_redis.url).power(number).description == "newer"


def test_a_reset_database_is_another_one(game: Game, fresh: Maker, shared_redis: RedisServer, dsn: str) -> None:
    """Generations and ids begin anew after a reset; the keys of before are not found."""
    reader = fresh(shared_redis.url)
    number = ids_of(game)[game.records[0]["InternalName"].lower()]
    before, tag = reader.power(number), reader.generation().etag
    with db.connect(game.dsn) as connection:
        connection.execute("drop schema game cascade")
        connection.execute("drop schema game_b1 cascade")
        connection.execute("drop schema etl cascade")
        migrations.migrate(connection)
    game.rebuild(game.records[1:])
    after = reader.power(number)

    assert before.internal_name != after.internal_name
    assert reader.power_by_name(before.internal_name) is None
    assert reader.generation().etag != tag


def test_what_is_to_be_forgotten_is_forgotten_by_all(game: Game, new_reader: Maker, shared_redis: RedisServer) -> None:
    """One power, one powerset, everything: rows changed by hand are seen, in other processes' memory too."""
    members = of_one_set(game.records)
    ids = ids_of(game)
    number, sibling = (ids[record["InternalName"].lower()] for record in members[:2])
    source = members[0]["PowersetFullName"]
    readers = [new_reader(shared_redis.url, max_staleness_s=3600) for _ in range(2)]

    def ask(reader: PowerReader) -> set[str]:
        return {
            reader.power(number).description,
            next(power.description for power in reader.powers(source) if power.id == number),
            reader.power(sibling).description,
        }

    for reader in readers:
        ask(reader)
    _until(lambda: listeners(game) >= 2)
    for forget in (
        lambda r: r.forget_power(number) and r.forget_power(sibling),
        lambda r: r.forget_powerset(source),
        lambda r: r.forget_all(),
    ):
        text = f"by hand {time.monotonic_ns()}"
        game.rows("update game_b1.powers set description = %s where id in (%s, %s)", text, number, sibling)
        forget(readers[0])

        assert ask(readers[0]) == {text}
        _until(lambda: ask(readers[1]) == {text})  # noqa: B023  # called in this turn of the loop
        assert ask(new_reader(shared_redis.url)) == {text}


_SEEN_WITHIN_S = 0.5


@dataclass
class Watch:
    """When each generation was first seen, and what the marked powers said in it."""

    seen: list[tuple[float, int, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def texts_allowed(self, asked: float, answered: float, max_staleness_s: float) -> set[str]:
        """Return what an answer may say: what held at some moment from max_staleness_s before the call on.

        A generation is seen a little after it begins, on a busy machine more than a little: so an answer may be newer
        than what was seen by then, and the one before counts as ended when the next was seen.
        """
        allowed = set()
        for place, (since, _, text) in enumerate(self.seen):
            until = self.seen[place + 1][0] if place + 1 < len(self.seen) else float("inf")
            if since <= answered + _SEEN_WITHIN_S and until >= asked - max_staleness_s:
                allowed.add(text)
        return allowed


@contextmanager
def watching(game: Game, number: int) -> Iterator[Watch]:
    """Look at the generation and the marked power without pause, in one statement."""
    watch, stop = Watch(), threading.Event()
    query = "select g.generation, p.description from game.generation g, game.powers p where p.id = %s"

    def look() -> None:
        with psycopg.connect(game.dsn, autocommit=True) as connection:
            while not stop.is_set():
                generation, text = connection.execute(query, (number,)).fetchone()
                if not watch.seen or watch.seen[-1][1] != generation:
                    watch.seen.append((time.monotonic(), generation, text))
                stop.wait(0.001)

    thread = threading.Thread(target=look)
    thread.start()
    _until(lambda: watch.seen)
    try:
        yield watch
    finally:
        stop.set()
        thread.join()


@dataclass
class Crowd:
    """Threads that read the powers of a set without end, on two readers; what they were told, and when."""

    readers: list[PowerReader]
    numbers: list[int]
    source: str
    answers: list[tuple[float, float, frozenset[str]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def texts(self, reader: PowerReader, turn: int) -> frozenset[str]:
        """Ask in one of three ways; return what the powers say."""
        if turn % 3 == 0:
            return frozenset(power.description for power in reader.powers(self.source) or ())
        if turn % 3 == 1:
            return frozenset(power.description for power in reader.powers_by_id(self.numbers[:3]).values())
        return frozenset([reader.power(self.numbers[turn % len(self.numbers)]).description])

    def read(self, place: int) -> None:
        """Read until it is time to stop."""
        turn = place
        while not self.stop.is_set():
            turn += 1
            asked = time.monotonic()
            try:
                texts = self.texts(self.readers[place % 2], turn)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is one too many
                self.errors.append(repr(error))
                return
            self.answers.append((asked, time.monotonic(), texts))
            time.sleep(0.01)  # not to measure who gets a core


def describe(game: Game, records: Records, text: str, publish: Callable[[Records], object]) -> None:
    """Publish the records with a text in all of these."""
    for record in records:
        record["Description"] = text
    publish(game.records)


@pytest.mark.parametrize(
    ("with_redis", "rounds"),
    [pytest.param(True, 10, marks=pytest.mark.slow, id="redis"), pytest.param(False, 1, id="alone")],
)
def test_sixteen_threads_read_through_twenty_publications_and_twenty_updates(
    with_redis: bool, rounds: int, game: Game, new_reader: Maker, request
) -> None:
    """No answer is older than promised, none is mixed, none is an error."""
    members, max_staleness_s = of_one_set(game.records), 0.2
    ids = ids_of(game)
    url = request.getfixturevalue("shared_redis").url if with_redis else ""
    crowd = Crowd(
        readers=[new_reader(url, max_staleness_s=max_staleness_s) for _ in range(2)],
        numbers=[ids[record["InternalName"].lower()] for record in members],
        source=members[0]["PowersetFullName"],
    )
    for text in ("the first build", "the second build"):
        describe(game, members, text, game.rebuild)
    with watching(game, crowd.numbers[0]) as watch, ThreadPoolExecutor(16) as pool:
        for place in range(16):
            pool.submit(crowd.read, place)
        try:
            for number in range(rounds):
                describe(game, members, f"update {number}", game.update)
                game.rollback()
                game.rollback()
                describe(game, members, f"second update {number}", game.update)
        finally:
            crowd.stop.set()

    assert crowd.errors == []
    assert len(watch.seen) >= 4 * rounds
    assert len(crowd.answers) > 500
    assert [texts for _, _, texts in crowd.answers if len(texts) != 1] == []
    assert [
        (asked, texts)
        for asked, answered, texts in crowd.answers
        if not texts <= watch.texts_allowed(asked, answered, max_staleness_s)
    ] == []


def test_a_statement_of_state_is_asked_no_more_often_than_promised(game: Game, new_reader: Maker) -> None:
    """What is in memory costs no statement at all."""
    reader = new_reader(max_staleness_s=3600)
    number = ids_of(game)[game.records[0]["InternalName"].lower()]
    reader.power(number)
    before = statements(reader), reader.stats()["events"]["questions_of_state"]
    for _ in range(1000):
        reader.power(number)

    assert (statements(reader), reader.stats()["events"]["questions_of_state"]) == before


def _until(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came")
