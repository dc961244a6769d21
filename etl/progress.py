"""The door to the person at the keyboard: a bar per pass on a terminal, a line every few seconds otherwise."""

import os
import sys
import time
from typing import Any, TextIO

from etl.model import Event

_LINE_INTERVAL_S = 5.0
_SCALES = {"bytes": (1024.0**2, "MB"), "rows": (1.0, "records"), "steps": (1.0, "steps")}
_USUAL_COLUMNS = 80


class Reporter:
    """Shows events on stderr; call it with each, and ``close`` it at the end.

    On a terminal a pass leaves its finished bar behind; a step without a length shows its name only while it lasts.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._bars = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._bar: Any = None
        self._shown = ""
        self._phase = ""
        self._started = 0.0
        self._said = 0.0

    def __call__(self, event: Event) -> None:
        """Show one event, if there is anything new to see."""
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
        self._clear()
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._phase = ""

    def _begin(self, event: Event) -> None:
        self.close()
        self._phase, self._started, self._said = event.phase, time.monotonic(), time.monotonic()
        if not self._bars:
            self._write(f"{event.phase} …\n")
        elif event.total:
            self._open_bar(event)
        else:
            self._shown = f"{event.phase} …"
            self._write(self._shown)

    def _clear(self) -> None:
        """Take the name of a step away again, without control sequences that a terminal might not know."""
        if self._shown:
            self._write(f"\r{' ' * len(self._shown)}\r")
            self._shown = ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _open_bar(self, event: Event) -> None:
        from tqdm import tqdm

        self._clear()
        # Some terminals do not tell their width, and tqdm would show nothing at all then.
        is_wide = os.get_terminal_size(self._stream.fileno()).columns > 0
        self._bar = tqdm(
            total=event.total,
            initial=event.done,
            desc=event.phase,
            unit="B" if event.unit == "bytes" else " records",
            unit_scale=True,
            unit_divisor=1024 if event.unit == "bytes" else 1000,
            file=self._stream,
            leave=True,
            ncols=None if is_wide else _USUAL_COLUMNS,
            dynamic_ncols=is_wide,
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
        self._write(text + "\n")
