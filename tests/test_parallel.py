"""Processes die; tasks do not get lost, and the guilty one is named."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from etl import parallel
from etl.errors import UsageError, WorkerDied


def square(number: int) -> int:
    return number * number


def die_always(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_once(task: tuple[int, str]) -> int:
    number, marker = task
    if number == 3 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number


def who_else(task: tuple[int, str]) -> int:
    """Return how many other tasks are at work."""
    number, folder = task
    own = Path(folder, str(number))
    own.touch()
    time.sleep(0.05)
    others = len(list(Path(folder).iterdir())) - 1
    own.unlink()
    return others


def query_under_fire(_: int) -> str:
    """Run queries of polars while Ctrl-C comes again and again."""
    import polars as pl

    over = threading.Event()

    def fire() -> None:
        while not over.wait(0.0005):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=fire)
    thread.start()
    try:
        frame = pl.DataFrame({"a": list(range(200_000))})
        for _ in range(50):
            frame.lazy().sort("a", descending=True).group_by(pl.col("a") % 1_000).len().collect()
    finally:
        over.set()
        thread.join()
    return "alive"


def start_method(_: int) -> str | None:
    return multiprocessing.get_start_method(allow_none=True)


def sleep_and_tell(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)


@pytest.mark.parametrize("executor", ["inline://", "process://2"])
def test_every_task_comes_back_once(executor: str) -> None:
    """Whatever the executor, the same outcomes."""
    outcomes = dict(parallel.run(executor, square, range(9)))

    assert outcomes == {number: number * number for number in range(9)}


def test_an_exception_is_an_outcome() -> None:
    """One task's exception does not touch the others."""
    outcomes = dict(parallel.run("process://2", fail, range(6)))

    assert isinstance(outcomes.pop(3), ValueError)
    assert outcomes == {number: number for number in (0, 1, 2, 4, 5)}


def test_a_task_that_kills_its_worker_twice_is_named_and_the_rest_finishes() -> None:
    """A broken pool is replaced; the suspect runs alone."""
    outcomes = dict(parallel.run("process://2", die_always, range(8)))

    assert isinstance(outcomes.pop(3), WorkerDied)
    assert outcomes == {number: number for number in range(8) if number != 3}


def test_a_task_that_killed_its_worker_once_is_done_after_all(tmp_path: Path) -> None:
    """A worker killed from outside costs nothing but time."""
    marker = str(tmp_path / "died")
    outcomes = dict(parallel.run("process://2", die_once, [(number, marker) for number in range(8)]))

    assert sorted(outcomes.values()) == list(range(8))


def test_a_last_task_that_dies_alone_still_gets_its_second_chance(tmp_path: Path) -> None:
    """Being the only one in flight is not being tried twice."""
    outcomes = list(parallel.run("process://1", die_once, [(3, str(tmp_path / "died"))]))

    assert outcomes == [((3, str(tmp_path / "died")), 3)]


def test_stop_submits_nothing_more_and_drains() -> None:
    """What is in flight is still reported."""
    seen: list[int] = []
    with parallel.Pool("process://1") as pool:
        for task, _ in pool.run(square, range(100), window=1, stop=lambda: len(seen) >= 3):
            seen.append(task)

    assert 3 <= len(seen) <= 4


def test_a_pool_that_was_killed_while_it_got_ready_runs_again() -> None:
    """Nobody waits for what was given up."""
    with parallel.Pool("process://2") as pool:
        for _ in range(3):
            pool.warm("json")
            pool.kill()
            assert sorted(outcome for _, outcome in pool.run(square, range(3))) == [0, 1, 4]


def test_a_pool_that_was_warmed_with_one_worker_grows_when_there_is_more_to_do() -> None:
    """And stays with that one where one task at a time is wanted."""
    with parallel.Pool("process://2") as pool:
        pool.warm("json", workers=1)
        (one,) = pool.pids()
        assert [outcome for _, outcome in pool.run(square, [3], window=1)] == [9]
        assert pool.pids() == [one]
        assert sorted(outcome for _, outcome in pool.run(square, range(6))) == [0, 1, 4, 9, 16, 25]
        assert len(pool.pids()) == 2
        assert one not in pool.pids()


