import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg
import pytest

from etl import postgres, server
from etl.errors import DatabaseError, UsageError

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to drop")


def value(dsn: str, query: str) -> object:
    """Return the single value of a query."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def test_the_first_start_gives_a_database_that_answers(server_home: Path) -> None:
    """The DSN just works, holds no secret, and names the database etl."""
    dsn = server.start(server_home)

    assert value(dsn, "select current_database()") == "etl"
    assert value(dsn, "select pg_encoding_to_char(encoding) from pg_database where datname = 'etl'") == "UTF8"
    assert "password" not in dsn
    assert server.url(server_home) == dsn


def test_a_second_start_reuses_the_server(server_home: Path) -> None:
    """Starting is idempotent: same DSN, same process."""
    first = server.start(server_home), server.status(server_home).pid

    second = server.start(server_home), server.status(server_home).pid

    assert first == second


def test_two_processes_may_start_it_at_once(server_home: Path) -> None:
    """The lock lets one start it and the others wait: all get the same server."""
    program = "import sys, pathlib; from etl import server; print(server.start(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", program, str(server_home)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[0].strip() for process in running]

    assert said == [server.url(server_home)] * 3


def test_settings_are_safe_and_made_for_loading(server_home: Path) -> None:
    """Nothing that was committed can be lost, and COPY into new tables writes no WAL."""
    dsn = server.start(server_home)
    names = ("fsync", "full_page_writes", "synchronous_commit", "wal_level", "max_wal_senders", "TimeZone", "jit")
    found = {name: value(dsn, f"select current_setting('{name}')") for name in names}

    assert found == {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "TimeZone": "UTC",
        "jit": "off",
    }


def test_nobody_else_on_the_machine_can_connect(server_home: Path) -> None:
    """The socket lies in a private folder, there is no TCP, and the server asks the kernel who is calling."""
    dsn = server.start(server_home)
    pid = server.status(server_home).pid
    folder = (server_home / "run").stat()
    listening = [c for c in psutil.Process(pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]

    assert stat.S_IMODE(folder.st_mode) == 0o700
    assert stat.S_IMODE((server_home / f"data-{server_major(dsn)}").stat().st_mode) == 0o700
    assert listening == []
    assert value(dsn, "select string_agg(distinct auth_method, ' ') from pg_hba_file_rules") == "peer"


@ROOT_ONLY
def test_root_drops_its_rights(server_home: Path) -> None:
    """Started by root, the server runs as an unprivileged user who owns data and socket."""
    server.start(server_home)
    process = psutil.Process(server.status(server_home).pid)

    assert process.uids().effective != 0
    assert process.gids().effective != 0
    assert (server_home / "run").stat().st_uid == process.uids().effective
    assert (server_home / "settings").stat().st_uid == 0


@ROOT_ONLY
def test_root_is_told_when_the_server_cannot_enter_the_folder(tmp_path: Path) -> None:
    """A folder inside a private one is refused with the way out; nothing is opened."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)

    with pytest.raises(UsageError, match="may not enter") as caught:
        server.start(private / "postgres")

    assert "ETL_HOME" in str(caught.value)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


@ROOT_ONLY
def test_binaries_in_a_private_folder_are_copied(server_home: Path, tmp_path: Path) -> None:
    """A virtual environment under root's home still works: the server's user gets a copy it can read."""
    wheel = postgres.wheel_binaries()
    if not wheel:
        pytest.skip("the extra 'embedded' is not installed")
    tmp_path.chmod(0o700)
    hidden = tmp_path / "site" / "installation"
    postgres.copy_installation(wheel[0], hidden)

    dsn = server.start_with(postgres.copied_binaries(wheel[0], hidden), server_home)

    assert value(dsn, "select 1") == 1
    assert len(list(server_home.glob("binaries-*"))) == 1


def test_it_starts_again_after_kill_9(server_home: Path) -> None:
    """A killed server leaves a stale postmaster.pid; committed rows are there after the next start."""
    dsn = server.start(server_home)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table kept as select 1 as one")
    pid = server.status(server_home).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)

    assert server.url(server_home) is None
    assert value(server.start(server_home), "select one from kept") == 1


def test_it_starts_again_although_an_orphan_still_works(server_home: Path) -> None:
    """A backend in a long statement outlives its postmaster and blocks a start: it is ended."""
    dsn = server.start(server_home)
    pid = server.status(server_home).pid
    assert pid is not None
    busy = psycopg.connect(dsn, autocommit=True)
    busy.execute("set statement_timeout = 0")
    busy.pgconn.send_query(b"select count(*) from generate_series(1, 4000000000)")
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)

    assert value(server.start(server_home), "select 1") == 1
    busy.close()


