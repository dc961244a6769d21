"""The commands about single records: validate, and what becomes of rejects."""

import itertools
import shlex
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from etl.cli import common, pipeline
from etl.errors import UsageError

if TYPE_CHECKING:
    from etl.model import Reject
    from etl.rejects import Rejected
    from etl.replay import ReplayResult
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
        click.echo(f"note: {common.harmless(note)}")
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
    return common.harmless(f"{file}: record {reject.ordinal}{byte}" + (f", {reject.uid}" if reject.uid else ""))


def shortened(text: str) -> str:
    """Return the beginning of a text on one line that does nothing to a terminal."""
    line = common.harmless(text[: _SHOWN_RAW + 1])
    return line if len(line) <= _SHOWN_RAW else line[:_SHOWN_RAW] + "…"


class _InOrder(click.Group):
    """Lists its commands in the order in which they are written here."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return list(self.commands)


@click.group(cls=_InOrder)
def rejects() -> None:
    """The rejected records of the published build.

    \b
    Example: etl rejects list
    """


_STORE = click.option("--store", help="Folder of the splits [default: the one that the build was loaded from].")
_BUILD = click.option("--build", type=click.IntRange(min=1), help="Another build than the published one.")
_CODE = click.option("--code", help="Only those rejected for this reason, like bad_effects.")


@rejects.command("list")
@common.DSN
@common.SCHEMA
@_STORE
@_BUILD
@_CODE
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many are shown.")
@common.JSON
def list_rejects(
    dsn: str | None, schema: str, store: str | None, build: int | None, code: str | None, limit: int, as_json: bool
) -> None:
    """List them: number, place, name, reason.

    The counts come last.

    \b
    Example: etl rejects list --code bad_effects
    """
    found = _found(dsn, schema, build, store)
    shown = list(itertools.islice(found.numbered(code), limit))
    if as_json:
        lines = [{"number": number, **_without_raw(reject)} for number, reject in shown]
        facts = {"build": found.build, "split_id": found.split_id, "rejected": found.total}
        common.emit({**facts, "reject_codes": found.codes, "rejects": lines})
        return
    if shown:
        rows = [[number, r.stage, r.code, place_of(r), shortened(r.reason)] for number, r in shown]
        click.echo(common.table(["number", "stage", "code", "record", "reason"], rows))
    codes = ", ".join(f"{count:,} {name}" for name, count in found.codes.items())
    click.echo(
        f"build {found.build} (split {found.split_id}): {found.total:,} rejected" + (f": {codes}" if codes else "")
    )
    if found.total:
        click.echo("next: etl rejects show NUMBER, or etl rejects export FILE")


@rejects.command()
@click.argument("number", type=click.IntRange(min=1))
@common.DSN
@common.SCHEMA
@_STORE
@_BUILD
@common.JSON
def show(number: int, dsn: str | None, schema: str, store: str | None, build: int | None, as_json: bool) -> None:
    """Show one with its text, by its number.

    \b
    Example: etl rejects show 1
    """
    found = _found(dsn, schema, build, store)
    reject = next((reject for n, reject in found.numbered() if n == number), None)
    if reject is None:
        raise UsageError(
            f"build {found.build} has {found.total:,} rejects, none of number {number}", "etl rejects list"
        )
    if as_json:
        common.emit({"number": number, **_without_raw(reject), "raw": reject.raw})
        return
    for name, value in {"number": number, **_without_raw(reject)}.items():
        if value is not None:
            click.echo(f"{name:8} {shortened(str(value))}")
    click.echo("\n" + "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in reject.raw))


@rejects.command()
@click.argument("file", type=click.Path(dir_okay=False))
@common.DSN
@common.SCHEMA
@_STORE
@_BUILD
@_CODE
def export(file: str, dsn: str | None, schema: str, store: str | None, build: int | None, code: str | None) -> None:
    """Write them to FILE, to be mended.

    One JSON object per line; mend its "record" or "raw", then replay the file.

    \b
    Example: etl rejects export rejects.ndjson
    """
    from etl import rejects as rejected

    count = rejected.export(_found(dsn, schema, build, store), file, code)
    click.echo(f"{count:,} rejects: {file}")
    if count:
        click.echo(f"next: mend them, then etl rejects replay --edited {shlex.quote(file)}")


@rejects.command()
@click.option("--edited", type=click.Path(dir_okay=False), help="The exported file with mended records.")
@click.option(
    "--nul",
    type=click.Choice(["strip", "reject"]),
    default="strip",
    show_default=True,
    help="What to do with NUL characters in descriptive text.",
)
@common.DSN
@common.SCHEMA
@_STORE
@common.JOBS
@common.EXECUTOR
@common.MEMORY
@common.JSON
@common.QUIET
def replay(edited: str | None, nul: str, store: str | None, **given: Any) -> None:
    """Load them into the published build.

    Those of the edited file, or all as they are by the rules of today. The build is then what it would be had the source
    held them so, each in its place. Done twice, nothing changes.
    Exit code 3 if any of them is rejected again.

    \b
    Example: etl rejects replay --edited rejects.ndjson
    """
    from etl import replay as replaying

    options = pipeline.load_options({**given, "tables": None, "store": "", "batch_size": 10_000, "max_rejects": None})
    result = pipeline.with_progress(
        given, lambda report: replaying.replay(options, edited, report, store=store, strip_nul=nul == "strip")
    )
    if given["as_json"]:
        common.emit(result)
    else:
        _show_replay(result)
    if result.refused_codes:
        sys.exit(3)


def _show_replay(result: "ReplayResult") -> None:
    """Print what became of the records; those that are still rejected first, the sum last."""
    for reject in result.refused:
        click.echo(f"still rejected: {place_of(reject)}: {shortened(reject.reason)}")
    if result.settled:
        click.echo(
            f"{result.settled:,} lines speak of no reject of build {result.build}: replayed before, or of another"
        )
    refused = sum(result.refused_codes.values())
    click.echo(f"replayed {result.replayed:,}, still rejected {refused:,}")
    if result.change is None:
        click.echo("nothing has changed")
        return
    done = result.change
    click.echo(
        f"build {done.build} (generation {done.generation}) is split {result.split_id}: {done.records:,} records"
        f" = {done.loaded:,} loaded + {done.superseded:,} superseded + {done.rejected:,} rejected"
    )


def _found(where: str | None, schema: str, build: int | None, store: str | None) -> "Rejected":
    """Return the rejects of a build."""
    from etl import db, dsn, migrations
    from etl import rejects as rejected

    with db.connect(dsn.resolve(where), name="etl rejects") as connection:
        migrations.require(connection)
        return rejected.find(connection, schema, build, store)


def _without_raw(reject: "Reject") -> dict[str, Any]:
    """Return what is known of a reject, less its text."""
    facts = asdict(reject)
    del facts["raw"]
    return facts
