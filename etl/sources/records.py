"""Record texts become typed records with their keys, or rejects with their reasons.

Records are checked in lots: what a whole lot passes at once costs next to nothing, and only a record that fails is
looked at alone. The outcome for a record never depends on the lot it was in.
"""

import itertools
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import xxhash

from etl import categories, limits, numbers
from etl.model import Reject
from etl.sources import Format, cleaning, exactness, joined, nesting, turned
from etl.sources.cutting import Lot
from etl.sources.joined import Joined

MAX_NAME_BYTES = 1_000
_SURELY_SHORT = MAX_NAME_BYTES // 4  # characters: none takes more than four bytes


class Home(msgspec.Struct, frozen=True, eq=False):
    """The partition of a record, and the powerset's names as the record writes them. One is equal to itself alone.

    ``given`` are the record's fields that tell the partition beside its own name, as they are written.
    """

    archetype: str
    powerset: str
    name: str
    title: str | None
    given: tuple[str | None, ...] = ()


class Rows(msgspec.Struct):
    """Records that can be loaded, as columns: whose they are, where they stood, and themselves.

    ``digests`` are of the minified texts as the source wrote them, ``sizes`` the lengths of those in bytes. A digest tells
    a record that changed from one that did not, and nothing else: xxh3 does that at twenty to fifty times SHA-256's speed.
    ``nested`` are the nested values of all records, ``turned`` all values, as far as they were joined and turned on the way.
    """

    uids: list[str] = msgspec.field(default_factory=list)
    homes: list[Home] = msgspec.field(default_factory=list)
    ordinals: list[int] = msgspec.field(default_factory=list)
    offsets: list[int] = msgspec.field(default_factory=list)
    digests: list[bytes] = msgspec.field(default_factory=list)
    sizes: list[int] = msgspec.field(default_factory=list)
    records: list[Any] = msgspec.field(default_factory=list)
    nested: list[Joined] = msgspec.field(default_factory=list)
    turned: Mapping[str, Sequence[Any]] = msgspec.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.uids)

    def extend(self, more: "Rows") -> None:
        """Add rows behind these."""
        self.turned = {} if self else more.turned
        self.uids += more.uids
        self.homes += more.homes
        self.ordinals += more.ordinals
        self.offsets += more.offsets
        self.digests += more.digests
        self.sizes += more.sizes
        self.records += more.records
        self.nested += more.nested

    def only(self, wanted: Iterable[int]) -> "Rows":
        """Return some of the rows, by their numbers."""
        wanted, some = list(wanted), Rows()
        for name in some.__struct_fields__:
            if name not in ("nested", "turned"):
                setattr(some, name, [getattr(self, name)[row] for row in wanted])
        return some

    def joined(self, names: Sequence[str]) -> list[Joined]:
        """Return the nested values of all rows; ``names`` are their fields."""
        known = sum(part.rows for part in self.nested)
        return self.nested if known == len(self) else [joined.join([turned.one(self.records, name) for name in names])]


