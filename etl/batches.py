"""Record batches on their way to a transform: small ones together, unwanted records out."""

import itertools
from collections.abc import Container, Iterable, Iterator

import pyarrow as pa

# Up to here slices take no longer than a filter.
_FEW_RUNS = 8


def coalesce(batches: Iterable[pa.RecordBatch], rows: int, size: int) -> Iterator[pa.RecordBatch]:
    """Yield batches of about ``rows`` records or ``size`` bytes: most powersets are too small to be worth a round.

    A batch counts with the buffers that it holds, a slice with those of the whole one. To add up what it refers to in each
    column (``nbytes``) takes twenty times as long, which was a fifth of the time for reading the December export.
    """
    held: list[pa.RecordBatch] = []
    held_rows = held_bytes = 0
    for batch in batches:
        batch_bytes = batch.get_total_buffer_size()
        if held and (held_rows + batch.num_rows > rows or held_bytes + batch_bytes > size):
            yield pa.concat_batches(held)
            held, held_rows, held_bytes = [], 0, 0
        held.append(batch)
        held_rows += batch.num_rows
        held_bytes += batch_bytes
    if held:
        yield pa.concat_batches(held)


def named(batch: pa.RecordBatch, uids: Container[str]) -> pa.RecordBatch:
    """Return the records of these names; may be none.

    A few runs of neighbours are sliced out: pyarrow's filter needs a module that an update does without otherwise, and
    that is slow to import.
    """
    wanted = [uid in uids for uid in batch.column("uid").to_pylist()]
    runs, first = [], 0
    for is_wanted, group in itertools.groupby(wanted):
        rows = len(list(group))
        if is_wanted:
            runs.append(batch.slice(first, rows))
        first += rows
    if len(runs) > _FEW_RUNS:
        return batch.filter(pa.array(wanted, pa.bool_()))
    return pa.concat_batches(runs) if runs else batch.slice(0, 0)  # copies, so that the others' memory is not held
