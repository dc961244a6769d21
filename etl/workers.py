"""Worker processes that each do one task or several at once, in threads: while one waits for the server, another works.

To wait in more places takes no more processes then, each of which would have to start and hold 110 MB. A load of 360,659 flat
records over 40 ms of round trip takes 1.18 times as long as over none, with what the coordinator saves; it was 1.53 with twice
the processes (`scripts/bench.py far --shape i12`). tests/test_workers.py has leaves that are loaded at once, and their slow
twin.
"""

import contextlib
import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

R = TypeVar("R")

MOST_THREADS = 4
"""How many tasks a process can do at once."""


class _Call:
    """A task on its way: what is called, and who waits for it."""

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any], *, in_turn: bool = False
    ) -> None:
        self.asked = function, arguments, named
        self.in_turn = in_turn
        self.future: Future[Any] = Future()


class Workers(Executor):
    """Runs calls of module-level functions in processes; one task at a time in each, until there are more ``threads``.

    A process that dies takes with it what it was doing, which ends with ``BrokenProcessPool``, and breaks the whole: what
    waits ends in the same way, nothing more is taken, what other processes are doing comes to its end.
    """

    def __init__(
        self,
        workers: int,
        threads: int,
        context: SpawnContext,
        initializer: Callable[..., None],
        arguments: tuple[Any, ...],
        turns: int,
    ) -> None:
        """Start the processes, each of which calls the initializer first, and does so many tasks at once.

        Of the calls that are submitted to be done in turn, only so many are at once as there are ``turns``.
        """
        self._turns = threading.Semaphore(turns)
        self._waiting: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._feeders: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_broken = self._is_over = False
        self._threads = 0
        self._ways: list[list[Connection]] = []
        self.processes: list[BaseProcess] = []
        try:
            for _ in range(workers):
                here, there = zip(*(context.Pipe() for _ in range(MOST_THREADS)), strict=True)
                # A daemon, so that nobody waits for it at the end of a process that has lost sight of it.
                process: BaseProcess = context.Process(target=_serve, args=(there, initializer, arguments), daemon=True)
                process.start()
                for way in there:
                    way.close()  # so that the process alone has it, and it breaks when that dies
                self.processes.append(process)
                self._ways.append(list(here))
            self.widen(threads)
        except BaseException:
            for process in self.processes:
                process.kill()
            raise

    def widen(self, threads: int) -> None:
        """Let each process do so many tasks at once from now on, ``MOST_THREADS`` at most; there are never less again."""
        threads = min(threads, MOST_THREADS)
        for number in range(self._threads, threads):
            for ways in self._ways:
                feeder = threading.Thread(target=self._feed, args=(ways[number],), daemon=True)
                feeder.start()
                self._feeders.append(feeder)
        self._threads = max(self._threads, threads)

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> "Future[R]":
        """Have a call done by the next process that has a thread to spare.

        Raises:
            BrokenProcessPool: a process has died.
        """
        return self._put(_Call(fn, args, kwargs))

    def submit_in_turn(self, fn: Callable[..., R], /, *args: Any) -> "Future[R]":
        """Do what ``submit`` does, for a call that waits for its turn; if the workers are to end by then it is cancelled."""
        return self._put(_Call(fn, args, {}, in_turn=True))

    def _put(self, call: _Call) -> "Future[Any]":
        with self._lock:
            if self._is_broken:
                raise BrokenProcessPool("a worker process died")
            if self._is_over:
                raise RuntimeError("the workers have been told to end")
            self._waiting.put(call)
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more, and let the processes end when they have done what was submitted, or what they are doing."""
        with self._lock:
            was_over, self._is_over = self._is_over, True
        if cancel_futures:
            for call in self._taken_back():
                call.future.cancel()
        if not was_over:
            for ways in self._ways:
                for way in ways[self._threads :]:
                    way.close()
            for _ in self._feeders:
                self._waiting.put(None)
        if wait:
            for feeder in self._feeders:
                feeder.join()
            for process in self.processes:
                process.join()

    def _feed(self, way: Connection) -> None:
        """Give one thread of a process one call after another, until there are no more or the process dies."""
        with way:
            while (call := self._waiting.get()) is not None:
                try:
                    with self._turns if call.in_turn else contextlib.nullcontext():
                        if call.in_turn and (self._is_over or self._is_broken):
                            call.future.cancel()
                        if not call.future.set_running_or_notify_cancel():
                            continue
                        _answer(way, call)
                except BaseException as error:  # noqa: BLE001  # nobody else would tell who waits for it
                    self._break(call, error)
                    return
                del call  # it has the result, which may be big

    def _break(self, call: _Call, reason: BaseException) -> None:
        """Break the whole: a process is gone, or what it sent cannot be taken in."""
        with self._lock:
            self._is_broken = True
        begun = [call.future]
        begun += [lost.future for lost in self._taken_back() if lost.future.set_running_or_notify_cancel()]
        for future in begun:
            broken = BrokenProcessPool("a worker process died")
            broken.__cause__ = reason
            future.set_exception(broken)

    def _taken_back(self) -> list[_Call]:
        """Take what no process has begun out of the queue; who is told to end there is told so again."""
        found, ends = [], 0
        with contextlib.suppress(queue.Empty):
            while True:
                call = self._waiting.get_nowait()
                if call is None:
                    ends += 1
                else:
                    found.append(call)
        for _ in range(ends):
            self._waiting.put(None)
        return found


def _answer(way: Connection, call: _Call) -> None:
    """Have a call done at the other end of the way, and pass on what comes of it.

    Raises:
        EOFError, OSError: the process is gone.
        MemoryError: there is no room for the answer.
    """
    try:
        asked = ForkingPickler.dumps(call.asked)
    except Exception as error:  # noqa: BLE001  # whatever the task's own pickling says: it is the outcome
        call.future.set_exception(error)
        return
    way.send_bytes(asked)
    answer = way.recv_bytes()
    try:
        is_result, found = ForkingPickler.loads(answer)
    except Exception as error:  # noqa: BLE001  # as above
        is_result, found = False, error
    if is_result:
        call.future.set_result(found)
    else:
        call.future.set_exception(found)


def _serve(ways: Sequence[Connection], initializer: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Be a worker process: do what comes over each way, until all of them have ended."""
    initializer(*arguments)
    threads = [threading.Thread(target=_work, args=(way,)) for way in ways[1:]]
    for thread in threads:
        thread.start()
    _work(ways[0])
    for thread in threads:
        thread.join()


def _work(way: Connection) -> None:
    with way, contextlib.suppress(EOFError, OSError):  # the other end has nothing more, or is gone
        while True:
            way.send_bytes(_outcome(way.recv_bytes()))


def _outcome(asked: bytes) -> memoryview:
    """Do what was asked for; return the result, or the exception with the place where it was raised, for the other end."""
    try:
        function, arguments, named = ForkingPickler.loads(asked)
        return ForkingPickler.dumps((True, function(*arguments, **named)))
    except BaseException as error:  # noqa: BLE001  # the task's outer edge: it becomes an outcome
        place = "".join(traceback.format_exception(error))
        error.add_note(f"in a worker process:\n{place}")
        try:
            answer = ForkingPickler.dumps((False, error))
            ForkingPickler.loads(answer)
        except Exception:  # noqa: BLE001  # one that cannot travel goes as its text
            answer = ForkingPickler.dumps((False, RuntimeError(place)))
        return answer
