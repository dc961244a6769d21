"""One vocabulary for enhancement types."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.transforms import boosts


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("Enhance Damage", "Damage_Boost", "Damage"), "damage"),
        (("Reduce Endurance Cost", "EnduranceDiscount_Boost", "Endurance Cost"), "endurance_cost"),
        (("Enhance Defense DeBuff", "Debuff_Defense_Boost", "Defense DeBuff"), "defense_debuff"),
        (("Enhance Endurance Modification", "Recovery_Boost"), "endurance_modification"),
        (("Incarnate: Lore Capable", "Incarnate_Lore_Boost"), "incarnate_lore"),
        (("Magic_Boost",), "magic"),
        (("Something New",), "something_new"),
        (("!!",), "!!"),
    ],
)
def test_one_word_for_all_formats(names, word):
    """What the formats call the same thing is one word."""
    assert {boosts.enhancement_type(name) for name in names} == {word}


@given(st.text(min_size=1))
def test_every_name_has_a_word(name):
    """Total, and never empty."""
    assert boosts.enhancement_type(name)
