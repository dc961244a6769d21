"""What the tests of readers share: a small published export in an own database, a Redis of their own."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import new_database
from psycopg import conninfo
from reading import Game, Records
from redis_server import RedisServer, find_binary

from etl import generate
from etl.read import PowerReader

RECORDS = 400


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """The records of a small flat export."""
    path = tmp_path_factory.mktemp("read") / "base.json"
    generate.generate("i12", RECORDS, 7, path)
    found: Records = json.loads(path.read_text())
    return found


@pytest.fixture(scope="session")
def loaded_database(
    server_dsn: str, template_database: str, records: Records, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """Name of a database in which the records are published, made once; with its store."""
    store = tmp_path_factory.mktemp("read-store") / "store"
    with new_database(server_dsn, template_database) as dsn:
        Game(dsn=dsn, records=records, store=store).rebuild(records)
        yield str(conninfo.conninfo_to_dict(dsn)["dbname"]), store


@pytest.fixture
def game(server_dsn: str, loaded_database: tuple[str, Path], records: Records, tmp_path: Path) -> Iterator[Game]:
    """A clone of that database, dropped after the test."""
    name, store = loaded_database
    with new_database(server_dsn, name) as dsn:
        yield Game(dsn=dsn, records=json.loads(json.dumps(records)), store=store)


@pytest.fixture(scope="session")
def redis_binary() -> Path:
    """A redis-server; skips where there is none."""
    found = find_binary()
    if found is None:
        pytest.skip("there is no redis-server: scripts/redis gets one (scripts/test calls it), or install it")
    return found


@pytest.fixture(scope="session")
def shared_redis(redis_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that all tests share: every database has its own keys."""
    server = RedisServer(redis_binary, tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()
    server.client.close()


@pytest.fixture
def new_redis(redis_binary: Path, tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Function that starts a Redis for one test alone, with options."""
    started: list[RedisServer] = []

    def start(*options: str, password: str = "") -> RedisServer:
        started.append(RedisServer(redis_binary, tmp_path, options, password).start())
        return started[-1]

    yield start
    for server in started:
        server.kill()
        server.client.close()


@pytest.fixture
def new_reader(game: Game) -> Iterator[Callable[..., PowerReader]]:
    """Function that makes a reader of the game, without Redis unless one is named; closed after the test."""
    made: list[PowerReader] = []

    def make(redis_url: str = "", **settings: Any) -> PowerReader:
        made.append(PowerReader(settings.pop("dsn", game.dsn), redis_url, **settings))
        return made[-1]

    yield make
    for reader in made:
        reader.close()
