"""Processes that do several tasks at once: who does what, and what becomes of it when one dies."""

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from test_coordinator import checksums, options

import etl
from etl import coordinator, generate, parallel, sizing
from etl.workers import MOST_THREADS, Workers

ROOT = Path(__file__).parents[1]


class Stubborn(Exception):
    """One that cannot be made again from what it says of itself."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)
        self.two = two


class Big:
    """A result."""


def nothing() -> None:
    """Be an initializer."""


def where() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def meet(folder: str, number: int, wanted: int) -> int:
    """Wait until so many are here at once; return the process."""
    Path(folder, str(number)).touch()
    give_up = time.monotonic() + 20
    while len(list(Path(folder).iterdir())) < wanted:
        assert time.monotonic() < give_up
        time.sleep(0.005)
    return os.getpid()


def give(what: str) -> object:
    """Return or raise what is hard to carry."""
    if what == "a lock":
        return threading.Lock()
    if what == "a generator":
        raise ValueError(iter(()) for _ in ())
    raise Stubborn("one", "two")


def die(folder: str) -> None:
    """Die while the neighbour is at work."""
    meet(folder, 0, 2)
    os.kill(os.getpid(), signal.SIGKILL)


def linger(folder: str) -> None:
    meet(folder, 1, 2)
    time.sleep(30)


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Two processes."""
    made = Workers(2, 1, get_context("spawn"), nothing, (), 1)
    yield made
    for process in made.processes:
        process.kill()
    made.shutdown(cancel_futures=True)


def pass_by(folder: str, number: int) -> bool:
    """Return whether nobody else was inside meanwhile."""
    inside = Path(folder, "inside")
    try:
        inside.mkdir()
    except FileExistsError:
        return False
    time.sleep(0.2)
    inside.rmdir()
    return True


def test_calls_in_turn_are_done_one_by_one_and_hold_up_no_others(workers: Workers, tmp_path: Path) -> None:
    """As many at once as there are turns: one. Another call goes on beside them."""
    in_turn = [workers.submit_in_turn(pass_by, str(tmp_path), number).result for number in range(4)]

    assert all(result() for result in in_turn)
    beside = workers.submit_in_turn(meet, str(tmp_path), 0, 2), workers.submit(meet, str(tmp_path), 1, 2)
    assert {one.result() for one in beside} == {process.pid for process in workers.processes}


@pytest.mark.parametrize("threads", [1, MOST_THREADS])
def test_each_process_does_so_many_tasks_at_once(workers: Workers, tmp_path: Path, threads: int) -> None:
    """All meet, as many in one process as in the other."""
    workers.widen(threads)
    tasks = 2 * threads
    found = [workers.submit(meet, str(tmp_path), number, tasks).result for number in range(tasks)]
    pids = [result() for result in found]

    assert {pids.count(process.pid or 0) for process in workers.processes} == {threads}


def test_what_cannot_travel_is_an_outcome(workers: Workers) -> None:
    """Of a result as of an exception; the process goes on."""
    for what, told in (("a lock", "pickle"), ("a generator", "ValueError"), ("an exception", "Stubborn: one")):
        with pytest.raises(Exception, match=told):
            workers.submit(give, what).result()
    with pytest.raises(Exception, match="pickle"):
        workers.submit(give, threading.Lock()).result()

    assert workers.submit(where).result()[0] in [process.pid for process in workers.processes]


def test_an_exception_tells_where_it_was_raised(workers: Workers) -> None:
    """In the other process."""
    with pytest.raises(TypeError) as caught:
        workers.submit(give, 1, 2).result()

    assert any("in a worker process" in note for note in caught.value.__notes__)


def test_a_process_that_dies_takes_what_it_was_doing_with_it(tmp_path: Path) -> None:
    """Of all its threads, and what waits; nothing more is taken then."""
    made = Workers(1, 1, get_context("spawn"), nothing, (), 1)
    made.widen(2)
    pair = [made.submit(die, str(tmp_path)), made.submit(linger, str(tmp_path))]
    waiting: Future[tuple[int, int]] = made.submit(where)
    wait([*pair, waiting], timeout=20)

    assert all(isinstance(future.exception(timeout=0), BrokenProcessPool) for future in (*pair, waiting))
    with pytest.raises(BrokenProcessPool):
        made.submit(where)
    made.shutdown()


