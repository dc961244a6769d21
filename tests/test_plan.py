"""Leaves are few and even, and every powerset has exactly one place."""

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from etl.model import Part, Partition
from etl.plan import MOST_LEAVES, Leaf, cut_leaves, shares, target_of


def partition(archetype: str, number: int, size: int) -> Partition:
    return Partition(
        archetype=archetype,
        powerset=f"{archetype}.set_{number:05d}",
        name=f"{archetype}.Set_{number:05d}",
        display_name="Set",
        rows=1,
        bytes=size,
        digest=f"{number:032x}",
        batches=(),
    )


sizes = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 10_000)), min_size=1, max_size=300)


def cut(drawn: list[tuple[str, int]]) -> tuple[list[Partition], dict[str, int], list[Leaf]]:
    partitions = [partition(archetype, number, size) for number, (archetype, size) in enumerate(drawn)]
    archetypes = {key: number for number, key in enumerate(sorted({p.archetype for p in partitions}), start=1)}
    powersets = {p.powerset: number for number, p in enumerate(sorted(partitions, key=lambda p: p.powerset), start=1)}
    return partitions, powersets, cut_leaves(partitions, archetypes, powersets)


@given(sizes)
def test_every_powerset_is_in_exactly_one_leaf_within_its_bounds(drawn: list[tuple[str, int]]) -> None:
    """Bounds and members agree, and nothing is left out."""
    partitions, powersets, leaves = cut(drawn)

    placed = [name for leaf in leaves for name in leaf.powersets]
    assert sorted(placed) == sorted(p.powerset for p in partitions)
    for leaf in leaves:
        for name in leaf.powersets:
            assert leaf.lower is None or powersets[name] >= leaf.lower
            assert leaf.upper is None or powersets[name] < leaf.upper


@given(sizes)
def test_the_leaves_of_an_archetype_are_open_at_both_ends_and_join_without_gaps(drawn: list[tuple[str, int]]) -> None:
    """A new powerset has a place without DDL."""
    _, _, leaves = cut(drawn)

    for _, group in groupby(leaves, key=lambda leaf: leaf.archetype):
        members = list(group)
        assert members[0].lower is None
        assert members[-1].upper is None
        assert [leaf.upper for leaf in members[:-1]] == [leaf.lower for leaf in members[1:]]


@given(sizes)
def test_no_leaf_passes_twice_the_budget_unless_it_is_one_powerset(drawn: list[tuple[str, int]]) -> None:
    """Leaves are even enough to share the work."""
    partitions, _, leaves = cut(drawn)
    budget = max(1, sum(p.bytes for p in partitions) // MOST_LEAVES)

    assert all(leaf.bytes <= 2 * budget or len(leaf.powersets) == 1 for leaf in leaves)


def test_thirty_archetypes_give_at_most_64_leaves() -> None:
    """Planning time of queries without a key grows with the leaves."""
    drawn = [(f"a{number % 30:02d}", 1 + (number * 7919) % 1000) for number in range(7_597)]
    _, _, leaves = cut(drawn)

    assert 30 <= len(leaves) <= 64


def test_few_workers_and_a_small_split_want_few_leaves() -> None:
    """Each has its price; but many workers, and much to do again after a kill, want more of them."""
    small, big = [10_000] * 7_597, [1_000_000] * 7_597

    assert [target_of(small, workers) for workers in (1, 2, 4, 16)] == [4, 8, 16, MOST_LEAVES]
    assert target_of(big, 1) == MOST_LEAVES
    assert target_of([], 2) == 8


def test_the_cut_does_not_depend_on_the_order_of_partitions() -> None:
    """The same split gives the same leaves."""
    drawn = [("a", 5), ("b", 7), ("a", 11), ("b", 1), ("a", 2)]
    partitions, powersets, leaves = cut(drawn)

    assert cut_leaves(partitions[::-1], {"a": 1, "b": 2}, powersets) == leaves


@given(st.lists(st.integers(1, 10**9), max_size=60), st.integers(1, 9))
def test_every_part_is_in_one_share_and_no_share_is_empty(sizes: list[int], workers: int) -> None:
    """Where there are parts enough every worker has its shares, and the biggest parts are in different ones."""
    parts = [Part(name=str(number), bytes=size, xxh3="") for number, size in enumerate(sizes)]
    found = shares(parts, workers)

    assert sorted(part.name for share in found for part in share) == sorted(part.name for part in parts)
    assert all(found)
    assert len(found) >= min(len(parts), 4 * workers)
    assert [share[0].bytes for share in found] == sorted(sizes, reverse=True)[: len(found)]
