"""Advice on the settings of a server: what they are, what loading wants, and remedies that work."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from command_line import ROOT, refusal, run
from places import private_server, short_folder
from psycopg import conninfo

from etl import db, health, postgres, preflight, server
from etl.config import LoadOptions

# What PostgreSQL has by default.
DEFAULTS = {
    "wal_level": "replica",
    "max_wal_senders": 10,
    "shared_buffers": "128MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "5min",
}


@pytest.fixture(scope="module")
def plain_dsn() -> Iterator[str]:
    """DSN of a server with PostgreSQL's own settings: the system's, which may have lz4, where there is one."""
    found = [*postgres.system_binaries(), postgres.find_binaries()]
    with private_server(found[0], DEFAULTS) as dsn:
        yield dsn


@pytest.fixture
def stranger(plain_dsn: str) -> Iterator[str]:
    """A DSN whose role may connect and nothing else."""
    with psycopg.connect(plain_dsn, autocommit=True) as connection:
        connection.execute("create role etl_stranger login")
        yield conninfo.make_conninfo(plain_dsn, options="-c role=etl_stranger")
        connection.execute("drop role etl_stranger")


def look(dsn: str) -> dict[str, health.Setting]:
    with db.connect(dsn) as connection:
        return {setting.name: setting for setting in health.look(connection).settings}


def test_every_value_is_the_one_of_the_server(servers: str) -> None:
    """As a person would be shown it, for this role."""
    with psycopg.connect(servers, autocommit=True) as connection:
        connection.execute("set maintenance_work_mem = '123456kB'")
        found = {setting.name: setting for setting in health.look(connection).settings}
        for name, setting in found.items():
            shown = connection.execute(f"show {name}".encode()).fetchone()

            assert shown == (setting.value.partition(" (")[0],)
    assert list(found) == [want.name for want in health.WANTS]
    assert not found["maintenance_work_mem"].is_met


def test_the_embedded_server_has_what_loading_wants(dsn: str) -> None:
    """All that it can have: the wheel's PostgreSQL is built without lz4. No remedy is named where there is none."""
    found = look(dsn)
    lacking = found.pop("default_toast_compression")

    assert {name for name, setting in found.items() if not setting.is_met} <= {"shared_buffers", "maintenance_work_mem"}
    assert (lacking.value, lacking.remedy) == ("pglz (built without lz4)", None)


def test_the_settings_of_a_new_server_are_all_named(plain_dsn: str) -> None:
    """With a gain and a remedy each, and in one line of the preflight."""
    found = look(plain_dsn)
    with db.connect(plain_dsn) as connection:
        advice = [str(problem) for problem in preflight.check(connection, LoadOptions())]
    remedies = {name for name, setting in found.items() if setting.remedy}
    told = [line for line in advice if line.endswith("etl health says what each was measured to gain")]

    assert not any(setting.is_met for setting in found.values())
    assert remedies | {"default_toast_compression"} == set(found)
    assert len(told) == 1
    assert {name for name in found if name in told[0]} == remedies


def test_a_role_without_rights_can_follow_the_remedies_that_are_its_own(plain_dsn: str, stranger: str) -> None:
    """`alter role` of itself; everything else is for a superuser, and says so."""
    own = {
        name: one.remedy for name, one in look(stranger).items() if one.remedy and one.remedy.startswith("alter role")
    }
    with psycopg.connect(stranger, autocommit=True) as connection:
        for remedy in own.values():
            connection.execute(remedy.encode())
        connection.execute("reset role")
        for name in own:  # a login takes them; SET ROLE does not
            row = connection.execute(
                "select c from pg_db_role_setting, unnest(setconfig) c where c like %s", (f"{name}=%",)
            ).fetchone()
            assert row == (f"{name}={look(stranger)[name].wanted.removeprefix('at least ')}",)
    told = run("health", "--dsn", stranger)

    assert "maintenance_work_mem" in own
    assert "etl_stranger is no superuser" in told.stdout


def test_a_superuser_can_follow_the_others() -> None:
    """After them, and a restart where they say so, nothing is left to do."""
    with short_folder() as home:
        try:
            plain = {name: value for name, value in DEFAULTS.items() if name in ("max_wal_senders", "shared_buffers")}
            dsn = server.start_with(postgres.find_binaries(), home, {**DEFAULTS, **plain})
            with psycopg.connect(dsn, autocommit=True) as connection:
                for setting in look(dsn).values():
                    for statement in (setting.remedy or "").split("; "):
                        if statement.startswith("alter system set wal_level"):
                            connection.execute(statement.partition(",")[0].encode())
                            connection.execute("alter system set max_wal_senders = 0")
                        elif statement.startswith(("alter", "select")):
                            connection.execute(statement.encode())
            server.stop(home)
            dsn = server.start_with(postgres.find_binaries(), home, DEFAULTS)
            after = look(dsn)
        finally:
            server.stop(home)

    assert [name for name, setting in after.items() if setting.remedy] == []


def test_the_command_gives_advice_and_never_fails(plain_dsn: str) -> None:
    """A table for people, an object for programs; another exit code only where nobody answers."""
    told, told_to_programs = run("health", "--dsn", plain_dsn), run("health", "--dsn", plain_dsn, "--json")
    found = json.loads(told_to_programs.stdout)

    assert (told.returncode, told_to_programs.returncode) == (0, 0)
    assert "loading wants" in told.stdout
    assert "64MB: 1.04 times as long (noise)" in told.stdout
    assert "alter system set max_wal_size = '4GB'; select pg_reload_conf()" in told.stdout
    assert [one["name"] for one in found["settings"]] == [want.name for want in health.WANTS]
    assert found["is_superuser"] is True
    sentence, _ = refusal(run("health", "--dsn", "postgresql:///x?host=/nowhere"), 4)
    assert "no database answers" in sentence


def test_every_figure_stands_in_the_document_that_it_names() -> None:
    """What is shown to users was measured and written down, with the values that were compared."""
    page = (ROOT / health.SOURCE.partition(",")[0]).read_text()
    rows = [
        f"| `{want.name} = {value}` | `{want.wanted}` | {ratio:.2f} "
        for want in health.WANTS
        for value, ratio in want.times_as_long.items()
    ]

    assert [row for row in rows if row not in page] == []


def test_the_bench_measures_what_health_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same settings, the same wanted values."""
    monkeypatch.syspath_prepend(str(Path(ROOT) / "scripts"))
    bench = importlib.import_module("benches.settings")
    wanted = {**bench.WANTED, "default_toast_compression": "lz4"}

    assert wanted == {want.name: want.wanted for want in health.WANTS}
    measured = {f"{want.name} = {value}" for want in health.WANTS for value in want.times_as_long}
    assert measured <= set(bench.CHANGES)
