"""City of Data records, made by hand: what each derived column says, and what is set aside."""

import json
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
import store_shape

from etl import tables


def template(**keys: Any) -> dict[str, Any]:
    """A template with the keys of the exporter."""
    usual = {
        "attribs": ["Smashing_Dmg"],
        "type": "Magnitude",
        "application_type": "OnTick",
        "aspect": "Absolute",
        "target": "AnyAffected",
        "table": "Melee_Damage",
        "scale": 1.0,
        "duration": "0 seconds",
        "magnitude": 1.0,
    }
    return usual | keys


def group(*templates: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """An effect group."""
    return {"chance": 1.0, "is_pvp": "EITHER", "child_effects": [], "templates": list(templates)} | keys


def power(name: str = "A.B.C", /, **keys: Any) -> dict[str, Any]:
    """A power record."""
    usual = {"full_name": name, "name": name.split(".", 2)[2], "powerset": ".".join(name.split(".")[:2])}
    return usual | {"target_type": "Foe (Alive)", "type": "Click", "effects": [], "activation_effects": []} | keys


def built(*records: dict[str, Any], names: tuple[str, ...] = tables.LEAF_TABLES):
    """Build the tables; returns (frames, rejects)."""
    texts = [json.dumps(record).encode() for record in records]
    context = store_shape.context_of("cod", texts)
    rows, rejects = tables.build("cod", store_shape.batch("cod", texts), context, names)
    return {name: pl.DataFrame(pl.from_arrow(batch)) for name, batch in rows.items()}, rejects


def one(table: str, *templates: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """The first row of a table, of one power with these templates in one group."""
    return built(power(effects=[group(*templates)], **keys))[0][table].row(0, named=True)


def test_defaults_stand_where_the_source_says_nothing():
    """A record of names only gives a row with the defaults of the mapping."""
    frames, rejects = built({"full_name": "A.B.C", "name": "C", "powerset": "A.B"})
    row = frames["powers"].row(0, named=True)

    assert rejects == []
    assert {key: row[key] for key in ("accuracy", "level_available", "max_boosts", "target_type", "power_type")} == {
        "accuracy": 1.0,
        "level_available": 1,
        "max_boosts": 6,
        "target_type": "self",
        "power_type": "support",
    }
    assert (row["display_name"], row["description"], row["effects"], row["effect_groups"]) == ("C", "", "[]", "[]")
    assert (row["icon_path"], row["damage_scale"], row["requires_line_of_sight"]) == (None, None, True)


def test_display_order_is_the_place_in_the_powerset():
    """What the context knows of the order; 0 for the others."""
    texts = [json.dumps(power(name)).encode() for name in ("A.B.C", "A.B.D")]
    context = replace(store_shape.context_of("cod", texts), power_order={"a.b.d": 5})
    rows, _ = tables.build("cod", store_shape.batch("cod", texts), context, ["powers"])

    assert rows["powers"].column("display_order").to_pylist() == [0, 5]


def test_levels_are_stored_one_based():
    """available_level counts from 0, -1 is not by level."""
    frames, _ = built(power("A.B.C", available_level=-1), power("A.B.D", available_level=49))

    assert frames["powers"]["level_available"].to_list() == [0, 50]


def test_a_dot_inside_the_name_stays_in_the_name():
    """Only the first two dots separate."""
    frames, _ = built(power("A.B.Adv._Butt"))

    assert frames["powers"].row(0, named=True)["name"] == "Adv._Butt"
    assert frames["powers"].row(0, named=True)["internal_name"] == "A.B.Adv._Butt"
    assert built(power("A.B.Adv._Butt", name=""))[0]["powers"]["name"].to_list() == ["Adv._Butt"]


def test_groups_are_numbered_depth_first_and_parents_come_before_children():
    """A group without templates has no row but a number; activation effects come last."""
    inner = group(template(table="inner"), tags=["t"])
    outer = group(template(table="outer"), child_effects=[group(child_effects=[inner])])
    record = power(effects=[outer, group(template(table="second"))], activation_effects=[group(template(table="act"))])
    frames, _ = built(record)
    columns = ("seq", "table_name", "group_seq", "parent_group_seq", "depth", "phase")

    assert frames["power_effects"].select(columns).rows() == [
        (0, "outer", 0, None, 0, "effect"),
        (1, "inner", 2, 1, 2, "effect"),
        (2, "second", 3, None, 0, "effect"),
        (3, "act", 4, None, 0, "activation"),
    ]
    assert frames["powers"]["group_count"].to_list() == [5]


def test_a_group_for_either_takes_the_pvp_of_what_encloses_it():
    """What lies inside a PvP-only group is PvP only."""
    frames, _ = built(
        power(effects=[group(is_pvp="PVP_ONLY", child_effects=[group(template())]), group(template())]),
    )

    assert frames["power_effects"]["pvp"].to_list() == ["pvp", "any"]


@pytest.mark.parametrize(
    ("duration", "seconds", "until_killed"),
    [("4.5 seconds", 4.5, False), ("-1 seconds", -1.0, False), ("UntilKilled", None, True), ("Instant", 0.0, False)],
)
def test_durations(duration, seconds, until_killed):
    """A number of seconds, or none for UntilKilled."""
    row = one("power_effects", template(duration=duration))

    assert (row["duration_s"], row["until_killed"]) == (seconds, until_killed)


@pytest.mark.parametrize(
    ("attribs", "aspect", "effect_type", "damage_type"),
    [
        (["Fire_Dmg", "Cold_Dmg"], "Absolute", "Damage", "Fire"),
        (["Negative_Energy_Dmg"], "Resistance", "Resistance", "Negative_Energy"),
        (["Fire_Dmg"], "Strength", "DamageBuff", "Fire"),
        (["Fire_Dmg"], "Current", "Fire_Dmg", "Fire"),
        (["Heal_Dmg"], "Absolute", "Heal", None),
        (["Heal_Dmg"], "Resistance", "Heal_Dmg", None),
        (["Held"], "Current", "Held", None),
        (["Brand New"], "Sideways", "Brand New", None),
        ([], "Current", "None", None),
    ],
)
def test_effect_types(attribs, aspect, effect_type, damage_type):
    """The rule in the docstring of the transform; unknown words are kept."""
    row = one("power_effects", template(attribs=attribs, aspect=aspect))

    assert (row["effect_type"], row["damage_type"]) == (effect_type, damage_type)


@pytest.mark.parametrize(
    ("power_type", "templates", "keys"),
    [
        ("attack", [template(attribs=["Heal_Dmg"]), template()], {}),
        ("attack", [template(attribs=["Held"], aspect="Current"), template()], {}),
        ("control", [template(attribs=["Held"], aspect="Current")], {"target_type": "Self"}),
        ("support", [template(attribs=["Held"], aspect="Resistance")], {"target_type": "Self"}),
        ("support", [template(target="Self")], {"target_type": "Self"}),
        ("support", [template(target="SelfAndPets")], {"target_type": "Self"}),
        ("defense", [template(aspect="Resistance", target="Self")], {"target_type": "Self"}),
        ("defense", [template(attribs=["Melee"], aspect="Current")], {"target_type": "Self"}),
        ("support", [template(attribs=["Melee"], aspect="Current", scale=-1.0)], {"target_type": "Self"}),
        ("support", [template(attribs=["Endurance"], scale=-1.0)], {}),
        ("travel", [template(attribs=["Fly"], aspect="Current")], {}),
        ("attack", [template(attribs=["Fly"], scale=-1.0)], {}),
        ("attack", [], {}),
        ("defense", [], {"target_type": "Self", "type": "Toggle"}),
        ("support", [], {"target_type": "Self", "type": "Click"}),
        ("support", [], {"target_type": "Location"}),
    ],
)
def test_power_types(power_type, templates, keys):
    """The first class that any effect has, in the order of classes; then what target and kind suggest."""
    assert one("powers", *templates, **keys)["power_type"] == power_type


def test_effects_for_pvp_only_count_neither_as_class_nor_as_damage():
    """A power that hurts players only is classed by its other effects."""
    frames, _ = built(power(target_type="Self", effects=[group(template(), is_pvp="PVP_ONLY")]))
    row = frames["powers"].row(0, named=True)

    assert (row["power_type"], row["damage_scale"]) == ("support", None)


@pytest.mark.parametrize(
    ("raw", "target_type"),
    [
        ("Foe (Alive)", "enemy"),
        ("NPC Foe (Dead)", "enemy"),
        ("Self", "self"),
        ("Location (Teleport)", "location"),
        ("Position", "location"),
        ("Any (Alive)", "any"),
        ("Anything", "any"),
        ("Pet Root Owner", "ally"),
        ("Own Pet (Alive)", "ally"),
        ("Something New", "ally"),
    ],
)
def test_target_types(raw, target_type):
    """23 values of the source become five."""
    row = one("powers", target_type=raw)

    assert (row["target_type"], row["target_type_raw"]) == (target_type, raw)


def test_damage_scale_adds_scale_times_magnitude_times_chance_times_ticks():
    """Chance is clamped, ticks follow the period, effects on oneself and heals do not count."""
    record = power(
        effects=[
            group(template(scale=2.0, magnitude=0.5)),
            group(template(scale=1.0), chance=0.25),
            group(template(scale=1.0), chance=3.0),
            group(template(scale=0.1, duration="4.1 seconds", application_period=1.0)),
            group(template(scale=50.0, target="Self"), template(scale=60.0, attribs=["Heal_Dmg"])),
        ]
    )

    assert built(record)[0]["powers"]["damage_scale"].to_list() == [1.0 + 0.25 + 1.0 + 0.5]


def test_effect_groups_list_types_in_order_of_first_appearance():
    """Indexes are the seq of power_effects; averages are rounded; no duration counts as 0."""
    record = power(
        effects=[
            group(template(scale=1.0, duration="2 seconds"), template(attribs=["Held"], aspect="Current")),
            group(template(scale=2.0, duration="UntilKilled"), chance=0.5),
        ]
    )

    assert json.loads(built(record)[0]["powers"]["effect_groups"][0]) == [
        {
            "type": "Damage",
            "effects": [0, 2],
            "summary": {"count": 2, "avg_scale": 1.5, "avg_duration": 1.0, "avg_chance": 0.75},
        },
        {
            "type": "Held",
            "effects": [1],
            "summary": {"count": 1, "avg_scale": 1.0, "avg_duration": 0.0, "avg_chance": 1.0},
        },
    ]


def test_effect_groups_survive_quotes_and_overflow():
    """Whatever the type is called and however large the numbers, the column is JSON."""
    record = power(
        effects=[
            group(template(attribs=['a"\\\n\u00e9'], scale=1e308), template(attribs=['a"\\\n\u00e9'], scale=1e308))
        ]
    )
    (found,) = json.loads(built(record)[0]["powers"]["effect_groups"][0])

    assert (found["type"], found["summary"]["avg_scale"]) == ('a"\\\n\u00e9', None)


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [(".5 seconds", 0.5), ("5. second", 5.0), ("2e1 seconds", 20.0), ("..5 seconds", None), ("1.2.3 seconds", None)],
)
def test_odd_durations(duration, seconds):
    """Points are no number: what is none says nothing, and stops no load."""
    row = one("power_effects", template(duration=duration))

    assert (row["duration_s"], row["until_killed"]) == (seconds, False)


def test_a_json_column_of_which_some_rows_say_nothing_has_the_empty_list_there():
    """The others keep their text, as where all rows say something."""
    records = [power("A.B.C", boosts_allowed=["X"]), power("A.B.D"), power("A.B.E", boosts_allowed=None)]
    frames, _ = built(*records)
    alone = [built(record)[0]["powers"]["allowed_enhancements"].to_list() for record in records]

    assert frames["powers"]["allowed_enhancements"].to_list() == ['["X"]', "[]", "[]"]
    assert [text for texts in alone for text in texts] == ['["X"]', "[]", "[]"]


def test_json_columns_keep_the_text_of_the_source():
    """The JSON is not written again: 1.0 stays 1.0, key order and unknown keys stay."""
    frames, _ = built(power(effects=[group(template(), unknown={"z": 1.0, "a": 1e3})], modes_required=["X"]))
    row = frames["powers"].row(0, named=True)

    assert '"unknown": {"z": 1.0, "a": 1000.0}' in row["effects"]
    assert row["modes_required"] == '["X"]'


def test_display_info_holds_what_is_unusual():
    """Keys at their usual value are left out, text is escaped."""
    frames, _ = built(power(message_caster='say "hi"\n', number_allowed=1, tray_number=3, redirect=[{"name": "R"}]))

    assert json.loads(frames["powers"]["display_info"][0]) == {
        "message_caster": 'say "hi"\n',
        "tray_number": 3,
        "redirect": [{"name": "R"}],
    }


def test_a_repeated_boost_or_category_gives_one_row():
    """(power, type) is unique; the first spelling stays."""
    record = power(boosts_allowed=["Enhance Damage", "Enhance Damage", "Magic_Boost"], allowed_boostset_cats=["A", "A"])
    frames, _ = built(record)
    columns = ("enhancement_type", "source_name", "allowed")

    assert frames["power_enhancement_compatibility"].select(columns).rows() == [
        ("damage", "Enhance Damage", True),
        ("magic", "Magic_Boost", True),
    ]
    assert frames["power_set_categories"]["set_category"].to_list() == ["A"]


def test_references_are_resolved_where_the_power_exists():
    """A power that is not in the build has no id; a powerset never has one here."""
    frames, _ = built(power("A.B.C", requires="A.B.D && X.Y.Z && X.Y"), power("A.B.D"))
    columns = ("required_uid", "required_kind", "required_power_id", "prerequisite_type")

    assert frames["power_prerequisites"].select(columns).rows() == [
        ("a.b.d", "power", 2, "all_of"),
        ("x.y.z", "power", None, "all_of"),
        ("x.y", "powerset", None, "all_of"),
    ]


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("effects", "none", "effects: Expected `array`, got `str`"),
        ("effects", [group(template(scale="a lot"))], "at `$[0].templates[0].scale`"),
        ("effects", [group(template(stack_limit=2**40))], "at `$[0].templates[0].stack_limit`"),
        ("activation_effects", [group(child_effects=[1])], "at `$[0].child_effects[0]`"),
        ("boosts_allowed", [7], "boosts_allowed: Expected `str`, got `int` - at `$[0]`"),
    ],
)
def test_a_record_that_does_not_fit_is_a_reject_and_the_others_stay(key, value, place):
    """The reject says where; its power is in no table, whatever table is asked for."""
    full = {"effects": [group(template())], "boosts_allowed": ["Enhance Damage"], "requires": "A.B.D"}
    records = [power("A.B.D", **full), power("A.B.C", **full | {key: value}), power("A.B.E", **full)]
    frames, rejects = built(*records)
    only, again = built(*records, names=("power_set_categories",))

    assert [(reject.uid, reject.ordinal, reject.stage) for reject in rejects] == [("a.b.c", 1, "load")]
    assert place in rejects[0].reason
    assert rejects[0].code == ("bad_effects" if "effects" in key else "bad_value")
    assert rejects[0].raw == json.dumps(value)
    assert frames["powers"]["id"].to_list() == [2, 3]
    assert set(frames["power_effects"]["power_id"]) == {2, 3}
    assert again == rejects
    assert list(only) == ["power_set_categories"]


def test_the_raw_text_of_a_reject_is_bounded():
    """At most 64 KiB are kept, cut at a character."""
    _, rejects = built(power(effects=[1, "é" * 50_000]))

    assert 65_530 < len(rejects[0].raw.encode()) <= 65_536


def test_no_rows_give_empty_batches_of_the_right_shape():
    """All records rejected, or none given: the batches have their columns and no rows."""
    frames, rejects = built(power(effects="x"))

    assert len(rejects) == 1
    for name, frame in frames.items():
        assert (frame.height, frame.columns) == (0, list(tables.spec(name).columns))


def test_seven_levels_of_nesting():
    """The deepest real nesting, and then some."""
    nested = group(template())
    for _ in range(40):
        nested = group(child_effects=[nested])

    assert built(power(effects=[nested]))[0]["power_effects"]["depth"].to_list() == [40]
