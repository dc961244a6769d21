"""A test per trap that real exports hold; the numbers are those of the list of traps that was measured over them."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_line import new_database, run
from psycopg.rows import dict_row

import etl
from etl import generate
from etl.coordinator import LoadResult

FLT_MAX = 3.4028234663852886e38
MARKUP = "Foe\u00a0–\u00a0<br><color #fcfc95>Notes: {PlayerSource}’s ō ☆ Δ</color> &amp; <b>tail  "
LEFT_OUT = {"available_level", "archetypes", "type", "target_type", "boosts_allowed", "requires", "display_help"}


def power(full_name: str, **more: Any) -> dict[str, Any]:
    """A City of Data record with the usual keys."""
    category, powerset, name = full_name.split(".", 2)
    return {
        "name": name,
        "full_name": full_name,
        "display_name": name.replace("_", " "),
        "display_help": "",
        "powerset": f"{category}.{powerset}",
        "available_level": 0,
        "archetypes": ["blaster"],
        "type": "Click",
        "target_type": "Self",
        "requires": "",
        "boosts_allowed": [],
        "fx": {"projectile_speed": FLT_MAX},
        "effects": [],
    } | more


def group(*templates: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"tags": [], "chance": 1.0, "is_pvp": "EITHER", "child_effects": [], "templates": list(templates)} | more


def template(**more: Any) -> dict[str, Any]:
    return {"attribs": ["Fire_Dmg"], "aspect": "Absolute", "target": "AnyAffected", "scale": 1.0,
            "duration": "0 seconds", "magnitude": 1.0} | more  # fmt: skip


def nested(depth: int) -> dict[str, Any]:
    """Groups in groups; ``depth`` is that of the innermost, which holds a template as all others do."""
    children = [nested(depth - 1)] if depth else []
    return group(template(scale=float(depth)), child_effects=children)


COD = [
    power("Pool.Flight.Hover", display_name="The earlier one"),
    power("Blaster_Ranged.Fire_Blast.Flares"),
    {key: value for key, value in power("Pool.Flight.Sparse").items() if key not in LEFT_OUT},
    power("Pool.Odd.Adv._AssaultRifle.Butt."),
    power("Pool.Titan_Weapons,Titan_Weapons.Grip"),
    power("Pool.Odd.Combat_Training:_Defensive"),
    power("Pool.Odd.Half-Life", display_name="Hero's Half-Life"),
    power("Pool.Flight.Follower", requires="pool.flight.HOVER && !Epic.Absent_Set.Absent_Power || POOL.ODD"),
    power("Pool.Text.Nul", display_help="Foe \0Rech\0, and the text \\u0000"),
    power("Pool.Text.Markup", display_help=MARKUP),
    power("Pool.Numbers.Huge", effects=[group(template(scale=FLT_MAX))]),
    power("Pool.Numbers.Chance", effects=[group(template(tick_chance=-0.2), chance=-6), group(template(), chance=3.0)]),
    power("Pool.Numbers.Not_By_Level", available_level=-1),
    power("Pool.Numbers.Level_Zero", available_level=0),
    power("Pool.Numbers.Endless", effects=[group(template(duration="UntilKilled"), template(duration="10.25 seconds"))]),
    power("Epic.Lists.No_Archetypes", archetypes=[]),
    power("Pool.Lists.Boosts", boosts_allowed=["Enhance Damage", "Enhance Accuracy", "Enhance Damage"]),
    power("Pool.Deep.Nested", effects=[nested(7)]),
    power("POOL.FLIGHT.HOVER", display_name="The later one"),
]  # fmt: skip

MIDS_POWER = {"DisplayName": "A power", "DescShort": "", "Level": 1, "Accuracy": 1.0, "Effects": []}
MIDS = [
    {
        "FullName": "Blaster_Support.Martial_Manipulation", "SetName": "Martial_Manipulation", "GroupName": "Blaster_Support",
        "DisplayName": "Martial Manipulation", "SetType": 2, "ATClass": "Class_Blaster",
        "Powers": [
            {"FullName": "Blaster_Support.Martial_Manipulation.Reaction_Time", **MIDS_POWER, "DescShort": "Foe \0Rech"},
            {"FullName": "Blaster_Support.Martial_Manipulation.Other", **MIDS_POWER, "StaticIndex": 5},
        ],
    },
    {"FullName": "Pets.Titan_Weapons,Titan_Weapons", "SetName": "", "GroupName": "Pets", "DisplayName": "x" * 781,
     "SetType": 8, "ATClass": "", "Powers": []},
    {
        "FullName": "Set_Bonus.Set_Bonus", "SetName": "Set_Bonus", "GroupName": "Set_Bonus", "DisplayName": "Set bonus",
        "SetType": 9, "ATClass": "",
        "Powers": [{"FullName": f"Set_Bonus.Set_Bonus.Bonus_{number}", **MIDS_POWER, "DescLong": "x" * 4_000}
                   for number in range(300)],
    },
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An export that was split and loaded into a database of its own."""

    manifest: etl.Manifest
    result: LoadResult
    dsn: str
    text: bytes

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Return what a query finds in schema game."""
        with psycopg.connect(self.dsn, row_factory=dict_row) as connection:
            connection.execute("set search_path = game")
            return connection.execute(query, values).fetchall()  # type: ignore[call-overload]

    def power(self, full_name: str) -> dict[str, Any]:
        """Return a power by its name as it was written."""
        (row,) = self.rows("select * from powers where internal_name = %s", full_name)
        return row

    def effects(self, full_name: str) -> list[dict[str, Any]]:
        """Return the effect rows of a power, in order."""
        query = (
            "select e.* from power_effects e join powers p on p.id = e.power_id where internal_name = %s order by seq"
        )
        return self.rows(query, full_name)


Loader = Callable[..., Loaded]


@pytest.fixture(scope="module")
def load(server_dsn: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loader]:
    """Function that writes an export, splits it and loads it into a new database."""
    with contextlib.ExitStack() as databases:

        def load(text: bytes, **beside: bytes) -> Loaded:
            folder = tmp_path_factory.mktemp("trap")
            (folder / "export.powers.json").write_bytes(text)
            for kind, content in beside.items():
                (folder / f"export.{kind}.json").write_bytes(content)
            dsn = databases.enter_context(new_database(server_dsn, template_database))
            store = str(folder / "store")
            manifest = etl.split(str(folder / "export.powers.json"), store=store, executor="inline://")
            result = etl.load(store=store, dsn=dsn, executor="inline://")
            return Loaded(manifest=manifest, result=result, dsn=dsn, text=text)

        yield load


@pytest.fixture(scope="module")
def cod(load: Loader) -> Loaded:
    """The traps of City of Data, one record per line, with a powerset that has no powers."""
    text = "[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in COD) + "\n]\n"
    empty = {"key": "pool.nobody", "name": "Nobody", "display_name": "Nobody's", "power_names": []}
    return load(text.encode(), powersets=json.dumps([empty]).encode())


@pytest.fixture(scope="module")
def mids(load: Loader) -> Loaded:
    """The traps of MidsReborn."""
    return load(json.dumps(MIDS).encode())


def offset_of(loaded: Loaded, text: str) -> int:
    """The byte of the record that holds a text."""
    return loaded.text.rindex(b'{"name"', 0, loaded.text.index(text.encode()))


def test_everything_that_is_a_trap_and_no_dirt_is_loaded(cod: Loaded, mids: Loaded) -> None:
    """Nothing is rejected, and the sums hold."""
    assert (cod.result.records, cod.result.loaded, cod.result.superseded, cod.result.rejected) == (19, 18, 1, 0)
    assert (mids.result.records, mids.result.loaded, mids.result.superseded, mids.result.rejected) == (302, 302, 0, 0)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The original layout: a file per power, index files, and what a copy through NTFS has left."""
    for record in COD[:5]:
        folder = tmp_path / "export" / "powers" / record["powerset"].lower().replace(".", "/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{record['name'].lower()}.json").write_text(json.dumps(record, indent=2))
        (folder / "index.json").write_text('{"name": "x"}')
        (folder.parent / "index.json").write_text("{}")
    folder = tmp_path / "export" / "powers" / "pool" / "odd"
    (folder / "combat_training").touch()
    (folder / "empty.json").touch()
    (folder / "notes").write_text("no record")
    return tmp_path / "export"


