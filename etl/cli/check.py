"""The command that proves a database: verify."""

from collections import Counter

import click

from etl import config
from etl.cli import common
from etl.errors import MismatchError
from etl.progress import Reporter
from etl.verify import Finding, RowDifference, VerifyResult
from etl.verify import verify as prove


@click.command()
@common.DSN
@common.SCHEMA
@click.option("--store", help="Folder of the splits [default: the one that the build was loaded from].")
@common.JOBS
@common.EXECUTOR
@common.JSON
@common.QUIET
def verify(
    dsn: str | None,
    schema: str,
    store: str | None,
    jobs: int | None,
    executor: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Prove the published build against its split: every row, index, key, receipt and view.

    Each leaf is made again from the store in temporary tables, and compared in the server. Nothing is changed, nobody
    is kept waiting. Exit code 6 if anything differs, also if the store no longer has the split.

    \b
    Example: etl verify --jobs 2
    """
    reporter = Reporter(quiet=quiet)
    try:
        with common.watch_signals() as stop:
            result = prove(
                dsn, schema, store=store, executor=config.executor_url(executor, jobs), progress=reporter, stop=stop
            )
    finally:
        reporter.close()
    if as_json:
        common.emit(result)
    else:
        _show(result)
    if result.findings:
        raise MismatchError(f"{_summary(result.findings)} in build {result.build} of schema {schema}", _remedy(result))


def _remedy(result: VerifyResult) -> str:
    if all(finding.is_mended_by_load for finding in result.findings):
        return f"etl load --split {result.split_id} builds what is missing, while the build is read"
    return "etl rebuild SOURCE makes a sound build, etl rollback publishes the previous one"


def _summary(findings: tuple[Finding, ...]) -> str:
    kinds = Counter(finding.check for finding in findings)
    return f"{len(findings)} findings (" + ", ".join(f"{count} {kind}" for kind, count in kinds.items()) + ")"


def _show(result: VerifyResult) -> None:
    """Print one line of proof, or the findings with the rows that they name."""
    for finding in result.findings:
        where = " ".join(word for word in (finding.table, finding.leaf) if word)
        click.echo(f"{finding.check}: {where}{': ' if where else ''}{finding.message}")
        for row in finding.rows:
            click.echo(f"  {_row(row)}")
    if not result.findings:
        parts = f" with parts of {', '.join(result.later_splits)}" if result.later_splits else ""
        click.echo(
            f"build {result.build} is split {result.split_id}{parts}: {result.leaves} leaves, {len(result.rows)} relations,"
            f" {sum(result.rows.values()):,} rows, in {result.seconds:.1f} s"
        )


def _row(row: RowDifference) -> str:
    named = f"id {row.id}" + (f" {row.name}" if row.name else "")
    return f"{named}: {row.how}" + (f" in {', '.join(row.columns)}" if row.columns else "")
