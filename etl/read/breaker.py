"""A circuit breaker: what failed is left alone for a while, so that a dying or hanging service costs little."""

import threading
import time


class Breaker:
    """Closed while a service answers; after a failure open for ``first_s``, doubling up to ``longest_s``.

    When the time is over, one caller tries; the others go without until it succeeded.
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._lock = threading.Lock()
        self._pause_s = 0.0
        self._until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the service is being left alone since it failed."""
        return self._pause_s > 0.0

    def allows(self) -> bool:
        """Return whether to ask the service now."""
        if not self._pause_s:
            return True
        with self._lock:
            if time.monotonic() < self._until:
                return False
            self._until = time.monotonic() + self._pause_s  # the others wait for what this one finds
            return True

    def failed(self) -> bool:
        """Leave the service alone for a while; return whether it was well until now."""
        with self._lock:
            was_well = not self._pause_s
            self._pause_s = min(max(2 * self._pause_s, self._first_s), self._longest_s)
            self._until = time.monotonic() + self._pause_s
            return was_well

    def worked(self) -> bool:
        """Note that the service answered; return whether it had failed before."""
        if not self._pause_s:
            return False
        with self._lock:
            had_failed, self._pause_s = bool(self._pause_s), 0.0
            return had_failed
