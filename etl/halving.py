"""Finding the records at fault in a lot that is refused as a whole, by trying halves."""

from collections.abc import Callable, Iterator

Refusal = Callable[[int, int], str | None]
"""Tries the records from one position up to another; returns why they are refused, or None where they are not."""


def guilty(low: int, high: int, reason: str, refusal: Refusal) -> Iterator[tuple[int, str]]:
    """Yield (position, reason) of records at fault in ``low`` up to ``high``, which are known to be refused.

    Without those that are yielded each half passes. Where two records do not go together, as two that want the same
    key, the later one is at fault; what is left may be refused again then, and is for the caller to try.
    """
    if high - low == 1:
        yield low, reason
        return
    middle = (low + high) // 2
    left, right = refusal(low, middle), refusal(middle, high)
    if left is None and right is None:
        yield _last_straw(low, middle, high, reason, refusal)
    if left is not None:
        yield from guilty(low, middle, left, refusal)
    if right is not None:
        yield from guilty(middle, high, right, refusal)


def _last_straw(low: int, passes: int, fails: int, reason: str, refusal: Refusal) -> tuple[int, str]:
    """Return the record with which those from ``low`` on are refused, and without which they are not."""
    while fails - passes > 1:
        middle = (passes + fails) // 2
        found = refusal(low, middle)
        if found is None:
            passes = middle
        else:
            fails, reason = middle, found
    return fails - 1, reason