class Checker:
    """Turns lots of one source into rows; rejects and counts gather here. ``file`` is where the lots are from.

    ``count_keys`` counts the members that are lost because their key comes again in one object, if there is one.
    """

    def __init__(
        self, form: Format, source: str, strip_nul: bool = True, count_keys: Callable[[bytes], int] | None = None
    ) -> None:
        self.format = form
        self.source = source
        self.strip_nul = strip_nul
        self.count_keys = count_keys
        self.file: str | None = None
        self.rejects: list[Reject] = []
        self.counts: Counter[str] = Counter()
        self._homes: dict[tuple[Any, ...], Home] = {}
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self.format.record)
        self._nested = exactness.nested(self.format.record)
        self._lots = msgspec.json.Decoder(list[exactness.guarded(self.format.record)])  # type: ignore[misc]

    def check(self, lot: Lot, ordinal: int, extra: Mapping[str, Any] | None = None) -> Rows:
        """Return the rows of these records, in order; the others are in ``rejects`` then.

        ``ordinal`` is that of the first one; ``extra`` are fields that the record's own text does not hold.
        """
        texts = cleaning.minify_all(lot)
        ready = lot.records if texts is lot.texts else None
        values = turned.turned(ready) if ready is not None and len(ready) >= turned.MANY else {}
        nested = joined.join([_of(values, ready, name) for name in self._nested]) if ready is not None else None
        digests = list(map(xxhash.xxh3_128_digest, texts))
        numbers = list(range(len(texts)))
        suspects = cleaning.suspects(lot, texts, nested.data if nested else None).union(lot.faults)
        if suspects:
            texts = list(texts)
            lost = {number for number in sorted(suspects) if not self._clean(lot, number, ordinal, texts)}
            numbers = [number for number in numbers if number not in lost]
        if self.count_keys is not None:
            self.counts["duplicate_keys"] += sum(self.count_keys(texts[number]) for number in numbers)
        if ready is None:
            records = self._decode(lot, ordinal, numbers, texts)
        elif suspects:
            records = [
                ready[number]
                if texts[number] is lot.texts[number]
                else self._decode_one(lot, number, ordinal, texts[number])
                for number in numbers
            ]
        else:
            records = ready
        if extra:
            for record in filter(None, records):
                for name, value in extra.items():
                    setattr(record, name, value)
        if records is not ready or extra:
            values, nested = {}, None
        rows = self._rows(lot, ordinal, numbers, texts, digests, records, values)
        # Where a record is left out, the values of the others are turned and joined once more.
        if nested and len(rows) == nested.rows:
            rows.turned, rows.nested = values, [nested]
        return rows

    def reject(self, lot: Lot, number: int, ordinal: int, fault: tuple[str, str], uid: str | None = None) -> None:
        """Set a record of a lot aside; ``ordinal`` is that of the lot's first one, ``fault`` is (code, reason)."""
        self.rejects.append(
            Reject(
                source=self.source,
                file=self.file,
                ordinal=ordinal + number,
                offset=lot.offsets[number],
                uid=uid,
                stage="split",
                code=fault[0],
                reason=fault[1],
                raw=lot.texts[number][: limits.MAX_RAW_BYTES].decode(errors="backslashreplace"),
            )
        )

    def _clean(self, lot: Lot, number: int, ordinal: int, texts: list[bytes]) -> bool:
        """Put the text that can be stored in place; return False where the record was rejected."""
        text = texts[number]
        fault = lot.faults.get(number)
        if fault is None or (fault[0] == "bad_json" and cleaning.lone_surrogate(text) is not None):
            fault = _fault(text) or fault
        if fault is None and numbers.may_be_huge(text):
            fault = exactness.huge_number(text, self.format.record)
        if fault is None and cleaning.nul(text) is not None:
            if cleaning.has_nul_in_names(text, self.format.source_names):
                fault = "nul_in_name", "a name or key holds the character NUL"
            elif not self.strip_nul:
                fault = "nul_in_text", "a text holds the character NUL"
            else:
                texts[number], count = cleaning.strip_nul(text)
                self.counts["nul_stripped"] += count
        if fault is None:
            return True
        self.reject(lot, number, ordinal, fault, None if fault[0] == "nul_in_name" else self._uid(text))
        return False

    def _decode(self, lot: Lot, ordinal: int, numbers: list[int], texts: list[bytes]) -> list[Any]:
        """Return the typed records of the texts with these numbers, None for one that was rejected."""
        try:
            whole = b"".join((b"[", b",".join([texts[number] for number in numbers]), b"]"))
            return self._lots.decode(whole)  # type: ignore[no-any-return]
        except (msgspec.DecodeError, RecursionError):
            return [self._decode_one(lot, number, ordinal, texts[number]) for number in numbers]

    def _decode_one(self, lot: Lot, number: int, ordinal: int, text: bytes) -> Any:
        try:
            record = exactness.decode(self._decoder, self.format.record, text)
            fault = exactness.rounded(text, record)
        except (msgspec.DecodeError, RecursionError) as error:
            record, fault = None, explain(error)
        if fault:
            self.reject(lot, number, ordinal, fault, self._uid(text))
        return None if fault else record

    def _rows(
        self,
        lot: Lot,
        ordinal: int,
        numbers: list[int],
        texts: list[bytes],
        digests: list[bytes],
        records: list[Any],
        values: Mapping[str, Sequence[Any]],
    ) -> Rows:
        """Return the rows of the records that are left, less those whose names will not do; ``values`` if they are turned."""
        if not all(records):
            kept = [(number, record) for number, record in zip(numbers, records, strict=True) if record is not None]
            numbers, records = [number for number, _ in kept], [record for _, record in kept]
        fields = [_of(values, records, name) for name in self.format.identity]
        names = list(map(str.strip, fields[0]))
        parts = list(map(str.rpartition, names, itertools.repeat(".")))
        fields[0] = list(map(operator.itemgetter(0), parts))
        keys = list(zip(*fields, strict=True))
        homes: list[Home | None] = list(map(self._homes.get, keys))
        simple = all(map(operator.itemgetter(2), parts)) and max(map(len, names), default=0) <= _SURELY_SHORT
        strange = [
            place for place, home in enumerate(homes) if home is None or not (simple or _is_simple(names[place]))
        ]
        for place in strange:
            home = self._homes.get(keys[place]) if _is_simple(names[place]) else None
            homes[place] = home or self._home(lot, numbers[place], ordinal, records[place], names[place], keys[place])
        if strange and not all(homes):
            left = [place for place, home in enumerate(homes) if home is not None]
            numbers, names = [numbers[place] for place in left], [names[place] for place in left]
            homes, records = [homes[place] for place in left], [records[place] for place in left]
        offsets, sizes = lot.offsets, list(map(len, texts))
        ordinals = list(range(ordinal, ordinal + len(texts)))
        if len(numbers) < len(texts):
            ordinals = [ordinal + number for number in numbers]
            offsets, sizes, digests = ([column[number] for number in numbers] for column in (offsets, sizes, digests))  # type: ignore[assignment]
        return Rows(
            uids=list(map(str.lower, names)),
            homes=homes,  # type: ignore[arg-type]  # none of them is None any more
            ordinals=ordinals,
            offsets=offsets,
            digests=digests,
            sizes=sizes,
            records=records,
        )

    def _home(self, lot: Lot, number: int, ordinal: int, record: Any, name: str, key: tuple[Any, ...]) -> Home | None:
        """Return the partition of a record, and remember it for those of the same powerset; None if it was rejected."""
        name, powerset, title = self.format.identify(record)
        fault = _name_fault(name, powerset)
        if fault:
            self.reject(lot, number, ordinal, fault)
            return None
        archetype = categories.archetype_of(powerset.partition(".")[0])
        home = Home(archetype, powerset.lower(), powerset, title, key[1:])
        if _is_simple(name):
            self._homes[key] = home
        return home

    def _uid(self, text: bytes) -> str | None:
        """Return the name of a record that is to be rejected, where it can be read."""
        found = re.search(rb'"%s"\s*:\s*("(?:[^"\\]|\\.)*")' % self.format.names[0].encode(), text)
        try:
            name = str(msgspec.json.decode(found[1])).strip().lower() if found else ""
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return None if "\0" in name or _name_fault(name, name) else name


