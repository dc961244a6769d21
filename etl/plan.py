"""The plan of a load: how partitions are cut into leaves, and what is left to do. ``plan = wanted - receipts``."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec

from etl.model import Part, Partition, Reject
from etl.timings import Stint

MOST_LEAVES = 20
"""The target for the biggest splits, beside a leaf for each archetype: queries without the partition key take longer to plan
with each leaf (`scripts/bench.py planning`)."""
# However small a leaf is, the server makes a file and catalog entries for each of its tables and indexes: four for each
# worker are enough to share the work evenly.
_FOR_EACH_WORKER = 4
# So that a run which is killed has not much to do again.
_LEAF_BYTES = 64 << 20


REFERENCES = "power_prerequisites"
"""The table whose references to powers of other leaves are resolved when all powers have ids."""


class Leaf(msgspec.Struct, frozen=True, kw_only=True):
    """A range of powerset ids of one archetype; None is an open end, so that every new powerset has a place.

    ``bytes`` are those of the record text; ``digest`` covers the winning records of all its partitions.
    """

    name: str
    archetype: str
    archetype_id: int
    lower: int | None
    upper: int | None
    powersets: tuple[str, ...]
    rows: int
    bytes: int
    digest: str

    @property
    def is_only(self) -> bool:
        """Whether the archetype has no other leaf."""
        return self.lower is None and self.upper is None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Leaf":
        """Return a leaf from what ``asdict`` made of it in a build's plan."""
        return cls(**{**values, "powersets": tuple(values["powersets"])})


class LeafTask(msgspec.Struct, frozen=True, kw_only=True):
    """One leaf of a build: where its records are, where its rows go; ``run`` is the number of the load in the import log.

    ``tables`` are (name, version) pairs of what to load, ``powerset_ids`` the ids of the leaf's powersets in their order,
    ``extensions`` (name, schema) pairs of those that indexes need, None where the server lacks one: every leaf would ask
    for them. ``batch_rows`` and ``batch_bytes`` bound what is in memory at once. ``durability``, ``indexes``,
    ``deferred`` and ``freeze`` are those of ``config.LoadOptions``. ``renews`` says that the powers themselves are
    published: their records alone count, and none of them may be set aside. With more than ``most_rejects`` rejects the
    leaf gives up. ``first_id`` is that of the leaf's first power where its powers are enrolled (``etl.enrol``).
    """

    run: int
    build: int
    epoch: int
    schema: str
    store: str
    split_id: str
    leaf: Leaf
    tables: tuple[tuple[str, str], ...]
    powerset_ids: tuple[int, ...]
    extensions: tuple[tuple[str, str | None], ...]
    batch_rows: int
    batch_bytes: int
    durability: str = "safe"
    indexes: str = "after"
    deferred: str = "none"
    freeze: bool = True
    renews: bool = False
    most_rejects: int | None = None
    first_id: int | None = None


class RegisterTask(msgspec.Struct, frozen=True, kw_only=True):
    """The names of one split, for the registry and for one build's directory."""

    build: int
    epoch: int
    schema: str
    store: str
    split_id: str
    version: str


class EnrolTask(msgspec.Struct, frozen=True, kw_only=True):
    """A build whose leaves are loaded, and have enrolled so many powers; ``resolves`` says that it has prerequisites."""

    build: int
    epoch: int
    schema: str
    split_id: str
    version: str
    rows: int
    resolves: bool


# A part by itself is often proven sooner than a task has been given to a worker; a run that is to stop waits for the shares
# that are in flight.
_SHARES = 4
_SHARE_BYTES = 64 << 20


class CheckTask(msgspec.Struct, frozen=True, kw_only=True):
    """Some parts of a split, to be proven before they are read, and after."""

    store: str
    split_id: str
    parts: tuple[Part, ...]


