"""Decoding of the nested JSON in a batch, with a reject for every record that does not fit."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Annotated, Any

import msgspec
import polars as pl
import pyarrow as pa

from etl import model, numbers

RAW_BYTES = 64 * 1024
"""How much of the offending JSON a reject keeps."""

INT4_MAX = 2**31 - 1

Int4 = Annotated[int, msgspec.Meta(ge=-INT4_MAX, le=INT4_MAX)]
"""An integer that an int4 column holds."""

Text = str | None


class Field:
    """How to read one nested column: its type, and the JSON that stands for a null or empty cell."""

    __slots__ = ("empty", "parse")

    def __init__(self, kind: Any, empty: bytes = b"[]") -> None:
        self.parse = msgspec.json.Decoder(kind).decode
        self.empty = empty


def decode(
    batch: pa.RecordBatch, fields: Mapping[str, Field]
) -> tuple[pa.RecordBatch, dict[str, list[Any]], list[model.Reject]]:
    """Decode the JSON columns named in ``fields``.

    Returns the batch without the records that do not fit, the decoded values per column (one per row of that batch;
    a null cell becomes an empty list or object), and a reject for each record left out.
    """
    values: dict[str, list[Any]] = {}
    faults: dict[int, tuple[str, str]] = {}
    for name, field in fields.items():
        texts = column(batch, name).cast(pl.Binary).to_list()  # pyarrow's own takes 5 times as long
        values[name] = _decode_column(name, texts, field, faults)
    if not faults:
        return batch, values, []
    good = [row for row in range(batch.num_rows) if row not in faults]
    rejects = [_reject(batch, row, *faults[row]) for row in sorted(faults)]
    kept = {name: [column[row] for row in good] for name, column in values.items()}
    return batch.take(pa.array(good, pa.int64())), kept, rejects


def fields_of(kind: type[msgspec.Struct], values: Sequence[msgspec.Struct]) -> Iterator[list[Any]]:
    """Yield the values of each field, in the order of the struct's fields; all of the structs are of this kind.

    All values in one list, of which every n-th is of one field, beside fetching each field of each struct by its name: 0.06
    instead of 0.18 ms for what a megabyte of nested records holds, 0.06 instead of 0.13 of flat ones (``scripts/bench.py
    twins``); tests/transforms/test_nested.py has the two agree.
    """
    names = kind.__struct_fields__
    flat = list(chain.from_iterable(map(msgspec.structs.astuple, values)))
    return (flat[place :: len(names)] for place in range(len(names)))


def column(batch: pa.RecordBatch, name: str) -> pl.Series:
    """Return a column of a batch as polars has it.

    As one of a batch: for a lone array polars imports a slow module of pyarrow's, and needs nothing of it.
    """
    frame: pl.DataFrame = pl.from_arrow(batch.select([name]))  # type: ignore[assignment]  # a record batch gives a frame
    return frame.get_column(name)


def _decode_column(name: str, texts: list[bytes | None], field: Field, faults: dict[int, tuple[str, str]]) -> list[Any]:
    parse, empty = field.parse, field.empty
    try:
        return [parse(text or empty) for text in texts]
    except (msgspec.DecodeError, RecursionError):
        return _decode_each(name, texts, field, faults)


def _decode_each(name: str, texts: list[bytes | None], field: Field, faults: dict[int, tuple[str, str]]) -> list[Any]:
    """Decode one at a time, after at least one failed, to tell which."""
    values: list[Any] = []
    for row, text in enumerate(texts):
        try:
            values.append(_decode_one(field, text or field.empty))
        except (msgspec.DecodeError, RecursionError) as error:
            values.append(None)
            faults.setdefault(row, (name, str(error)))
    return values


def _decode_one(field: Field, text: bytes) -> Any:
    """Decode one value; a whole number in an integer field may be written with a point or an exponent (1.0, 2e3)."""
    try:
        return field.parse(text)
    except msgspec.ValidationError as error:
        if "Expected `int" not in str(error) or "got `float`" not in str(error):
            raise
        return field.parse(numbers.with_whole_numbers(text))


def _reject(batch: pa.RecordBatch, row: int, name: str, reason: str) -> model.Reject:
    place = {key: batch.column(key)[row].as_py() for key in ("source", "ordinal", "offset", "uid")}
    raw = str(batch.column(name)[row].as_py()).encode()[:RAW_BYTES].decode(errors="ignore")
    return model.Reject(
        source=str(place["source"]),
        file=None,
        ordinal=place["ordinal"],
        offset=place["offset"],
        uid=place["uid"],
        stage="load",
        code="bad_effects" if "effects" in name.lower() else "bad_value",
        reason=f"{name}: {reason}",
        raw=raw,
    )
