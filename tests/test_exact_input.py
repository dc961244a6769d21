"""Nothing wrong gets through, nothing right is refused, and what is accepted is stored exactly."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_line import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from split_support import cod

import etl
from etl import db
from etl.outcome import load_rejects
from etl.store import rejects

NAME = "Pool.Set.Odd"
GOOD = [json.dumps(cod(f"Pool.Set.Good{number}")).encode() for number in range(3)]
DEEP = b'{"x":' * 600 + b"1" + b"}" * 600


def record(members: bytes = b"", **changes: Any) -> bytes:
    """A record with members as they are written behind the usual ones."""
    text = json.dumps(cod(NAME, **changes), ensure_ascii=False).encode()
    return text[:-1] + (b"," + members if members else b"") + b"}"


def in_group(value: bytes) -> bytes:
    """A record with a value in its effects where the loader does not know the key: it is stored all the same."""
    return record(b'"effects":[{"chance":1.0,"templates":[],"odd":' + value + b"}]")


REJECTED = {
    "NUL in a key": (record(b'"a\\u0000b":1'), "nul_in_name"),
    "NUL in a nested key": (in_group(b'{"a\\u0000":1}'), "nul_in_name"),
    "NUL in a name": (record(b'"full_name":"Pool.Set.A\\u0000"'), "nul_in_name"),
    "a bare NUL": (record(b'"odd":"a\0b"'), "bad_json"),
    "a bare tab": (record(b'"odd":"a\tb"'), "bad_json"),
    "a high surrogate": (record(b'"odd":"\\ud800"'), "lone_surrogate"),
    "a low surrogate": (record(b'"display_help":"\\udc00 x"'), "lone_surrogate"),
    "a pair the wrong way round": (record(b'"odd":"\\udc00\\ud800"'), "lone_surrogate"),
    "a surrogate before another escape": (record(b'"odd":"\\ud83d\\u0041"'), "lone_surrogate"),
    "a surrogate in a key": (record(b'"\\ud800":1'), "lone_surrogate"),
    "invalid UTF-8 in a text": (record(b'"display_help":"\xff"'), "invalid_utf8"),
    "invalid UTF-8 in a skipped field": (record(b'"odd":"a\xc3("'), "invalid_utf8"),
    "invalid UTF-8 deep in a skipped field": (record(b'"odd":[{"x":["\x80"]}]'), "invalid_utf8"),
    "invalid UTF-8 in a key": (record(b'"\xe2\x82":1'), "invalid_utf8"),
    "an overlong NUL": (record(b'"odd":"\xc0\x80"'), "invalid_utf8"),
    "CESU-8": (record(b'"odd":"\xed\xa0\xbd\xed\xb8\x80"'), "invalid_utf8"),
    "NaN": (record(b'"accuracy":NaN'), "bad_json"),
    "NaN in a skipped field": (record(b'"odd":[NaN]'), "bad_json"),
    "Infinity": (record(b'"accuracy":-Infinity'), "bad_json"),
    "a double too big": (record(b'"accuracy":1e400'), "out_of_range"),
    "an integer no double is": (record(b'"accuracy":9007199254740993'), "out_of_range"),
    "a longer one": (record(b'"accuracy":123456789012345678901234567890'), "out_of_range"),
    "a level beyond 64 bits": (record(b'"available_level":18446744073709551616'), "out_of_range"),
    "a level beyond 16 bits": (record(b'"available_level":32767'), "out_of_range"),
    "half a level": (record(b'"available_level":1.5'), "wrong_type"),
    "a level as a text": (record(b'"available_level":"1"'), "wrong_type"),
    "a float before a level as a word": (record(b'"max_boosts":6.0,"available_level":"Current"'), "wrong_type"),
    "a number jsonb does not hold": (in_group(b"1e131072"), "out_of_range"),
    "one too small for jsonb": (in_group(b'["1e9999999",-1E-16384]'), "out_of_range"),
    "601 levels": (in_group(DEEP), "too_deep"),
    "1,000 levels": (in_group(b"[" * 1_000 + b"]" * 1_000), "too_deep"),
    "100,000 levels": (record(b'"odd":' + b"[" * 100_000 + b"]" * 100_000), "too_deep"),
    "an empty record": (b"{}", "missing_key"),
    "null": (b"null", "wrong_type"),
    "a text": (b'"record"', "wrong_type"),
    "a list": (b"[1]", "wrong_type"),
    "no name": (record(b'"full_name":""'), "bad_name"),
    "a name of blanks": (record(b'"full_name":" . . "'), "bad_name"),
    "a name of 1,001 bytes": (record(b'"full_name":"A.B.' + b"x" * 997 + b'"'), "name_too_long"),
    "effects that are none": (record(b'"full_name":"Pool.Set.None","effects":{"a":1}'), "bad_effects"),
    "a scale too big": (record(b'"effects":[{"templates":[{"scale":1e400}]}]'), "bad_effects"),
}


@pytest.mark.parametrize("layout", ["array", "lines"])
def test_what_is_wrong_is_rejected_with_its_place_and_reason(layout: str, dsn: str, tmp_path: Path) -> None:
    """Each between good ones, which are loaded; the byte is that of the record, whichever stage finds it."""
    texts = [*GOOD[:2], *(text for text, _ in REJECTED.values()), GOOD[2]]
    before, between, after = (b"[\n", b",\n", b"\n]\n") if layout == "array" else (b"", b"\n", b"\n")
    document = before + between.join(texts) + after
    path = tmp_path / "powers.json"
    path.write_bytes(document)
    store = str(tmp_path / "store")
    manifest = etl.split(str(path), store=store, executor="inline://")
    result = etl.load(store=store, dsn=dsn, executor="inline://")
    with db.connect(dsn) as connection:
        found = sorted(
            [*rejects.read(store, manifest), *load_rejects(connection, result.build)], key=lambda r: r.ordinal
        )

    assert {kind: code for (kind, (_, code)) in REJECTED.items()} == dict(
        zip(REJECTED, [reject.code for reject in found], strict=True)
    )
    place = 0
    for reject, (kind, (text, _)) in zip(found, REJECTED.items(), strict=True):
        place = document.index(between + text + between, place) + len(between)
        assert (kind, reject.offset) == (kind, place)
        assert reject.source == str(path)
        assert reject.reason
        assert reject.raw
        assert len(reject.raw) <= 4 * 64 * 1024
    assert result.loaded == 3


ODD_NAMES = [
    "a.b.c..",
    "commas, colons: and; more",
    "quote\"s 'n' `ticks` \\",
    "new\nline\ttab\rreturn",
    "😀 emoji 👩‍👩‍👧",
    "\u202eright to left\u202c \u200f",
    "\ufeffBOM",
    "x" * 63,
    "x" * 64,
    "é" * 400,
    "y" * 988,
    "'; drop table game.powers; --",
    "$(rm -rf /) `id` && | > /dev/null",
    "%s %(x)s {x} {0} $1 :x ?",
    "\\copy \\. \\N",
    "../../../etc/passwd",
    "NULL",
    "null\x7fdel\x01control",
]


def test_odd_names_are_names(dsn: str, tmp_path: Path) -> None:
    """Stored byte for byte, each a power of its own, found by its name."""
    names = [f"Pool.Set.{name}" for name in ODD_NAMES] + [f"Pool.{name.replace('.', '')}.P" for name in ODD_NAMES]
    path = tmp_path / "powers.json"
    path.write_text(json.dumps([cod(name, display_name=name, display_help=name) for name in names]))
    etl.split(str(path), store=str(tmp_path / "store"), executor="inline://")
    result = etl.load(store=str(tmp_path / "store"), dsn=dsn, executor="inline://")
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("select internal_name, description from game.powers").fetchall()
        sets = connection.execute("select full_name from game.powersets").fetchall()
    shown = [run("power", "--dsn", dsn, "--json", "--", name.upper()) for name in names[1:12:5]]

    assert (result.loaded, result.rejected) == (len(names), 0)
    assert sorted(rows) == sorted((name.strip(), name) for name in names)
    assert {name for (name,) in sets} >= {f"Pool.{name.replace('.', '')}" for name in ODD_NAMES}
    assert [json.loads(done.stdout)["internal_name"] for done in shown] == names[1:12:5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["powers.json", "store"]


def stored(path: Path, dsn: str, **options: Any) -> dict[str, dict[str, Any]]:
    """Split, load, and return the powers by their full names; nothing may be rejected."""
    store = str(path.parent / "store")
    etl.split(str(path), store=store, executor="inline://", **options)
    result = etl.load(store=store, dsn=dsn, executor="inline://", fresh=True)
    assert result.rejected == 0
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as connection:
        columns = "internal_name, description, accuracy, range_feet, level_available, max_targets, max_boosts"
        rows = connection.execute(f"select {columns}, effects::text as effects_text from game.powers").fetchall()
    return {row["internal_name"]: row for row in rows}


def exact(text: str | bytes) -> Any:
    """A JSON text as values that keep every digit: numbers are equal as numbers, so -0 is 0."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def test_odd_but_legal_values_are_stored_as_they_are(dsn: str, tmp_path: Path) -> None:
    """Texts byte for byte, numbers to the last digit, whole numbers in integer columns however they are written."""
    numbers = [
        "-0",
        "-0.0",
        "1e400",
        "1e131071",
        "1E-16383",
        str(2**64 + 1),
        "0." + "1" * 400,
        "12345678901234567890.5",
    ]
    texts = {
        "Legal": '"\\\\u0000 is a text, and so is \\\\ud800"',
        "Pair": '"\\ud83d\\ude00 \\u00e9 \\/ \\" \\\\"',
        "Mark": json.dumps("\ufeff\u202e"),
    }
    records = [record(b'"full_name":"P.S.%s","display_help":%s' % (n.encode(), t.encode())) for n, t in texts.items()]
    records.append(in_group(b"[" + ",".join(numbers).encode() + b"]"))
    records.append(
        record(b'"full_name":"P.S.Whole","available_level":1.0,"max_targets_hit":1.6e1,"max_boosts":-0,"accuracy":3')
    )
    records.append(record(b'"full_name":"P.S.Big","accuracy":9007199254740994,"range":1e308,"radius":-0.0'))
    records.append(record(b'"full_name":"P.S.Twice","accuracy":1,"accuracy":2,"odd":1,"odd":{"a":1,"a":2}'))
    records.append(record(b'"full_name":"P.S.Deep","effects":[{"odd":' + b"[" * 500 + b"]" * 500 + b"}]"))
    records.append(
        record(b'"full_name":"P.S.Nested","effects":[{"templates":[{"attribs":["A"],"stack_limit":2.0,"scale":1}]}]')
    )
    path = tmp_path / "powers.json"
    path.write_bytes(b"\xef\xbb\xbf \r\n[" + b" ,\n\t".join(records) + b" ] \n")
    rows = stored(path, dsn)

    for name, text in texts.items():
        assert rows[f"P.S.{name}"]["description"] == json.loads(text)
    assert exact(rows[NAME]["effects_text"])[0]["odd"] == [Decimal(number) for number in numbers]
    whole = rows["P.S.Whole"]
    assert (whole["level_available"], whole["max_targets"], whole["max_boosts"], whole["accuracy"]) == (2, 16, 0, 3.0)
    assert (rows["P.S.Big"]["accuracy"], rows["P.S.Big"]["range_feet"]) == (9007199254740994, 1e308)
    assert rows["P.S.Twice"]["accuracy"] == 2
    assert rows["P.S.Deep"]["effects_text"].count("[") == 501
    with psycopg.connect(dsn) as connection:
        limits = connection.execute("select stack_limit from game.power_effects where stack_limit > 0").fetchall()
    assert limits == [(2,)]