def test_zero_byte_files_and_files_without_extension_are_noted_and_no_records(tree: Path, dsn: str) -> None:
    """Traps 1 and 2: exit 0, each is named."""
    done = run("split", tree, "--store", tree.parent / "store", "--jobs", "2")

    assert done.returncode == 0, done.stderr
    for name in ("pool/odd/combat_training", "pool/odd/empty.json", "pool/odd/notes"):
        assert f"note: {name}: " in done.stdout
    assert "5 records = 5 kept + 0 superseded + 0 rejected" in done.stdout
    loaded = run("load", "--store", tree.parent / "store", "--dsn", dsn, "--executor", "inline://")
    assert loaded.returncode == 0, loaded.stderr
    assert "5 records = 5 loaded" in loaded.stdout


def test_a_tree_gives_the_same_partitions_as_the_array_of_its_records(tree: Path, tmp_path: Path) -> None:
    """Digests depend on the records alone."""
    (tmp_path / "array.json").write_text(json.dumps(COD[:5]))
    one = etl.split(str(tree), store=str(tmp_path / "one"), executor="inline://")
    other = etl.split(str(tmp_path / "array.json"), store=str(tmp_path / "other"), executor="inline://")

    assert {p.powerset: p.digest for p in one.partitions} == {p.powerset: p.digest for p in other.partitions}


