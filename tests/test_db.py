"""What is sent without waiting for answers is still whole transactions."""

import os
import resource

import psycopg
import pytest

from etl import db

NUMBERS = "select coalesce(array_agg(n order by n), '{}') from numbers"


@pytest.fixture
def connection(dsn: str):
    with psycopg.connect(dsn, autocommit=True) as made:
        made.execute("create table numbers (n integer primary key)")
        yield made


def insert(number: int) -> db.Statement:
    return db.template(f"insert into numbers values ({number})")


def numbers(connection: db.Connection) -> list[int]:
    row = connection.execute(NUMBERS).fetchone()
    assert row
    return list(row[0])


def test_statements_at_once_are_one_transaction(connection: db.Connection) -> None:
    """Answers are there when they are asked for, inside of it as well."""
    with db.at_once(connection):
        connection.execute(insert(1))
        inside = connection.execute("select count(*), now() from numbers").fetchone()
        connection.execute(insert(2))
        later = connection.execute("select count(*), now() from numbers")

    assert inside
    assert later.fetchone() == (2, inside[1])
    assert numbers(connection) == [1, 2]


def insert_at_once(connection: db.Connection, *given: int) -> None:
    with db.at_once(connection):
        for number in given:
            connection.execute(insert(100 // number))


@pytest.mark.parametrize(
    ("given", "error"), [((50, 50, 20), psycopg.errors.UniqueViolation), ((1, 0), ZeroDivisionError)]
)
def test_nothing_stays_of_what_fails_at_once(
    connection: db.Connection, given: tuple[int, ...], error: type[Exception]
) -> None:
    """Neither where the server refuses a statement nor where the block fails; the connection is of use again."""
    with pytest.raises(error):
        insert_at_once(connection, *given)

    assert numbers(connection) == []


def test_each_at_once_is_a_transaction_of_its_own(connection: db.Connection) -> None:
    """What comes before a failure stays, what comes behind it is not run."""
    with pytest.raises(psycopg.errors.UniqueViolation):
        db.each_at_once(connection, [insert(number) for number in (1, 2, 2, 3)])

    assert numbers(connection) == [1, 2]


def test_a_closed_connection_is_told_as_lost(connection: db.Connection) -> None:
    """It is worth another try, on another connection."""
    connection.close()
    with pytest.raises(psycopg.OperationalError, match="closed") as raised:
        db.each_at_once(connection, [insert(1)])

    assert db.is_transient(raised.value)


def test_another_transaction_is_not_committed_by_the_way(connection: db.Connection) -> None:
    """It would be, silently: PostgreSQL only warns of a BEGIN inside a transaction."""
    with connection.transaction(force_rollback=True):
        connection.execute(insert(1))
        with pytest.raises(psycopg.ProgrammingError, match="inside another transaction"):
            db.each_at_once(connection, [insert(2)])

    assert numbers(connection) == []


def test_the_server_is_heard_behind_a_thousand_descriptors(dsn: str) -> None:
    """A service that calls the library may have many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.dup(0) for _ in range(1100)]
    try:
        with db.connect(dsn) as connection, db.connect(dsn) as other:
            assert connection.fileno() > 1023
            assert not db.has_spoken(connection)
            other.execute("select pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
            assert db.has_spoken(connection)
    finally:
        for number in held:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
