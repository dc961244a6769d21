"""The commands around what readers cache: stats, clear, warm."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from etl.cli import common
from etl.errors import EtlError, UsageError
from etl.model import Event
from etl.progress import Reporter

if TYPE_CHECKING:
    from etl.read import PowerReader

REDIS = click.option("--redis-url", envvar="REDIS_URL", help="Redis URL; else REDIS_URL. rediss:// is TLS.")
NAMESPACE = click.option(
    "--namespace", default="etl", show_default=True, help="What the readers' keys in Redis begin with."
)


@click.group("cache")
def cache() -> None:
    """What readers cache: figures of all processes, forgetting, reading ahead.

    A publication or an update needs none of this: readers never use what is out of date.

    \b
    Example: etl cache stats
    """


@cache.command()
@REDIS
@NAMESPACE
@common.DSN
@common.SCHEMA
@common.JSON
def stats(redis_url: str | None, namespace: str, dsn: str | None, schema: str, as_json: bool) -> None:
    """Show hits, misses, errors, times and sizes, of all processes of the last day and of Redis itself.

    Times are in microseconds; the 99th percentile is right to within a fifth. local is a process's memory.

    \b
    Example: etl cache stats --json
    """
    with _reader(named(redis_url), namespace, dsn, schema) as reader:
        published = reader.generation()
        found = reader.stats_of_all()
    if found is None:
        raise EtlError("Redis does not answer", "check REDIS_URL, and that the server runs")
    if as_json:
        common.emit({"generation": published.generation, "build": published.build, **found})
        return
    _show_stats(found, published.generation)


@cache.command()
@click.option("--power", help="Forget one power: its full name or its id.")
@click.option("--powerset", help="Forget a powerset and its powers: its full name or its id.")
@click.option("--all", "everything", is_flag=True, help="Forget everything.")
@REDIS
@NAMESPACE
@common.DSN
@common.SCHEMA
@common.JSON
def clear(
    power: str | None,
    powerset: str | None,
    everything: bool,
    redis_url: str | None,
    namespace: str,
    dsn: str | None,
    schema: str,
    as_json: bool,
) -> None:
    """Let all processes and Redis forget one power, one powerset or everything, after rows were changed by hand.

    \b
    Example: etl cache clear --power blaster_ranged.fire_blast.fire_blast
    """
    if sum((power is not None, powerset is not None, everything)) != 1:
        raise UsageError("say what to forget", "--power NAME, --powerset NAME or --all")
    with _reader(redis_url or "", namespace, dsn, schema) as reader:
        if everything:
            told = reader.forget_all()
        elif power is not None:
            told = reader.forget_power(_power_id(reader, power))
        else:
            told = reader.forget_powerset(_powerset_id(reader, str(powerset)))
    what = "everything" if everything else power or powerset
    if not told:
        raise EtlError(f"the processes were told to forget {what}, but Redis does not answer", "check REDIS_URL")
    if as_json:
        common.emit({"forgotten": what, "redis": bool(redis_url)})
    else:
        click.echo(f"forgotten: {what}" + ("" if redis_url else " (in memory; no Redis is named)"))


@cache.command()
@click.option("--archetype", help="Only the powers of this archetype.")
@click.option("--jobs", "-j", type=click.IntRange(min=1), default=4, show_default=True, help="Connections at work.")
@REDIS
@NAMESPACE
@common.DSN
@common.SCHEMA
@common.JSON
@common.QUIET
def warm(
    archetype: str | None,
    jobs: int,
    redis_url: str | None,
    namespace: str,
    dsn: str | None,
    schema: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Read powers, powersets and build summaries ahead, so that Redis has them.

    \b
    Example: etl cache warm --archetype blaster
    """
    done = warm_redis(named(redis_url), namespace, dsn, schema, archetype=archetype, jobs=jobs, quiet=quiet)
    if as_json:
        common.emit(done)
    else:
        click.echo(
            f"warmed: {done['powersets']:,} powersets, {done['powers']:,} powers, {done['seconds']:.1f} s; stored "
            f"{common.size(done['stored_bytes'])} of {common.size(done['json_bytes'])}"
        )


