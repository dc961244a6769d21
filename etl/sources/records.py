"""Record texts become typed records with their keys, or rejects with their reasons.

Records are checked in lots: what a whole lot passes at once costs next to nothing, and only a record that fails is
looked at alone. The outcome for a record never depends on the lot it was in.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from etl import categories
from etl.model import Reject
from etl.sources import Format, cleaning
from etl.sources.cutting import Lot

MAX_NAME_BYTES = 1_000
MAX_RAW_BYTES = 64 * 1024
_SURELY_SHORT = MAX_NAME_BYTES // 4  # characters: none takes more than four bytes


@dataclass(frozen=True, slots=True)
class Home:
    """The partition of a record, and the powerset's names as the record writes them."""

    archetype: str
    powerset: str
    name: str
    title: str | None


@dataclass(slots=True)
class Rows:
    """Records that can be loaded, as columns: whose they are, where they stood, and themselves.

    ``digests`` are of the minified texts as the source wrote them, ``sizes`` the lengths of those in bytes.
    """

    uids: list[str] = field(default_factory=list)
    homes: list[Home] = field(default_factory=list)
    ordinals: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    records: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.uids)

    def extend(self, more: "Rows") -> None:
        """Add rows behind these."""
        self.uids += more.uids
        self.homes += more.homes
        self.ordinals += more.ordinals
        self.offsets += more.offsets
        self.digests += more.digests
        self.sizes += more.sizes
        self.records += more.records


@dataclass(slots=True)
class Checker:
    """Turns lots of one source into rows; rejects and counts gather here. ``file`` is where the lots are from."""

    format: Format
    source: str
    strip_nul: bool = True
    file: str | None = None
    rejects: list[Reject] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _decoder: msgspec.json.Decoder[Any] = field(init=False)
    _lots: msgspec.json.Decoder[Any] = field(init=False)
    _homes: dict[tuple[str, str | None], Home] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Build the decoders once."""
        self._decoder = msgspec.json.Decoder(self.format.record)
        self._lots = msgspec.json.Decoder(list[self.format.record])  # type: ignore[name-defined]

    def check(self, lot: Lot, ordinal: int, extra: Mapping[str, Any] | None = None) -> Rows:
        """Return the rows of these records, in order; the others are in ``rejects`` then.

        ``ordinal`` is that of the first one; ``extra`` are fields that the record's own text does not hold.
        """
        texts = cleaning.minify_all(lot.texts, lot.faults)
        digests = [hashlib.sha256(text).digest()[:16] for text in texts]
        suspects = cleaning.suspects(texts).union(lot.faults)
        lost = {number for number in sorted(suspects) if not self._clean(lot, number, ordinal, texts)}
        numbers = [number for number in range(len(texts)) if number not in lost] if lost else list(range(len(texts)))
        if lost:
            texts, digests = [texts[n] for n in numbers], [digests[n] for n in numbers]
        records = self._decode(lot, ordinal, numbers, texts)
        return self._rows(lot, ordinal, numbers, texts, digests, records, extra or {})

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
                raw=lot.texts[number][:MAX_RAW_BYTES].decode(errors="backslashreplace"),
            )
        )

    def _clean(self, lot: Lot, number: int, ordinal: int, texts: list[bytes]) -> bool:
        """Put the text that can be stored in place; return False where the record was rejected."""
        text = texts[number]
        fault = lot.faults.get(number) or _fault(text)
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
        """Return the typed record of each text, None for one that was rejected."""
        try:
            return self._lots.decode(b"".join((b"[", b",".join(texts), b"]")))  # type: ignore[no-any-return]
        except (msgspec.DecodeError, RecursionError):
            return [self._decode_one(lot, n, ordinal, text) for n, text in zip(numbers, texts, strict=True)]

    def _decode_one(self, lot: Lot, number: int, ordinal: int, text: bytes) -> Any:
        try:
            return self._decoder.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            self.reject(lot, number, ordinal, explain(error), self._uid(text))
        return None

    def _rows(
        self,
        lot: Lot,
        ordinal: int,
        numbers: list[int],
        texts: list[bytes],
        digests: list[bytes],
        records: list[Any],
        extra: Mapping[str, Any],
    ) -> Rows:
        rows, identify, homes = Rows(), self.format.identify, self._homes
        for number, text, digest, record in zip(numbers, texts, digests, records, strict=True):
            if record is None:
                continue
            for name, value in extra.items():
                setattr(record, name, value)
            name, powerset, title = identify(record)
            fault = _name_fault(name, powerset)
            if fault:
                uid = name.lower() if fault[0] == "name_too_long" else None
                self.reject(lot, number, ordinal, fault, uid)
                continue
            home = homes.get((powerset, title))
            if home is None:
                archetype = categories.archetype_of(powerset.partition(".")[0])
                home = homes[powerset, title] = Home(archetype, powerset.lower(), powerset, title)
            rows.uids.append(name.lower())
            rows.homes.append(home)
            rows.ordinals.append(ordinal + number)
            rows.offsets.append(lot.offsets[number])
            rows.digests.append(digest)
            rows.sizes.append(len(text))
            rows.records.append(record)
        return rows

    def _uid(self, text: bytes) -> str | None:
        """Return the name of a record that is to be rejected, where it can be read."""
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        key = self.format.names[0]
        name = value.get(key) if isinstance(value, dict) else None
        return name.strip().lower() if isinstance(name, str) and "\0" not in name else None


def explain(error: Exception) -> tuple[str, str]:
    """Return (code, reason) for what msgspec raised about a record."""
    message = str(error)
    if isinstance(error, UnicodeDecodeError):
        return "invalid_utf8", message
    if isinstance(error, RecursionError):
        return "too_deep", f"nested deeper than {cleaning.MAX_DEPTH} levels"
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
    if cleaning.is_too_deep(text):
        return "too_deep", f"nested deeper than {cleaning.MAX_DEPTH} levels"
    lone = cleaning.lone_surrogate(text)
    if lone is not None:
        return "lone_surrogate", f"byte {lone} of the record begins half of a surrogate pair"
    return None


def _name_fault(name: str, powerset: str) -> tuple[str, str] | None:
    if not powerset or not all(name.split(".", 2)):
        return "bad_name", f"'{name[:100]}' is no name of the form Category.Set.Power"
    if len(name) <= _SURELY_SHORT and len(powerset) <= _SURELY_SHORT:
        return None
    size = max(len(text.encode()) for known in (name, powerset) for text in (known, known.lower()))
    if size <= MAX_NAME_BYTES:
        return None
    return "name_too_long", f"the name is {size} bytes long; {MAX_NAME_BYTES} can be indexed"
