"""The rejects of a build: those of its split, which lie in the store, and those of its load, which lie in the database.

They are numbered from 1 in file order; the numbers hold until the build changes.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from etl import db, outcome, storage
from etl.errors import SchemaError, UsageError
from etl.limits import MAX_RAW_BYTES
from etl.model import Manifest, Reject
from etl.store import manifest as manifests
from etl.store import rejects as split_rejects

# What was cut may have lost the bytes of a character at its end.
_SURELY_WHOLE = MAX_RAW_BYTES - 4


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """The rejects of one build; ``of_load`` are those that a transform refused."""

    build: int
    split_id: str
    store: str
    manifest: Manifest
    of_load: tuple[Reject, ...]

    @property
    def codes(self) -> Mapping[str, int]:
        """How many there are of each code, most frequent first."""
        found = Counter(self.manifest.reject_codes) + Counter(reject.code for reject in self.of_load)
        return dict(found.most_common())

    @property
    def total(self) -> int:
        """How many there are."""
        return self.manifest.rejects + len(self.of_load)

    def __iter__(self) -> Iterator[Reject]:
        """Yield all of them in file order, reading the store as they are asked for."""
        numbers = {info.path: number for number, info in enumerate(self.manifest.sources)}
        of_split = split_rejects.read(self.store, self.manifest)

        def place(reject: Reject) -> tuple[int, int]:
            return numbers[reject.source], reject.ordinal

        yield from heapq.merge(of_split, sorted(self.of_load, key=place), key=place)

    def numbered(self, code: str | None = None) -> Iterator[tuple[int, Reject]]:
        """Yield (number, reject), all or those of one code."""
        yield from ((n, reject) for n, reject in enumerate(self, 1) if code is None or reject.code == code)


def find(connection: db.Connection, live_schema: str, build: int | None = None, store: str | None = None) -> Rejected:
    """Return the rejects of the published build, or of a named one; ``store`` by default is where it was loaded from.

    Raises:
        SchemaError: nothing is published.
        UsageError: there is no such build.
        StoreError: its split is not there.
    """
    row = connection.execute(db.query("build_of"), {"schema": live_schema, "build": build}).fetchone()
    if row is None and build is not None:
        raise UsageError(f"schema {live_schema} has no build {build}", "etl status")
    if row is None:
        raise SchemaError(f"nothing is published in schema {live_schema}", "etl load")
    number, split_id, home = row
    where = store or home
    return Rejected(
        build=number,
        split_id=split_id,
        store=where,
        manifest=manifests.read(where, split_id),
        of_load=tuple(outcome.load_rejects(connection, number)),
    )


def export(found: Rejected, path: str, code: str | None = None) -> int:
    """Write rejects as JSON Lines that can be edited and replayed; return how many there are."""
    count = 0
    with storage.create(path) as stream:
        for number, reject in found.numbered(code):
            stream.write(msgspec.json.encode(_line(number, reject)) + b"\n")
            count += 1
    return count


def _line(number: int, reject: Reject) -> dict[str, Any]:
    """Return one line: the record as an object where it is one, so that it can be edited in place, else as text."""
    line = {
        "number": number,
        "source": reject.source,
        "file": reject.file,
        "ordinal": reject.ordinal,
        "offset": reject.offset,
        "uid": reject.uid,
        "stage": reject.stage,
        "code": reject.code,
        "reason": reject.reason,
    }
    try:
        record = msgspec.json.format(reject.raw.encode(), indent=-1)
        msgspec.json.decode(record, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {**line, "raw": reject.raw, "cut": len(reject.raw.encode(errors="replace")) >= _SURELY_WHOLE}
    return {**line, "record": msgspec.Raw(record)}
