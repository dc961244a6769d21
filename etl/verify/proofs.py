"""What verification asks of workers, and what it finds. Nothing but strings and numbers."""

import msgspec

from etl.plan import Leaf

SHOWN = 10
"""So many rows are named of each difference; all of them are counted."""


class RowDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One row that is not as it should be: ``how`` is "differs" (in ``columns``), "missing" or "extra".

    ``name`` is the registered name of its power, powerset or archetype; None where the id is not registered.
    """

    id: int
    name: str | None
    how: str
    columns: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong, as a sentence.

    ``check`` is a short stable word: "rows", "store", "entities", "directory", "index", "key", "leaf", "view",
    "receipt", "rejects" or "published". ``rows`` are the first ``SHOWN`` of the rows that differ. ``is_mended_by_load``
    says that a load of the same split puts it right: what is missing are indexes that may be built later.
    """

    check: str
    table: str
    message: str
    leaf: str | None = None
    rows: tuple[RowDifference, ...] = ()
    is_mended_by_load: bool = False


class Splits(msgspec.Struct, frozen=True, kw_only=True):
    """Where the records of a build are.

    ``own`` is the split that the build is named after; ``later`` are those that parts of it were renewed from, oldest
    first, as far as the store has them. ``overlays`` are those of them that came after the build's own: their
    archetypes and powersets are on top.
    """

    store: str
    own: str
    later: tuple[str, ...] = ()
    overlays: tuple[str, ...] = ()


class LeafTask(msgspec.Struct, frozen=True, kw_only=True):
    """One leaf of the published build, to be compared with what the store gives for it.

    ``splits`` is None where the store no longer has the build's split: then the rows are only counted. ``snapshot`` is
    the state of the database to look at.
    """

    snapshot: str
    build: int
    schema: str
    splits: Splits | None
    leaf: Leaf
    tables: tuple[str, ...]


class NamesTask(msgspec.Struct, frozen=True, kw_only=True):
    """The directory and the entities of the published build, to be compared with those of the split."""

    snapshot: str
    build: int
    schema: str
    splits: Splits


class Proven(msgspec.Struct, frozen=True, kw_only=True):
    """What a task came to: the rows that are there per table, what was found, how many records would be set aside."""

    rows: dict[str, int]
    findings: tuple[Finding, ...] = ()
    rejects: int = 0