def test_the_last_of_two_records_of_one_name_wins_and_both_places_are_told(cod: Loaded) -> None:
    """Trap 3, and 6: names are equal whatever their case; contents differ."""
    (place,) = cod.manifest.superseded_places

    assert (place.uid, place.ordinal, place.by_ordinal) == ("pool.flight.hover", 0, 18)
    assert (place.offset, place.by_offset) == (offset_of(cod, "The earlier one"), offset_of(cod, "The later one"))
    assert cod.power("POOL.FLIGHT.HOVER")["display_name"] == "The later one"
    assert cod.rows("select count(*) from powers where lower(internal_name) = 'pool.flight.hover'") == [{"count": 1}]


def test_keys_that_may_be_absent_get_their_defaults(cod: Loaded) -> None:
    """Trap 4: older tool output mixed in."""
    row = cod.power("Pool.Flight.Sparse")

    assert (row["level_available"], row["activation_kind"], row["archetypes"]) == (1, "Click", [])
    assert (row["description"], row["requires_expr"], row["allowed_enhancements"]) == ("", "", [])


@pytest.mark.parametrize(
    ("full_name", "powerset", "name"),
    [
        ("Pool.Odd.Adv._AssaultRifle.Butt.", "Pool.Odd", "Adv._AssaultRifle.Butt."),
        ("Pool.Titan_Weapons,Titan_Weapons.Grip", "Pool.Titan_Weapons,Titan_Weapons", "Grip"),
        ("Pool.Odd.Combat_Training:_Defensive", "Pool.Odd", "Combat_Training:_Defensive"),
        ("Pool.Odd.Half-Life", "Pool.Odd", "Half-Life"),
    ],
)
def test_a_name_is_cut_at_its_first_two_dots_only(cod: Loaded, full_name: str, powerset: str, name: str) -> None:
    """Trap 5: dots, commas, colons and hyphens inside names; look-ups find them in any case."""
    row = cod.power(full_name)
    (found,) = cod.rows("select full_name from powersets where id = %s", row["powerset_id"])
    shown = run("power", full_name.upper(), "--dsn", cod.dsn, "--json")

    assert (found["full_name"], row["name"]) == (powerset, name)
    assert json.loads(shown.stdout)["id"] == row["id"]


def references(loaded: Loaded, full_name: str) -> dict[str, dict[str, Any]]:
    query = "select r.* from power_prerequisites r join powers p on p.id = r.power_id where p.internal_name = %s"
    return {row["required_uid"]: row for row in loaded.rows(query, full_name)}


def test_references_are_resolved_whatever_their_case(cod: Loaded) -> None:
    """Trap 6: one refers to a power, one to a set."""
    found = references(cod, "Pool.Flight.Follower")

    assert found["pool.flight.hover"]["required_power_id"] == cod.power("POOL.FLIGHT.HOVER")["id"]
    assert found["pool.odd"]["required_power_id"] is None
    assert {found[uid]["required_kind"] for uid in ("pool.flight.hover", "pool.odd")} == {"power", "powerset"}


def test_a_reference_to_a_power_that_is_not_there_is_kept_without_an_id(cod: Loaded) -> None:
    """Trap 14: the name is kept, so that a later load may resolve it."""
    row = references(cod, "Pool.Flight.Follower")["epic.absent_set.absent_power"]

    assert (row["required_power_id"], row["negated"]) == (None, True)


def test_nul_characters_are_stripped_and_counted(cod: Loaded, mids: Loaded) -> None:
    r"""Trap 7: real ones go; the text ``\u0000`` is text."""
    assert cod.power("Pool.Text.Nul")["description"] == "Foe Rech, and the text \\u0000"
    assert cod.manifest.counts == {"nul_stripped": 2}
    assert mids.power("Blaster_Support.Martial_Manipulation.Reaction_Time")["short_help"] == "Foe Rech"
    assert mids.manifest.counts == {"nul_stripped": 1}


