"""The commands that move data: split, load, rebuild, generate."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from etl import config
from etl.cli import common
from etl.progress import Reporter

if TYPE_CHECKING:
    from etl.coordinator import LoadResult
    from etl.model import Manifest

SPLIT_OPTIONS = common.options(
    click.option(
        "--format", "format_name", type=click.Choice(["auto", "cod", "i12", "mids"]), default="auto", show_default=True
    ),
    click.option("--records-path", help="Where the records are in a bigger document, like powers.item."),
    click.option("--chunk-size", type=common.Size(), default="4MB", show_default=True, help="Read buffer."),
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
)
LOAD_OPTIONS = common.options(
    common.DSN,
    common.SCHEMA,
    click.option("--tables", help="Only these tables, separated by commas."),
)
SHARED_OPTIONS = common.options(
    common.STORE, common.JOBS, common.EXECUTOR, common.MEMORY, common.BATCH, common.JSON, common.QUIET
)


def _command() -> str:
    return shlex.join(["etl", *sys.argv[1:]])


def _split_options(sources: tuple[str, ...], given: dict[str, Any]) -> config.SplitOptions:
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
    )


def _load_options(given: dict[str, Any], *, split_id: str | None = None, fresh: bool = False) -> config.LoadOptions:
    names = [name.strip() for name in (given["tables"] or "").split(",")]
    return config.LoadOptions(
        store=given["store"],
        split_id=split_id,
        dsn=given["dsn"],
        schema=given["schema"],
        tables=tuple(name for name in names if name),
        executor=config.executor_url(given["executor"], given["jobs"]),
        memory_limit_bytes=given["memory_limit"],
        batch_rows=given["batch_size"],
        fresh=fresh,
        command=config.redact_command(_command()),
    )


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

    manifest = _with_progress(given, lambda report: splitter.split(_split_options(sources, given), report))
    if given["as_json"]:
        common.emit(manifest_summary(manifest, given["store"]))
    else:
        print_split(manifest, given["store"])
        click.echo(
            "next: etl load" + ("" if given["store"] == "partitions" else f" --store {shlex.quote(given['store'])}")
        )
    _exit_for_rejects(manifest.rejects)


@click.command()
@LOAD_OPTIONS
@click.option("--split", "split_id", help="The split to load [default: the store's latest].")
@SHARED_OPTIONS
def load(split_id: str | None, **given: Any) -> None:
    """Load a split into PostgreSQL: all cores, a leaf per task; then publish it in one instant.

    Stopped at any point, the same command goes on; finished leaves are not loaded again.

    \b
    Example: etl load --dsn postgresql://loader@db/game
    """
    from etl import coordinator

    options = _load_options(given, split_id=split_id)
    with common.watch_signals() as stop:
        result = _with_progress(given, lambda report: coordinator.load(options, report, stop=stop))
    _show_load(result, given)


@click.command()
@click.argument("sources", nargs=-1, required=True)
@SPLIT_OPTIONS
@LOAD_OPTIONS
@SHARED_OPTIONS
def rebuild(sources: tuple[str, ...], **given: Any) -> None:
    """Split SOURCE…, load it into a fresh build beside the one that is read, and publish it.

    \b
    Example: etl rebuild powers.json --jobs 4
    """
    from etl import coordinator, splitter

    def both(report: Reporter) -> "tuple[Manifest, LoadResult]":
        manifest = splitter.split(_split_options(sources, given), report)
        options = _load_options(given, split_id=manifest.split_id, fresh=True)
        return manifest, coordinator.load(options, report, stop=stop)

    with common.watch_signals() as stop:
        manifest, result = _with_progress(given, both)
    if not given["as_json"]:
        print_split(manifest, given["store"])
    _show_load(result, given)


@click.command()
@click.option("--shape", type=click.Choice(["i12", "cod"]), required=True)
@click.option("--records", type=click.IntRange(min=0), required=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False), required=True)
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
    result = _with_progress(
        given, lambda report: generating.generate(shape, records, seed, out, dirty=dirty, progress=report)
    )
    if as_json:
        common.emit(asdict(result))
        return
    rate = result.bytes / max(result.seconds, 1e-9)
    click.echo(
        f"{result.records:,} records, {common.size(result.bytes)} in {result.seconds:.1f} s ({common.size(rate)}/s): {result.path}"
    )
    if result.dirty_path:
        click.echo(f"bad records are listed in {result.dirty_path}")


def _with_progress(given: dict[str, Any], function: Callable[[Reporter], Any]) -> Any:
    reporter = Reporter(quiet=given["quiet"])
    try:
        return function(reporter)
    finally:
        reporter.close()


def manifest_summary(manifest: "Manifest", store: str) -> dict[str, Any]:
    """Return what ``etl split --json`` prints."""
    by_archetype: dict[str, int] = {}
    for partition in manifest.partitions:
        by_archetype[partition.archetype] = by_archetype.get(partition.archetype, 0) + partition.rows
    return {
        "split_id": manifest.split_id,
        "store": store,
        "format": manifest.format,
        "game_version": manifest.game_version,
        "records": manifest.records,
        "rows": manifest.rows,
        "superseded": manifest.superseded,
        "rejected": manifest.rejects,
        "reject_codes": dict(manifest.reject_codes),
        "superseded_places": [asdict(place) for place in manifest.superseded_places],
        "partitions": len(manifest.partitions),
        "archetypes": dict(sorted(by_archetype.items(), key=lambda item: (-item[1], item[0]))),
        "notes": list(manifest.notes),
        "cleaned": dict(manifest.counts),
    }


def print_split(manifest: "Manifest", store: str) -> None:
    """Print the summary of a split, its counts last."""
    for note in manifest.notes[:30]:
        click.echo(f"note: {note}")
    if len(manifest.notes) > 30:
        click.echo(f"note: … and {len(manifest.notes) - 30} more, in the manifest")
    for place in manifest.superseded_places[:10]:
        old = f"{place.file} " if place.file else ""
        new = f"{place.by_file} " if place.by_file else ""
        click.echo(
            f"superseded: {place.uid}: record {place.ordinal} ({old}byte {place.offset}) "
            f"by record {place.by_ordinal} ({new}byte {place.by_offset})"
        )
    if len(manifest.superseded_places) > 10:
        click.echo(f"superseded: … and {len(manifest.superseded_places) - 10} more, in the manifest")
    for name, count in sorted(manifest.counts.items()):
        click.echo(f"cleaned: {name.replace('_', ' ')}: {count:,}")
    click.echo(
        f"split {manifest.split_id} ({manifest.format}): {manifest.records:,} records = {manifest.rows:,} kept"
        f" + {manifest.superseded:,} superseded + {manifest.rejects:,} rejected, in {len(manifest.partitions):,} partitions"
    )
    if manifest.rejects:
        _print_codes(manifest.reject_codes, (f"{store}/{manifest.split_id}/rejects.ndjson",))


def _print_codes(codes: Any, paths: tuple[str, ...]) -> None:
    reasons = ", ".join(f"{count:,} {code}" for code, count in sorted(codes.items(), key=lambda item: -item[1]))
    click.echo(f"rejected: {reasons}; see {' and '.join(paths)}")


def _show_load(result: "LoadResult", given: dict[str, Any]) -> None:
    """Print what a load came to, and exit with 3 where records were set aside."""
    if given["as_json"]:
        common.emit(asdict(result))
    elif result.nothing_to_do:
        click.echo(
            f"nothing to do: build {result.build} of split {result.split_id} is published, {result.loaded:,} powers"
        )
        return
    else:
        _print_load(result, given["schema"])
    if not result.nothing_to_do:
        _exit_for_rejects(result.rejected)


def _print_load(result: "LoadResult", schema: str) -> None:
    for name, count in result.rows.items():
        click.echo(f"  {name:32} {count:>12,} rows")
    phases = ", ".join(
        f"{name} {seconds:.1f}" for name, seconds in result.timings.items() if not name.startswith("worker_")
    )
    click.echo(f"  seconds: {phases}; in all {result.seconds:.1f}; peak memory {common.size(result.peak_bytes)}")
    if result.leaves_kept:
        click.echo(
            f"  {result.leaves_kept} leaves were there from an earlier run, {result.leaves_loaded} were loaded now"
        )
    if not result.settled:
        click.echo("  readers from before linger; the views settle at the next run")
    click.echo(
        f"published build {result.build} in schema {schema} (generation {result.generation}): "
        f"{result.records:,} records = {result.loaded:,} loaded + {result.superseded:,} superseded + {result.rejected:,} rejected"
    )
    if result.rejected:
        _print_codes(result.reject_codes, result.reject_paths)


def _exit_for_rejects(rejected: int) -> None:
    if rejected:
        sys.exit(3)