def test_big_records_and_texts_are_stored_whole(dsn: str, tmp_path: Path) -> None:
    """A record of 10 MB, a text of 1 MB, smaller chunks than either."""
    letters = ("é☆😀ab" * 200_000)[: 1 << 20]
    group = {"chance": 1.0, "templates": [], "odd": letters}
    records = [cod("P.S.Text", display_help=letters), cod("P.S.Big", effects=[group] * 10), cod("P.S.Small")]
    path = tmp_path / "powers.json"
    path.write_text(json.dumps(records, ensure_ascii=False))
    assert path.stat().st_size > 10 << 20
    rows = stored(path, dsn, chunk_size="64KB")

    assert rows["P.S.Text"]["description"] == letters
    assert json.loads(rows["P.S.Big"]["effects_text"]) == [group] * 10


@pytest.mark.parametrize("nul", ["strip", "reject"])
def test_a_nul_in_a_text_is_stripped_and_counted_or_refused(nul: str, dsn: str, tmp_path: Path) -> None:
    """By option; the escaped text that looks like one is left alone."""
    path = tmp_path / "powers.json"
    texts = [record(b'"display_help":"a\\u0000b\\\\u0000\\u0000"'), *GOOD[:1]]
    path.write_bytes(b"[" + b",".join(texts) + b"]")
    manifest = etl.split(str(path), store=str(tmp_path / "store"), executor="inline://", nul=nul)
    result = etl.load(store=str(tmp_path / "store"), dsn=dsn, executor="inline://")
    with psycopg.connect(dsn) as connection:
        found = connection.execute("select description from game.powers where internal_name = %s", (NAME,)).fetchall()

    if nul == "strip":
        assert (manifest.counts, result.rejected) == ({"nul_stripped": 2}, 0)
        assert found == [("ab\\u0000",)]
    else:
        assert (manifest.counts, result.reject_codes) == ({}, {"nul_in_text": 1})
        assert found == []


