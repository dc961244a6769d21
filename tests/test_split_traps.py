"""The trap list at the end of the description of the formats, one test per trap that touches the split."""

import json

import pytest
from split_support import cod, content, i12, mids, rejected, rows, run, save

from etl.store import entities

FLT_MAX = 3.4028234663852886e38


def split(tmp_path, records, **options):
    store = tmp_path / "store"
    return store, run(store, save(tmp_path / "powers.json", records), **options)


def tree(folder, records, extra=()):
    """Write records as a City of Data tree."""
    for record in records:
        path = folder.joinpath("powers", *record["full_name"].lower().split(".", 2))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + ".json").write_text(json.dumps(record, indent=2), encoding="utf-8")
    for name, text in extra:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_trees_give_the_same_store_as_their_array_and_report_strange_files(tmp_path):
    """1, 2: zero-byte files and files without extension are told, are no records, and change nothing."""
    records = [cod(f"Pool.Set_{n % 3}.Power_{n}") for n in range(12)]
    extra = [
        ("powers/pool/set_0/combat_training", ""),
        ("powers/pool/set_0/empty.json", ""),
        ("powers/pool/set_1/notes", "something"),
        ("powers/index.json", "{}"),
        ("powers/pool/index.json", '{"name": "Pool"}'),
        ("powers/pool/set_1/index.json", '{"name": "Set_1", "display_name": "The Set", "available_level": [3]}'),
        ("archetypes/blaster.json", '{"name": "blaster", "display_name": "The Blaster"}'),
        ("archetypes/index.json", '{"player_archetypes": []}'),
    ]
    folder = tree(tmp_path / "export", records, extra)
    store = tmp_path / "store"
    found = run(store, folder)
    powersets = {p["uid"]: p for p in entities.read(str(store), found, "powersets")}
    archetypes = {a["uid"]: a for a in entities.read(str(store), found, "archetypes")}

    assert content(found) == content(run(store, save(tmp_path / "plain.json", records)))
    assert content(run(store, folder / "powers")) == content(found)
    assert [note.partition(":")[0] for note in found.notes] == [
        "pool/set_0/combat_training",
        "pool/set_0/empty.json",
        "pool/set_1/notes",
    ]
    assert (found.records, found.rejects) == (12, 0)
    assert (powersets["pool.set_1"]["display_name"], powersets["pool.set_1"]["available_levels"]) == ("The Set", [3])
    assert archetypes["blaster"]["display_name"] == "The Blaster"


def test_a_bad_file_of_a_tree_is_a_reject_with_its_name(tmp_path):
    """A file that is JSON but no power, and two files with one name."""
    records = [cod("Pool.Set.A"), cod("Pool.Set.B")]
    twin = json.dumps(cod("Pool.Set.A", accuracy=7.0))
    folder = tree(tmp_path / "export", records, [("powers/pool/set/z.json", twin), ("powers/pool/set/y.json", "{}")])
    store = tmp_path / "store"
    found = run(store, folder)

    assert [(r.file, r.code, r.offset) for r in rejected(store, found)] == [("pool/set/y.json", "missing_key", 0)]
    assert [(s.file, s.by_file) for s in found.superseded_places] == [("pool/set/a.json", "pool/set/z.json")]
    assert {row["uid"]: row["accuracy"] for row in rows(store, found)} == {"pool.set.a": 7.0, "pool.set.b": 1.0}


def test_mids_trees_hold_one_powerset_per_file(tmp_path):
    """Player/ and Other/, whatever the folders are called."""
    for name in ("Player/Class_X_Set", "Other/_Boosts"):
        path = tmp_path / "export" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(mids(f"Pool.{path.stem}", {"FullName": f"Pool.{path.stem}.P"}), indent=1))
    found = run(tmp_path / "store", tmp_path / "export")

    assert (found.format, found.records, len(found.partitions)) == ("mids", 2, 2)


def test_duplicate_names_are_superseded(tmp_path):
    """3: the last one in file order wins."""
    store, found = split(tmp_path, [cod(accuracy=1.0), cod("Pool.Set.A"), cod(accuracy=2.0)])

    assert [row["accuracy"] for row in rows(store, found)] == [1.0, 2.0]
    assert [(s.ordinal, s.by_ordinal) for s in found.superseded_places] == [(0, 2)]


