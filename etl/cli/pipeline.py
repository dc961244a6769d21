"""The commands that move data: split, load, rebuild, generate."""

import contextlib
import dataclasses
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from etl import config, timings
from etl.cli import common, timetable
from etl.progress import Reporter

if TYPE_CHECKING:
    from etl import parallel
    from etl.model import Manifest, Superseded
    from etl.outcome import LoadResult
    from etl.splitter import SplitResult

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


def _command() -> str:
    return shlex.join(["etl", *sys.argv[1:]])


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


@click.command()
@click.argument("sources", nargs=-1, required=True)
@SPLIT_OPTIONS
@SHARED_OPTIONS
def split(sources: tuple[str, ...], **given: Any) -> None:
    """Cut SOURCE… into Arrow record batches of one (archetype, powerset) each, under a manifest.

    A SOURCE is a file (.json, .ndjson, also .gz, .zst, .zip), a directory of files, or - for standard input.

    \b
    Example: etl split powers.json --game-version "Homecoming 2025-12-09"
    """
    from etl import splitter

    result = with_progress(given, lambda report: splitter.run(split_options(sources, given), report))
    if given["as_json"]:
        common.emit(split_summary(result, given["store"]))
    else:
        _print_split(result)
        elsewhere = "" if given["store"] == "partitions" else f" --store {shlex.quote(given['store'])}"
        click.echo(f"next: etl load{elsewhere}")
        print_rejects(result.manifest.reject_codes, _reject_paths(result.manifest, given["store"]), are_published=False)
    exit_for_rejects(result.manifest.rejects)


@click.command()
@LOAD_OPTIONS
@SWITCHES
@click.option("--split", "split_id", help="The split to load [default: the store's latest].")
@click.option("--only", multiple=True, help="Renew a part: archetype=KEY or powerset=CATEGORY.SET; may be repeated.")
@click.option("--from-record", type=click.IntRange(min=0), help="Bring in the records from this number on.")
@common.MAX_REJECTS
@common.WARM
@common.TIMINGS
@SHARED_OPTIONS
def load(split_id: str | None, only: tuple[str, ...], from_record: int | None, **given: Any) -> None:
    """Load a split into PostgreSQL: all cores, a leaf per task; then publish it in one instant.

    Stopped at any point, the same command goes on; finished leaves are not loaded again. With --only, --tables or
    --from-record just that part of the published build is renewed, in one transaction.

    \b
    Example: etl load --dsn postgresql://loader@db/game
    """
    clock = timings.Clock()
    from etl import work
    from etl.store import manifest as manifests

    clock.lap("imports")
    options = load_options(given, split_id=split_id)
    warm = warming(given)
    with contextlib.ExitStack() as stack:
        pool = None
        if not only and from_record is None:
            if split_id is None:
                manifests.latest(options.store)  # without a split there is nothing to start anything for
            pool = stack.enter_context(_loaders(options))
            pool.warm(*work.LOAD_MODULES)  # the workers get ready while this process does
        clock.lap("start")
        from etl import coordinator, scope

        clock.lap("imports")
        with common.watch_signals() as stop:
            line = stack.enter_context(coordinator.hold(options)) if pool is not None else None
            part = scope.scope_of(options, only, from_record, line.connection if line is not None else None)
            if part is not None:
                if pool is not None:
                    pool.kill()
                from etl import update
                from etl.cli import change

                renewed = with_progress(
                    given, lambda report: update.update(options, part, report, stop=stop, clock=clock)
                )
                warm()
                change.show(renewed, given["as_json"], with_timings=given["timings"])
                return
            result = with_progress(
                given,
                lambda report: coordinator.load(
                    options, stop.seeing(report), stop=stop, clock=clock, pool=pool, line=line
                ),
            )
    warm()
    _show_load(result, given)


