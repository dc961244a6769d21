"""Redis may fail in any way: answers stay right, the failure is told once, and Redis is used again when it is back."""

import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from reading import Game, counted
from redis_server import RedisServer

from etl.errors import UsageError
from etl.read import PowerReader, envelope
from etl.read.breaker import Breaker
from etl.read.envelope import Marks
from etl.read.mget import ShortWay

Maker = Callable[..., PowerReader]
Starter = Callable[..., RedisServer]


@pytest.fixture
def numbers(game: Game) -> list[int]:
    return [number for (number,) in game.rows("select id from game.power_directory order by id limit 60")]


def told(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records)


def right(reader: PowerReader, numbers: list[int]) -> bool:
    return [reader.power(number).id for number in numbers] == numbers


def events(reader: PowerReader) -> dict[str, int]:
    return reader.stats()["events"]


def until_used_again(reader: PowerReader, numbers: list[int]) -> None:
    """Ask on until an answer was filed in Redis again."""
    before = reader.stats()["tiers"]["redis"]["all"]["hits"]
    for _ in range(1000):
        reader.forget_all()
        reader.power(numbers[0])
        reader._engine.local.drop(None)
        reader.power(numbers[0])
        if reader.stats()["tiers"]["redis"]["all"]["hits"] > before:
            return
        time.sleep(0.01)
    raise AssertionError("Redis is not used again")


def test_a_redis_that_is_not_there_costs_little_and_is_told_once(game, new_reader: Maker, numbers, caplog) -> None:
    """Nobody listens on that port."""
    reader = new_reader("redis://127.0.0.1:1/0")

    assert right(reader, numbers)
    assert reader.powers_by_id(numbers).keys() == set(numbers)
    assert told(caplog, "going on without") == 1
    assert events(reader)["redis_errors"] < 10
    assert events(reader)["redis_skipped"] > 40


def test_a_redis_that_is_killed_in_the_middle_is_used_again_when_it_is_back(
    game, new_reader: Maker, new_redis: Starter, numbers, caplog
) -> None:
    """Told when it went, and when it came."""
    server = new_redis()
    reader = new_reader(server.url)
    assert right(reader, numbers[:20])
    server.kill()

    assert right(reader, numbers)
    assert told(caplog, "going on without") == 1
    server.start()
    until_used_again(reader, numbers)
    assert told(caplog, "answers again") == 1


def test_a_redis_that_hangs_delays_no_more_than_its_timeout_now_and_then(
    game, new_reader: Maker, new_redis: Starter, numbers, caplog
) -> None:
    """It takes connections and says nothing; most questions do not even try."""
    server = new_redis()
    reader = new_reader(server.url, redis_timeout_s=0.05)
    assert right(reader, numbers[:5])
    server.hang()

    assert right(reader, numbers)
    assert events(reader)["redis_errors"] < 10
    assert events(reader)["redis_skipped"] > 20
    assert told(caplog, "going on without") == 1
    server.go_on()
    until_used_again(reader, numbers)


def test_a_redis_that_refuses_the_password_is_done_without(
    game, new_reader: Maker, new_redis: Starter, numbers, caplog
) -> None:
    """Nor is the password shown; with the right one it works."""
    server = new_redis(password="right-one")
    reader = new_reader(server.url.replace("right-one", "wrong-one"))

    assert right(reader, numbers)
    assert told(caplog, "going on without") == 1
    assert "one" not in "".join(record.getMessage() for record in caplog.records).replace("going on", "")
    assert right(new_reader(server.url), numbers)
    assert server.client.dbsize() > len(numbers)


def test_the_short_way_to_redis_gives_what_the_client_gives(new_redis: Starter) -> None:
    """Values, gaps, and errors; the connection is good for the next call after each."""
    client = new_redis().client
    client.mset({"one": b"1" * 5000, "empty": b""})
    names = ["one", "nothing", "empty"]
    way = ShortWay(client.connection_pool)

    assert way.mget(names) == client.mget(names) == [b"1" * 5000, None, b""]
    with pytest.raises(redis.ResponseError):
        way.mget([])
    assert way.mget(names) == client.mget(names)


def test_a_connection_that_redis_has_closed_is_no_failure(game, new_reader: Maker, new_redis: Starter, numbers) -> None:
    """As it does with those that are idle for long: the question is asked again on another."""
    server = new_redis()
    reader = new_reader(server.url, local_bytes=0)
    assert right(reader, numbers)
    before = reader.stats()["tiers"]["redis"]["all"]["hits"]
    for _ in range(3):
        server.client.client_kill_filter(_type="normal", skipme=True)
        assert right(reader, numbers)

    assert reader.stats()["tiers"]["redis"]["all"]["hits"] == before + 3 * len(numbers)
    assert "redis_errors" not in events(reader)


