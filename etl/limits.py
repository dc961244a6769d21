"""Rejects: how many may be set aside before a run gives up (--max-rejects), and how much is kept of each."""

import re
from dataclasses import dataclass

from etl.errors import TooManyRejects, UsageError

MAX_RAW_BYTES = 64 * 1024
"""How much of a rejected record's text is kept."""

# A share is judged early only when this many records were seen: one bad record among the first ten says nothing.
_ENOUGH = 1_000


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``records`` rejects, or at most ``share`` (0 to 1) of all records; the other one is None."""

    records: int | None = None
    share: float | None = None

    def __str__(self) -> str:
        return f"{self.records:,}" if self.share is None else f"{self.share * 100:g}%"

    def of(self, records: float) -> int:
        """Return how many of so many records may be rejected."""
        return int(records * self.share) if self.share is not None else self.records or 0


def parse(text: str) -> Limit:
    """Return the limit in a text such as ``100`` or ``0.5%``.

    Raises:
        UsageError: it is no such text.
    """
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)\s*%", text.strip())
    if not found or (found[2] and float(found[2]) > 100):
        raise UsageError(f"'{text}' is no limit of rejects", "write it like 100 (records) or 0.5% (of all records)")
    return Limit(records=int(found[1])) if found[1] else Limit(share=float(found[2]) / 100)


def check(rejected: int, most: int | None) -> None:
    """Raise TooManyRejects where there are more than ``most`` (None: there is no limit)."""
    if most is not None and rejected > most:
        raise too_many(rejected, f"{most:,}")


def check_so_far(limit: Limit | None, rejected: int, records: int, done_bytes: int, all_bytes: int) -> None:
    """Give up on a run that is on its way: a share is judged by as many records as the bytes make likely.

    Raises:
        TooManyRejects: there are more rejects than the limit allows.
    """
    if limit is None:
        return
    if limit.share is None:
        check(rejected, limit.records)
    elif records >= _ENOUGH and done_bytes and rejected > limit.of(records * max(1.0, all_bytes / done_bytes)):
        raise too_many(rejected, str(limit), f" of the first {records:,} records")


def check_all(limit: Limit | None, rejected: int, records: int) -> None:
    """Judge the whole: ``rejected`` of ``records``.

    Raises:
        TooManyRejects: there are more rejects than the limit allows.
    """
    if limit is not None and rejected > limit.of(records):
        raise too_many(rejected, str(limit), f" of {records:,} records")


def too_many(rejected: int, limit: str, of: str = "") -> TooManyRejects:
    """Return the error that says so."""
    return TooManyRejects(
        f"{rejected:,} records{of} had to be set aside, --max-rejects allows {limit}; nothing was published",
        "etl validate SOURCE… names them all; mend the source, or raise --max-rejects",
    )
