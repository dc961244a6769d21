"""Decoding of the nested JSON in a batch, each text once, with a reject for every record that does not fit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Annotated, Any

import msgspec
import polars as pl
import pyarrow as pa

from etl import model, numbers
from etl.transforms import dictionary

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


class Values(msgspec.Struct, frozen=True):
    """The decoded values of a column: those of its different texts, and for each row the number of its own among them.

    Powers share a good deal: of the texts in a batch of the December export 75% are different in the column of effects,
    9% or less in all others. What follows from a value alone is worked out once as well. Beside working it out for each row
    (as tests/transforms/test_nested.py does) a transform takes 0.93 of its time for all tables of that export, 0.69 for the
    powers of generated nested records, 0.47 of flat ones, which repeat more, and 1.05 for MidsReborn's, of whose effects 97%
    are different.
    """

    distinct: list[Any]
    numbers: list[int]

    def map(self, function: Callable[[Any], Any]) -> "Values":
        """Return what a function makes of each value, which it is asked once."""
        return Values([function(value) for value in self.distinct], self.numbers)

    def column(self, dtype: Any) -> pl.Series:
        """Return the values as a column."""
        return dictionary.column(self.distinct, self.numbers, dtype)

    def list_column(self) -> pl.Series:
        """Return the values, which are lists of text, as a column."""
        return dictionary.list_column(self.distinct, self.numbers)

    def entries(self) -> tuple[list[int], list[Any]]:
        """Return the row and the entry for every entry of the values, which are lists, in order."""
        rows = [row for row, number in enumerate(self.numbers) for _ in self.distinct[number]]
        return rows, list(chain.from_iterable([self.distinct[number] for number in self.numbers]))


def decode(
    batch: pa.RecordBatch, fields: Mapping[str, Field]
) -> tuple[pa.RecordBatch, pl.DataFrame, dict[str, Values], list[model.Reject]]:
    """Decode the JSON columns named in ``fields``.

    Returns the batch without the records that do not fit, as Arrow and as polars has it, the values per column (a null
    cell becomes an empty list or object), and a reject for each record left out.
    """
    records: pl.DataFrame = pl.from_arrow(batch)  # type: ignore[assignment]  # a record batch gives a frame
    values: dict[str, Values] = {}
    faults: dict[int, tuple[str, str]] = {}
    for name, field in fields.items():
        # pyarrow's own list takes 5 times as long
        texts, places = dictionary.encode(records.get_column(name).cast(pl.Binary).to_list())
        decoded, reasons = _decode_texts(texts, field)
        values[name] = Values(decoded, places)
        if reasons:
            for row, place in enumerate(places):
                if place in reasons:
                    faults.setdefault(row, (name, reasons[place]))
    if not faults:
        return batch, records, values, []
    rejects = [_reject(batch, row, *faults[row]) for row in sorted(faults)]
    good = [row for row in range(batch.num_rows) if row not in faults]
    *rest, _ = decode(batch.take(pa.array(good, pa.int64())), fields)
    return *rest, rejects


def fields_of(kind: type[msgspec.Struct], values: Sequence[msgspec.Struct]) -> Iterator[list[Any]]:
    """Yield the values of each field, in the order of the struct's fields; all of the structs are of this kind.

    All values in one list, of which every n-th is of one field, beside fetching each field of each struct by its name: 0.06
    instead of 0.18 ms for what a megabyte of nested records holds, 0.06 instead of 0.13 of flat ones (``scripts/bench.py
    twins``); tests/transforms/test_nested.py has the two agree.
    """
    names = kind.__struct_fields__
    flat = list(chain.from_iterable(map(msgspec.structs.astuple, values)))
    return (flat[place :: len(names)] for place in range(len(names)))


def _decode_texts(texts: list[bytes | None], field: Field) -> tuple[list[Any], dict[int, str]]:
    """Return the value of each text, and for the place of each one that does not fit the reason."""
    parse, empty = field.parse, field.empty
    try:
        return [parse(text or empty) for text in texts], {}
    except (msgspec.DecodeError, RecursionError):
        return _decode_each(texts, field)


def _decode_each(texts: list[bytes | None], field: Field) -> tuple[list[Any], dict[int, str]]:
    """Decode one at a time, after at least one failed, to tell which."""
    values: list[Any] = []
    reasons: dict[int, str] = {}
    for place, text in enumerate(texts):
        try:
            values.append(_decode_one(field, text or field.empty))
        except (msgspec.DecodeError, RecursionError) as error:
            values.append(None)
            reasons[place] = str(error)
    return values, reasons


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
