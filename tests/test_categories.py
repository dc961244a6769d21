import pytest

from etl import categories


def test_every_category_of_an_archetype_gives_that_archetype():
    """Names cross: Training_Gadgets is the soldiers', Teamwork the widows', and *_Aux belongs to its prefix."""
    expected = {
        "Blaster_Ranged": "blaster",
        "BLASTER_SUPPORT": "blaster",
        "Training_Gadgets": "arachnos_soldier",
        "Arachnos_Soldiers": "arachnos_soldier",
        "Teamwork": "arachnos_widow",
        "Widow_Training": "arachnos_widow",
        "Dominator_Assault_Aux": "dominator",
        "Tanker_Melee_Aux": "tanker",
    }

    assert {name: categories.archetype_of(name) for name in expected} == expected


def test_shared_categories_give_their_group_and_unknown_ones_npc():
    """Nothing is without a key."""
    expected = {
        "temporary_powers": "temporary",
        "Incarnate": "incarnate",
        "Incarnate_I20": "incarnate",
        "Incarnate_AlphaStrike": "incarnate",
        "Set_Bonus": "set_bonus",
        "Mission_Maker_Pets": "npc",
        "Base_Aux": "npc",
        "": "npc",
    }

    assert {name: categories.archetype_of(name) for name in expected} == expected


def test_there_are_thirty_keys_of_which_fifteen_are_players():
    """The keys are those of the tables' branches."""
    assert len(categories.KEYS) == 30
    assert len(categories.PLAYER_KEYS) == 15
    assert categories.PLAYER_KEYS < categories.KEYS


@pytest.mark.parametrize(
    ("category", "kind"),
    [("Scrapper_Melee", "primary"), ("Scrapper_Defense", "secondary"), ("Boosts", "boost"), ("5thColumn", "npc")],
)
def test_set_types_follow_the_category(category, kind):
    """A player's first category is the primary one."""
    assert categories.set_type_of(category) == kind
