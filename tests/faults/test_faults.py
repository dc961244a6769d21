"""A short campaign: a dozen strikes of different kinds; scripts/faults.py does hundreds."""

import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import strikes
from ground import Ground, ground
from places import short_folder

SEED = 20
KINDS = (
    "coordinator: SIGKILL",
    "coordinator: Ctrl-C twice",
    "coordinator: SIGTERM",
    "worker: SIGKILL",
    "server: one backend terminated",
    "server: all backends terminated",
    "server: immediate stop and restart, COPY",
    "server: immediate stop and restart, publication",
    "connection cut after some bytes",
    "part damaged",
    "split: SIGKILL",
    "store: file size limit",
)


@pytest.fixture(scope="module")
def made() -> Iterator[Ground]:
    """One private server, two small splits."""
    with short_folder() as folder, ground(Path(folder), records=300) as found:
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_a_strike_loses_nothing(made: Ground, kind: str) -> None:
    """The same command again gives the tables of an undisturbed run, and nothing is left behind."""
    outcome = strikes.perform(made, kind, SEED + KINDS.index(kind))

    assert outcome.findings == [], f"{outcome.detail}: exit {outcome.codes}"
    assert (outcome.lost, outcome.doubled) == (0, 0)
    assert outcome.codes[-1] == 0


def test_the_comparison_sees_what_was_lost_doubled_or_changed(made: Ground) -> None:
    """A harness that finds nothing must be able to."""
    with made.database(made.templates["loaded"]) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update game_b1.powers set description = 'another' where id = 1")
        connection.execute(
            "delete from game_b1.power_prerequisites where id = (select min(id) from game_b1.power_prerequisites)"
        )
        connection.execute(
            "insert into game_b1.power_enhancement_compatibility"
            " select (jsonb_populate_record(t, jsonb_build_object('id', -t.id, 'enhancement_type', 'x' || t.id))).*"
            " from game_b1.power_enhancement_compatibility t limit 2"
        )
        connection.execute("create schema game_b77; select pg_advisory_lock(1)")
        case = strikes.Case(made, random.Random(1), made.folder, strikes.Outcome("none"))
        case.compare(dsn, "load")
    found = " ".join(case.outcome.findings)

    assert (case.outcome.lost, case.outcome.doubled) == (1, 2)
    for word in ("powers:", "schema game_b77", "lock", "session", "receipts of power_prerequisites"):
        assert word in found
