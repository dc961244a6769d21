"""``etl cache`` as a person and a script use it."""

import json
import re

import pytest
from command_line import Done, refusal, run
from reading import Game, counted
from redis_server import RedisServer

from etl.read import PowerReader


def cache(game: Game, redis: RedisServer | None, *words: str) -> Done:
    environment = {"DATABASE_URL": game.dsn, **({"REDIS_URL": redis.url} if redis else {})}
    return run("cache", *words, environment=environment)


def test_stats_add_up_the_processes_and_name_the_server(game: Game, new_reader, new_redis) -> None:
    """Hits and misses per tier and kind, times, generations, bytes."""
    server = new_redis()
    ids = [number for (number,) in game.rows("select id from game.power_directory limit 10")]
    for _ in range(2):
        reader = new_reader(server.url)
        for number in ids * 2:
            reader.power(number)
        reader.close()
    found = json.loads(cache(game, server, "stats", "--json").stdout)
    text = cache(game, server, "stats").stdout

    assert (found["processes"], found["generations"], found["generation"]) == (2, [1], 1)
    tiers = {tier: found["tiers"][tier]["power"] for tier in ("local", "redis", "database")}
    assert {tier: (f["hits"], f["misses"]) for tier, f in tiers.items()} == {
        "local": (20, 20), "redis": (10, 10), "database": (10, 0),
    }  # fmt: skip
    assert all(f["mean_us"] > 0 and f["p99_us"] > 0 for f in tiers.values())
    assert tiers["local"]["hit_rate"] == 0.5
    assert found["local"]["entries"] == 20
    assert found["redis"]["keys"] >= 10
    assert found["events"]["redis_bytes_before"] > found["events"]["redis_bytes_stored"] > 0
    assert re.search(r"local +power +20 +20 +0 +0.5 ", text)
    assert "generation 1 is published; 2 process(es) have seen 1" in text


def test_clear_lets_everybody_forget(game: Game, new_reader, shared_redis) -> None:
    """A power, a powerset, everything; without Redis it reaches the processes' memory."""
    number, name, source = game.rows(
        "select d.id, d.internal_name, s.full_name from game.power_directory d"
        " join game.powersets s on s.id = d.powerset_id order by d.id limit 1"
    )[0]
    for words in (("--power", name), ("--power", str(number)), ("--powerset", source), ("--all",)):
        reader = new_reader(shared_redis.url)
        reader.power(number)
        game.rows("update game_b1.powers set description = %s where id = %s", " ".join(words), number)
        done = cache(game, shared_redis, "clear", *words)

        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("forgotten: ")
        assert new_reader(shared_redis.url).power(number).description == " ".join(words)
    assert "no Redis is named" in cache(game, None, "clear", "--all").stdout


def test_warm_reads_ahead(game: Game, new_reader, new_redis) -> None:
    """After it a reader needs the database for nothing but the generation."""
    server = new_redis()
    done = cache(game, server, "warm", "--json", "--quiet")
    reader = new_reader(server.url)
    names = [name for (name,) in game.rows("select internal_name from game.power_directory")]
    sets = [number for (number,) in game.rows("select distinct powerset_id from game.power_directory")]

    assert json.loads(done.stdout)["powers"] == len(names)
    assert all(reader.power_by_name(name) for name in names)
    assert all(reader.powers(number) and reader.build_summary(powerset=number) for number in sets)
    assert counted(reader, "database") == (0, 0)


def test_warm_may_be_asked_of_one_archetype(game: Game, new_reader, new_redis) -> None:
    """In any case; one that there is not is refused."""
    server = new_redis()
    ((name, count),) = game.rows(
        "select a.name, count(*) from game.powers p join game.archetypes a on a.id = p.archetype_id group by 1 order by 2 limit 1"
    )

    assert f" {count} powers" in cache(game, server, "warm", "--archetype", name.upper()).stdout
    assert "nobody" in refusal(cache(game, server, "warm", "--archetype", "nobody", "--quiet"), 2)[0]