def shares(parts: Sequence[Part], tasks: int) -> list[tuple[Part, ...]]:
    """Return the parts in shares of a like size, several for each of the ``tasks`` that are done at once."""
    biggest_first = sorted(parts, key=lambda part: -part.bytes)
    number = max(_SHARES * tasks, sum(part.bytes for part in parts) // _SHARE_BYTES)
    return [found for first in range(number) if (found := tuple(biggest_first[first::number]))]


class IndexTask(msgspec.Struct, frozen=True, kw_only=True):
    """One plain table of a build whose rows are all there; see ``LeafTask`` for the switches."""

    build: int
    epoch: int
    schema: str
    table: str
    version: str
    durability: str = "safe"
    deferred: str = "none"


class StatisticsTask(msgspec.Struct, frozen=True, kw_only=True):
    """A partitioned table of a build whose leaves are attached."""

    build: int
    epoch: int
    schema: str
    table: str


class LateIndexTask(msgspec.Struct, frozen=True, kw_only=True):
    """A table or leaf of a published build that lacks indexes: its ``name`` in the schema, and (index, name) of each.

    ``table`` is the table of ``etl.tables`` that it has the shape of, ``index`` the published name there; what stands
    in ``broken`` is left over from an interrupted run.
    """

    build: int
    epoch: int
    schema: str
    table: str
    name: str
    indexes: tuple[tuple[str, str], ...]
    broken: tuple[str, ...]


class DiffTask(msgspec.Struct, frozen=True, kw_only=True):
    """Some partitions, as (archetype, powerset) pairs, of a split and of the build that is published.

    ``first_record`` leaves out the records before it; ``everything`` names equal records as well. ``loaded`` is what the
    build holds of them, uid -> (digest, archetype, powerset); None: the worker asks the server.
    """

    schema: str
    store: str
    split_id: str
    partitions: tuple[tuple[str, str], ...]
    first_record: int
    everything: bool
    loaded: dict[str, tuple[bytes, str, str]] | None = None


KINDS = ("changed", "new", "gone", "renewed")
"""How an update touches powers."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How a split differs from what is published: (uid, archetype, powerset) of the powers of each kind.

    ``renewed`` are equal, but were asked for; ``same`` counts the equal ones that were not.
    """

    changed: tuple[tuple[str, str, str], ...] = ()
    new: tuple[tuple[str, str, str], ...] = ()
    gone: tuple[tuple[str, str, str], ...] = ()
    renewed: tuple[tuple[str, str, str], ...] = ()
    same: int = 0


class StageTask(msgspec.Struct, frozen=True, kw_only=True):
    """Touched powers of a split whose rows are to be made, in batches of so many records or bytes.

    ``partitions`` are the (archetype, powerset) pairs that hold them, ``power_ids`` their ids by uid; ``power_order`` is
    the position of powers in their sets' own lists.
    """

    store: str
    split_id: str
    partitions: tuple[tuple[str, str], ...]
    archetype_ids: Mapping[str, int]
    powerset_ids: Mapping[str, int]
    power_ids: Mapping[str, int]
    power_order: Mapping[str, int]
    tables: tuple[str, ...]
    batch_rows: int
    batch_bytes: int


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of touched powers: (table, number of rows, a binary COPY of them); and what was set aside."""

    copies: tuple[tuple[str, int, bytes], ...]
    rejects: tuple[Reject, ...]


class NamesTask(msgspec.Struct, frozen=True, kw_only=True):
    """Names (uids) of which some may be those of winning records of a split."""

    store: str
    split_id: str
    uids: tuple[str, ...]


class LeafResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one leaf came to: rows and bytes per table, rejected records, seconds up to its commit.

    ``stint`` is what its worker did with the time, attempts to find refused records included.
    """

    leaf: str
    rows: dict[str, int]
    bytes: dict[str, int]
    rejects: int
    seconds: float
    stint: Stint | None = None


def target_of(sizes: Iterable[int], workers: int) -> int:
    """Return into how many leaves to cut partitions of these sizes in bytes.

    Four for each worker, or as many as have 64 MiB of JSON each, 20 at most.
    """
    return min(MOST_LEAVES, max(_FOR_EACH_WORKER * workers, sum(sizes) // _LEAF_BYTES))


def cut_leaves(
    partitions: Iterable[Partition],
    archetype_ids: Mapping[str, int],
    powerset_ids: Mapping[str, int],
    target: int = MOST_LEAVES,
) -> list[Leaf]:
    """Cut each archetype's powersets, in order of id, into leaves of even size.

    With B the bytes of all partitions divided by ``target``, no leaf passes 2 B unless it is a single powerset, and
    there are at most ``target`` leaves more than archetypes (plus one for each powerset bigger than B).
    """
    ordered = sorted(partitions, key=lambda p: (archetype_ids[p.archetype], powerset_ids[p.powerset]))
    budget = max(1, sum(p.bytes for p in ordered) // target)
    leaves: list[Leaf] = []
    for archetype, group in groupby(ordered, key=lambda p: p.archetype):
        groups = _even(list(group), budget)
        starts = [powerset_ids[members[0].powerset] for members in groups]
        for number, members in enumerate(groups):
            lower = starts[number] if number else None
            upper = starts[number + 1] if number + 1 < len(groups) else None
            leaves.append(_leaf(archetype, archetype_ids[archetype], number, lower, upper, members))
    return leaves


def _even(members: list[Partition], budget: int) -> list[list[Partition]]:
    """Cut a list where the running sum passes multiples of an even share; then part giants from their neighbours."""
    total = sum(p.bytes for p in members)
    share = total / max(1, -(-total // budget))
    groups: list[list[Partition]] = []
    before, last = 0, -1
    for partition in members:
        slot = int((before + partition.bytes / 2) / share) if share else 0
        if slot != last:
            groups.append([])
            last = slot
        groups[-1].append(partition)
        before += partition.bytes
    return [part for group in groups for part in _part_giants(group, budget)]


def _part_giants(group: list[Partition], budget: int) -> list[list[Partition]]:
    """Halve a group that passes twice the budget until none does, or a single powerset is left."""
    total = sum(p.bytes for p in group)
    if len(group) == 1 or total <= 2 * budget:
        return [group]
    sums = [sum(p.bytes for p in group[:cut]) for cut in range(1, len(group))]
    cut = 1 + min(range(len(sums)), key=lambda i: max(sums[i], total - sums[i]))
    return _part_giants(group[:cut], budget) + _part_giants(group[cut:], budget)


def _leaf(
    archetype: str, archetype_id: int, number: int, lower: int | None, upper: int | None, members: list[Partition]
) -> Leaf:
    empty = Leaf(
        name=f"{archetype}_{number:02d}",
        archetype=archetype,
        archetype_id=archetype_id,
        lower=lower,
        upper=upper,
        powersets=(),
        rows=0,
        bytes=0,
        digest="",
    )
    return with_members(empty, members)


def with_members(leaf: Leaf, members: Sequence[Partition]) -> Leaf:
    """Return the leaf with other partitions in it."""
    digest = hashlib.sha256("".join(f"{p.powerset}\t{p.digest}\n" for p in members).encode())
    return msgspec.structs.replace(
        leaf,
        powersets=tuple(p.powerset for p in members),
        rows=sum(p.rows for p in members),
        bytes=sum(p.bytes for p in members),
        digest=digest.hexdigest()[:32],
    )


def holds(leaf: Leaf, archetype: str, powerset_id: int) -> bool:
    """Whether a powerset's rows belong into the leaf."""
    return (
        leaf.archetype == archetype
        and (leaf.lower is None or powerset_id >= leaf.lower)
        and (leaf.upper is None or powerset_id < leaf.upper)
    )
