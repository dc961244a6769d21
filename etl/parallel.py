"""The door to other processes: an executor factory, a window of tasks in flight, suspects retried alone.

Of an executor ``submit``, ``wait`` and ``shutdown`` are used, so that any ``concurrent.futures.Executor`` will do; that of
worker processes is ``etl.workers``.
One killed worker breaks a whole executor, which does not say which task did it: every task that was in flight is a suspect
and runs again alone, and one that kills its worker alone as well comes back as ``WorkerDied``.
"""

import atexit
import contextlib
import gc
import importlib
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from etl import config
from etl.errors import UsageError, WorkerDied
from etl.workers import MOST_THREADS, Workers

T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger(__name__)

# Workers get one polars thread: parallelism is processes. The malloc settings keep freed buffers in the process, which
# saves page faults; they are read by the C library when the worker starts.
WORKER_ENVIRONMENT = {
    "POLARS_MAX_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
}

_PARENT_CHECK_S = 1.0
_STOP_CHECK_S = 0.2


class InlineExecutor(Executor):
    """Runs each task at once in the calling process; for tests and for debugging."""

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> "Future[R]":
        """Run the call and return a future that is already done."""
        future: Future[R] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # the task's outer edge: it becomes an outcome
            future.set_exception(error)
        return future


def parse(executor: str) -> tuple[str, int]:
    """Return (scheme, number of workers) of an executor URL such as ``process://2`` or ``inline://``.

    Raises:
        UsageError: the scheme is unknown, or the number is none or below 1.
    """
    scheme, mark, rest = executor.partition("://")
    if mark and scheme == "inline":
        return scheme, 1
    if mark and scheme == "process" and rest.isdigit() and int(rest) > 0:
        return scheme, int(rest)
    raise UsageError(f"'{executor}' is no executor", "use process://N (N worker processes) or inline://")


