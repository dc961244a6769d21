"""What every test may ask for: a real PostgreSQL, a database of its own, the real data packs."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import zstandard
from places import database, in_database, migrated_database, private_server, short_folder, short_parent

from etl import postgres, server

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# A shared machine stalls now and then; a slow example is no failure.
hypothesis.settings.register_profile("etl", deadline=None, print_blob=True)
hypothesis.settings.load_profile("etl")


@pytest.fixture(scope="session", autouse=True)
def _isolated_environment() -> Iterator[None]:
    """Keep tests away from the person's own servers: no test can start or change them by accident."""
    with pytest.MonkeyPatch.context() as patch, short_folder() as home:
        for name in list(os.environ):
            if name in ("DATABASE_URL", "REDIS_URL") or name.startswith("PG"):
                patch.delenv(name)
        patch.setenv("ETL_HOME", str(home))
        yield
        server.stop()


@pytest.fixture(scope="session", autouse=True)
def _sigterm_ends_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM unwind the session, so that the servers of the fixtures are stopped."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """DSN of the server that the tests use: ``ETL_TEST_DSN`` (its role must create databases), else a private one."""
    given = os.environ.get("ETL_TEST_DSN")
    if given:
        yield given
    else:
        with private_server(postgres.find_binaries()) as dsn:
            yield dsn


@pytest.fixture(scope="session")
def template_database(server_dsn: str) -> Iterator[str]:
    """Name of a database with the current schema ``etl``, made once; ``dsn`` clones it."""
    with migrated_database(server_dsn) as name:
        yield name


@pytest.fixture
def dsn(server_dsn: str, template_database: str) -> Iterator[str]:
    """DSN of an own database with the current schema ``etl`` and no data, dropped after the test."""
    with database(server_dsn, template=template_database) as name:
        yield in_database(server_dsn, name)


@pytest.fixture
def empty_dsn(server_dsn: str) -> Iterator[str]:
    """DSN of an own database with nothing in it, dropped after the test."""
    with database(server_dsn) as name:
        yield in_database(server_dsn, name)


@pytest.fixture(scope="session")
def debian_server_dsn() -> Iterator[str]:
    """DSN of a private server of the system's own PostgreSQL, with lz4, where there is one."""
    found = postgres.system_binaries()
    if not found:
        pytest.skip("this machine has no PostgreSQL in /usr/lib/postgresql/*/bin to test compatibility with")
    with private_server(found[0], {"default_toast_compression": "lz4"}) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def debian_template_database(debian_server_dsn: str) -> Iterator[str]:
    """Name of the migrated database on the system's PostgreSQL."""
    with migrated_database(debian_server_dsn) as name:
        yield name


@pytest.fixture
def debian_dsn(debian_server_dsn: str, debian_template_database: str) -> Iterator[str]:
    """DSN of an own database with the current schema on the system's PostgreSQL; skips where there is none."""
    with database(debian_server_dsn, template=debian_template_database) as name:
        yield in_database(debian_server_dsn, name)


@pytest.fixture(params=["dsn", "debian_dsn"], ids=["embedded", "system"])
def servers(request: pytest.FixtureRequest) -> str:
    """DSN of an own database with the current schema, once on each PostgreSQL that the machine has."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def server_home() -> Iterator[Path]:
    """Folder in which a test may start a server of its own; it is stopped after the test."""
    with short_folder() as home:
        yield home
        server.stop(home)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data packs; skips where they do not lie beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data packs are not here: {SHARED_DATA} does not exist")
    return SHARED_DATA


@pytest.fixture(scope="session")
def pack(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Function from the name of a pack (``cod-homecoming-2025.powers``) to its JSON file, unpacked on demand."""
    folder = tmp_path_factory.mktemp("packs")

    def unpacked(name: str) -> Path:
        target, packed = folder / f"{name}.json", shared_data / f"{name}.json.zst"
        if (shared_data / target.name).exists():
            return shared_data / target.name
        if not packed.exists():
            pytest.skip(f"the data packs hold no {packed.name}")
        if not target.exists():
            with packed.open("rb") as source, target.open("wb") as out:
                zstandard.ZstdDecompressor().copy_stream(source, out)
        return target

    return unpacked


def pytest_configure() -> None:
    """Let pytest's own temporary folders lie where the servers' do."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", short_parent())
