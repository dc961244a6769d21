"""The commands that write JSON and cut it: split, generate."""

import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from etl.cli import common, pipeline

if TYPE_CHECKING:
    from etl.model import Manifest, Superseded
    from etl.splitter import SplitResult


@click.command()
@click.argument("sources", nargs=-1, required=True)
@pipeline.SPLIT_OPTIONS
@pipeline.SHARED_OPTIONS
def split(sources: tuple[str, ...], **given: Any) -> None:
    """Cut SOURCE… into Arrow record batches of one (archetype, powerset) each, under a manifest.

    A SOURCE is a file (.json, .ndjson, also .gz, .zst, .zip), a directory of files, or - for standard input.

    \b
    Example: etl split powers.json --game-version "Homecoming 2025-12-09"
    """
    from etl import splitter

    result = pipeline.with_progress(given, lambda report: splitter.run(pipeline.split_options(sources, given), report))
    if given["as_json"]:
        common.emit(split_summary(result, given["store"]))
    else:
        show(result)
        elsewhere = "" if given["store"] == "partitions" else f" --store {shlex.quote(given['store'])}"
        click.echo(f"next: etl load{elsewhere}")
        pipeline.print_rejects(
            result.manifest.reject_codes, _reject_paths(result.manifest, given["store"]), are_published=False
        )
    pipeline.exit_for_rejects(result.manifest.rejects)


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
    result = pipeline.with_progress(
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


def show(result: "SplitResult") -> None:
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
