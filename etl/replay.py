"""Replay: rejected records, mended by hand or accepted by now, are loaded into the published build.

They become a new split, equal to one of a source in which they stood mended in their places, and the build is updated to
it: so the counts settle, ``etl verify`` holds, and ``etl rollback`` goes back. The same file twice changes nothing.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from etl import config, db, dsn, migrations, parallel, rejects, update
from etl.errors import InputError, UsageError
from etl.model import Progress, Reject
from etl.scope import Scope
from etl.splitter import tasks
from etl.splitter.tasks import Repaired, RepairTask

EXAMPLES = 20


class ReplayResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the records: ``replayed`` are loaded now (or superseded by a later record of their name).

    ``settled`` lines spoke of no reject of the build, most likely because they were replayed before; ``refused`` are the
    first of those that are rejected still. ``change`` is what it did to the build, None if there was nothing to do.
    """

    build: int
    split_id: str
    replayed: int
    settled: int
    refused: tuple[Reject, ...]
    refused_codes: Mapping[str, int] = msgspec.field(default_factory=dict)
    change: update.UpdateResult | None = None


def replay(
    options: config.LoadOptions,
    edited: str | None = None,
    progress: Progress | None = None,
    *,
    store: str | None = None,
    strip_nul: bool = True,
) -> ReplayResult:
    """Load rejects of the published build: those in ``edited`` (as exported, then mended), or all as they are.

    Raises:
        SchemaError: nothing is published.
        UsageError: the build holds parts of several splits.
        InputError: the file holds something else.
        StoreError: the split of the build is not there.
        Busy: another run is at work, or has changed the build meanwhile.
    """
    where = dsn.resolve(options.dsn)
    with db.connect(where, name="etl rejects replay") as connection:
        migrations.require(connection)
        found = rejects.find(connection, options.schema, store=store)
        row = connection.execute(db.query("build_is_of_one_split"), {"build": found.build}).fetchone()
    if not (row and row[0]):
        raise UsageError(
            f"build {found.build} has parts of other splits than {found.split_id}, so that there is no one to mend",
            "etl update SOURCE…, then etl rejects replay",
        )
    done = _repair(options, found, edited, strip_nul)
    if done.split_id is None:
        return _result(found, done, None)
    wanted = replace(options, store=found.store, split_id=done.split_id)
    changed = update.update(wanted, Scope(), progress, made_from=found.split_id)
    return _result(found, done, changed)


def _repair(options: config.LoadOptions, found: rejects.Rejected, edited: str | None, strip_nul: bool) -> Repaired:
    """Let a worker make the new split."""
    with tempfile.TemporaryDirectory(prefix="etl-replay-") as folder:
        path = edited
        if path is None:
            path = str(Path(folder) / "rejects.ndjson")
            rejects.export(found, path)
        elif not Path(path).is_file():
            raise InputError(f"{path}: there is no such file", "etl rejects export FILE")
        task = RepairTask(
            store=found.store,
            split_id=found.split_id,
            edited=path,
            of_load=tuple(replace(reject, raw="") for reject in found.of_load),
            strip_nul=strip_nul,
            examples=EXAMPLES,
        )
        for _, outcome in parallel.run(options.executor, tasks.repair, [task]):
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
    raise AssertionError


def _result(found: rejects.Rejected, done: Repaired, changed: update.UpdateResult | None) -> ReplayResult:
    return ReplayResult(
        build=found.build,
        split_id=done.split_id or found.split_id,
        replayed=done.repaired,
        settled=done.settled,
        refused=done.refused,
        refused_codes=done.refused_codes,
        change=changed,
    )