def test_connections_that_are_kept_leave_room_for_others(game, new_reader: Maker, new_redis: Starter, numbers) -> None:
    """With a pool of one connection answers are filed and forgotten all the same."""
    server = new_redis()
    reader = new_reader(f"{server.url}?max_connections=1", local_bytes=0)

    assert right(reader, numbers)
    reader.forget_all()
    assert right(reader, numbers)
    assert "redis_errors" not in events(reader)
    assert reader.stats()["tiers"]["redis"]["all"]["hits"] == 0
    assert right(reader, numbers)
    assert reader.stats()["tiers"]["redis"]["all"]["hits"] == len(numbers)


def test_after_a_failure_no_connection_is_kept(new_redis: Starter) -> None:
    """One that fails says what is to be thought of the others."""
    server = new_redis()
    server.client.set("one", b"1")
    way = ShortWay(redis.ConnectionPool.from_url(server.url, socket_timeout=0.3))
    with ThreadPoolExecutor(8) as threads:
        ready = threading.Barrier(8)
        assert list(threads.map(lambda _: (ready.wait(), way.mget(["one"]))[1], range(8))) == [[b"1"]] * 8
    kept = len(way._kept)
    server.client.client_kill_filter(_type="normal", skipme=True)

    assert kept >= 1
    assert way.mget(["one"]) == [b"1"]
    assert len(way._kept) == 1
    way.close()
    with pytest.raises(IndexError):
        way._kept.pop()


def test_a_full_redis_goes_on_answering_what_it_has(
    game, new_reader: Maker, new_redis: Starter, numbers, caplog
) -> None:
    """It takes nothing more: counted and told once."""
    server = new_redis("--maxmemory-policy", "noeviction")
    first = new_reader(server.url)
    assert right(first, numbers[:20])
    server.client.config_set("maxmemory", 1)
    reader = new_reader(server.url)

    assert right(reader, numbers)
    assert counted(reader, "redis")[0] == 20
    assert events(reader)["redis_store_errors"] >= 1
    assert told(caplog, "takes no more answers") == 1
    server.client.config_set("maxmemory", 0)
    until_used_again(reader, numbers)


def test_a_redis_that_throws_out_what_it_likes_harms_nothing(
    game, new_reader: Maker, new_redis: Starter, numbers
) -> None:
    """Marks and answers alike."""
    server = new_redis("--maxmemory-policy", "allkeys-random")
    server.client.config_set("maxmemory", server.client.info()["used_memory"] + 3_000_000)
    for turn in range(5):
        assert right(new_reader(server.url), numbers)
        for number in range(2_000):
            server.client.set(f"somebody's:{turn}:{number}", bytes(1_000))

    assert server.client.info()["evicted_keys"] > 0


GARBAGE = [b"", b"garbage", b"e1", b"e1" + bytes(100), b"\x80" * 5000]


@pytest.mark.parametrize("garbage", [*GARBAGE, "hash"], ids=lambda value: repr(value)[:20])
def test_garbage_under_our_keys_is_found_out_and_replaced(
    game, new_reader: Maker, new_redis: Starter, numbers, garbage
) -> None:
    """Text, broken frames, other types; under the marks as well."""
    server = new_redis()
    assert right(new_reader(server.url), numbers[:10])
    for key in server.client.keys("*"):
        server.client.delete(key)
        if garbage == "hash":
            server.client.hset(key, "a", "b")
        else:
            server.client.set(key, garbage)
    for _ in range(3):
        reader = new_reader(server.url)
        assert right(reader, numbers[:10])
        assert events(reader).get("redis_errors", 0) == 0
    reader.close()

    last = new_reader(server.url)
    assert right(last, numbers[:10])
    if garbage not in (b"", "hash"):  # an empty place is where something was forgotten; another type is in nobody's way
        assert counted(last, "redis")[0] == 10


def test_a_value_with_a_flipped_bit_is_garbage() -> None:
    """Wherever it is."""
    marks = Marks(b"12345678", b"abcdefgh")
    value = envelope.seal(b'{"effects": "%s"}' % (b"long " * 200), marks, False)
    assert envelope.opened(value, marks, False) is not None
    for place in range(len(value)):
        broken = value[:place] + bytes([value[place] ^ 2]) + value[place + 1 :]
        with pytest.raises(envelope.Garbage):
            envelope.opened(broken, marks, False)


