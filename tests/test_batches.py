"""Small batches come together; the records of some names are the same by slices and by the filter."""

import pyarrow as pa
import pytest

from etl.batches import coalesce, named

MASKS = [
    "",
    "1",
    "0",
    "1111",
    "0000",
    "0110",
    "1001",
    "10" * 7,
    "10" * 9,
    "10" * 40,
    "0" * 30 + "1" * 30,
    "1" + "0" * 99,
]


def test_small_batches_come_together_in_order():
    """Up to the rows or the bytes that are asked for; one that is bigger comes alone."""
    batches = [pa.record_batch({"n": pa.array(range(first, first + 10), pa.int64())}) for first in range(0, 100, 10)]

    for rows, size, heights in ((30, 10_000, [30, 30, 30, 10]), (100, 200, [20] * 5), (1, 1, [10] * 10)):
        found = list(coalesce(batches, rows, size))
        assert [batch.num_rows for batch in found] == heights
        assert [n for batch in found for n in batch.column("n").to_pylist()] == list(range(100))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("first", [0, 3])
def test_slices_and_the_filter_keep_the_same_records(mask: str, first: int) -> None:
    """Few runs and many, of a whole batch and of a part of one; nothing of the others is held."""
    names = [f"a.b.{row}" for row in range(first + len(mask))]
    values = [None if row % 3 else "x" * row for row in range(len(names))]
    whole = pa.record_batch({"uid": pa.array(names, pa.string()), "text": pa.array(values, pa.string())})
    batch = whole.slice(first)
    wanted = {name for name, bit in zip(names[first:], mask, strict=True) if bit == "1"}

    found = named(batch, wanted)

    assert found.equals(batch.filter(pa.array([bit == "1" for bit in mask], pa.bool_())))
    assert set(found.column("uid").to_pylist()) == wanted
    found.validate(full=True)
