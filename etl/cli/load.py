"""The commands that fill the database: load, rebuild."""

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import click

from etl import config, timings
from etl.cli import common, pipeline, timetable
from etl.cli import split as splitting

if TYPE_CHECKING:
    from etl import parallel
    from etl.outcome import LoadResult


@click.command()
@pipeline.LOAD_OPTIONS
@pipeline.SWITCHES
@click.option("--split", "split_id", help="The split to load [default: the store's latest].")
@click.option("--only", multiple=True, help="Renew a part: archetype=KEY or powerset=CATEGORY.SET; may be repeated.")
@click.option("--from-record", type=click.IntRange(min=0), help="Bring in the records from this number on.")
@common.MAX_REJECTS
@common.WARM
@common.TIMINGS
@pipeline.SHARED_OPTIONS
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
    options = pipeline.load_options(given, split_id=split_id)
    warm = pipeline.warming(given)
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
            opening = stack.enter_context(coordinator.hold(options)) if pool is not None else None
            asked = (opening.line.connection, opening.ledger) if opening is not None else ()
            part = scope.scope_of(options, only, from_record, *asked)
            if part is not None:
                if opening is not None:
                    opening.line.close()  # it may have the lock
                if pool is not None:
                    pool.kill()
                from etl import update
                from etl.cli import change

                renewed = pipeline.with_progress(
                    given, lambda report: update.update(options, part, report, stop=stop, clock=clock)
                )
                warm()
                change.show(renewed, given["as_json"], with_timings=given["timings"])
                return
            result = pipeline.with_progress(
                given,
                lambda report: coordinator.load(
                    options, stop.seeing(report), stop=stop, clock=clock, pool=pool, opening=opening
                ),
            )
    warm()
    _show(result, given)


@click.command()
@click.argument("sources", nargs=-1, required=True)
@pipeline.SPLIT_OPTIONS
@pipeline.LOAD_OPTIONS
@pipeline.SWITCHES
@common.WARM
@common.TIMINGS
@pipeline.SHARED_OPTIONS
def rebuild(sources: tuple[str, ...], **given: Any) -> None:
    """Split SOURCE…, load it into a fresh build beside the one that is read, and publish it.

    \b
    Example: etl rebuild powers.json --jobs 4
    """
    clock = timings.Clock()
    from etl import coordinator, sizing, splitter, work

    clock.lap("imports")
    warm = pipeline.warming(given)
    options = pipeline.load_options(given, split_id=None, fresh=True)
    with _loaders(options) as pool:

        def get_ready() -> None:
            """Start the load's workers beside those of the split, if the memory limit has room for both."""
            if sizing.has_room(options, 2 * pool.workers):
                pool.warm(*work.LOAD_MODULES)

        done = pipeline.with_progress(
            given, lambda report: splitter.run(pipeline.split_options(sources, given), report, get_ready)
        )
        clock.lap("split")
        if not given["as_json"]:
            splitting.show(done)
        options = dataclasses.replace(options, split_id=done.manifest.split_id)
        with common.watch_signals() as stop:
            result = pipeline.with_progress(
                given, lambda report: coordinator.load(options, stop.seeing(report), stop=stop, clock=clock, pool=pool)
            )
    warm()
    _show(result, given)


def _loaders(options: config.LoadOptions) -> "parallel.Pool":
    """Return the workers of a load, not started yet."""
    from etl import dsn, parallel

    return parallel.Pool(options.executor, {config.DSN_VARIABLE: dsn.resolve(options.dsn)})


def _show(result: "LoadResult", given: dict[str, Any]) -> None:
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
        _print(result, given["schema"], with_timings=given["timings"])
    if not result.nothing_to_do:
        pipeline.exit_for_rejects(result.rejected)


def _print(result: "LoadResult", schema: str, *, with_timings: bool) -> None:
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
    pipeline.print_rejects(result.reject_codes, result.reject_paths)
