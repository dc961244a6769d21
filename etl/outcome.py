"""What a load came to: every record is loaded, superseded or rejected, and the sum is proven before publication."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from etl import db, ledger
from etl.errors import MismatchError
from etl.model import Manifest, Reject
from etl.store import rejects as split_rejects


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a load came to. ``records = loaded + superseded + rejected`` holds for every instance.

    ``rows`` are per table, ``bytes`` what this run sent by COPY for each (archetypes and powersets aside). ``seconds`` is
    the wall time, ``timings`` its parts; ``leaves_loaded`` were loaded by this run and ``leaves_kept`` by an earlier one
    that was stopped. ``generation`` is 0 until something is published. ``renewed`` are the relations that were made anew
    where the others are those of the build before; else it is empty.
    """

    split_id: str
    build: int
    generation: int
    settled: bool
    nothing_to_do: bool
    records: int
    loaded: int
    superseded: int
    rejected: int
    reject_codes: Mapping[str, int]
    reject_paths: tuple[str, ...]
    rows: Mapping[str, int]
    bytes: Mapping[str, int]
    leaves_loaded: int
    leaves_kept: int
    seconds: float
    timings: Mapping[str, float]
    peak_bytes: int
    run: int
    renewed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_rejects(connection: db.Connection, build: int) -> list[Reject]:
    """Return what a build's leaves set aside, by place."""
    return answered(ask_rejects(connection, build))


def ask_rejects(connection: db.Connection, build: int) -> db.Cursor:
    """Ask for what a build's leaves set aside, maybe beside other questions; for ``answered``."""
    return connection.execute(db.query("load_rejects"), {"build": build})


def answered(asked: db.Cursor) -> list[Reject]:
    """Return the rejects that were asked for; see ``load_rejects``."""
    rows = asked.fetchall()
    names = ("source", "file", "ordinal", "offset", "uid", "stage", "code", "reason", "raw")
    return [Reject(**dict(zip(names, row, strict=True))) for row in rows]


def count_rejects(connection: db.Connection, build: int) -> db.Cursor:
    """Ask how many records a build's leaves have set aside: one row, one number."""
    return connection.execute(db.query("count_rejects"), {"build": build})


def counts(manifest: Manifest, rows: Mapping[str, int], set_aside: Sequence[Reject]) -> dict[str, Any]:
    """Return the counts of a ``LoadResult``, proven: ``records = loaded + superseded + rejected``.

    ``rows`` are those per table; where powers were not loaded at all, the manifest's stand in.

    Raises:
        MismatchError: the sum is wrong.
    """
    loaded = rows.get("powers", manifest.rows - len(set_aside))
    rejected = manifest.rejects + len(set_aside)
    if manifest.records != loaded + manifest.superseded + rejected:
        raise MismatchError(
            f"{manifest.records} records are not {loaded} loaded + {manifest.superseded} superseded "
            f"+ {rejected} rejected; nothing was published",
            "etl rebuild",
        )
    return {
        "records": manifest.records,
        "loaded": loaded,
        "superseded": manifest.superseded,
        "rejected": rejected,
        "reject_codes": Counter(manifest.reject_codes) + Counter(reject.code for reject in set_aside),
        "rows": dict(rows),
    }


def reject_paths(store: str, manifest: Manifest, build: int, set_aside: Sequence[Reject]) -> tuple[str, ...]:
    """Return the files that hold the rejects; those of the load are written on the way."""
    paths = []
    if manifest.rejects:
        paths.append(split_rejects.place(store, manifest))
    if set_aside:
        paths.append(split_rejects.write_load(store, manifest, build, set_aside))
    return tuple(paths)


def ending(result: LoadResult, store: str, manifest: Manifest, set_aside: Sequence[Reject]) -> ledger.Ending:
    """Return the second half of the run's line in the import log."""
    of_split = itertools.islice(split_rejects.read(store, manifest), ledger.SHOWN_REJECTS)
    return ledger.Ending(
        state="done",
        records=result.records,
        loaded=result.loaded,
        superseded=result.superseded,
        rejected=result.rejected,
        peak_bytes=result.peak_bytes,
        timings=result.timings,
        data=ledger.summary_data(result.reject_codes, [*of_split, *set_aside], manifest.counts)
        | {"bytes": dict(result.bytes)},
    )
