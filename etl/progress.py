"""The door to the person at the keyboard: a bar per pass on a terminal, a line every few seconds otherwise."""

import sys
import time
from typing import Any, TextIO

from etl.model import Event

_LINE_INTERVAL_S = 5.0
_SCALES = {"bytes": (1024.0**2, "MB"), "rows": (1.0, "records"), "steps": (1.0, "")}


class Reporter:
    """Shows events on stderr; call it with each, and ``close`` it at the end."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._bars = self._stream.isatty()
        self._bar: Any = None
        self._phase = ""
        self._started = 0.0
        self._said = 0.0

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if self._quiet:
            return
        if event.phase != self._phase:
            self._begin(event)
        elif self._bars:
            self._move_bar(event)
        elif time.monotonic() - self._said >= _LINE_INTERVAL_S:
            self._line(event)

    def close(self) -> None:
        """End the last bar; what was shown stays."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._phase = ""

    def _begin(self, event: Event) -> None:
        self.close()
        self._phase, self._started, self._said = event.phase, time.monotonic(), time.monotonic()
        if self._bars and event.total:
            self._open_bar(event)
        elif not self._bars or not event.total:
            self._stream.write(f"{event.phase} …\n")
            self._stream.flush()

    def _open_bar(self, event: Event) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=event.total,
            initial=event.done,
            desc=event.phase,
            unit="B" if event.unit == "bytes" else " rec",
            unit_scale=True,
            unit_divisor=1024 if event.unit == "bytes" else 1000,
            file=self._stream,
            leave=True,
            dynamic_ncols=True,
        )

    def _move_bar(self, event: Event) -> None:
        if self._bar is None and event.total:
            self._open_bar(event)
        if self._bar is not None:
            self._bar.total = event.total or self._bar.total
            self._bar.update(event.done - self._bar.n)

    def _line(self, event: Event) -> None:
        self._said = time.monotonic()
        scale, unit = _SCALES.get(event.unit, (1.0, event.unit))
        elapsed = max(1e-9, self._said - self._started)
        text = f"{event.phase}: {event.done / scale:,.0f}"
        if event.total:
            left = elapsed * (event.total - event.done) / max(1, event.done)
            text += f" of {event.total / scale:,.0f} {unit} ({100 * event.done / event.total:.0f} %), {left:.0f} s left"
        else:
            text += f" {unit}"
        self._stream.write(text + "\n")
        self._stream.flush()
