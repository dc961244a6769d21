"""MidsReborn powers, made by hand: numbers become words, what is left out is the default."""

import json
from typing import Any

import polars as pl
import pytest
import store_shape

from etl import tables
from etl.transforms import mids_enums


def built(**keys: Any) -> dict[str, pl.DataFrame]:
    """Build the tables of one power."""
    usual = {"FullName": "A.B.C", "PowerName": "C", "DisplayName": "C", "Level": 1, "Accuracy": 1.0, "Target": 2048}
    text = json.dumps(usual | keys).encode()
    batch = store_shape.batch("mids", [text])
    rows, rejects = tables.build("mids", batch, store_shape.context_of("mids", [text]), tables.LEAF_TABLES)
    assert rejects == []
    return {name: pl.DataFrame(pl.from_arrow(part)) for name, part in rows.items()}


def row(table: str = "powers", **keys: Any) -> dict[str, Any]:
    """The first row of a table."""
    return built(**keys)[table].row(0, named=True)


@pytest.mark.parametrize(
    ("mask", "target_type"),
    [(0, "self"), (1, "self"), (2048, "enemy"), (64, "enemy"), (8192, "location"), (32768, "any"), (512, "ally")],
)
def test_target_masks(mask, target_type):
    """Enemy before self before location before any; the rest are allies."""
    assert row(Target=mask)["target_type"] == target_type


@pytest.mark.parametrize(
    ("effect", "effect_type", "attribs", "aspect"),
    [
        ({"EffectType": 3, "DamageType": 2, "Aspect": 2}, "Damage", ["Damage"], "Absolute"),
        ({"EffectType": 19, "MezType": 2, "Aspect": 4}, "Mez", ["Held"], "Current"),
        ({"EffectType": 9, "ETModifies": 5, "Aspect": 3}, "Enhancement", ["Defense"], "Strength"),
        ({}, "None", ["None"], "Resistance"),
        ({"EffectType": 77}, "77", ["77"], "Resistance"),
    ],
)
def test_enumerations(effect, effect_type, attribs, aspect):
    """Names for numbers; an unknown number stays as digits; absence is 0."""
    found = row("power_effects", Effects=[effect])

    assert (found["effect_type"], found["attribs"], found["aspect"]) == (effect_type, attribs, aspect)


@pytest.mark.parametrize(
    ("power_type", "effect"),
    [
        ("attack", {"EffectType": 3, "Aspect": 2, "ToWho": 1}),
        ("support", {"EffectType": 3, "Aspect": 2, "ToWho": 2}),
        ("support", {"EffectType": 3, "Aspect": 2, "ToWho": 1, "PvMode": 2}),
        ("control", {"EffectType": 19, "MezType": 16, "Aspect": 4, "ToWho": 1}),
        ("defense", {"EffectType": 5, "Aspect": 4, "Scale": 1.0, "nMagnitude": 0.1}),
        ("support", {"EffectType": 66}),
        ("travel", {"EffectType": 10, "Scale": 1.0}),
    ],
)
def test_power_types(power_type, effect):
    """The same classes as for City of Data."""
    assert row(Target=1, Effects=[effect])["power_type"] == power_type


def test_damage_scale_counts_ticks():
    """Scale * magnitude * probability * ticks."""
    effect = {
        "EffectType": 3,
        "Aspect": 2,
        "ToWho": 1,
        "Scale": 0.5,
        "nMagnitude": 2.0,
        "BaseProbability": 0.5,
        "Ticks": 4,
    }

    assert row(Effects=[effect])["damage_scale"] == 2.0


def test_pairs_are_joined_by_and_and_listed_by_or():
    """An entry of PowerID is a group; what is forbidden stands in all; tokens of a lost grammar are of another kind."""
    requires = {
        "ClassName": ["Class_Brute"],
        "PowerID": [["A.B.D", "A.B.E"], ["$ARCHETYPE", ""]],
        "PowerIDNot": [["!brute_defense.shield_defense", ""]],
    }
    columns = ("required_uid", "required_kind", "group_no", "negated", "prerequisite_type")

    assert built(Requires=requires)["power_prerequisites"].select(columns).rows() == [
        ("a.b.d", "power", 0, False, "one_of"),
        ("a.b.e", "power", 0, False, "one_of"),
        ("$archetype", "other", 1, False, "one_of"),
        ("brute_defense.shield_defense", "powerset", 0, True, "all_of"),
        ("class_brute", "archetype", 0, False, "all_of"),
    ]


def test_masks_without_names_become_the_text_of_their_bits():
    """Modes and attack types."""
    found = row(ModesDisallowed=5, AttackTypes=6)

    assert (found["modes_disallowed"], found["modes_required"], found["attack_types"]) == (
        '["1","4"]',
        "[]",
        ["2", "4"],
    )
    assert mids_enums.bits(-1) == []


@pytest.mark.parametrize(("text", "number"), [("", 6), ("6", 6), ("10", 10), ("many", 6)])
def test_max_boosts_is_a_number_in_a_string(text, number):
    """Six where it is none."""
    assert row(MaxBoosts=text)["max_boosts"] == number


def test_set_types_are_kept_as_text():
    """The export has numbers only."""
    assert built(SetTypes=[44, 2, 44])["power_set_categories"]["set_category"].to_list() == ["44", "2"]