class Pool:
    """Workers for one run, started when first used and kept for all of its passes."""

    def __init__(self, executor: str, environment: Mapping[str, str] | None = None) -> None:
        """Name the executor; ``environment`` is set in each worker once it runs (so it may hold a password)."""
        self._scheme, self.workers = parse(executor)
        self.threads = 1
        self._environment = dict(environment or {})
        self._executor: Executor | None = None
        self._started = 0  # the workers of the executor: as many as were warmed first, else all

    @property
    def window(self) -> int:
        """How many tasks are in flight unless a run says otherwise: one per thread, and one waiting for each worker."""
        return self.tasks + self.workers

    @property
    def tasks(self) -> int:
        """How many tasks are done at once."""
        return self.workers * self.threads

    def widen(self, threads: int) -> None:
        """Let each worker do so many tasks at once from now on; inline there is one."""
        if self._scheme != "inline":
            self.threads = max(self.threads, min(threads, MOST_THREADS))
            if isinstance(self._executor, Workers):
                self._executor.widen(self.threads)

    @property
    def is_started(self) -> bool:
        """Whether there are workers, if only some that are getting ready."""
        return self._executor is not None

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def run(
        self,
        function: Callable[[T], R],
        tasks: Iterable[T],
        *,
        window: int | None = None,
        stop: Callable[[], bool] = lambda: False,
        throttle: Callable[[], bool] = lambda: False,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Generator[tuple[T, R | Exception], None, None]:
        """Yield (task, result or exception) as tasks end, in no fixed order.

        ``function`` is module-level, tasks are frozen values, results of some megabytes at most. At most ``window`` tasks are in
        flight. Once ``stop`` says so nothing more is submitted, and what
        is in flight is still yielded. While ``throttle`` says so, one task at a time is submitted. ``meanwhile`` is
        called once, when the first tasks are in flight.
        """
        flying: dict[Future[R], T] = {}
        try:
            room = window or self.window
            if self._executor is not None and self._started < min(room, self.workers):
                self.close(wait=False)  # fewer were warmed than there is room for now
            yield from self._run(function, deque(tasks), flying, lambda: 1 if throttle() else room, stop, meanwhile)
        finally:
            if flying:  # the caller has had enough: what is in flight would meet whatever it does next
                self.kill()

    def _run(
        self,
        function: Callable[[T], R],
        waiting: deque[T],
        flying: "dict[Future[R], T]",
        limit: Callable[[], int],
        stop: Callable[[], bool],
        meanwhile: Callable[[], None],
    ) -> Iterator[tuple[T, R | Exception]]:
        suspects = deque[T]()
        retrying = not stop() and self._fill(function, flying, waiting, suspects, limit())
        meanwhile()
        while waiting or suspects or flying:
            if stop():
                waiting.clear()
                suspects.clear()
            if not (retrying and flying):
                retrying = self._fill(function, flying, waiting, suspects, limit())
            done, _ = wait(flying, timeout=_STOP_CHECK_S, return_when=FIRST_COMPLETED)
            broken = [flying.pop(future) for future in list(done) if _is_broken(future)]
            for future in done - {f for f in done if _is_broken(f)}:
                yield flying.pop(future), _outcome(future)
            done.clear()  # results may be big
            if not broken:
                continue
            finished = {f: t for f, t in flying.items() if f.done() and not _is_broken(f)}
            broken += [task for future, task in flying.items() if future not in finished]  # one look: more may end now
            flying.clear()
            self.kill()
            for future, task in finished.items():
                yield task, _outcome(future)
            if retrying:
                yield broken[0], WorkerDied(f"the worker process died twice on {broken[0]!r}"[:500])
            else:
                _log.warning("a worker process died; its task is tried again alone", extra={"action": "worker_died"})
                suspects.extend(broken)

    def _fill(
        self,
        function: Callable[[T], R],
        flying: "dict[Future[R], T]",
        waiting: deque[T],
        suspects: deque[T],
        limit: int,
    ) -> bool:
        """Submit up to ``limit`` tasks; a suspect only when nothing else is in flight, and alone: then return True."""
        if suspects and not flying:
            task = suspects.popleft()
            flying[self._submit(function, task)] = task
            return True
        while waiting and not suspects and len(flying) < limit:
            task = waiting.popleft()
            flying[self._submit(function, task)] = task
        return False

    def _submit(self, function: Callable[[T], R], task: T, *, in_turn: bool = False) -> "Future[R]":
        """Submit one task, with a new pool where the old one broke in the meantime."""
        try:
            with _born_deaf() if self._scheme != "inline" else contextlib.nullcontext():
                executor = self._get()
                if in_turn and isinstance(executor, Workers):
                    return executor.submit_in_turn(function, task)
                return executor.submit(function, task)
        except BrokenProcessPool:
            failed: Future[R] = Future()
            failed.set_exception(BrokenProcessPool("the pool broke before the task was taken"))
            return failed

    def _get(self) -> Executor:
        if self._executor is None:
            self._started = self._started or self.workers
            self._executor = self._start(self._started)
        return self._executor

    def _start(self, workers: int) -> Executor:
        """Start the workers by spawn (forking after polars was imported deadlocks: pola-rs/polars#20255)."""
        if self._scheme == "inline":
            os.environ.update(self._environment)
            return InlineExecutor()
        os.environ.update({name: value for name, value in WORKER_ENVIRONMENT.items() if name not in os.environ})
        arguments = (os.getpid(), self._environment)
        turns = max(1, config.default_jobs() - 1)
        return Workers(workers, self.threads, get_context("spawn"), _start_worker, arguments, turns)

    def warm(self, *modules: str, workers: int | None = None, function: Callable[[], None] | None = None) -> None:
        """Let workers, all unless told, start and import what their tasks need, while the caller goes on.

        One core is left to the caller, for whose plan they will wait: on two cores two workers import one after the other.

        They call the ``function`` then, once for each of their threads, mostly in each of them, and all at once.
        """
        if self._scheme != "inline":
            if self._executor is None:
                self._started = workers or self.workers
            for _ in range(self._started * self.threads):
                self._submit(_import, (modules, function), in_turn=function is None)

    def pids(self) -> list[int]:
        """Return the process ids of the workers that run now."""
        return [process.pid for process in _processes(self._executor) if process.pid is not None]

    def close(self, *, wait: bool = True) -> None:
        """Let the workers end, and wait for that."""
        if self._executor is not None:
            self._executor.shutdown(wait=wait, cancel_futures=True)
            self._executor = None
            self._started = 0

    def kill(self) -> None:
        """End the workers at once; whatever they had not committed is gone."""
        executor, self._executor = self._executor, None
        self._started = 0
        if executor is None:
            return
        for process in _processes(executor):
            process.kill()
        executor.shutdown(wait=True, cancel_futures=True)


def run(
    executor: str, function: Callable[[T], R], tasks: Iterable[T], *, window: int | None = None
) -> Iterator[tuple[T, R | Exception]]:
    """Run the tasks in a pool of their own; see ``Pool.run``."""
    with Pool(executor) as pool:
        yield from pool.run(function, tasks, window=window)


def collect(
    pool: Pool,
    function: Callable[[T], R],
    tasks: Sequence[T],
    stop: Callable[[], bool],
    window: int | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[R]:
    """Yield the results of tasks as they end; the first failure is raised. For the rest see ``Pool.run``."""
    with contextlib.closing(pool.run(function, tasks, window=window, stop=stop, meanwhile=meanwhile)) as outcomes:
        for _, ended in outcomes:
            if isinstance(ended, Exception):
                raise ended
            yield ended


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keep the collector from looking again and again at many objects that make no cycles.

    It looks at what is left once it is on again, so this belongs round the call that lets go of them.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def _born_deaf() -> Iterator[None]:
    """Let processes that start now ignore Ctrl-C from their first instruction on; one that comes meanwhile is not lost.

    A Ctrl-C in a terminal goes to the whole group; a worker that is just starting would answer it with a traceback. It
    is blocked and not ignored: processes inherit that as well, and here it arrives as soon as they were started.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # it would lift the block on its way
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _import(task: tuple[Iterable[str], Callable[[], None] | None]) -> None:
    """Import modules, and call the function.

    What they leave behind stays, so the garbage collector need not look at it, now or later.
    """
    modules, function = task
    with uncollected():
        for name in modules:
            importlib.import_module(name)
        gc.freeze()
    if function is not None:
        function()


def _start_worker(parent: int, environment: Mapping[str, str]) -> None:
    """Leave Ctrl-C to the coordinator, and end when the coordinator is gone."""
    os.environ.update(environment)
    # What was imported need not be taken down piece by piece: for polars and pyarrow that takes a tenth of a second.
    atexit.register(os._exit, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Importing polars puts a handler of its own in the place of any other, SIG_IGN too; what is blocked never reaches it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)


def _processes(executor: Executor | None) -> list[BaseProcess]:
    return executor.processes if isinstance(executor, Workers) else []


def _is_broken(future: "Future[Any]") -> bool:
    return future.done() and isinstance(future.exception(), BrokenProcessPool)


def _outcome(future: "Future[Any]") -> Any:
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, Exception):
        return error
    raise error
