"""What a user may set, as frozen dataclasses; ``etl.cli`` fills them from options and environment."""

import os
import re
from dataclasses import dataclass

from etl.errors import UsageError

MIB = 1024 * 1024

# How a worker learns the connection string: set inside the worker once it runs, so that it is in no process listing.
DSN_VARIABLE = "ETL_WORKER_DSN"

_UNITS = {"": 1, "K": 1024, "M": MIB, "G": 1024 * MIB, "T": 1024 * 1024 * MIB}


def parse_bytes(text: str) -> int:
    """Return the number of bytes in a text such as ``4096``, ``400MB``, ``1GB`` or ``64KiB`` (powers of 1,024)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(f"'{text}' is no size", "write it like 400MB or 1GB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def default_jobs() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def executor_url(executor: str | None, jobs: int | None) -> str:
    """Return the executor to use: ``executor`` wins over ``jobs``; the default is one process per core."""
    return executor or f"process://{jobs or default_jobs()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOptions:
    """Options of ``etl split``. ``format`` is auto, cod, i12 or mids; ``nul`` is strip or reject."""

    sources: tuple[str, ...]
    store: str = "partitions"
    format: str = "auto"
    records_path: str | None = None
    executor: str = "process://1"
    memory_limit_bytes: int = 1024 * MIB
    batch_rows: int = 10_000
    chunk_bytes: int = 4 * MIB
    game_version: str | None = None
    archetypes: str | None = None
    powersets: str | None = None
    nul: str = "strip"
    general_path: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """Options of ``etl load``. ``tables`` empty means all; ``schema`` is the live schema that applications read."""

    store: str = "partitions"
    split_id: str | None = None
    dsn: str | None = None
    schema: str = "game"
    tables: tuple[str, ...] = ()
    executor: str = "process://1"
    memory_limit_bytes: int = 1024 * MIB
    batch_rows: int = 10_000
    fresh: bool = False
    command: str = "etl load"


def redact_command(command: str) -> str:
    """Return a command line without the passwords of its connection strings, for the import log."""
    return re.sub(r"(://[^:/@\s]+):[^@\s]+@|(password=)\S+", lambda m: f"{m[1]}@" if m[1] else f"{m[2]}…", command)
