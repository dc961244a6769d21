"""The records at fault are found by halves: all of them, and as few others as can be."""

from hypothesis import given
from hypothesis import strategies as st

from etl import halving


def search(count: int, bad: set[int], pairs: set[tuple[int, int]]) -> tuple[set[int], int]:
    """Search as a loader does, round after round; return what was found, and how many trials it took."""
    found: set[int] = set()
    known: frozenset[int] = frozenset()
    trials = 0

    def refusal(low: int, high: int) -> str | None:
        nonlocal trials
        trials += 1
        here = set(range(low, high)) - known
        wrong = sorted(bad & here) or [pair for pair in pairs if set(pair) <= here]
        return str(wrong[0]) if wrong else None

    while (reason := refusal(0, count)) is not None:
        for position, why in halving.guilty(0, count, reason, refusal):
            assert why
            found.add(position)
        known = frozenset(found)
    return found, trials


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_exactly_the_records_at_fault_are_found(drawn: tuple[int, set[int]]) -> None:
    """However many there are, wherever they stand."""
    count, bad = drawn

    assert search(count, bad, set())[0] == bad


@given(st.sets(st.tuples(st.integers(0, 39), st.integers(0, 39)).filter(lambda pair: pair[0] < pair[1]), max_size=5))
def test_of_two_that_do_not_go_together_one_goes(pairs: set[tuple[int, int]]) -> None:
    """What is left passes, and nothing goes that is in no pair."""
    found, _ = search(40, set(), pairs)

    assert all(found & set(pair) for pair in pairs)
    assert found <= {position for pair in pairs for position in pair}


def test_one_in_ten_thousand_takes_few_trials() -> None:
    """Two per halving, and one more to see that the rest passes."""
    found, trials = search(10_000, {7_321}, set())

    assert found == {7_321}
    assert trials <= 2 * 14 + 2