@click.command()
@click.argument("sources", nargs=-1, required=True)
@SPLIT_OPTIONS
@LOAD_OPTIONS
@SWITCHES
@common.WARM
@common.TIMINGS
@SHARED_OPTIONS
def rebuild(sources: tuple[str, ...], **given: Any) -> None:
    """Split SOURCE…, load it into a fresh build beside the one that is read, and publish it.

    \b
    Example: etl rebuild powers.json --jobs 4
    """
    clock = timings.Clock()
    from etl import coordinator, sizing, splitter, work

    clock.lap("imports")
    warm = warming(given)
    options = load_options(given, split_id=None, fresh=True)
    with _loaders(options) as pool:

        def get_ready() -> None:
            """Start the load's workers beside those of the split, if the memory limit has room for both."""
            if sizing.has_room(options, 2 * pool.workers):
                pool.warm(*work.LOAD_MODULES)

        done = with_progress(given, lambda report: splitter.run(split_options(sources, given), report, get_ready))
        clock.lap("split")
        if not given["as_json"]:
            _print_split(done)
        options = dataclasses.replace(options, split_id=done.manifest.split_id)
        with common.watch_signals() as stop:
            result = with_progress(
                given, lambda report: coordinator.load(options, stop.seeing(report), stop=stop, clock=clock, pool=pool)
            )
    warm()
    _show_load(result, given)