def test_a_stale_pid_file_that_names_another_program_is_no_obstacle(server_home: Path) -> None:
    """After a reboot the number may belong to anybody; that process is left alone."""
    server.start(server_home)
    data = next(server_home.glob("data-*"))
    lines = (data / "postmaster.pid").read_text().splitlines()
    server.stop(server_home)
    with subprocess.Popen(["sleep", "60"], cwd=server_home) as stranger:
        (data / "postmaster.pid").write_text("\n".join([str(stranger.pid), *lines[1:]]))
        answered = value(server.start(server_home), "select 1")
        left_alone = stranger.poll() is None
        stranger.kill()

    assert answered == 1
    assert left_alone


def test_stop_ends_it_and_says_whether_it_ran(server_home: Path) -> None:
    """Stopping is idempotent, and there is no DSN afterwards."""
    server.start(server_home)
    pid = server.status(server_home).pid
    assert pid is not None

    assert server.stop(server_home)
    wait_until_gone(pid)
    assert server.url(server_home) is None
    assert not server.stop(server_home)


def test_stop_does_not_wait_for_open_transactions(server_home: Path) -> None:
    """Stopping is fast: what is open rolls back."""
    connection = psycopg.connect(server.start(server_home))
    connection.execute("create table lost ()")
    begin = time.monotonic()
    stopped = server.stop(server_home)
    connection.close()

    assert stopped
    assert time.monotonic() - begin < 10


def test_a_directory_without_a_server_is_not_created_by_asking(server_home: Path) -> None:
    """Looking has no effect."""
    nowhere = server_home / "nowhere"

    assert server.status(nowhere).dsn is None
    assert not server.stop(nowhere)
    assert not nowhere.exists()


def test_a_long_path_gets_a_short_socket(server_home: Path) -> None:
    """Socket addresses hold 108 bytes; a deep folder works all the same, as does one with odd characters."""
    deep = server_home / ("a folder's name, it's long " * 5) / "postgres"
    try:
        dsn = server.start(deep)
        answered = value(dsn, "select 1")
    finally:
        server.stop(deep)
    (folder,) = parse_qs(urlsplit(dsn).query)["host"]

    assert answered == 1
    assert len(folder) < 90
    assert not Path(folder).exists()


def test_a_failed_start_shows_the_end_of_the_log(server_home: Path) -> None:
    """The reason is in the message, with the exit code of a database that refuses."""
    with pytest.raises(DatabaseError, match="not_a_number") as caught:
        server.start_with(postgres.find_binaries(), server_home, {"max_connections": "not_a_number"})

    assert "postgres.log" in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_missing_extra_is_answered_with_the_command(monkeypatch: pytest.MonkeyPatch, server_home: Path) -> None:
    """Without any PostgreSQL the sentence says what to install."""
    monkeypatch.setattr(postgres, "wheel_binaries", list)
    monkeypatch.setattr(postgres, "system_binaries", list)

    with pytest.raises(UsageError) as caught:
        server.start(server_home)

    assert "pip install 'hero-etl[embedded]'" in str(caught.value)


def test_the_default_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ETL_HOME wins."""
    monkeypatch.setenv("ETL_HOME", str(tmp_path))

    assert server.default_directory() == tmp_path / "postgres"


def test_another_version_leaves_the_old_cluster_alone(server_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A newer PostgreSQL begins with a cluster of its own, and says where the old one lies."""
    found = postgres.wheel_binaries() + postgres.system_binaries()
    majors = {postgres.version(path).partition(".")[0]: path for path in found}
    if len(majors) < 2:
        pytest.skip("this machine has only one version of PostgreSQL")
    old, new = sorted(majors, key=int)[:2]
    server.start_with(majors[old], server_home)
    server.stop(server_home)

    answered = value(server.start_with(majors[new], server_home), "select 1")

    assert answered == 1
    assert {path.name for path in server_home.glob("data-*")} == {f"data-{old}", f"data-{new}"}
    assert f"data-{old}" in caplog.text


def test_the_servers_of_this_machine_speak_our_sql(servers: str) -> None:
    """A fresh database with the current schema is had on every PostgreSQL there is."""
    assert value(servers, "select count(*) > 0 from etl.migration") is True


def server_major(dsn: str) -> int:
    """Return the major version of a server."""
    return int(str(value(dsn, "select current_setting('server_version_num')::int / 10000")))


def wait_until_gone(pid: int) -> None:
    """Wait until a killed process is gone: a signal takes effect a moment after it was sent."""
    for _ in range(500):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} does not end")