def test_optional_keys_may_be_missing(tmp_path):
    """4: what is absent is null, not a default."""
    store, found = split(tmp_path, [{"full_name": "A.B.C", "powerset": "A.B", "effects": []}, {"full_name": "A.B.D"}])
    row = rows(store, found)[1]

    assert {row[name] for name in ("short_name", "boost_info", "tray_slot", "effects", "auto_issue")} == {None}


@pytest.mark.parametrize(
    "name",
    [
        "Guard.Adv.Adv._Submachine_Gun",
        "Pets.Titan_Weapons,Titan_Weapons.Smash",
        "Pool.Fighting.Combat_Training:_Defensive",
        "V_Arachnos.Explosive_Drone.Intangible.",
        "Pool.It's-\"quoted\".'; drop table x; --",
        "Pool.☆\u202e.\U0001f600",
        "Pool.New\nLine.Tab\tbed",
    ],
)
def test_names_may_hold_nearly_anything(tmp_path, name):
    """5: the name is cut at its first two dots, and the rest is the power's."""
    store, found = split(tmp_path, [cod(), cod(name)])
    row = next(row for row in rows(store, found) if row["full_name"] == name)

    assert row["uid"] == name.lower()
    assert row["powerset"] == ".".join(name.split(".", 2)[:2]).lower()


def test_case_does_not_make_another_name(tmp_path):
    """6: temporary_powers and Temporary_Powers are one category; the first spelling names the partition."""
    records = [cod("Temporary_Powers.Temporary_Powers.A"), cod("temporary_powers.temporary_powers.B")]
    _, found = split(tmp_path, records)

    assert [(p.archetype, p.powerset, p.name, p.rows) for p in found.partitions] == [
        ("temporary", "temporary_powers.temporary_powers", "Temporary_Powers.Temporary_Powers", 2)
    ]


def test_nul_is_stripped_from_text_and_never_from_names(tmp_path):
    """7: counted in descriptive text, a reject in names and keys; an escaped backslash before u0000 is text."""
    records = [
        cod("Pool.Set.Text", display_help="a\0b\0", effects=[{"note": "c\0"}]),
        cod("Pool.Set.Escaped", display_help="\\u0000"),
        cod("Pool.Set.Mixed", display_help="\\\0\\u0000"),
        cod("Pool.Set.Na\0me"),
        cod("Pool.Set.Key", effects=[{"k\0y": 1}]),
        cod("Pool.Set.Title", display_name="T\0"),
    ]
    store, found = split(tmp_path, records)
    helps = {row["name"]: row["display_help"] for row in rows(store, found)}

    assert helps == {"Text": "ab", "Escaped": "\\u0000", "Mixed": "\\\\u0000"}
    assert found.counts == {"nul_stripped": 4}
    assert [r.code for r in rejected(store, found)] == ["nul_in_name"] * 3
    assert json.loads(rows(store, found)[0]["effects"]) == [{"note": "c"}]


def test_nul_can_be_refused_everywhere(tmp_path):
    """7, with --nul reject."""
    store, found = split(tmp_path, [cod(), cod("Pool.Set.Text", display_help="a\0b")], nul="reject")

    assert [(r.code, r.uid) for r in rejected(store, found)] == [("nul_in_text", "pool.set.text")]


def test_text_comes_back_as_it_was(tmp_path):
    """8: no-break spaces, stars, markup, right-to-left marks, astral characters, also as escapes."""
    text = '\u00a0’–ōū☆ΔΩ—…´<br>{PlayerSource}\u202e\U0001f600\t\n"\\/'
    source = tmp_path / "powers.json"
    source.write_text(json.dumps([cod(display_help=text), cod("Pool.Set.A", display_help=text)], ensure_ascii=True))
    store = tmp_path / "store"

    assert {row["display_help"] for row in rows(store, run(store, source))} == {text}