def test_workers_that_are_killed_while_others_start_are_replaced() -> None:
    """The pool breaks while processes of it are being started, at whatever point of that."""
    for _ in range(10):
        with parallel.Pool("process://6") as pool:

            def kill_the_first(pool: parallel.Pool = pool) -> None:
                give_up = time.monotonic() + 5
                while not (pids := pool.pids()) and time.monotonic() < give_up:
                    time.sleep(0.001)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pids[0], signal.SIGTERM)

            killer = threading.Thread(target=kill_the_first)
            killer.start()
            pool.warm("json")
            killer.join()
            assert sorted(outcome for _, outcome in pool.run(square, range(3))) == [0, 1, 4]


def test_under_pressure_tasks_come_one_after_another(tmp_path: Path) -> None:
    """Slower, but all of them."""
    alone = []
    with parallel.Pool("process://2") as pool:
        tasks = [(number, str(tmp_path)) for number in range(6)]
        for _, others in pool.run(who_else, tasks, throttle=lambda: True):
            alone.append(others)

    assert alone == [0] * 6


def wait_for(marker: str) -> str:
    """Wait until a file is there, for ten seconds at most; return its name."""
    give_up = time.monotonic() + 10
    while not Path(marker).exists() and time.monotonic() < give_up:
        time.sleep(0.01)
    return Path(marker).read_text()


def test_what_is_done_meanwhile_is_done_once_while_tasks_are_in_flight(tmp_path: Path) -> None:
    """The tasks wait for what it does; it is done also where there are no tasks."""
    calls = []

    def meanwhile() -> None:
        calls.append(1)
        (tmp_path / "mark").write_text("seen")

    with parallel.Pool("process://2") as pool:
        found = list(pool.run(wait_for, [str(tmp_path / "mark")] * 3, meanwhile=meanwhile))
        none = list(pool.run(wait_for, [], meanwhile=meanwhile))

    assert [outcome for _, outcome in found] == ["seen"] * 3
    assert (none, len(calls)) == ([], 2)


def test_ctrl_c_does_not_reach_a_worker_that_has_imported_polars() -> None:
    """Polars installs a handler, which would end the task, and with it the run, at the first Ctrl-C of the terminal."""
    try:
        outcomes = list(parallel.run("process://1", query_under_fire, [0]))
    except KeyboardInterrupt:
        pytest.fail("the worker's interruption became the run's")

    assert outcomes == [(0, "alive")]


def test_workers_are_spawned_never_forked() -> None:
    """Polars deadlocks after a fork (pola-rs/polars#20255)."""
    assert list(parallel.run("process://1", start_method, [0])) == [(0, "spawn")]


@pytest.mark.parametrize("text", ["process://0", "process://x", "threads://2", "process", ""])
def test_an_unknown_executor_is_refused(text: str) -> None:
    """With the two that are known."""
    with pytest.raises(UsageError, match="executor"):
        parallel.parse(text)


def test_workers_end_when_their_coordinator_is_killed(tmp_path: Path) -> None:
    """No orphan survives five seconds."""
    program = (
        "from etl import parallel; from tests.test_parallel import sleep_and_tell\n"
        f"if __name__ == '__main__': list(parallel.run('process://2', sleep_and_tell, [{str(tmp_path)!r}] * 2))"
    )
    coordinator = multiprocessing.get_context("spawn").Process(target=_run_script, args=(program, str(tmp_path)))
    coordinator.start()
    deadline = time.monotonic() + 30
    while len(pids := [int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(int((tmp_path / "coordinator").read_text()), signal.SIGKILL)
    coordinator.join()
    deadline = time.monotonic() + 5
    while any(_is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)

    assert not [pid for pid in pids if _is_alive(pid)]


def _run_script(program: str, folder: str) -> None:
    import subprocess
    import sys

    script = Path(folder, "script.py")
    script.write_text(program)
    process = subprocess.Popen([sys.executable, str(script)], cwd=Path(__file__).parents[1], env=_environment())
    Path(folder, "coordinator").write_text(str(process.pid))
    process.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
