"""What commands share: options, printing, the watch for Ctrl-C."""

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from etl import config, limits
from etl.errors import EtlError, Interrupted, Terminated, UsageError
from etl.model import Event, Progress

F = TypeVar("F", bound=Callable[..., Any])


class Size(click.ParamType[int]):
    """A number of bytes such as 400MB or 1GB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes."""
        if isinstance(value, int):
            return value
        try:
            return config.parse_bytes(value)
        except EtlError as error:
            self.fail(str(error), param, ctx)


class Duration(click.ParamType[float]):
    """A length of time such as 50ms, 1s or 10min."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return config.parse_duration(value)
        except EtlError as error:
            self.fail(str(error), param, ctx)


class Rejects(click.ParamType[limits.Limit]):
    """A number of rejects such as 100, or a share of the records such as 0.5%."""

    name = "n|p%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> limits.Limit:
        """Return the limit."""
        if isinstance(value, limits.Limit):
            return value
        try:
            return limits.parse(value)
        except EtlError as error:
            self.fail(str(error), param, ctx)


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Apply several option decorators in the order written."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


STORE = click.option("--store", default="partitions", show_default=True, help="Folder of the splits.")
DSN = click.option("--dsn", help="Database URL; else DATABASE_URL, PG*, or the embedded server.")
SCHEMA = click.option("--schema", default="game", show_default=True, help="Schema that applications read.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
QUIET = click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
JOBS = click.option(
    "--jobs",
    "-j",
    type=click.IntRange(min=1),
    help="Worker processes [default: one per core, to load over a long way two].",
)
EXECUTOR = click.option("--executor", help="process://N or inline://; wins over --jobs.")
MEMORY = click.option("--memory-limit", type=Size(), default="1GB", show_default=True, help="For all processes.")
BATCH = click.option("--batch-size", type=click.IntRange(min=1), default=10_000, show_default=True, help="Records.")
MAX_REJECTS = click.option(
    "--max-rejects", type=Rejects(), help="Give up, and publish nothing, beyond so many (100) or such a share (0.5%)."
)
WARM = click.option("--warm", is_flag=True, help="Read ahead into Redis (REDIS_URL) once it is published.")
TIMINGS = click.option("--timings", is_flag=True, help="Print what the time went to, by phase and of the workers.")
YES = click.option("--yes", is_flag=True, help="Do it without asking.")


def emit(value: object) -> None:
    """Print one JSON object on stdout; results are objects of their fields."""
    click.echo(json.dumps(value, ensure_ascii=False, default=_plain))


def _plain(value: object) -> object:
    names = getattr(value, "__struct_fields__", None) or getattr(value, "__dataclass_fields__", None)
    if names is not None:
        return {name: getattr(value, name) for name in names}
    return str(value)


def confirm(question: str, yes: bool) -> None:
    """Ask before something is destroyed; without a terminal refuse instead of hanging (exit 2)."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"nobody is here to answer: {question}", "add --yes to do it without asking")
    if not click.confirm(question, err=True):
        raise UsageError("nothing was done")


def harmless(text: object) -> str:
    """Return a text as one line that does nothing to a terminal or a log, whoever wrote it."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as aligned text; numbers stand right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max([len(title), *(len(row[i]) for row in cells)]) for i, title in enumerate(header)]
    right = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(header))]
    lines = [_line(header, widths, right), "  ".join("-" * width for width in widths)]
    lines += [_line(row, widths, right) for row in cells]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(harmless(value).split())


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(cells, widths, right, strict=True)]
    return "  ".join(padded).rstrip()


def size(count: float) -> str:
    """Return bytes in words: 64 MB."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1024 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit in ("bytes", "KB", "MB") else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError


class Stop:
    """Whether the user wants to stop; the first signal drains, the second ends at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._leaves = 0

    def __call__(self) -> bool:
        """Return True once a signal has come."""
        return bool(self.signal)

    def seeing(self, progress: Progress) -> Progress:
        """Return what takes the events instead of ``progress``, so that it is known what is in flight."""

        def see(event: Event) -> None:
            self._leaves = int(event.facts.get("leaves_in_flight", 0))
            progress(event)

        return see

    def in_flight(self) -> str:
        """Return what a first signal waits for, in words."""
        if not self._leaves:
            return "the work in flight"
        return f"{self._leaves} {'leaf' if self._leaves == 1 else 'leaves'} in flight"


@contextmanager
def watch_signals() -> Iterator[Stop]:
    """Yield a ``Stop`` that the first Ctrl-C or SIGTERM sets; a second one raises KeyboardInterrupt or Terminated."""
    stop = Stop()

    def handle(number: int, _frame: object) -> None:
        if stop.signal:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        stop.signal = number
        click.echo(f"stopping after {stop.in_flight()}; press again to stop now", err=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except Interrupted as error:
        error.exit_code = 128 + (stop.signal or signal.SIGINT)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