# Every number is written by hand: as integers of any size, decimals, exponents of either sign.
digits = st.integers(-(10**40), 10**40).map(str)
decimals = st.decimals(allow_nan=False, allow_infinity=False, places=None, min_value=-(10**30), max_value=10**30)
numbers = digits | decimals.map(lambda value: f"{value:f}" if abs(value.adjusted()) < 40 else "0.5") | st.builds(
    lambda lead, power: f"{lead}.5e{power}", st.integers(-9, 9), st.integers(-3_000, 3_000)
)  # fmt: skip
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
written_texts = st.builds(lambda text, plain: json.dumps(text, ensure_ascii=not plain), texts, st.booleans())
values: st.SearchStrategy[str] = st.recursive(
    st.sampled_from(["null", "true", "false", "-0", "-0.0", "{}", "[]", '""']) | numbers | written_texts,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(written_texts, inner), max_size=4).map(
            lambda items: "{" + ",".join(f"{key}: {value}" for key, value in items) + "}"
        )
    ),
    max_leaves=12,
)


@settings(
    max_examples=6,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(made=st.lists(st.tuples(values, written_texts), min_size=1, max_size=60))
def test_what_is_accepted_comes_back_equal(
    made: list[tuple[str, str]], dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nested values as JSON values, texts byte for byte, from file to table."""
    path = tmp_path_factory.mktemp("round") / "powers.json"
    members = '"full_name":"Pool.Set.P{}","powerset":"Pool.Set","effects":[{{"odd":{}}}],"display_help":{}'
    lines = ["{" + members.format(number, value, text) + "}" for number, (value, text) in enumerate(made)]
    path.write_text("[" + ",\n".join(lines) + "]", encoding="utf-8")
    rows = stored(path, dsn)

    assert len(rows) == len(made)
    for number, (value, text) in enumerate(made):
        row = rows[f"Pool.Set.P{number}"]
        assert exact(row["effects_text"]) == [{"odd": exact(value)}]
        assert row["description"] == json.loads(text)


def test_duplicate_names_are_counted_and_the_last_one_counts(dsn: str, tmp_path: Path) -> None:
    """Whatever their case; none of them is rejected."""
    make: Callable[..., dict[str, Any]] = cod
    path = tmp_path / "powers.json"
    path.write_text(json.dumps([make("A.B.C", display_help=text) for text in "xy"] + [make("a.b.c", display_help="z")]))
    rows = stored(path, dsn)

    assert [row["description"] for row in rows.values()] == ["z"]