def warm_redis(
    redis_url: str,
    namespace: str,
    dsn: str | None,
    schema: str,
    *,
    archetype: str | None = None,
    jobs: int = 4,
    quiet: bool = False,
) -> dict[str, Any]:
    """Read ahead with progress; return counts, bytes of JSON, bytes stored, seconds.

    Raises:
        EtlError: Redis did not take it.
    """
    import time

    from etl.read import PoolOptions

    started, reporter = time.perf_counter(), Reporter(quiet=quiet)
    try:
        with _reader(redis_url, namespace, dsn, schema, pool=PoolOptions(overflow=jobs)) as reader:
            counts = reader.warm(
                archetype,
                jobs=jobs,
                progress=lambda done, total: reporter(Event(phase="warm", done=done, total=total, unit="powersets")),
            )
            events = reader.stats()["events"]
    finally:
        reporter.close()
    if events.get("redis_errors") or events.get("redis_store_errors"):
        raise EtlError(
            "Redis did not take all of it: it fails, or is full", "check REDIS_URL and maxmemory, then etl cache warm"
        )
    return {
        **counts,
        "json_bytes": events.get("redis_bytes_before", 0),
        "stored_bytes": events.get("redis_bytes_stored", 0),
        "seconds": round(time.perf_counter() - started, 3),
    }


def warm_after(redis_url: str, dsn: str | None, schema: str, quiet: bool) -> None:
    """Read ahead after a publication; where Redis fails, say so: what was published stays published."""
    try:
        done = warm_redis(redis_url, "etl", dsn, schema, quiet=quiet)
    except EtlError as error:
        click.echo(f"not warmed: {error}", err=True)
    else:
        click.echo(f"warmed: {done['powers']:,} powers in {done['seconds']:.1f} s", err=True)


def named(redis_url: str | None) -> str:
    """Return the URL of Redis, or refuse where there is none."""
    if not redis_url:
        raise UsageError("no Redis is named", "--redis-url redis://host:6379/0, or set REDIS_URL")
    return redis_url


@contextmanager
def _reader(redis_url: str, namespace: str, dsn: str | None, schema: str, **settings: Any) -> Iterator["PowerReader"]:
    from etl.read import PowerReader

    if not logging.getLogger("etl").isEnabledFor(logging.INFO):  # what fails is told by the command
        for name in ("etl.read", "psycopg.pool"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with PowerReader(dsn, redis_url, schema=schema, namespace=namespace, redis_timeout_s=1.0, **settings) as reader:
        yield reader


def _power_id(reader: "PowerReader", name_or_id: str) -> int:
    if name_or_id.isdigit():
        return int(name_or_id)
    found = reader.power_by_name(name_or_id)
    if found is None:
        raise UsageError(f"there is no power {name_or_id}", "write it as Category.Set.Power, or give its id")
    return found.id


def _powerset_id(reader: "PowerReader", name_or_id: str) -> int | str:
    number = int(name_or_id) if name_or_id.isdigit() else name_or_id
    if reader.powers(number) is None:
        raise UsageError(f"there is no powerset {name_or_id}", "write it as Category.Set, or give its id")
    return number


def _show_stats(found: dict[str, Any], generation: int) -> None:
    names = ("hits", "misses", "errors", "hit_rate", "mean_us", "p99_us")
    rows = [
        [tier, kind, *(figures[name] for name in names)]
        for tier in ("local", "redis", "database")
        for kind, figures in found["tiers"].get(tier, {}).items()
    ]
    if rows:
        click.echo(common.table(["tier", "kind", *names], rows))
    local, server = found["local"], found["redis"]
    seen = ", ".join(map(str, found["generations"])) or "none"
    click.echo(f"generation {generation} is published; {found['processes']} process(es) have seen {seen}")
    click.echo(
        f"local: {local.get('entries', 0):,} entries, {common.size(local.get('bytes', 0))}"
        f" of {common.size(local.get('budget_bytes', 0))}; {local.get('evicted', 0):,} thrown out"
    )
    click.echo(
        f"redis at {server['at']}: version {server['redis_version']}, {server['keys']:,} keys,"
        f" {common.size(server['used_memory'])}, {server['evicted_keys']:,} evicted, {server['expired_keys']:,} expired"
    )
    for name, count in found["events"].items():
        click.echo(f"{name.replace('_', ' ')}: {count:,}")