@click.command()
@click.option("--shape", type=click.Choice(["i12", "cod"]), required=True)
@click.option("--records", type=click.IntRange(min=0), required=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False), required=True, help="The file; .gz and .zst compress it.")
@click.option("--dirty", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share of bad records.")
@common.JSON
@common.QUIET
def generate(shape: str, records: int, seed: int, out: str, dirty: float, as_json: bool, quiet: bool) -> None:
    """Write synthetic records: the same arguments give the same bytes.

    \b
    Example: etl generate --shape i12 --records 360659 --seed 1 --out i12.json
    """
    from etl import generate as generating

    given = {"quiet": quiet}
    result = with_progress(
        given, lambda report: generating.generate(shape, records, seed, out, dirty=dirty, progress=report)
    )
    if as_json:
        import msgspec

        common.emit({**msgspec.structs.asdict(result), "loaded": result.loaded})
        return
    rate = common.size(result.bytes / max(result.seconds, 1e-9))
    click.echo(
        f"{result.records:,} records, {common.size(result.bytes)} in {result.seconds:.1f} s ({rate}/s): {result.path}"
    )
    if result.dirty_path:
        click.echo(
            f"of them an import must load {result.loaded:,}, supersede {result.superseded:,}"
            f" and reject {result.rejects:,}; the dirty ones are listed in {result.dirty_path}"
        )


def _loaders(options: config.LoadOptions) -> "parallel.Pool":
    """Return the workers of a load, not started yet."""
    from etl import dsn, parallel

    return parallel.Pool(options.executor, {config.DSN_VARIABLE: dsn.resolve(options.dsn)})


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


def split_summary(result: "SplitResult", store: str) -> dict[str, Any]:
    """Return what ``etl split --json`` prints."""
    manifest = result.manifest
    by_archetype: Counter[str] = Counter()
    for partition in manifest.partitions:
        by_archetype[partition.archetype] += partition.rows
    return {
        "split_id": manifest.split_id,
        "reused": result.reused,
        "store": store,
        "format": manifest.format,
        "game_version": manifest.game_version,
        "records": manifest.records,
        "rows": manifest.rows,
        "superseded": manifest.superseded,
        "rejected": manifest.rejects,
        "reject_codes": dict(manifest.reject_codes),
        "reject_paths": list(_reject_paths(manifest, store)),
        "superseded_places": manifest.superseded_places,
        "partitions": len(manifest.partitions),
        "archetypes": dict(sorted(by_archetype.items(), key=lambda item: (-item[1], item[0]))),
        "notes": list(manifest.notes),
        "cleaned": dict(manifest.counts),
        "seconds": round(result.seconds, 3),
    }


def _print_split(result: "SplitResult") -> None:
    """Print the summary of a split, its counts last."""
    manifest = result.manifest
    if result.reused:
        click.echo("already split: these sources, with these options, are in the store")
    _print_first("note", list(manifest.notes), 30)
    _print_first("superseded", [_superseded(place) for place in manifest.superseded_places], 10)
    for name, count in sorted(manifest.counts.items()):
        click.echo(f"cleaned: {name.replace('_', ' ')}: {count:,}")
    took = "" if result.reused else f", {result.seconds:.1f} s"
    click.echo(
        f"split {manifest.split_id} ({manifest.format}): {manifest.records:,} records = {manifest.rows:,} kept"
        f" + {manifest.superseded:,} superseded + {manifest.rejects:,} rejected,"
        f" in {len(manifest.partitions):,} partitions{took}"
    )


def _print_first(word: str, lines: list[str], most: int) -> None:
    for line in lines[:most]:
        click.echo(f"{word}: {common.harmless(line)}")
    if len(lines) > most:
        click.echo(f"{word}: … and {len(lines) - most:,} more, in the manifest")


def _superseded(place: "Superseded") -> str:
    """Return both places of a record that a later one replaces, as far as they are known."""
    old = _place(place.ordinal, place.file, place.offset)
    new = _place(place.by_ordinal, place.by_file, place.by_offset)
    return f"{place.uid}: {old} by {new}"


def _place(ordinal: int, file: str | None, offset: int) -> str:
    known = [*([file] if file else []), *([f"byte {offset}"] if offset >= 0 else [])]
    return f"record {ordinal}" + (f" ({', '.join(known)})" if known else "")


def _reject_paths(manifest: "Manifest", store: str) -> tuple[str, ...]:
    from etl.store import rejects

    return (rejects.place(store, manifest),) if manifest.rejects else ()


def print_rejects(codes: Mapping[str, int], paths: tuple[str, ...], *, are_published: bool = True) -> None:
    """Print what was rejected, why, and where to look: the last line of a run that rejected anything."""
    if not codes:
        return
    reasons = ", ".join(f"{count:,} {code}" for code, count in sorted(codes.items(), key=lambda item: -item[1]))
    if are_published:
        click.echo("next: etl rejects list")
    click.echo(f"rejected: {reasons}; see {' and '.join(paths)}")


def _show_load(result: "LoadResult", given: dict[str, Any]) -> None:
    """Print what a load came to, and exit with 3 where records were set aside."""
    if given["as_json"]:
        common.emit(result)
    elif result.nothing_to_do:
        click.echo(
            f"nothing to do: build {result.build} of split {result.split_id} is published, {result.loaded:,} powers"
        )
        if given["timings"]:
            timetable.show(result.timings)
    else:
        _print_load(result, given["schema"], with_timings=given["timings"])
    if not result.nothing_to_do:
        exit_for_rejects(result.rejected)


def _print_load(result: "LoadResult", schema: str, *, with_timings: bool) -> None:
    for name, count in result.rows.items():
        click.echo(f"  {name:32} {count:>12,} rows")
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in timings.phases(result.timings).items())
    click.echo(f"  seconds: {phases}; in all {result.seconds:.1f}; peak memory {common.size(result.peak_bytes)}")
    click.echo(f"  sent by COPY: {common.size(sum(result.bytes.values()))}")
    if result.leaves_kept:
        click.echo(
            f"  {result.leaves_kept} leaves were there from an earlier run, {result.leaves_loaded} were loaded now"
        )
    if result.renewed:
        click.echo(f"  made anew: {', '.join(result.renewed)}; the rest is that of the build before")
    if not result.settled:
        click.echo("  readers from before linger; the views settle at the next run")
    click.echo(
        f"published build {result.build} in schema {schema} (generation {result.generation}):"
        f" {result.records:,} records = {result.loaded:,} loaded + {result.superseded:,} superseded"
        f" + {result.rejected:,} rejected"
    )
    if with_timings:
        timetable.show(result.timings)
    print_rejects(result.reject_codes, result.reject_paths)


def exit_for_rejects(rejected: int) -> None:
    """End with 3 where records were set aside."""
    if rejected:
        sys.exit(3)
