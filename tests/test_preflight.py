"""What would stop a load is said before it begins, with what to do about it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from command_line import refusal, run
from places import in_database
from psycopg import conninfo, sql
from split_support import cod, save
from split_support import run as split

from etl import config, db, errors, preflight, splitter, storage
from etl.model import Manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """A small split, in the working folder's default store."""
    return split(tmp_path / "partitions", save(tmp_path / "powers.json", [cod(), cod("Pool.Set.A")]))


@pytest.fixture
def stranger(empty_dsn: str) -> Iterator[str]:
    """A role that may connect, once at a time, and nothing else."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("create role etl_stranger connection limit 1")
        yield "etl_stranger"
        connection.execute("drop owned by etl_stranger cascade")
        connection.execute("drop role etl_stranger")


def problems(dsn: str, manifest: Manifest | None = None, **options: object) -> list[preflight.Problem]:
    with db.connect(dsn) as connection:
        found = preflight.check(connection, config.LoadOptions(**options), manifest)  # type: ignore[arg-type]
    return [problem for problem in found if not problem.is_advice]


def test_a_usual_server_is_ready(servers: str, manifest: Manifest) -> None:
    """Whatever it is: nothing is in the way, before the first load and after it."""
    assert problems(servers, manifest, executor="process://8") == []


def test_missing_rights_are_named_with_the_statement_that_grants_them(
    empty_dsn: str, stranger: str, manifest: Manifest, tmp_path: Path
) -> None:
    """All at once; nothing is begun, nothing is made."""
    del manifest
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("create schema game")
    where = conninfo.make_conninfo(empty_dsn, options=f"-c role={stranger}")
    done = run("load", "--dsn", where, "--jobs", "1", cwd=tmp_path)

    assert done.returncode == 4
    assert "for 2 reasons; nothing was begun" in done.stderr
    assert (
        f'grant create on database "{conninfo.conninfo_to_dict(empty_dsn)["dbname"]}" to "etl_stranger"' in done.stderr
    )
    assert 'grant usage, create on schema "game" to "etl_stranger"' in done.stderr
    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute("select to_regnamespace('etl')").fetchone() == (None,)


def test_rights_in_an_existing_ledger_are_needed(dsn: str, stranger: str) -> None:
    """The grants are in the documents."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(b"create schema game; grant usage, create on schema game to etl_stranger")
        connection.execute(f"grant create on database {connection.info.dbname} to {stranger}".encode())
        (problem,) = problems(conninfo.make_conninfo(dsn, options=f"-c role={stranger}"))
        connection.execute("drop owned by etl_stranger cascade")

    assert "may not write into schema etl" in problem.message
    assert "docs/security.md" in problem.remedy


def test_a_read_only_server_is_refused(dsn: str, manifest: Manifest, tmp_path: Path) -> None:
    """One problem is the sentence itself, with its remedy."""
    del manifest
    where = conninfo.make_conninfo(dsn, options="-c default_transaction_read_only=on")
    sentence, following = refusal(run("load", "--dsn", where, "--jobs", "1", cwd=tmp_path), 4)

    assert "read-only" in sentence
    assert "primary" in following


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_of_another_encoding_is_refused(
    encoding: str, server_dsn: str, manifest: Manifest, tmp_path: Path
) -> None:
    """It would hold other characters than the source, and nobody would notice."""
    del manifest
    name = sql.Identifier(f"etl_test_{encoding.lower()}")
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        create = "create database {} encoding {} locale 'C' template template0"
        connection.execute(sql.SQL(create).format(name, sql.Literal(encoding)))
        try:
            done = run("load", "--dsn", in_database(server_dsn, f"etl_test_{encoding.lower()}"), cwd=tmp_path)
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(name))
    said, remedy = refusal(done, 4)

    assert f"is in {encoding}, which does not hold every name and text; nothing was begun" in said
    assert remedy == "name another one: create database game encoding 'UTF8' template template0"


def test_too_few_connections_and_locks_are_counted(dsn: str, manifest: Manifest) -> None:
    """With the number that would do."""
    (problem,) = problems(dsn, manifest, executor="process://5000")

    assert "5000 workers" in problem.message
    assert "--jobs" in problem.remedy
    assert preflight.locks_needed(manifest) < preflight.locks_needed(None) < 64 * 100


def test_too_small_disks_are_told_beforehand(
    dsn: str, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the server, where it is on this machine, and of the store."""
    huge = replace(manifest, partitions=(replace(manifest.partitions[0], bytes=10**15),))
    (problem,) = problems(dsn, huge)
    monkeypatch.setattr(storage, "free_bytes", lambda _: 10)
    with pytest.raises(errors.StoreError, match="are free there"):
        splitter.split(config.SplitOptions(sources=(str(tmp_path / "powers.json"),), store=str(tmp_path / "other")))

    assert "715,255,801 MB" in problem.message
    assert "etl prune" in problem.remedy
    assert not (tmp_path / "other").exists()


def test_the_command_tells_problems_and_advice(dsn: str) -> None:
    """Exit code 0 when a load can work, 4 when not."""
    good = run("db", "check", "--dsn", dsn, "--jobs", "2")
    bad = run("db", "check", "--dsn", dsn, "--jobs", "5000", "--json")

    assert good.returncode == 0, good.stderr
    assert "nothing is in the way of a load" in good.stdout
    assert bad.returncode == 4
    assert next(problem["is_advice"] for problem in json.loads(bad.stdout)["problems"]) is False
