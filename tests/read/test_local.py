"""The tier in the process's memory: a budget in bytes, the least used goes first, times to live."""

import gc
import time
import tracemalloc

from reading import Game

from etl.read import PowerReader, questions
from etl.read.flights import Flights
from etl.read.local import Entry, LocalTier
from etl.read.stats import Meters


def entry(size: int = 10, token: int = 1, seconds: float = 60.0, *, negative: bool = False) -> Entry:
    return Entry(token, negative, object(), size, time.monotonic() + seconds)


def test_the_least_used_goes_first() -> None:
    """And the budget holds at every moment."""
    tier = LocalTier(100, Meters())
    for number in range(10):
        tier.put(("power", number), entry(), tier.drops())
    tier.get(("power", 0), 1, 1, 0)
    tier.put(("power", 10), entry(20), tier.drops())

    assert tier.size() == {"entries": 9, "bytes": 100, "budget_bytes": 100, "evicted": 2}
    assert tier.get(("power", 0), 1, 1, 0)
    assert not tier.get(("power", 1), 1, 1, 0)
    tier.put(("power", 11), entry(26), tier.drops())
    assert not tier.get(("power", 11), 1, 1, 0), "more than a quarter of the budget is kept for nobody"


def test_an_answer_holds_for_its_token_and_its_time() -> None:
    """One that says "there is no such thing" for the generation."""
    tier = LocalTier(1000, Meters())
    tier.put(("power", 1), entry(token=3), tier.drops())
    tier.put(("power", 2), entry(token=5, negative=True), tier.drops())
    tier.put(("power", 3), entry(token=3, seconds=-1), tier.drops())

    assert tier.get(("power", 1), 3, 9, 0)
    assert not tier.get(("power", 1), 4, 9, 0)
    assert tier.get(("power", 2), 3, 5, 0)
    assert not tier.get(("power", 2), 5, 6, 0)
    assert not tier.get(("power", 3), 3, 9, 0)


def test_what_comes_late_is_not_filed() -> None:
    """Neither over something newer, nor after all was to be forgotten."""
    tier = LocalTier(1000, Meters())
    drops = tier.drops()
    tier.put(("power", 1), entry(token=7), drops)
    tier.put(("power", 1), entry(token=3), drops)
    assert tier.get(("power", 1), 7, 7, 0)
    tier.drop(None)
    tier.put(("power", 1), entry(token=7), drops)

    assert not tier.get(("power", 1), 7, 7, 0)
    assert tier.size()["bytes"] == 0


def test_estimated_bytes_are_those_that_python_takes(game: Game) -> None:
    """To within a third, for powers and for lines of the summary."""
    ids = [number for (number,) in game.rows("select id from game.power_directory")]
    with PowerReader(game.dsn, "") as reader:
        reader.power(ids[0]), reader.build_summary(max_level=0)
        for ask in (lambda: [reader.power(number) for number in ids[1:]], reader.build_summary):
            before = reader.stats()["local"]["bytes"]
            gc.collect()
            tracemalloc.start()
            ask()
            gc.collect()
            taken = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()

            assert 0.67 < (reader.stats()["local"]["bytes"] - before) / taken < 1.5


def test_a_flight_that_is_too_old_is_flown_again() -> None:
    """What it brings held before the question came."""
    flights: Flights[str] = Flights()

    assert flights.fetch("a", lambda: ("now", 5.0), 9.0) == "now", "one's own flight is never too old"
    assert flights.fetch("a", lambda: ("again", 9.0), 9.0) == "again"


def test_every_kind_of_question_has_its_time_and_its_decoder() -> None:
    """So that a new one cannot be forgotten."""
    kinds = {
        question.kind
        for question in (
            questions.power(1), questions.power_name("a"), questions.powerset(1), questions.powerset_name("a"),
            questions.summary(1), questions.summaries(None, None), questions.search("a", None, 1),
            questions.effect("a", None, None, None),
        )
    }  # fmt: skip

    assert kinds | {"absent"} == questions.TTL_S.keys()
    assert kinds == questions._DECODERS.keys()
