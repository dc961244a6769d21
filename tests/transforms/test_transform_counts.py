"""Real exports give exactly the rows that were counted over them by other means."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import store_shape

from etl import tables
from etl.transforms import cod, derive

ROWS = {
    "DEC": (26_493, 94_529, 4_071, 43_653, 12_886),
    "JUN": (5_140, 28_678, 462, 21_260, 11_357),
    # 36,557 allowed boosts less 5 repeats; 1,438 + 70 names of powers, 308 + 473 of classes
    "M19": (9_710, 64_546, 1_438 + 70 + 308 + 473, 36_552, 10_196),
}


@pytest.mark.parametrize("tag", ROWS)
def test_every_table_has_the_counted_rows(rows_of: Callable[[str], Any], tag: str) -> None:
    """Powers, templates, references, boosts and set categories of the real exports; nothing is rejected."""
    rows = rows_of(tag)

    assert (tuple(rows.frames[name].height for name in tables.LEAF_TABLES), rows.rejects) == (ROWS[tag], [])


@pytest.mark.parametrize(("tag", "groups"), [("DEC", 53_672), ("JUN", 17_193)])
def test_group_count_sums_to_the_counted_groups(rows_of: Callable[[str], Any], tag: str, groups: int) -> None:
    """Effect groups of effects and activation effects, nested ones and those without templates."""
    assert rows_of(tag).frames["powers"]["group_count"].sum() == groups


@pytest.mark.parametrize("tag", ROWS)
def test_ids_are_unique_and_begin_with_their_power(rows_of: Callable[[str], Any], tag: str) -> None:
    """No child id occurs twice, and the id says the power."""
    for name in tables.LEAF_TABLES[1:]:
        frame = rows_of(tag).frames[name]

        assert frame["id"].is_unique().all(), name
        assert (frame["id"] // 2**20 == frame["power_id"]).all(), name


@pytest.mark.parametrize(("tag", "power", "powerset"), [("DEC", 927, 3_144), ("JUN", 362, 100)])
def test_references_resolve(rows_of: Callable[[str], Any], tag: str, power: int, powerset: int) -> None:
    """References by kind; every named power exists, and every condition has a disjunctive form."""
    frame = rows_of(tag).frames["power_prerequisites"]

    assert Counter(frame["required_kind"]) == {"power": power, "powerset": powerset}
    assert frame["required_power_id"].is_not_null().sum() == power
    assert frame["group_no"].null_count() == 0


def test_negated_counts_every_reference_inside_a_negated_parenthesis(
    rows_of: Callable[[str], Any], pack: Callable[[str], Path]
) -> None:
    """``!(A || B)`` negates both: 178 in June, where counting a "!" right before a name finds 128."""
    records = store_shape.read_pack("cod", pack("cod-homecoming-2025.powers"))
    texts = store_shape.batch("cod", records).column("requires").to_pylist()
    marked = sum(len(re.findall(r"!\(?\w[\w:-]*\.", text)) for text in texts if text)

    assert marked == 128
    assert rows_of("JUN").frames["power_prerequisites"]["negated"].sum() == 178


def test_target_types_of_june(rows_of: Callable[[str], Any]) -> None:
    """The counts of the canonical mapping."""
    assert rows_of("JUN").counted("powers", "target_type") == {
        "self": 2_304,
        "enemy": 2_141,
        "location": 460,
        "ally": 215,
        "any": 20,
    }


def test_classes_of_june(pack: Callable[[str], Path]) -> None:
    """The canonical mapping's counts, made without the PvP filter and before falling back."""
    records = store_shape.read_pack("cod", pack("cod-homecoming-2025.powers"))
    ranks: Counter[str] = Counter()
    for batch in store_shape.batches("cod", records):
        lowest = cod.parse(batch).effects.group_by("row").agg(pl.col("rank").min())["rank"].drop_nulls()
        ranks.update(derive.CLASSES[rank] for rank in lowest)
    ranks["none"] = len(records) - ranks.total()

    assert ranks == {"attack": 1_958, "defense": 666, "support": 491, "control": 253, "travel": 137, "none": 1_635}


def test_flat_records_give_a_row_per_effect(rows_of: Callable[[str], Any]) -> None:
    """2,000 powers, 10,848 effects, 17,799 modifiers."""
    rows = rows_of("I12S")

    assert rows.frames["powers"].height == 2_000
    assert rows.frames["power_effects"].height == 10_848
    assert rows.frames["power_effects"]["attribs"].list.len().sum() == 17_799


@pytest.mark.parametrize("tag", ["JUN", "M19", "I12S"])
def test_one_vocabulary_of_enhancements(rows_of: Callable[[str], Any], tag: str) -> None:
    """What is a common enhancement in one format is the same word in the others."""
    words = set(rows_of(tag).frames["power_enhancement_compatibility"]["enhancement_type"])

    assert {
        "accuracy",
        "damage",
        "damage_resistance",
        "defense_debuff",
        "disorient",
        "endurance_cost",
        "endurance_modification",
        "fear",
        "flying_speed",
        "immobilization",
        "incarnate_lore",
        "interrupt_time",
        "magic",
        "recharge_speed",
        "slow_movement",
        "threat_duration",
        "tohit_buffs",
    } <= words