def test_an_answer_that_cannot_be_taken_in_is_told(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it for ever."""

    def too_big(way: Connection) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Connection, "recv_bytes", too_big)
    error = workers.submit(where).exception(timeout=20)

    assert isinstance(error, BrokenProcessPool)
    assert isinstance(error.__cause__, MemoryError)


def test_a_result_is_not_kept(workers: Workers) -> None:
    """It may be big, and the next task may be long in coming."""
    result: Any = workers.submit(Big).result()
    gone = weakref.ref(result)
    del result
    give_up = time.monotonic() + 20
    while gone() is not None and time.monotonic() < give_up:
        time.sleep(0.005)

    assert gone() is None


@pytest.mark.parametrize("how", ["Workers(2, 2, get_context('spawn'), print, (), 1)", "1 / 0"])
def test_nobody_waits_at_the_end_for_workers_that_were_not_told_to(how: str) -> None:
    """A process that ends takes its workers with it, however it comes to its end."""
    program = (
        "from multiprocessing import get_context\nfrom etl.workers import Workers\n"
        f"if __name__ == '__main__':\n    made = Workers(2, 1, get_context('spawn'), print, (), 1)\n    {how}"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=30, check=False)

    assert ended.returncode == (1 if "/" in how else 0)


def test_named_arguments_go_along(workers: Workers) -> None:
    """As with any executor."""
    assert workers.submit(sorted, [2, 3, 1], reverse=True).result() == [3, 2, 1]


def test_the_end_waits_for_what_was_submitted(tmp_path: Path) -> None:
    """Unless it is called off."""
    made = Workers(1, 1, get_context("spawn"), nothing, (), 1)
    futures = [made.submit(time.sleep, 0.05) for _ in range(4)]
    made.shutdown()
    again = Workers(1, 1, get_context("spawn"), nothing, (), 1)
    first, *others = [again.submit(time.sleep, 0.2) for _ in range(4)]
    while not first.running():
        time.sleep(0.005)
    again.shutdown(cancel_futures=True)

    assert [future.result(timeout=0) for future in futures] == [None] * 4
    assert first.result(timeout=0) is None
    assert all(future.cancelled() for future in others)
    assert not any(process.is_alive() for process in (*made.processes, *again.processes))
    with pytest.raises(RuntimeError):
        made.submit(where)


def test_a_pool_that_is_widened_does_more_tasks_at_once(tmp_path: Path) -> None:
    """In the processes that it has, also where these die and come anew."""
    with parallel.Pool("process://1") as pool:
        pool.warm("json")
        pids = pool.pids()
        pool.widen(3)
        assert (pool.tasks, pool.pids()) == (3, pids)
        assert [outcome for _, outcome in pool.run(_meet_three, [(str(tmp_path), number) for number in range(3)])] == [
            3
        ] * 3
        pool.kill()
        for path in tmp_path.iterdir():
            path.unlink()
        assert [outcome for _, outcome in pool.run(_meet_three, [(str(tmp_path), number) for number in range(3)])] == [
            3
        ] * 3


def _meet_three(task: tuple[str, int]) -> int:
    folder, number = task
    meet(folder, number, 3)
    return 3


def test_leaves_that_one_process_loads_at_once_are_those_that_come_one_by_one(
    tmp_path: Path, dsn: str, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that passes for far away is the fast way; the slow twin has one task at a time."""
    generate.generate("cod", 700, 12, tmp_path / "all.json", dirty=0.05)
    store = str(tmp_path / "store")
    etl.split(str(tmp_path / "all.json"), store=store, executor="inline://")
    given = replace(options(store, dsn), executor="process://2")
    coordinator.load(replace(given, dsn=empty_dsn, executor="process://1"))
    monkeypatch.setattr(sizing, "FAR_S", 0.0)
    several = coordinator.load(replace(given, more_when_far=True))

    assert several.timings["worker_idle"] >= 0
    assert checksums(dsn) == checksums(empty_dsn)
