"""What a user may set, as frozen dataclasses; ``etl.cli`` fills them from options and environment."""

import os
import re
from dataclasses import dataclass

from etl.errors import UsageError
from etl.limits import Limit

MIB = 1024 * 1024

# What the process that hands out the work takes of a memory limit, before its workers take their share.
COORDINATOR_BYTES = 60 * MIB

# How a worker learns the connection string: set inside the worker once it runs, so that it is in no process listing.
DSN_VARIABLE = "ETL_WORKER_DSN"

_MOST_SCHEMA_BYTES = 55

# Methods of indexes worth deferring alone: the others are built in a fraction of the time (docs/performance.md, GIN).
DEFERRABLE = ("gin",)

_UNITS = {"": 1, "K": 1024, "M": MIB, "G": 1024 * MIB, "T": 1024 * 1024 * MIB}


def parse_bytes(text: str) -> int:
    """Return the number of bytes in a text such as ``4096``, ``400MB``, ``1GB`` or ``64KiB`` (powers of 1,024)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(f"'{text}' is no size", "write it like 400MB or 1GB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Return the seconds in a text such as ``50ms``, ``1s``, ``10min`` or ``0.5h``; a bare number is seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h)?", text.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(f"'{text}' is no length of time", "write it like 50ms, 1s or 10min")
    return float(found[1]) * _SECONDS[(found[2] or "s").lower()]


def default_jobs() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def executor_url(executor: str | None, jobs: int | None) -> str:
    """Return the executor to use: ``executor`` wins over ``jobs``; the default is one process per core."""
    return executor or f"process://{jobs or default_jobs()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOptions:
    """Options of ``etl split``. ``format`` is auto, cod, i12 or mids; ``nul`` is strip or reject.

    With more rejects than ``max_rejects`` nothing is committed.
    """

    sources: tuple[str, ...]
    store: str = "partitions"
    format: str = "auto"
    records_path: str | None = None
    executor: str = "process://1"
    memory_limit_bytes: int = 1024 * MIB
    batch_rows: int = 10_000
    chunk_bytes: int = 512 * 1024
    game_version: str | None = None
    archetypes: str | None = None
    powersets: str | None = None
    nul: str = "strip"
    general_path: bool = False
    max_rejects: Limit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """Options of ``etl load``. ``tables`` empty means all; ``schema`` is the live schema that applications read.

    ``lock_timeout_s`` is the longest wait for a view's lock per attempt, ``publish_timeout_s`` for all of them.
    ``retry_timeout_s`` is how long a database that went away is waited for. ``more_when_far`` lets each
    process of the executor load several leaves at once where the server is far away.
    With more rejects than ``max_rejects``, those of the split included, nothing is published.
    ``durability`` is safe or fast, ``indexes`` after, before or deferred, ``defer_indexes`` the method of indexes that alone
    are deferred (docs/switches.md says what each is good for).
    """

    store: str = "partitions"
    split_id: str | None = None
    dsn: str | None = None
    schema: str = "game"
    tables: tuple[str, ...] = ()
    executor: str = "process://1"
    more_when_far: bool = False
    memory_limit_bytes: int = 1024 * MIB
    batch_rows: int = 10_000
    fresh: bool = False
    lock_timeout_s: float = 1.0
    publish_timeout_s: float = 600.0
    retry_timeout_s: float = 120.0
    durability: str = "safe"
    indexes: str = "after"
    defer_indexes: str | None = None
    freeze: bool = True
    command: str = "etl load"
    max_rejects: Limit | None = None

    def __post_init__(self) -> None:
        """Refuse a live schema that cannot be one, and switches that contradict each other."""
        check_live_schema(self.schema)
        if self.defer_indexes not in (None, *DEFERRABLE):
            raise UsageError(
                f"indexes of method {self.defer_indexes} cannot be deferred alone",
                f"--defer-indexes {' or '.join(DEFERRABLE)}, or --indexes deferred for all",
            )
        if self.defer_indexes and self.indexes == "deferred":
            raise UsageError(
                f"--indexes deferred leaves all indexes for later, --defer-indexes {self.defer_indexes} only some",
                "leave out one of the two",
            )

    @property
    def deferred(self) -> str:
        """Return which indexes are built after the publication: none, all, or those of a method (``ddl.Index.waits``)."""
        return "all" if self.indexes == "deferred" else self.defer_indexes or "none"


def check_live_schema(name: str) -> None:
    """Raise UsageError where no live schema can have this name.

    It must not be the registry's or the server's own, and with the numbers of its builds ("_b123456") it must fit into
    PostgreSQL's 63 bytes.
    """
    if name in ("etl", "information_schema") or name.startswith("pg_"):
        raise UsageError(f"schema {name} is not for game data", "choose another one: --schema NAME")
    if not 0 < len(name.encode()) <= _MOST_SCHEMA_BYTES or "\0" in name:
        raise UsageError(
            f"'{name}' cannot be the name of the live schema: it must have 1 to {_MOST_SCHEMA_BYTES} bytes",
            "choose another one: --schema NAME",
        )


def redact_command(command: str) -> str:
    """Return a command line without the passwords of its connection strings, for the import log."""
    return re.sub(r"(://[^:/@\s]+):[^@\s]+@|(password=)\S+", lambda m: f"{m[1]}@" if m[1] else f"{m[2]}…", command)
