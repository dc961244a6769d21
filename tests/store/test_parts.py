from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from split_support import cod, run, save

from etl import categories, errors
from etl.sources import records
from etl.store import parts, writer


def split(tmp_path):
    records = [cod(f"Pool.Set_{n % 3}.Power_{n}") for n in range(30)]
    return tmp_path / "store", run(tmp_path / "store", save(tmp_path / "powers.json", records))


def read(store, found):
    return list(parts.read_batches(str(store), found, found.partitions))


def test_batches_are_of_one_partition_each(tmp_path):
    """Whatever shares a physical batch, a reader sees one partition at a time."""
    store, found = split(tmp_path)

    assert [set(batch.column("powerset").to_pylist()) for batch in read(store, found)] == [
        {"pool.set_0"},
        {"pool.set_1"},
        {"pool.set_2"},
    ]


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage"])
def test_a_damaged_part_is_named(tmp_path, damage):
    """Exit code 5 and the path, not a traceback of a library."""
    store, found = split(tmp_path)
    part = next(store.rglob("*.arrow"))
    if damage == "missing":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-200] if damage == "truncated" else b"garbage")
    with pytest.raises(errors.StoreError, match=r"pool-0000\.arrow"):
        read(store, found)


def test_ordinals_count_from_the_start_of_the_source(tmp_path, monkeypatch):
    """In the parts they count from the range; a reader adds where that begins."""
    from etl.sources import inputs

    monkeypatch.setattr(inputs, "RANGE_BYTES", 1_000)
    store, found = split(tmp_path)
    ordinals = sorted(o for batch in read(store, found) for o in batch.column("ordinal").to_pylist())

    assert len(found.range_ordinals) > 3
    assert ordinals == list(range(30))


@pytest.mark.parametrize(("first", "rows"), [(0, 7), (2, 3), (6, 1), (3, 0)])
def test_ordinals_of_a_slice_are_its_own(first, rows):
    """Read from the buffer that it shares, they are those that its list has."""
    batch = pa.record_batch({"ordinal": pa.array(range(7), pa.int64())}).slice(first, rows)
    slow = [ordinal + 100 for ordinal in batch.column("ordinal").to_pylist()]

    assert parts.with_ordinals(batch, 100).column("ordinal").to_pylist() == slow
    assert parts.with_ordinals(batch, 0).equals(batch)


HOMES = [
    records.Home(categories.archetype_of(name.partition(".")[0]), name, spelling, None)
    for name in ("pool.b", "pool.a", "epic.a", "pool.ä", "pool.a_", "npc.z", "blaster_ranged.x")
    for spelling in (name, name.upper())
]


@given(st.lists(st.sampled_from(HOMES), min_size=1))
def test_rows_are_ordered_as_sorting_them_would(rows):
    """By archetype, then powerset, then as they came: what numbers do here, sorted tuples do there."""
    keys = [(home.archetype, home.powerset) for home in rows]
    homes = list(dict.fromkeys(rows))
    numbers = pa.array([homes.index(home) for home in rows], pa.int32())
    order, members = writer._by_powerset(numbers, homes)

    assert order.to_pylist() == sorted(range(len(keys)), key=keys.__getitem__)
    assert [((home.archetype, home.powerset), count) for home, count in members] == sorted(Counter(keys).items())
    assert [home for home, _ in members] == [rows[keys.index(key)] for key in sorted(set(keys))]


@given(st.lists(st.tuples(st.sampled_from(["pool", "", "ä"]), st.integers(1, 40)), min_size=1))
def test_texts_are_repeated_as_often_as_it_is_said(values):
    """One after the other."""
    assert writer._repeated(values).to_pylist() == [text for text, times in values for _ in range(times)]
