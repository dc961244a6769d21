"""Turn a big game-data JSON export into a PostgreSQL database that an application can read at once.

The passes as functions, with the same results that the commands print:

    >>> import etl
    >>> manifest = etl.split("powers.json")
    >>> result = etl.load(dsn="postgresql:///game")
    >>> print(result.loaded, "powers in build", result.build)

A script that calls them must guard its entry with ``if __name__ == "__main__":``, because workers are spawned.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from etl import config, limits
from etl.errors import EtlError
from etl.model import Event, Manifest, Progress

if TYPE_CHECKING:
    from etl.outcome import LoadResult
    from etl.splitter.validate import ValidateResult

__all__ = ["EtlError", "Event", "Manifest", "Progress", "load", "rebuild", "split", "validate"]


def split(
    *sources: str,
    store: str = "partitions",
    format: str = "auto",
    records_path: str | None = None,
    jobs: int | None = None,
    executor: str | None = None,
    memory_limit: str = "1GB",
    batch_size: int = 10_000,
    chunk_size: str = "512KB",
    game_version: str | None = None,
    archetypes: str | None = None,
    powersets: str | None = None,
    nul: str = "strip",
    max_rejects: str | None = None,
    on_progress: Progress | None = None,
) -> Manifest:
    """Cut the sources into record batches in the store; the arguments are the options of ``etl split``.

    Raises:
        InputError: a source cannot be read, is broken, or has an unknown shape; nothing was committed.
    """
    from etl import splitter

    options = config.SplitOptions(
        sources=sources,
        store=store,
        format=format,
        records_path=records_path,
        executor=config.executor_url(executor, jobs),
        memory_limit_bytes=config.parse_bytes(memory_limit),
        batch_rows=batch_size,
        chunk_bytes=config.parse_bytes(chunk_size),
        game_version=game_version,
        archetypes=archetypes,
        powersets=powersets,
        nul=nul,
        max_rejects=limits.parse(max_rejects) if max_rejects else None,
    )
    return splitter.split(options, on_progress)


def load(
    *,
    store: str = "partitions",
    split_id: str | None = None,
    dsn: str | None = None,
    schema: str = "game",
    tables: Iterable[str] = (),
    jobs: int | None = None,
    executor: str | None = None,
    memory_limit: str = "1GB",
    batch_size: int = 10_000,
    fresh: bool = False,
    durability: str = "safe",
    indexes: str = "after",
    defer_indexes: str | None = None,
    freeze: bool = True,
    lock_timeout: str = "1s",
    publish_timeout: str = "10min",
    max_rejects: str | None = None,
    on_progress: Progress | None = None,
) -> "LoadResult":
    """Load a split of the store and publish it; the arguments are the options of ``etl load``.

    ``fresh`` fills a new build even if the published one is already this split.

    Raises:
        EtlError: see ``etl.coordinator.load``; nothing was published.
    """
    from etl import coordinator

    options = config.LoadOptions(
        store=store,
        split_id=split_id,
        dsn=dsn,
        schema=schema,
        tables=tuple(tables),
        executor=config.executor_url(executor, jobs),
        memory_limit_bytes=config.parse_bytes(memory_limit),
        batch_rows=batch_size,
        fresh=fresh,
        durability=durability,
        indexes=indexes,
        defer_indexes=defer_indexes,
        freeze=freeze,
        lock_timeout_s=config.parse_duration(lock_timeout),
        publish_timeout_s=config.parse_duration(publish_timeout),
        command="etl.load()",
        max_rejects=limits.parse(max_rejects) if max_rejects else None,
    )
    return coordinator.load(options, on_progress)


def rebuild(
    *sources: str,
    store: str = "partitions",
    dsn: str | None = None,
    schema: str = "game",
    jobs: int | None = None,
    format: str = "auto",
    game_version: str | None = None,
    memory_limit: str = "1GB",
    on_progress: Progress | None = None,
) -> "LoadResult":
    """Split the sources, load them into a fresh build, and publish it.

    Raises:
        EtlError: as ``split`` and ``load``; what readers see is unchanged then.
    """
    manifest = split(
        *sources,
        store=store,
        format=format,
        jobs=jobs,
        game_version=game_version,
        memory_limit=memory_limit,
        on_progress=on_progress,
    )
    return load(
        store=store,
        split_id=manifest.split_id,
        dsn=dsn,
        schema=schema,
        jobs=jobs,
        memory_limit=memory_limit,
        fresh=True,
        on_progress=on_progress,
    )


def validate(
    *sources: str,
    format: str = "auto",
    records_path: str | None = None,
    jobs: int | None = None,
    executor: str | None = None,
    memory_limit: str = "1GB",
    archetypes: str | None = None,
    powersets: str | None = None,
    nul: str = "strip",
    examples: int = 3,
    rejects_file: str | None = None,
    all_keys: bool = False,
    on_progress: Progress | None = None,
) -> "ValidateResult":
    """Tell what a load of the sources would reject, without a database; the arguments are the options of the command.

    Raises:
        InputError: a source cannot be read, is broken, or has an unknown shape.
    """
    from etl.splitter import validate as validation

    options = config.SplitOptions(
        sources=sources,
        format=format,
        records_path=records_path,
        executor=config.executor_url(executor, jobs),
        memory_limit_bytes=config.parse_bytes(memory_limit),
        archetypes=archetypes,
        powersets=powersets,
        nul=nul,
    )
    return validation.validate(options, on_progress, examples=examples, rejects_file=rejects_file, all_keys=all_keys)
