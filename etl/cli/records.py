"""The commands about single records: validate, and what becomes of rejects."""

import sys
from typing import TYPE_CHECKING, Any

import click

from etl.cli import common, pipeline

if TYPE_CHECKING:
    from etl.model import Reject
    from etl.splitter.validate import ValidateResult

_SHOWN_RAW = 160


@click.command()
@click.argument("sources", nargs=-1, required=True)
@pipeline.SPLIT_OPTIONS
@click.option("--examples", type=click.IntRange(min=0), default=3, show_default=True, help="Shown of each reason.")
@click.option("--out", type=click.Path(dir_okay=False), help="Write all rejects there, one JSON object per line.")
@click.option("--all-keys", is_flag=True, help="Count keys that come twice in an object at any depth; slower.")
@common.JOBS
@common.EXECUTOR
@common.MEMORY
@common.JSON
@common.QUIET
def validate(sources: tuple[str, ...], examples: int, out: str | None, all_keys: bool, **given: Any) -> None:
    """Say what a load of SOURCE… would reject: splitter and transforms, no database, nothing stays.

    The counts are those of a load of the same SOURCE. Exit code 3 if anything would be rejected.

    \b
    Example: etl validate powers.json --json
    """
    from etl.splitter import validate as validating

    options = pipeline.split_options(sources, {**given, "store": "", "batch_size": 10_000})
    result = pipeline.with_progress(
        given,
        lambda report: validating.validate(options, report, examples=examples, rejects_file=out, all_keys=all_keys),
    )
    if given["as_json"]:
        common.emit(result)
    else:
        _show_validation(result, out)
    if result.rejected:
        sys.exit(3)


def _show_validation(result: "ValidateResult", out: str | None) -> None:
    """Print what was found: notes, reasons with their examples, the sum last."""
    for note in result.notes[:30]:
        click.echo(f"note: {note}")
    for name, count in sorted(result.cleaned.items()):
        click.echo(f"{name.replace('_', ' ')}: {count:,}")
    for code, count in result.reject_codes.items():
        click.echo(f"{code}: {count:,}")
        for reject in result.examples:
            if reject.code == code:
                click.echo(f"  {place_of(reject)}: {reject.reason}")
                click.echo(f"    {shortened(reject.raw)}")
    rate = common.size(result.bytes / max(result.seconds, 1e-9))
    click.echo(
        f"{result.records:,} records ({result.format}) = {result.accepted:,} accepted"
        f" + {result.superseded:,} superseded + {result.rejected:,} rejected"
        f" in {result.seconds:.1f} s ({rate}/s), peak memory {common.size(result.peak_bytes)}"
    )
    if out:
        click.echo(f"all rejects: {out}")


def place_of(reject: "Reject") -> str:
    """Return where a record stood, and its name as far as it is known."""
    file = f"{reject.source}/{reject.file}" if reject.file else reject.source
    byte = f", byte {reject.offset}" if reject.offset >= 0 else ""
    return f"{file}: record {reject.ordinal}{byte}" + (f", {reject.uid}" if reject.uid else "")


def shortened(text: str) -> str:
    """Return the beginning of a text on one line that does nothing to a terminal."""
    line = "".join(c if c.isprintable() else " " for c in text[: _SHOWN_RAW + 1])
    return line if len(line) <= _SHOWN_RAW else line[:_SHOWN_RAW] + "…"


@click.group()
def rejects() -> None:
    """Rejected records.

    \b
    Example: etl rejects list
    """