def test_numbers_of_nested_values_stay_as_written(tmp_path):
    """9, 10, 11: FLT_MAX, chances outside 0..1, levels -1 and 0, minus zero, long decimals and big integers."""
    nested = '[{"speed":3.4028234663852886e+38,"chance":-6,"x":[-0,1.50,1E5,12345678901234567890123,1e-400]}]'
    source = tmp_path / "powers.json"
    first = json.dumps(cod(), separators=(",", ":"))
    second = (
        '{"full_name":"Pool.Set.A","available_level":-1,"accuracy":3.4028234663852886e+38,"effects":' + nested + "}"
    )
    source.write_text(f"[{first},\n{second}]")
    store = tmp_path / "store"
    row = rows(store, run(store, source))[1]

    assert (row["available_level"], row["accuracy"], row["effects"]) == (-1, FLT_MAX, nested)


def test_empty_lists_repeats_and_words_pass(tmp_path):
    """12, 13, 16: "UntilKilled", an empty archetype list, a repeated boost are the transform's business."""
    record = cod(archetypes=[], boosts_allowed=["A", "A"], effects=[{"duration": "UntilKilled"}])
    store, found = split(tmp_path, [record])
    row = rows(store, found)[0]

    assert (row["archetypes"], row["boosts_allowed"]) == ("[]", '["A","A"]')


def test_powersets_without_powers_are_entities_only(tmp_path):
    """15: they have no partition."""
    store, found = split(tmp_path, [mids("Pool.Empty"), mids("Pool.Full", {"FullName": "Pool.Full.P"})])

    assert [p.powerset for p in found.partitions] == ["pool.full"]
    assert [p["uid"] for p in entities.read(str(store), found, "powersets")] == ["pool.empty", "pool.full"]


def test_one_powerset_object_is_a_source(tmp_path):
    """17: an object with Powers, not in an array."""
    source = tmp_path / "set.json"
    source.write_text(json.dumps(mids("Pool.Full", {"FullName": "Pool.Full.P"}), indent=2))

    assert run(tmp_path / "store", source).records == 1


def test_huge_records_stand_beside_small_ones(tmp_path):
    """18: a record of 10 MB grows the buffer, and the small ones round it are none the worse."""
    records = [cod(), cod("Pool.Set.Huge", effects=["x" * 1_000] * 10_000), cod("Pool.Set.A")]
    store, found = split(tmp_path, records, chunk_bytes=4_096)

    assert [len(row["effects"]) > 10_000_000 for row in rows(store, found)] == [False, True, False]


@pytest.mark.parametrize(
    ("levels", "code"), [(7, None), (510, None), (511, "too_deep"), (1_000, "too_deep"), (100_000, "too_deep")]
)
def test_nesting_is_limited_to_512_levels(tmp_path, levels, code):
    """19: brackets in texts do not count; the record itself is a level."""
    deep = "[" * levels + "1" + "]" * levels
    first = json.dumps(cod(display_help="[" * 600))
    source = tmp_path / "powers.json"
    source.write_text(f'[{first},{{"full_name":"Pool.Set.A","effects":[{deep}]}},{json.dumps(cod("Pool.Set.B"))}]')
    store = tmp_path / "store"
    found = run(store, source)

    assert [(r.code, r.ordinal) for r in rejected(store, found)] == ([(code, 1)] if code else [])
    assert found.rows == 3 - found.rejects