def test_tls_and_password_come_with_the_url(game, new_reader: Maker, redis_binary, tmp_path, numbers, caplog) -> None:
    """A certificate that nobody vouches for is refused, as Redis that fails."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    secure = RedisServer(redis_binary, tmp_path).port
    options = ("--tls-port", str(secure), "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
               "--tls-auth-clients", "no")  # fmt: skip
    server = RedisServer(redis_binary, tmp_path, options, password="pass-word")
    try:
        server.start()
    except AssertionError:
        pytest.skip("this redis-server was built without TLS")
    try:
        url = f"rediss://:pass-word@localhost:{secure}/0"
        assert right(new_reader(f"{url}?ssl_ca_certs={certificate}"), numbers[:5])
        other = new_reader(f"{url}?ssl_ca_certs={certificate}")
        assert right(other, numbers[:5])
        assert counted(other, "redis")[0] == 5
        assert told(caplog, "going on without") == 0
        assert right(new_reader(url), numbers[:5])
        assert told(caplog, "going on without") == 1
        assert "pass-word" not in caplog.text
    finally:
        server.kill()
        server.client.close()


def test_every_key_has_a_time_to_live_and_the_namespace(game, new_reader: Maker, new_redis: Starter, numbers) -> None:
    """Nothing of ours stays for ever, and nothing lies beside."""
    server = new_redis()
    reader = new_reader(server.url, namespace="shop", ttl_s={"power": 100, "absent": 10})
    right(reader, numbers[:3])
    for ask in (reader.build_summary, lambda: reader.power(10**9), lambda: reader.search("a")):
        ask()
    reader.close()
    keys = {key.decode(): server.client.ttl(key) for key in server.client.keys("*")}

    assert all(key.startswith("shop:") for key in keys)
    assert all(ttl > 0 for ttl in keys.values()), keys
    assert {ttl <= 100 for key, ttl in keys.items() if ":power:" in key and "absent" not in key} == {True}
    assert {ttl <= 10 for key, ttl in keys.items() if ":absent:" in key} == {True}


def test_applications_and_databases_share_a_redis_without_collision(
    game, new_reader: Maker, new_redis: Starter, numbers, server_dsn, loaded_database
) -> None:
    """Ids and generations are the same in a clone; answers are each database's own."""
    from command_line import new_database

    server = new_redis()
    with new_database(server_dsn, loaded_database[0]) as other:
        game.rows("update game_b1.powers set description = 'of the first' where id = %s", numbers[0])
        one, two = new_reader(server.url), new_reader(server.url, dsn=other)
        three = new_reader(server.url, namespace="another")

        assert one.power(numbers[0]).description == "of the first"
        assert two.power(numbers[0]).description != "of the first"
        assert right(three, numbers[:1])
        assert counted(three, "redis")[0] == 0
        two.close()


def test_values_are_compressed_when_it_pays() -> None:
    """Long repetitive ones are, short or random ones are not; all come back."""
    marks = Marks(b"12345678", b"abcdefgh")
    random = os.urandom(4000)
    for body, is_smaller in ((b'{"a": 1}', False), (b'{"type": "Damage"},' * 100, True), (random, False)):
        value = envelope.seal(body, marks, True)

        assert (len(value) < len(body)) is is_smaller
        assert envelope.opened(value, marks, True) == body
    assert envelope.opened(value, Marks(b"12345678", b"otherone"), True) is None
    assert envelope.opened(value, Marks(b"otherone", b"abcdefgh"), True) is None


def test_a_breaker_lets_one_try_and_waits_longer_each_time() -> None:
    """Closed again by the first success."""
    breaker = Breaker(0.02, 0.05)

    assert breaker.allows()
    assert [breaker.failed(), breaker.failed()] == [True, False]
    assert not breaker.allows()
    for _ in range(1000):
        if breaker.allows():
            break
        time.sleep(0.001)
    assert not breaker.allows()  # the one that tries is on its way
    assert [breaker.worked(), breaker.worked()] == [True, False]
    assert breaker.allows()


def test_a_redis_url_that_is_none_is_refused(game, new_reader: Maker, numbers) -> None:
    """At once, with the form to write; what it says otherwise is not shown, it may hold a password."""
    with pytest.raises(UsageError, match="REDIS_URL") as caught:
        new_reader("http://:secret@localhost")

    assert "secret" not in str(caught.value)


def test_without_redis_nothing_is_logged(game, new_reader: Maker, numbers, caplog) -> None:
    """It is optional."""
    caplog.set_level(logging.INFO)

    assert right(new_reader(), numbers)
    assert told(caplog, "Redis") == 0
