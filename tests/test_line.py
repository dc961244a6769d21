"""A worker's connection is kept from task to task, and nothing of a task stays in it."""

import psycopg
import pytest
from test_takeover import until

from etl import config, line, parallel, receipts
from etl.errors import DatabaseError, Incomplete


def backend(task: str) -> tuple[int, str]:
    """Do what the task says, on the worker's connection; return the server process before, and the session's name."""
    with line.lent() as connection:
        row = connection.execute("select pg_backend_pid(), current_setting('application_name')").fetchone()
        assert row
        if task == "leave open":
            receipts.enter(connection, 0, 0, "piece", ["powers"], name="etl test")
            connection.execute("create temporary table left_over ()")
        if task == "look":
            assert connection.execute("select to_regclass('left_over')").fetchone() == (None,)
            assert connection.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone() == (0,)
        if task == "orphan":
            receipts.enter(connection, 0, 0, "piece", ["powers"], name="etl test").done()
        if task == "fail":
            connection.execute("select 1 / 0")
    return row


def ended(pool: parallel.Pool, task: str) -> tuple[int, str] | Exception:
    ((_, outcome),) = pool.run(backend, [task])
    return outcome


@pytest.fixture
def pool(dsn: str):
    with parallel.Pool("process://1", {config.DSN_VARIABLE: dsn}) as made:
        yield made


def test_tasks_share_a_connection_and_nothing_else(pool: parallel.Pool) -> None:
    """A transaction that a task leaves open is rolled back: its tables, locks and name are gone."""
    first, second = ended(pool, "leave open"), ended(pool, "look")

    assert first == second
    assert isinstance(first, tuple)
    assert first[1] == "etl worker"


@pytest.mark.parametrize(("task", "error"), [("fail", DatabaseError), ("orphan", Incomplete)])
def test_a_connection_of_a_task_that_failed_is_not_used_again(
    pool: parallel.Pool, task: str, error: type[Exception]
) -> None:
    """Whatever state it was left in."""
    first, failed, last = ended(pool, "look"), ended(pool, task), ended(pool, "look")

    assert isinstance(failed, error)
    assert isinstance(first, tuple) and isinstance(last, tuple)
    assert first[0] != last[0]


def test_a_connection_that_the_server_has_ended_is_opened_again(pool: parallel.Pool, dsn: str) -> None:
    """Between two tasks nothing is lost, so the task does not fail."""
    first = ended(pool, "look")
    assert isinstance(first, tuple)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pg_terminate_backend(%s, 5000)", (first[0],))
    last = ended(pool, "look")

    assert isinstance(last, tuple)
    assert first[0] != last[0]


def test_nothing_is_kept_in_the_coordinators_own_process(dsn: str) -> None:
    """With inline:// there is no worker that would end with its run."""
    with parallel.Pool("inline://", {config.DSN_VARIABLE: dsn}) as made:
        first = ended(made, "look")

    assert isinstance(first, tuple)
    with psycopg.connect(dsn, autocommit=True) as connection:
        until(
            lambda: (
                connection.execute("select count(*) from pg_stat_activity where pid = %s", first[:1]).fetchone() == (0,)
            )
        )