def test_text_is_kept_byte_for_byte(cod: Loaded) -> None:
    """Trap 8: no-break spaces, markup, placeholders and blanks at the end are the source's business."""
    assert cod.power("Pool.Text.Markup")["description"].encode() == MARKUP.encode()
    assert cod.power("Pool.Odd.Half-Life")["display_name"] == "Hero's Half-Life"


def test_the_largest_single_float_is_loaded_exactly(cod: Loaded) -> None:
    """Trap 9: it overflows any numeric(p, s), and is an ordinary double precision; in jsonb it keeps its value."""
    (row,) = cod.effects("Pool.Numbers.Huge")
    raw = cod.power("Pool.Numbers.Huge")["effects"][0]["templates"][0]["scale"]

    assert row["scale"] == FLT_MAX
    assert float(raw) == FLT_MAX


def test_chances_outside_of_0_to_1_are_what_the_game_says(cod: Loaded) -> None:
    """Trap 10: below 0 and above 1 both occur."""
    assert [row["chance"] for row in cod.effects("Pool.Numbers.Chance")] == [-6.0, 3.0]
    assert cod.effects("Pool.Numbers.Chance")[0]["tick_chance"] == -0.2


def test_levels_count_from_one_and_zero_is_not_by_level(cod: Loaded) -> None:
    """Trap 11: the source counts from 0, and writes -1 for a power that no level gives."""
    assert cod.power("Pool.Numbers.Not_By_Level")["level_available"] == 0
    assert cod.power("Pool.Numbers.Level_Zero")["level_available"] == 1


def test_an_effect_until_killed_has_no_duration(cod: Loaded) -> None:
    """Trap 12: the text is no number of seconds."""
    rows = cod.effects("Pool.Numbers.Endless")

    assert [(row["until_killed"], row["duration_s"]) for row in rows] == [(True, None), (False, 10.25)]


def test_the_category_decides_the_archetype_where_the_list_is_empty(cod: Loaded) -> None:
    """Trap 13: epic powers have none."""
    row = cod.power("Epic.Lists.No_Archetypes")
    (found,) = cod.rows("select name from archetypes where id = %s", row["archetype_id"])

    assert (found["name"], row["archetypes"]) == ("epic", [])


def test_a_powerset_without_powers_has_its_row(cod: Loaded, mids: Loaded) -> None:
    """Trap 15: from the file of powersets, and from a powerset whose list is empty."""
    for loaded, name in ((cod, "Pool.Nobody"), (mids, "Pets.Titan_Weapons,Titan_Weapons")):
        (row,) = loaded.rows("select id from powersets where lower(full_name) = lower(%s)", name)

        assert loaded.rows("select count(*) from powers where powerset_id = %s", row["id"]) == [{"count": 0}]


def test_a_boost_that_is_listed_twice_is_one_row(cod: Loaded) -> None:
    """Trap 16: its pair is unique; the list itself stays as it was."""
    row = cod.power("Pool.Lists.Boosts")
    kinds = cod.rows("select enhancement_type from power_enhancement_compatibility where power_id = %s", row["id"])

    assert Counter(kind["enhancement_type"] for kind in kinds) == {"damage": 1, "accuracy": 1}
    assert row["allowed_enhancements"] == ["Enhance Damage", "Enhance Accuracy", "Enhance Damage"]


def test_an_array_of_powers_and_powersets_with_their_powers_are_told_apart(cod: Loaded, mids: Loaded) -> None:
    """Trap 17: by the first records, without a word from the user."""
    assert (cod.manifest.format, mids.manifest.format) == ("cod", "mids")


def test_one_powerset_alone_is_an_export_as_well(tmp_path: Path) -> None:
    """Trap 17: MidsReborn writes one object per file, pretty or not."""
    for number, indent in enumerate((None, 2)):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(MIDS[0], indent=indent))

        assert etl.split(str(path), store=str(tmp_path / "store"), executor="inline://").records == 2


def test_records_in_a_bigger_document_are_found_by_their_path(tmp_path: Path) -> None:
    """Trap 17: with --records-path; without it the document is no export, and is told so."""
    path = tmp_path / "document.json"
    path.write_text(json.dumps({"version": 3, "powers": COD[1:]}))
    done = run("split", path, "--store", tmp_path / "store", "--records-path", "powers.item", "--json")

    assert json.loads(done.stdout)["records"] == len(COD) - 1
    assert run("split", path, "--store", tmp_path / "store").returncode == 5