BAD = {
    "nan": (b'{"full_name":"A.B.C","accuracy":NaN}', "bad_json"),
    "infinity": (b'{"full_name":"A.B.C","effects":[-Infinity]}', "bad_json"),
    "comma": (b'{"full_name":"A.B.C",}', "bad_json"),
    "escape": (b'{"full_name":"A.B.C","icon":"\\x"}', "bad_json"),
    "control": (b'{"full_name":"A.B.C","effects":["a\x01b"]}', "bad_json"),
    "leading zero": (b'{"full_name":"A.B.C","effects":[01]}', "bad_json"),
    "overflow": (b'{"full_name":"A.B.C","accuracy":1e400}', "out_of_range"),
    "big": (b'{"full_name":"A.B.C","max_targets_hit":2147483648}', "out_of_range"),
    "huge": (b'{"full_name":"A.B.C","max_targets_hit":-123456789012345678901234567890}', "out_of_range"),
    "level": (b'{"full_name":"A.B.C","available_level":32767}', "out_of_range"),
    "type": (b'{"full_name":"A.B.C","accuracy":"fast"}', "wrong_type"),
    "name type": (b'{"full_name":7}', "wrong_type"),
    "number": (b"17", "wrong_type"),
    "null": (b"null", "wrong_type"),
    "list": (b'[{"full_name":"A.B.C"}]', "wrong_type"),
    "empty": (b"{}", "missing_key"),
    "no name": (b'{"name":"C"}', "missing_key"),
    "blank": (b'{"full_name":"  "}', "bad_name"),
    "dots": (b'{"full_name":"A.B"}', "bad_name"),
    "hole": (b'{"full_name":"A..C"}', "bad_name"),
    "long": (b'{"full_name":"A.B.' + b"x" * 1_000 + b'"}', "name_too_long"),
    "long in bytes": ('{"full_name":"A.B.' + "☆" * 400 + '"}').encode(),
    "utf8": (b'{"full_name":"A.B.C","effects":["\xff"]}', "invalid_utf8"),
    "cesu": (b'{"full_name":"A.B.C","effects":["\xed\xa0\xbd\xed\xb8\x80"]}', "invalid_utf8"),
    "high": (b'{"full_name":"A.B.C","effects":["\\ud83d"]}', "lone_surrogate"),
    "low": (b'{"full_name":"A.B.C","icon":"\\ude00 and more"}', "lone_surrogate"),
}
BAD["long in bytes"] = (BAD["long in bytes"], "name_too_long")


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("chunk_bytes", [30, 4 << 20])
def test_a_bad_record_is_set_aside_at_its_byte(tmp_path, kind, chunk_bytes):
    """The others go on, the place is exact, the raw text is kept, wherever the record stands and however it is cut."""
    text, code = BAD[kind]
    good = [json.dumps(cod(f"Pool.Set.P{n}"), separators=(",", ":")).encode() for n in range(6)]
    source = tmp_path / "powers.json"
    source.write_bytes(b"[\n" + b",\n".join([*good[:4], text, *good[4:], text]) + b"\n]\n")
    store = tmp_path / "store"
    found = run(store, source, chunk_bytes=chunk_bytes)
    places = [m for m in range(len(source.read_bytes())) if source.read_bytes().startswith(b"\n" + text, m)]

    assert [(r.code, r.ordinal, r.offset) for r in rejected(store, found)] == [
        (code, 4, places[0] + 1),
        (code, 7, places[1] + 1),
    ]
    assert rejected(store, found)[0].raw == text.decode(errors="backslashreplace")
    assert (found.rows, found.reject_codes) == (6, {code: 2})


@pytest.mark.parametrize("kind", sorted(set(BAD) - {"control"}))
def test_a_bad_line_is_set_aside(tmp_path, kind):
    """NDJSON: the same records, one per line."""
    text, code = BAD[kind]
    good = json.dumps(cod()).encode()
    source = tmp_path / "powers.ndjson"
    source.write_bytes(good + b"\n" + text + b"\n\n" + good + b'\n{"full_name":"A.B')
    store = tmp_path / "store"
    found = run(store, source)

    assert [(r.code, r.ordinal, r.offset) for r in rejected(store, found)] == [
        (code, 1, len(good) + 1),
        ("bad_json", 3, len(good) * 2 + len(text) + 4),
    ]


def test_surrogate_pairs_are_text(tmp_path):
    """Whole pairs are fine, also next to escaped backslashes that look like halves."""
    source = tmp_path / "powers.json"
    source.write_text(
        r'[{"full_name":"A.B.C","powerset":"A.B","effects":["\ud83d\ude00\\ud83d"],"icon":"\ud83d\ude00"}]'
    )
    store = tmp_path / "store"
    row = rows(store, run(store, source))[0]

    assert (row["icon"], json.loads(row["effects"])) == ("\U0001f600", ["\U0001f600\\ud83d"])


def test_names_are_trimmed(tmp_path):
    """Blanks at the ends of names are no part of them; in texts they stay."""
    store, found = split(tmp_path, [i12("  Pool.Set.A ", DisplayName=" A ", Description=" text ")])
    row = rows(store, found)[0]

    assert (row["uid"], row["InternalName"], row["DisplayName"], row["Description"]) == (
        "pool.set.a",
        "Pool.Set.A",
        "A",
        " text ",
    )
