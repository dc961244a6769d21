"""Which archetype key a power belongs to, told from the category in its name.

The table is built in: neither a record's own list of archetypes nor an archetypes file is needed. A category owned by
an archetype (its primary or secondary one) gives that archetype, a shared category its group, every other one ``npc``.
"""

# What each player archetype owns, as its class file names it, plus the melee and assault categories that end in _aux.
_OWNED = {
    "blaster": ("blaster_ranged", "blaster_support"),
    "brute": ("brute_melee", "brute_defense", "brute_melee_aux"),
    "controller": ("controller_control", "controller_buff"),
    "corruptor": ("corruptor_ranged", "corruptor_buff"),
    "defender": ("defender_buff", "defender_ranged"),
    "dominator": ("dominator_control", "dominator_assault", "dominator_assault_aux"),
    "mastermind": ("mastermind_summon", "mastermind_buff"),
    "scrapper": ("scrapper_melee", "scrapper_defense", "scrapper_melee_aux"),
    "sentinel": ("sentinel_ranged", "sentinel_defense"),
    "stalker": ("stalker_melee", "stalker_defense", "stalker_melee_aux"),
    "tanker": ("tanker_defense", "tanker_melee", "tanker_melee_aux"),
    "peacebringer": ("peacebringer_offensive", "peacebringer_defensive"),
    "warshade": ("warshade_offensive", "warshade_defensive"),
    "arachnos_soldier": ("arachnos_soldiers", "training_gadgets"),
    "arachnos_widow": ("widow_training", "teamwork"),
}

_SHARED = {
    "pool": ("pool",),
    "epic": ("epic",),
    "incarnate": ("incarnate", "incarnate_i20", "incarnate_alphastrike"),
    "inherent": ("inherent",),
    "temporary": ("temporary_powers",),
    "set_bonus": ("set_bonus",),
    "boosts": ("boosts",),
    "inspirations": ("inspirations",),
    "prestige": ("prestige",),
    "redirects": ("redirects",),
    "pets": ("pets",),
    "villain_pets": ("villain_pets",),
    "mastermind_pets": ("mastermind_pets",),
    "kheldian_pets": ("kheldian_pets",),
}

OTHER = "npc"
PLAYER_KEYS = frozenset(_OWNED)
KEYS = frozenset({*_OWNED, *_SHARED, OTHER})

_ARCHETYPES = {category: key for key, owned in {**_OWNED, **_SHARED}.items() for category in owned}

# mapping.md, set_type: what a powerset is, by its category. A player archetype's first category is its primary one.
_SET_TYPES = {
    **{owned[0]: "primary" for owned in _OWNED.values()},
    **{category: "secondary" for owned in _OWNED.values() for category in owned[1:]},
    "pool": "pool",
    "epic": "epic",
    "incarnate": "incarnate",
    "incarnate_i20": "incarnate",
    "incarnate_alphastrike": "incarnate",
    "inherent": "inherent",
    "temporary_powers": "temp",
    "set_bonus": "set_bonus",
    "boosts": "boost",
    "pets": "pet",
    "villain_pets": "pet",
    "mastermind_pets": "pet",
    "kheldian_pets": "pet",
}


def is_known(category: str) -> bool:
    """Return whether the table names this category; case does not matter."""
    return category.lower() in _ARCHETYPES


def archetype_of(category: str) -> str:
    """Return the archetype key of a category; case does not matter, and an unknown category is ``npc``."""
    return _ARCHETYPES.get(category.lower(), OTHER)


def set_type_of(category: str, unknown: str = OTHER) -> str:
    """Return the type of a category's powersets (primary, secondary, pool, …), or ``unknown``."""
    return _SET_TYPES.get(category.lower(), unknown)
