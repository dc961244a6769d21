"""What the commands that move data share: their options, progress, and what is said of rejects."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from etl import config
from etl.cli import common
from etl.progress import Reporter

T = TypeVar("T")

SPLIT_OPTIONS = common.options(
    click.option(
        "--format", "format_name", type=click.Choice(["auto", "cod", "i12", "mids"]), default="auto", show_default=True
    ),
    click.option("--records-path", help="Where the records are in a bigger document, like powers.item."),
    click.option("--chunk-size", type=common.Size(), default="512KB", show_default=True, help="Read buffer."),
    click.option("--game-version", help="Kept with the split and in the import log."),
    click.option("--archetypes", type=click.Path(), help="City of Data archetypes file [default: beside the source]."),
    click.option("--powersets", type=click.Path(), help="City of Data powersets file [default: beside the source]."),
    click.option(
        "--nul",
        type=click.Choice(["strip", "reject"]),
        default="strip",
        show_default=True,
        help="What to do with NUL characters in descriptive text.",
    ),
    common.MAX_REJECTS,
)


LOAD_OPTIONS = common.options(
    common.DSN,
    common.SCHEMA,
    click.option("--tables", help="Only these tables, separated by commas."),
)


# What each is good for, and risks: docs/switches.md.
SWITCHES = common.options(
    click.option(
        "--durability",
        type=click.Choice(["safe", "fast"]),
        default="safe",
        show_default=True,
        help="fast: an unpublished build does not wait for the disk; what is published is on it.",
    ),
    click.option(
        "--indexes",
        type=click.Choice(["after", "before", "deferred"]),
        default="after",
        show_default=True,
        help="Build them after the rows, before them, or most of them after the publication.",
    ),
    click.option(
        "--defer-indexes",
        type=click.Choice(config.DEFERRABLE),
        help="Build only the indexes of this method after the publication; the others as --indexes says.",
    ),
    click.option("--freeze/--no-freeze", default=True, show_default=True, help="Write rows that need no vacuum later."),
    click.option(
        "--lock-timeout",
        type=common.Duration(),
        default="1s",
        show_default=True,
        help="Longest wait for a view's lock per attempt, from 50 ms on.",
    ),
    click.option(
        "--publish-timeout",
        type=common.Duration(),
        default="10min",
        show_default=True,
        help="How long to try while readers hold a view.",
    ),
    click.option(
        "--retry-timeout",
        type=common.Duration(),
        default="2min",
        show_default=True,
        help="How long to wait for a database that went away in the middle.",
    ),
)


SHARED_OPTIONS = common.options(
    common.STORE, common.JOBS, common.EXECUTOR, common.MEMORY, common.BATCH, common.JSON, common.QUIET
)


def split_options(sources: tuple[str, ...], given: dict[str, Any]) -> config.SplitOptions:
    """Return the options of a split from those of a command."""
    return config.SplitOptions(
        sources=sources,
        store=given["store"],
        format=given["format_name"],
        records_path=given["records_path"],
        executor=config.executor_url(given["executor"], given["jobs"]),
        memory_limit_bytes=given["memory_limit"],
        batch_rows=given["batch_size"],
        chunk_bytes=given["chunk_size"],
        game_version=given["game_version"],
        archetypes=given["archetypes"],
        powersets=given["powersets"],
        nul=given["nul"],
        max_rejects=given["max_rejects"],
    )


def load_options(given: dict[str, Any], *, split_id: str | None = None, fresh: bool = False) -> config.LoadOptions:
    """Return the options of a load from those of a command."""
    names = [name.strip() for name in (given["tables"] or "").split(",")]
    return config.LoadOptions(
        store=given["store"],
        split_id=split_id,
        dsn=given["dsn"],
        schema=given["schema"],
        tables=tuple(name for name in names if name),
        executor=config.executor_url(given["executor"], given["jobs"]),
        more_when_far=not given["executor"] and not given["jobs"],
        memory_limit_bytes=given["memory_limit"],
        batch_rows=given["batch_size"],
        fresh=fresh,
        command=config.redact_command(_command()),
        max_rejects=given["max_rejects"],
        **_switches(given),
    )


def _switches(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of ``SWITCHES``, for those commands that have them."""
    names = {"durability": "durability", "indexes": "indexes", "defer_indexes": "defer_indexes", "freeze": "freeze"}
    names |= {"lock_timeout": "lock_timeout_s", "publish_timeout": "publish_timeout_s"}
    names |= {"retry_timeout": "retry_timeout_s"}
    return {field: given[name] for name, field in names.items() if name in given}


def _command() -> str:
    return shlex.join(["etl", *sys.argv[1:]])


def warming(given: dict[str, Any]) -> Callable[[], None]:
    """Return what is to be done after a publication: reading ahead into Redis if that is asked for, else nothing.

    Raises:
        UsageError: it is asked for, and no Redis is named.
    """
    if not given["warm"]:
        return lambda: None
    from etl.cli import cache

    redis_url = cache.named(os.environ.get("REDIS_URL"))
    return lambda: cache.warm_after(redis_url, given["dsn"], given["schema"], given["quiet"])


def with_progress(given: dict[str, Any], function: Callable[[Reporter], T]) -> T:
    """Call a function with a reporter of progress, and end what that shows."""
    reporter = Reporter(quiet=given["quiet"])
    try:
        return function(reporter)
    finally:
        reporter.close()


def print_rejects(codes: Mapping[str, int], paths: tuple[str, ...], *, are_published: bool = True) -> None:
    """Print what was rejected, why, and where to look: the last line of a run that rejected anything."""
    if not codes:
        return
    reasons = ", ".join(f"{count:,} {code}" for code, count in sorted(codes.items(), key=lambda item: -item[1]))
    if are_published:
        click.echo("next: etl rejects list")
    click.echo(f"rejected: {reasons}; see {' and '.join(paths)}")


def exit_for_rejects(rejected: int) -> None:
    """End with 3 where records were set aside."""
    if rejected:
        sys.exit(3)
