"""The plan of a load: how partitions are cut into leaves, and what is left to do. ``plan = wanted - receipts``."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from etl.model import Partition

# Planning time of queries without a partition key grows with the leaves (13.7 ms fresh at 60, 135 ms at 600), so the
# target keeps a split with all 30 archetype keys under 64.
TARGET_LEAVES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafTask:
    """One leaf of a build: where its records are, where its rows go.

    ``tables`` are (name, version) pairs of what to load. ``batch_rows`` and ``batch_bytes`` bound what is in memory
    at once.
    """

    build: int
    epoch: int
    schema: str
    store: str
    split_id: str
    leaf: Leaf
    tables: tuple[tuple[str, str], ...]
    batch_rows: int
    batch_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterTask:
    """The names of one split, for the registry and for one build's directory."""

    build: int
    epoch: int
    schema: str
    store: str
    split_id: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexTask:
    """One plain table of a build whose rows are all there."""

    build: int
    epoch: int
    schema: str
    table: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafResult:
    """What one leaf came to: rows and bytes per table, rejected records, seconds in all and by kind of work."""

    leaf: str
    rows: dict[str, int]
    bytes: dict[str, int]
    rejects: int
    seconds: float
    timings: dict[str, float] = field(default_factory=dict)


def cut_leaves(
    partitions: Iterable[Partition],
    archetype_ids: Mapping[str, int],
    powerset_ids: Mapping[str, int],
    target: int = TARGET_LEAVES,
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
    digest = hashlib.sha256("".join(f"{p.powerset}\t{p.digest}\n" for p in members).encode())
    return Leaf(
        name=f"{archetype}_{number:02d}",
        archetype=archetype,
        archetype_id=archetype_id,
        lower=lower,
        upper=upper,
        powersets=tuple(p.powerset for p in members),
        rows=sum(p.rows for p in members),
        bytes=sum(p.bytes for p in members),
        digest=digest.hexdigest()[:32],
    )
