"""The command that changes rows in the published build: update."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from etl.cli import common, pipeline, timetable

if TYPE_CHECKING:
    from etl.update import UpdateResult

_SHOWN_NAMES = 20


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Only name what would change.")
@click.option("--keep-missing", is_flag=True, help="Leave powers that SOURCE does not name.")
@common.YES
@pipeline.SPLIT_OPTIONS
@common.DSN
@common.SCHEMA
@common.WARM
@pipeline.SHARED_OPTIONS
def update(sources: tuple[str, ...], dry_run: bool, keep_missing: bool, yes: bool, **given: Any) -> None:
    """Change only the powers that differ in SOURCE…, in the published build, in one transaction.

    Readers are not blocked: they see the state before or the state after. Ids of powers that stay do not change. A
    SOURCE that would remove more than a tenth of the powers is asked about first.

    \b
    Example: etl update powers.json --dry-run
    """
    from etl import config, dsn, parallel

    warm = pipeline.warming(given)
    options = pipeline.load_options({**given, "tables": None})
    with parallel.Pool(options.executor, {config.DSN_VARIABLE: dsn.resolve(options.dsn)}) as pool:
        if not dry_run:  # it gets ready while this process does, splits and compares
            pool.warm("polars", "etl.transforms.assemble", "etl.staging", workers=1)
        from etl import scope as scopes
        from etl import splitter
        from etl import update as updating

        split = pipeline.split_options(sources, given)
        manifest = pipeline.with_progress(given, lambda report: splitter.run(split, report)).manifest
        with common.watch_signals() as stop:
            result = pipeline.with_progress(
                given,
                lambda report: updating.update(
                    replace(options, split_id=manifest.split_id),
                    scopes.Scope(keep_missing=keep_missing),
                    report,
                    dry_run=dry_run,
                    confirm=lambda question: common.confirm(question, yes),
                    stop=stop,
                    pool=pool,
                ),
            )
    if result.generation:
        warm()
    show(result, given["as_json"])


def show(result: "UpdateResult", as_json: bool, *, with_timings: bool = False) -> None:
    """Print what an update did or would do, and exit with 3 where it left records rejected."""
    if as_json:
        common.emit(result)
    else:
        _print(result)
        if with_timings:
            timetable.show(result.timings)
    pipeline.exit_for_rejects(result.rejected)


def _print(result: "UpdateResult") -> None:
    """Print names, counts per archetype, the sum."""
    for kind in ("changed", "new", "gone"):
        names = getattr(result, kind)
        for name in names if result.dry_run else names[:_SHOWN_NAMES]:
            click.echo(f"{kind:8} {common.harmless(name)}")
        if not result.dry_run and len(names) > _SHOWN_NAMES:
            click.echo(f"{kind:8} … and {len(names) - _SHOWN_NAMES:,} more, in etl.change")
    differing = {key: counts for key, counts in result.archetypes.items() if counts.keys() - {"renewed"}}
    if differing:
        rows = [
            [key, *(counts.get(kind, 0) for kind in ("changed", "new", "gone"))] for key, counts in differing.items()
        ]
        click.echo(common.table(["archetype", "changed", "new", "gone"], rows))
    for note in result.notes:
        click.echo(f"note: {note}")
    renewed = f", {result.renewed:,} renewed" if result.renewed else ""
    counts = (
        f"{len(result.changed):,} changed, {len(result.new):,} new, {len(result.gone):,} gone{renewed}, "
        f"{result.unchanged:,} unchanged"
    )
    if result.dry_run:
        click.echo(f"would update build {result.build}: {counts}")
    elif not result.generation:
        click.echo(f"nothing to do: build {result.build} holds this already, {counts}")
    else:
        phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.timings.items())
        click.echo(f"  seconds: {phases}; in all {result.seconds:.1f}")
        click.echo(f"updated build {result.build} (generation {result.generation}): {counts}")
        if result.records:
            click.echo(
                f"{result.records:,} records = {result.loaded:,} loaded + {result.superseded:,} superseded"
                f" + {result.rejected:,} rejected"
            )
        elif result.rejected:
            click.echo(f"{result.rejected:,} records of this part were rejected")
        pipeline.print_rejects(result.reject_codes, result.reject_paths)
