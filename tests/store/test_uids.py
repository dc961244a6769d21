"""A uid is the stored name in lower case: a leaf tells by that which id is whose."""

import json
import sys

import pytest

from etl.sources import FORMATS
from etl.sources.cutting import Lot
from etl.sources.records import Checker
from etl.store import writer

_SPACES = [character for character in map(chr, range(sys.maxunicode + 1)) if character.isspace()]
_BEYOND_ASCII = ["Éclair", "STRASSE", "Straße", "İstanbul", "ΣΊΣΥΦΟΣ", "\u200bzero"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_uid_is_the_stored_name_in_lower_case(name: str) -> None:
    """Whatever white space stands round it, and whatever script it is in."""
    form = FORMATS[name]
    assert form.identity[0] == form.names[0]
    written = [f"{space}A.B.C{number}{space}" for number, space in enumerate(_SPACES)]
    written += [f"A.B.{word}" for word in _BEYOND_ASCII]
    others = {"PowersetFullName": "A.B"} if name == "i12" else {}
    texts = [json.dumps({form.names[0]: one, **others}, separators=(",", ":")).encode() for one in written]
    checker = Checker(form, "test")
    rows = checker.check(Lot(texts, list(range(len(texts)))), 0)
    batch = writer.batch_of(form, rows, 0)

    assert checker.rejects == []
    assert len(rows) == len(written)
    assert [kept.lower() for kept in batch.column(form.names[0]).to_pylist()] == batch.column("uid").to_pylist()
