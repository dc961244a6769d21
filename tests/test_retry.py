"""Patience: what may succeed in a moment is tried again, what cannot is not."""

import pickle

import psycopg
import pytest

from etl import db, retry
from etl.errors import DatabaseError, Interrupted, Refused, Transient

LOST = Transient("gone")


def failing(times: int, error: Exception):
    """Return a function that fails so many times, and the list of its calls."""
    calls: list[int] = []

    def step() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error
        return "done"

    return step, calls


def test_a_transient_failure_is_tried_again_after_coming_back(caplog: pytest.LogCaptureFixture) -> None:
    """Each time, and the log says so."""
    step, calls = failing(2, LOST)
    back: list[int] = []
    result = retry.persist(step, lambda: back.append(len(calls)), retry.Patience(60))

    assert (result, len(calls), back) == ("done", 3, [1, 2])
    assert caplog.text.count("gone; trying again in") == 2


def test_coming_back_may_fail_as_well() -> None:
    """The step waits until it succeeds."""
    step, calls = failing(1, LOST)
    come_back, attempts = failing(2, psycopg.OperationalError("refused"))
    retry.persist(step, come_back, retry.Patience(60))

    assert (len(calls), len(attempts)) == (2, 3)


@pytest.mark.parametrize("error", [DatabaseError("no"), Refused("no"), psycopg.errors.DiskFull("no")])
def test_what_would_fail_again_is_raised_at_once(error: Exception) -> None:
    """Without a second attempt."""
    step, calls = failing(1, error)
    with pytest.raises(type(error)):
        retry.persist(step, lambda: None, retry.Patience(60))

    assert len(calls) == 1


def test_patience_ends() -> None:
    """With the last failure."""
    step, calls = failing(1_000, LOST)
    with pytest.raises(Transient):
        retry.persist(step, lambda: None, retry.Patience(0.3))

    assert 1 < len(calls) < 1_000


def test_progress_begins_anew() -> None:
    """A run that gets on is not ended by the sum of its troubles."""
    patience = retry.Patience(0.15)
    step, calls = failing(20, LOST)
    retry.persist(step, patience.progress, patience)

    assert len(calls) == 21


def test_a_server_without_memory_is_asked_once_more() -> None:
    """And not a third time."""
    step, calls = failing(1_000, Transient("no memory", None, "53200"))
    with pytest.raises(Transient):
        retry.persist(step, lambda: None, retry.Patience(60))

    assert len(calls) == 2


def test_nobody_has_to_wait_who_wants_to_stop() -> None:
    """Ctrl-C while the server is away ends the run."""
    step, calls = failing(1_000, LOST)
    with pytest.raises(Interrupted):
        retry.persist(step, lambda: None, retry.Patience(60, lambda: len(calls) > 1))

    assert len(calls) == 2


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08006", Transient),
        ("40001", Transient),
        ("40P01", Transient),
        ("53300", Transient),
        ("55P03", Transient),
        ("57P01", Transient),
        ("57P02", Transient),
        ("57P03", Transient),
        ("22P02", Refused),
        ("23514", Refused),
        ("54000", Refused),
        ("53100", DatabaseError),
        ("42501", DatabaseError),
        ("57014", DatabaseError),
    ],
)
def test_errors_are_told_apart_by_their_state(state: str, kind: type[Exception]) -> None:
    """And never by their words."""
    error = db.translate("", psycopg.errors.lookup(state)("said"))

    assert type(error) is kind
    assert type(pickle.loads(pickle.dumps(error))) is kind


def test_a_lost_connection_has_no_state() -> None:
    """Psycopg raises an OperationalError without one."""
    assert type(db.translate("", psycopg.OperationalError("server closed the connection"))) is Transient
    assert getattr(pickle.loads(pickle.dumps(Transient("a", "b", "57P01"))), "sqlstate", None) == "57P01"
