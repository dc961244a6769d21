"""A run of the coordinator: what the steps of one load share."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from etl import config, db, finish, metrics, parallel, renewal, retry, session, tables, timings
from etl.errors import Interrupted
from etl.model import Event, Manifest, Progress
from etl.plan import Leaf
from etl.receipts import Receipt

T = TypeVar("T")


class Run(msgspec.Struct, kw_only=True):
    """What the steps of one load share. ``powerset_ids`` are all of the split's, by uid, where this run began the build.

    ``asked`` are the questions that ``finish`` has, where nothing is attached before.
    """

    options: config.LoadOptions
    manifest: Manifest
    session: session.Session
    progress: Progress
    pool: parallel.Pool
    stop: Callable[[], bool]
    patience: retry.Patience
    memory: metrics.PeakMemory
    is_tight: bool = False
    is_finished: bool = False
    enrols: bool = False
    came_back: bool = False
    extensions: dict[str, str | None] = msgspec.field(default_factory=dict)
    build: int = 0
    epoch: int = 0
    schema: str = ""
    number: int = 0
    powerset_ids: dict[str, int] = msgspec.field(default_factory=dict)
    leaves: list[Leaf] = msgspec.field(default_factory=list)
    wanted: tuple[str, ...] = ()
    below: renewal.Renewal | None = None
    asked: finish.Asked | None = None
    done: dict[tuple[str, str], Receipt] = msgspec.field(default_factory=dict)
    failed: dict[str, Exception] = msgspec.field(default_factory=dict)
    loaded_now: int = 0
    clock: timings.Clock
    spans: list[timings.Span] = msgspec.field(default_factory=list)
    stints: list[timings.Stint] = msgspec.field(default_factory=list)
    publish_steps: dict[str, float] = msgspec.field(default_factory=dict)
    sent: Counter[str] = msgspec.field(default_factory=Counter)

    @property
    def connection(self) -> db.Connection:
        """The coordinator's connection as it is now: it may be lost, and another one take its place."""
        return self.session.connection

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Attribute the wall time since the phase before to this one, and say that it began."""
        self.progress(Event(phase=name, done=0, total=0, unit="steps"))
        try:
            yield
        finally:
            span = self.clock.lap(name)
            if name == timings.LOAD:
                self.spans.append(span)

    def parts(self) -> dict[str, float]:
        """Return what the time up to the last lap went to; see ``etl.timings``."""
        workers = timings.of_workers(self.stints, self.spans, self.pool.tasks) if self.spans else {}
        return {**self.clock.seconds, **timings.named(workers, self.publish_steps)}


def stop_here(run: Run) -> None:
    """Raise Interrupted where the run is to stop."""
    if run.stop():
        raise Interrupted("stopped; what is finished is kept", "the same command goes on from here")


def is_loaded(run: Run, leaf: Leaf) -> bool:
    """Whether a leaf has its receipts of all tables."""
    return all((name, leaf.name) in run.done for name in run.wanted if name in tables.LEAF_TABLES)


def each(run: Run, function: Callable[[T], object], tasks: list[T]) -> None:
    """Run small tasks; the first failure is raised."""
    list(parallel.collect(run.pool, function, tasks, run.stop))
    stop_here(run)