def _of(values: Mapping[str, Sequence[Any]], records: Sequence[Any], name: str) -> Sequence[Any]:
    """Return the values of a field, where they were turned already those."""
    return values[name] if values else turned.one(records, name)


def explain(error: Exception) -> tuple[str, str]:
    """Return (code, reason) for what msgspec raised about a record."""
    message = str(error)
    if isinstance(error, UnicodeDecodeError):
        return "invalid_utf8", message
    if isinstance(error, RecursionError):
        return "too_deep", f"nested deeper than {nesting.MAX_DEPTH} levels"
    if not isinstance(error, msgspec.ValidationError):
        return "bad_json", message
    if "missing required field" in message:
        return "missing_key", message
    if "out of range" in message or "Expected `int` >=" in message or "Expected `int` <=" in message:
        return "out_of_range", message
    return "wrong_type", message


def _fault(text: bytes) -> tuple[str, str] | None:
    wrong = cleaning.invalid_utf8(text)
    if wrong:
        return "invalid_utf8", f"byte {wrong[0]} of the record is not UTF-8 ({wrong[1]})"
    if nesting.is_too_deep(text):
        return "too_deep", f"nested deeper than {nesting.MAX_DEPTH} levels"
    lone = cleaning.lone_surrogate(text)
    if lone is not None:
        return "lone_surrogate", f"byte {lone} of the record begins half of a surrogate pair"
    return None


def _is_simple(name: str) -> bool:
    """Return whether a name that shares all but its last part with a good one is good for that reason alone."""
    return len(name) <= _SURELY_SHORT and name[-1:] != "."


def _name_fault(name: str, powerset: str) -> tuple[str, str] | None:
    if not powerset or not all(name.split(".", 2)):
        return "bad_name", f"'{name[:100]}' is no name of the form Category.Set.Power"
    if len(name) <= _SURELY_SHORT and len(powerset) <= _SURELY_SHORT:
        return None
    size = max(len(text.encode()) for known in (name, powerset) for text in (known, known.lower()))
    if size <= MAX_NAME_BYTES:
        return None
    return "name_too_long", f"the name is {size} bytes long; {MAX_NAME_BYTES} can be indexed"
