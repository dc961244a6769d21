"""Several COPYs in one query string put down what one after the other does, and say what was refused."""

from collections.abc import Iterator

import psycopg
import pyarrow as pa
import pytest

from etl import bulkload, chained, db
from etl.chained import Rows
from etl.errors import MismatchError
from etl.timings import Clock

COLUMNS = {"a": "int4", "t": "text", "j": "jsonb"}


@pytest.fixture
def connection(dsn: str) -> Iterator[db.Connection]:
    opened = psycopg.connect(dsn, autocommit=True)
    for name in ("one", "two", "three"):
        opened.execute(f"create table {name} (a int, t text, j jsonb)")
    yield opened
    opened.close()


def rows(count: int, text: str = "x") -> pa.RecordBatch:
    """Return rows of three columns; from some thousand on they are sent in several pieces."""
    numbers = pa.array(range(count), pa.int32())
    texts = pa.array([text * (number % 700) for number in range(count)], pa.string())
    values = pa.array([f'{{"n": {number}}}' for number in range(count)], pa.string())
    return pa.record_batch([numbers, texts, values], names=[*COLUMNS])


def wanted(name: str, batch: pa.RecordBatch, *, freeze: bool = False) -> Rows:
    return Rows(name, db.identifier(name), COLUMNS, batch, freeze)


@pytest.mark.parametrize("counts", [(1,), (3, 10_000, 5), (0, 2), (12_000, 0)])
def test_it_puts_down_what_single_copies_do(connection: db.Connection, counts: tuple[int, ...]) -> None:
    """The same rows, and the same (rows, bytes) of each."""
    names, batches = ["one", "two", "three"][: len(counts)], [rows(count) for count in counts]
    content = "select array_agg(t order by a) from {} t"

    single = [
        bulkload.copy(connection, db.identifier(name), COLUMNS, [batch])
        for name, batch in zip(names, batches, strict=True)
    ]
    before = [connection.execute(content.format(name)).fetchone() for name in names]
    connection.execute("truncate one, two, three")
    with connection.transaction():
        together = chained.copy_each(
            connection, [], [wanted(name, batch) for name, batch in zip(names, batches, strict=True)], Clock()
        )

    assert together == single
    assert [connection.execute(content.format(name)).fetchone() for name in names] == before


def test_statements_before_make_the_tables_that_are_frozen(connection: db.Connection) -> None:
    """COPY FREEZE wants a table of this very transaction, and the connection is good for more afterwards."""
    made = [db.template(f"create table {name} (like one)") for name in ("four", "five")]
    with connection.transaction():
        chained.copy_each(connection, made, [wanted(name, rows(10), freeze=True) for name in ("four", "five")], Clock())
        connection.execute("select set_config('etl.test', '1', true)")

    assert connection.execute("select (select count(*) from four), (select count(*) from five)").fetchone() == (10, 10)


def test_nothing_to_copy_sends_nothing(connection: db.Connection) -> None:
    """Not even what would go before."""
    assert chained.copy_each(connection, [db.template("create table four ()")], [], Clock()) == []
    assert connection.execute("select to_regclass('four')").fetchone() == (None,)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_the_server_refuses_is_raised_as_its_error(connection: db.Connection, dsn: str, place: int) -> None:
    """With its SQLSTATE, wherever it stands; nothing of the transaction stays."""
    connection.execute("alter table two add check (a < 5)")
    names = ["one", "three"]
    names.insert(place, "two")

    connection.execute("begin")
    with pytest.raises(psycopg.errors.CheckViolation, match="two_a_check"):
        chained.copy_each(connection, [], [wanted(name, rows(4_000)) for name in names], Clock())
    connection.close()

    with psycopg.connect(dsn) as after:
        assert after.execute(
            "select count(*) from (table one union all table two union all table three) x"
        ).fetchone() == (0,)


def test_a_failed_statement_before_is_raised(connection: db.Connection) -> None:
    """A table that is there already."""
    with pytest.raises(psycopg.errors.DuplicateTable):
        chained.copy_each(connection, [db.template("create table one ()")], [wanted("two", rows(1))], Clock())


def test_rows_that_a_trigger_swallows_are_missed(connection: db.Connection) -> None:
    """What the server counted is compared with what was sent."""
    connection.execute("create function swallow() returns trigger language plpgsql as 'begin return null; end'")
    connection.execute("create trigger t before insert on two for each row execute function swallow()")

    with pytest.raises(MismatchError, match='3 rows were sent to "two", 0 arrived'):
        chained.copy_each(connection, [], [wanted("one", rows(1)), wanted("two", rows(3))], Clock())


def test_a_server_that_goes_away_is_an_operational_error(connection: db.Connection, dsn: str) -> None:
    """So that the leaf is tried again."""
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))

    with pytest.raises(psycopg.OperationalError):
        chained.copy_each(connection, [], [wanted("one", rows(10))], Clock())
