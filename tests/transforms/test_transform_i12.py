"""Flat records, made by hand: the first importer's rules, its traps, and what is set aside."""

import json
from typing import Any

import polars as pl
import pytest
import store_shape

from etl import tables


def power(**keys: Any) -> dict[str, Any]:
    """A flat record."""
    usual = {
        "Name": "Blast",
        "InternalName": "Blaster_Ranged.Fire_Blast.Blast",
        "PowersetFullName": "Blaster.Fire_Blast",
        "PowersetName": "Fire Blast",
        "ArchetypeName": "Blaster",
        "Level": 1,
        "PowerType": "Click",
        "TargetType": "Enemy",
        "Effects": [],
        "Requirements": {"Level": 1},
    }
    return usual | keys


def built(**keys: Any):
    """Build the tables of one record; returns (frames, rejects)."""
    text = json.dumps(power(**keys)).encode()
    context = store_shape.context_of("i12", [text])
    rows, rejects = tables.build("i12", store_shape.batch("i12", [text]), context, tables.LEAF_TABLES)
    return {name: pl.DataFrame(pl.from_arrow(batch)) for name, batch in rows.items()}, rejects


def row(table: str = "powers", **keys: Any) -> dict[str, Any]:
    """The first row of a table."""
    return built(**keys)[0][table].row(0, named=True)


def test_names_and_defaults():
    """The name is the part after the second dot; DisplayOrder is Level where it is not said."""
    found = row(Level=12, Name="Other")

    assert (found["name"], found["display_name"], found["display_order"]) == ("Blast", "Other", 12)
    assert (found["accuracy"], found["requires_line_of_sight"], found["archetypes"]) == (1.0, True, ["Blaster"])
    assert row(ArchetypeName="")["archetypes"] == []
    assert row(InternalName="Odd")["name"] == "Blast"
    assert row(InternalName="Odd", Name=None)["display_name"] == "Odd"


@pytest.mark.parametrize(
    ("raw", "target_type"),
    [
        ("Enemy", "enemy"),
        ("foe", "enemy"),
        ("Teammate", "ally"),
        ("Caster", "self"),
        ("Ground", "location"),
        ("Any", "self"),
        ("", "self"),
        (None, "self"),
    ],
)
def test_target_types_follow_the_first_importer(raw, target_type):
    """A known word, else self."""
    assert row(TargetType=raw)["target_type"] == target_type


@pytest.mark.parametrize(
    ("power_type", "effects", "keys"),
    [
        ("support", ["Heal", "Damage"], {}),
        ("attack", ["Grant_Power", "DamageOverTime", "Heal"], {}),
        ("defense", ["Resistance", "Damage"], {}),
        ("control", ["Stun"], {}),
        ("travel", ["SuperJump"], {}),
        ("attack", ["Grant_Power"], {}),
        ("defense", [], {"TargetType": "Self", "PowerType": "Toggle"}),
        ("support", [], {"TargetType": "Ally", "PowerType": "Toggle"}),
    ],
)
def test_the_first_effect_of_a_known_type_decides(power_type, effects, keys):
    """Not the first class: heal before damage is support."""
    assert row(Effects=[{"EffectType": name} for name in effects], **keys)["power_type"] == power_type


def test_damage_scale_is_what_is_said_or_the_sum():
    """DamageScale wins; else scale * magnitude * chance over damage on others, outside PvP."""
    effects = [
        {"EffectType": "Damage", "Scale": 2.0, "Chance": 0.5},
        {"EffectType": "Damage", "Scale": 1.0, "AttributeModifiers": [{"Aspect": "Abs", "nMagnitude": 3.0}]},
        {"EffectType": "Damage", "Scale": 100.0, "PvMode": "PvP"},
        {"EffectType": "Damage", "Scale": 100.0, "ToWho": "Self"},
    ]

    assert row(Effects=effects)["damage_scale"] == 4.0
    assert row(Effects=effects, DamageScale=1.5)["damage_scale"] == 1.5
    assert row(Effects=[{"EffectType": "Heal"}])["damage_scale"] is None


def test_an_effect_gives_a_row_with_the_words_of_the_other_formats():
    """Aspect is spelt out; -1 means until killed; attributes of all modifiers."""
    modifiers = [{"Attribute": "Fire_Dmg", "Aspect": "Abs", "Modifier": "Ranged_Damage"}, {"Attribute": "Cold_Dmg"}]
    effect = {"EffectType": "Damage", "DamageType": "Fire", "Duration": -1, "AttributeModifiers": modifiers}
    found = row("power_effects", Effects=[effect])

    assert (found["attribs"], found["aspect"], found["table_name"]) == (
        ["Fire_Dmg", "Cold_Dmg"],
        "Absolute",
        "Ranged_Damage",
    )
    assert (found["duration_s"], found["until_killed"], found["chance"], found["scale"]) == (None, True, 1.0, 0.0)
    assert (found["pvp"], found["target"], found["damage_type"]) == ("any", "target", "Fire")


def test_requirements_give_references_with_their_level():
    """The expression where it names something, else the two lists."""
    lists = {"Level": 8, "PowersRequired": ["A.B.C"], "PowersDisallowed": ["A.D"]}
    columns = ("required_uid", "required_kind", "negated", "required_level", "prerequisite_type")
    frame = built(Requirements=lists)[0]["power_prerequisites"]

    assert frame.select(columns).rows() == [
        ("a.b.c", "power", False, 8, "all_of"),
        ("a.d", "powerset", True, 8, "all_of"),
    ]
    frame = built(Requirements=lists | {"Expression": "X.Y || Z.Z"})[0]["power_prerequisites"]

    assert frame["required_uid"].to_list() == ["x.y", "z.z"]


def test_modes_come_out_of_the_requirements():
    """As JSON lists, empty where nothing is said."""
    found = row(Requirements={"ModesRequired": ["A"], "ModesDisallowed": None})

    assert (found["modes_required"], found["modes_disallowed"]) == ('["A"]', "[]")


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ({"Effects": [{"Scale": "x"}]}, "bad_effects"),
        ({"Requirements": []}, "bad_value"),
        ({"EnhancementTypes": [None]}, "bad_value"),
    ],
)
def test_what_does_not_fit_is_a_reject(keys, code):
    """One reject, no rows."""
    frames, rejects = built(**keys)

    assert [reject.code for reject in rejects] == [code]
    assert sum(frame.height for frame in frames.values()) == 0