def test_a_load_may_warm_right_after_the_publication(game: Game, new_reader, new_redis, tmp_path) -> None:
    """`etl rebuild --warm`; without a Redis it is refused before anything is done, a dead one harms nothing."""
    server = new_redis()
    source = tmp_path / "powers.json"
    source.write_text(json.dumps(game.records))
    words = ("rebuild", source, "--store", tmp_path / "store", "--executor", "inline://", "--quiet", "--warm")
    environment = {"DATABASE_URL": game.dsn}
    refused = run(*words, environment={**environment, "REDIS_URL": ""})
    dead = run(*words, environment={**environment, "REDIS_URL": "redis://127.0.0.1:1/0"})
    warmed = run(*words, environment={**environment, "REDIS_URL": server.url})
    reader = new_reader(server.url)

    assert refused.returncode == 2
    assert (dead.returncode, warmed.returncode) == (0, 0)
    assert "not warmed" in dead.stderr
    assert "warmed: " in warmed.stderr
    assert reader.generation().generation == 3
    assert all(reader.power(number) for (number,) in game.rows("select id from game.power_directory"))
    assert counted(reader, "database") == (0, 0)


def test_an_update_may_warm_what_it_changed(game: Game, new_reader, new_redis, tmp_path) -> None:
    """`etl update --warm`; where nothing differs, nothing is read ahead."""
    server = new_redis()
    source = tmp_path / "powers.json"
    changed = [{**record, "Description": "changed"} for record in game.records]
    source.write_text(json.dumps(changed))
    words = ("update", source, "--store", tmp_path / "store", "--executor", "inline://", "--quiet", "--warm", "--json")
    environment = {"DATABASE_URL": game.dsn, "REDIS_URL": server.url}
    first, second = run(*words, environment=environment), run(*words, environment=environment)
    reader = new_reader(server.url)
    numbers = [number for (number,) in game.rows("select id from game.power_directory")]

    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert f"warmed: {len(numbers)} powers" in first.stderr
    assert "warmed" not in second.stderr
    assert {reader.power(number).description for number in numbers} == {"changed"}
    assert counted(reader, "database") == (0, 0)


@pytest.mark.parametrize(
    ("words", "code", "next_step"),
    [
        (("stats",), 2, "REDIS_URL"),
        (("warm",), 2, "REDIS_URL"),
        (("clear",), 2, "--power"),
        (("clear", "--all", "--power", "1"), 2, "--power"),
        (("clear", "--power", "No.Such.Power"), 2, "Category.Set.Power"),
        (("clear", "--powerset", "No.Such"), 2, "Category.Set"),
        (("stats", "--redis-url", "redis://127.0.0.1:1/0"), 1, "REDIS_URL"),
        (("clear", "--all", "--redis-url", "redis://127.0.0.1:1/0"), 1, "REDIS_URL"),
        (("warm", "--quiet", "--redis-url", "redis://127.0.0.1:1/0"), 1, "REDIS_URL"),
        (("clear", "--all", "--schema", "other"), 6, "etl load"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_next_step(game: Game, words, code: int, next_step: str) -> None:
    """Exit codes as everywhere."""
    assert next_step in refusal(cache(game, None, *words), code)[1]


def test_a_percentile_is_right_to_within_a_fifth() -> None:
    """Of times from nanoseconds to minutes."""
    from etl.read.stats import Figures, Meters

    for scale in (3, 47, 900, 12_345, 10**6, 10**9, 6 * 10**10):
        meters = Meters()
        for number in range(1, 101):
            meters.count("power", scale * number // 10, hits=1)
        figures = meters.figures()["power"]
        told = figures.percentile_us(0.99)
        both = Figures()
        both.add(figures)
        both.add(figures)

        assert told == both.percentile_us(0.99)
        if scale > 100:
            assert 0.8 < told / (scale * 9.9 / 1000) < 1.25


def test_reader_without_redis_has_no_figures_of_others(game: Game) -> None:
    """Its own it has."""
    with PowerReader(game.dsn, "") as reader:
        reader.build_summary()

        assert reader.stats_of_all() is None
        assert reader.stats()["tiers"]["database"]["summaries"]["hits"] == 1