@pytest.mark.parametrize("chunk_size", ["64KB", "4MB"])
def test_a_record_of_more_than_a_megabyte_stands_beside_small_ones(
    mids: Loaded, tmp_path: Path, chunk_size: str
) -> None:
    """Trap 18: it is bigger than a read buffer may be."""
    path = tmp_path / "mids.json"
    path.write_bytes(mids.text)
    found = etl.split(str(path), store=str(tmp_path / "store"), executor="inline://", chunk_size=chunk_size)

    assert len(mids.text) > 1_200_000
    assert {p.powerset: p.digest for p in found.partitions} == {p.powerset: p.digest for p in mids.manifest.partitions}
    assert (
        len(mids.rows("select 1 from powers where internal_name like 'Set_Bonus.%%' and length(description) = 4000"))
        == 300
    )


def test_effect_groups_are_followed_seven_levels_deep(cod: Loaded) -> None:
    """Trap 19: every template has its row, with its depth and the group above it."""
    rows = cod.effects("Pool.Deep.Nested")

    assert [row["depth"] for row in rows] == list(range(8))
    assert [row["scale"] for row in rows] == [float(7 - depth) for depth in range(8)]
    assert [row["parent_group_seq"] for row in rows] == [None, *[row["group_seq"] for row in rows[:-1]]]
    assert cod.power("Pool.Deep.Nested")["group_count"] == 8


@pytest.mark.parametrize("shape", ["i12", "cod"])
def test_of_a_dirty_file_exactly_the_listed_records_are_set_aside(shape: str, tmp_path: Path, dsn: str) -> None:
    """Codes, places and sums are those of the side file, end to end; both commands end with exit code 3."""
    written = generate.generate(shape, 900, 11, tmp_path / "dirty.json", dirty=0.1)
    wanted = [json.loads(line) for line in (tmp_path / "dirty.json.dirty.ndjson").read_text().splitlines()]
    split = run("split", "dirty.json", "--json", "--jobs", "2", cwd=tmp_path)
    loaded = run("load", "--dsn", dsn, "--json", "--jobs", "1", cwd=tmp_path)

    assert (split.returncode, loaded.returncode) == (3, 3), split.stderr + loaded.stderr
    told, result = json.loads(split.stdout), json.loads(loaded.stdout)
    rejects = [
        json.loads(line) for path in result["reject_paths"] for line in (tmp_path / path).read_text().splitlines()
    ]
    keys = ("ordinal", "offset", "stage", "code")
    assert {tuple(reject[key] for key in keys) for reject in rejects} == {
        tuple(line[key] for key in keys) for line in wanted if line["expect"] == "rejected"
    }
    assert {
        (place["ordinal"], place["offset"], place["uid"], place["by_ordinal"]) for place in told["superseded_places"]
    } == {
        (line["ordinal"], line["offset"], line["uid"], line["by_ordinal"])
        for line in wanted
        if line["expect"] == "superseded"
    }
    assert (result["records"], result["rejected"], result["superseded"]) == (900, written.rejects, written.superseded)
    assert result["loaded"] == written.loaded == result["rows"]["powers"]
    assert Counter(reject["code"] for reject in rejects) == result["reject_codes"]
    with psycopg.connect(dsn) as connection:
        names = {uid for (uid,) in connection.execute("select lower(internal_name) from game.power_directory")}
    assert len(names) == written.loaded
    assert {line["uid"] for line in wanted if line["expect"] != "rejected"} <= names
    assert not {reject["uid"] for reject in rejects} & names


@pytest.mark.parametrize("shape", ["i12", "cod"])
def test_the_name_of_a_rejected_record_is_told_where_it_can_be_read(shape: str, tmp_path: Path) -> None:
    """A reject with a name can be found by it."""
    generate.generate(shape, 600, 12, tmp_path / "dirty.json", dirty=0.2)
    wanted = [json.loads(line) for line in (tmp_path / "dirty.json.dirty.ndjson").read_text().splitlines()]
    manifest = etl.split(str(tmp_path / "dirty.json"), store=str(tmp_path / "store"), executor="inline://")
    lines = (tmp_path / "store" / manifest.split_id / "rejects.ndjson").read_text().splitlines()
    named = {reject["ordinal"]: reject["uid"] for reject in map(json.loads, lines)}

    for line in wanted:
        if line["stage"] == "split" and line["uid"] and line["code"] != "bad_json":
            assert named[line["ordinal"]] == line["uid"], line
