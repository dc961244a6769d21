"""The durable schema: made once, brought up, never guessed at."""

import psycopg
import pytest

from etl import db, migrations
from etl.errors import SchemaError


def test_a_new_database_gets_everything_once(empty_dsn: str) -> None:
    """The second call has nothing to do."""
    with db.connect(empty_dsn) as connection:
        first, second = migrations.migrate(connection), migrations.migrate(connection)

        assert first == migrations.available()
        assert second == []
        assert migrations.applied(connection) == [migration.version for migration in migrations.available()]


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
