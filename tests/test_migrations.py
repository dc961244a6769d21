"""The durable schema: made once, brought up, never guessed at."""

import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from catalog import describe

from etl import db, migrations, resources
from etl.errors import SchemaError, UsageError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """An own copy of the sources, in which migrations may be written."""
    for name in ("etl", "sql"):
        shutil.copytree(ROOT / name, tmp_path / "checkout" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "checkout"


def run_db(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``etl db`` with the package that lies in a folder."""
    command = [sys.executable, "-m", "etl", "db", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)


def test_a_new_database_gets_everything_once(empty_dsn: str) -> None:
    """The second call has nothing to do."""
    with db.connect(empty_dsn) as connection:
        first, second = migrations.migrate(connection), migrations.migrate(connection)

        assert first == migrations.available()
        assert second == []
        assert migrations.applied(connection) == [migration.version for migration in migrations.available()]


def test_several_migrators_at_once_apply_each_migration_once(empty_dsn: str) -> None:
    """They wait for each other; who comes later finds it done."""

    def migrate(_: int) -> None:
        with db.connect(empty_dsn) as connection:
            start.wait()
            migrations.ensure(connection)

    start = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate, range(4)))

    with db.connect(empty_dsn) as connection:
        assert migrations.applied(connection) == [migration.version for migration in migrations.available()]
        assert migrations.pending(connection) == []


def test_a_transaction_of_the_caller_is_not_committed(empty_dsn: str) -> None:
    """Nothing is applied inside of it."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("begin")
        with pytest.raises(psycopg.ProgrammingError, match="inside another transaction"):
            migrations.migrate(connection)
        connection.rollback()

        assert migrations.applied(connection) == []


def test_versions_are_numbered_without_gaps() -> None:
    """0001, 0002, …"""
    versions = [migration.version for migration in migrations.available()]

    assert versions == list(range(1, len(versions) + 1))


def test_a_missing_schema_is_answered_with_a_command(empty_dsn: str) -> None:
    """What to type next."""
    with db.connect(empty_dsn) as connection, pytest.raises(SchemaError) as caught:
        migrations.require(connection)

    assert caught.value.exit_code == 6
    assert "etl load" in str(caught.value)


def test_an_old_schema_is_answered_with_etl_db_migrate(dsn: str) -> None:
    """It is not brought up behind the user's back."""
    with db.connect(dsn) as connection:
        connection.execute("delete from etl.migration where version = %s", (migrations.available()[-1].version,))
        if len(migrations.available()) == 1:
            connection.execute("insert into etl.migration (version, name) values (0, 'before')")
        with pytest.raises(SchemaError, match="old") as caught:
            migrations.ensure(connection)

    assert "etl db migrate" in str(caught.value)


def test_a_newer_schema_is_refused(dsn: str) -> None:
    """With the versions of both."""
    with db.connect(dsn) as connection:
        connection.execute("insert into etl.migration (version, name) values (9000, 'from_the_future')")
        with pytest.raises(SchemaError, match="9000"):
            migrations.migrate(connection)


def test_a_schema_etl_of_somebody_else_is_left_alone(empty_dsn: str) -> None:
    """Its relations are named."""
    with psycopg.connect(empty_dsn, autocommit=True) as plain:
        plain.execute("create schema etl")
        plain.execute("create table etl.precious (a int)")
    with db.connect(empty_dsn) as connection, pytest.raises(SchemaError, match="precious"):
        migrations.migrate(connection)


def test_all_migrations_and_the_schema_file_say_the_same(dsn: str, empty_dsn: str) -> None:
    """Relations, columns with types and defaults, constraints, indexes, comments: nothing differs."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(resources.sql_text("schema.sql").encode())
    migrated, written = describe(dsn, "etl"), describe(empty_dsn, "etl")

    assert sorted(map(str, migrated - written)) == []
    assert sorted(map(str, written - migrated)) == []


@pytest.mark.parametrize(
    "change",
    [
        "alter table etl.run add column more text",
        "alter table etl.run alter column who drop not null",
        "alter table etl.run alter column workers type bigint",
        "alter table etl.run alter column workers set default 1",
        "alter table etl.receipt add check (rows >= 0)",
        "create index more on etl.receipt (leaf)",
        "comment on table etl.run is null",
        "comment on column etl.run.who is 'user@host'",
        "create function etl.more() returns int language sql as 'select 1'",
        "drop table etl.leaf_log",
    ],
)
def test_the_comparison_sees_every_kind_of_difference(dsn: str, change: str) -> None:
    """Else it would prove nothing."""
    before = describe(dsn, "etl")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(change)  # type: ignore[call-overload]

    assert describe(dsn, "etl") != before


def test_a_new_migration_gets_the_next_number_and_the_rules(tmp_path: Path) -> None:
    """Its name is made of the words."""
    (tmp_path / "0007_before.sql").touch()
    path = migrations.create("Remember who asked -- and why?", tmp_path)

    assert path.name == "0008_remember_who_asked_and_why.sql"
    assert path.read_text().startswith("-- Remember who asked -- and why?\n")
    assert "Forward only" in path.read_text()


def test_a_migration_without_a_word_is_refused(tmp_path: Path) -> None:
    """A name is made of letters and digits."""
    with pytest.raises(UsageError, match="says nothing"):
        migrations.create(" -- ", tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_new_migration_is_applied_once_it_is_written(checkout: Path, dsn: str) -> None:
    """From the command to the column."""
    created = run_db(checkout, "migration-create", "count the sheep")
    with Path(created.stdout.strip()).open("a") as stream:
        stream.write("alter table etl.run add column sheep integer not null default 0;\n")
    applied = run_db(checkout, "migrate", "--dsn", dsn)
    with psycopg.connect(dsn) as connection:
        columns = "select count(*) from pg_attribute where attrelid = 'etl.run'::regclass and attname = 'sheep'"

        assert re.fullmatch(r"applied \d{4} count_the_sheep\n", applied.stdout)
        assert connection.execute(columns).fetchone() == (1,)
    assert run_db(checkout, "migrate", "--dsn", dsn).stdout == "nothing to do\n"


def test_a_migration_that_fails_leaves_neither_change_nor_record(checkout: Path, dsn: str) -> None:
    """Both are one transaction; the message names it, and the mended file is applied."""
    path = Path(run_db(checkout, "migration-create", "half of it").stdout.strip())
    text = path.read_text()
    path.write_text(text + "create table etl.half (id integer);\nselect 1 / 0;\n")
    failed = run_db(checkout, "migrate", "--dsn", dsn)
    with db.connect(dsn) as connection:
        assert failed.returncode == 4
        assert f"migration {path.name[:4]} half_of_it was refused" in failed.stderr
        assert "division by zero" in failed.stderr
        assert connection.execute("select to_regclass('etl.half')").fetchone() == (None,)
        assert migrations.applied(connection) == [migration.version for migration in migrations.available()]
    path.write_text(text + "create table etl.half (id integer);\n")

    assert run_db(checkout, "migrate", "--dsn", dsn).returncode == 0


def test_an_installed_package_has_no_place_for_a_migration(checkout: Path, tmp_path: Path) -> None:
    """It says where they are written."""
    shutil.copytree(checkout / "etl", tmp_path / "site" / "etl")
    shutil.move(checkout / "sql", tmp_path / "site" / "etl" / "sql")
    done = run_db(tmp_path / "site", "migration-create", "anything")

    assert done.returncode == 2
    assert "checkout" in done.stderr
    assert not list((tmp_path / "site" / "etl" / "sql" / "migrations").glob("*anything*"))
