"""The invented world of a generated file: categories, powersets with their sizes, and the names of all powers.

Category names and sizes of player and shared groups are facts measured over the complete City of Data export of
December 2025 (26,496 powers in 7,597 powersets); they decide the partition of a record. All other names are invented.
"""

from collections.abc import Iterator

import msgspec

from etl.generate.dice import Dice, apportion, spread

REFERENCE_POWERS = 26_496
REFERENCE_POWERSETS = 7_597

# category, powers, powersets, partition key
_CATEGORIES = """
Arachnos_Soldiers 28 3 arachnos_soldier|Training_Gadgets 11 3 arachnos_soldier
Teamwork 13 3 arachnos_widow|Widow_Training 24 3 arachnos_widow
Blaster_Ranged 139 15 blaster|Blaster_Support 136 15 blaster
Boosts 2739 2739 boosts
Brute_Defense 133 14 brute|Brute_Melee 210 23 brute|Brute_Melee_Aux 3 1 brute
Controller_Buff 153 17 controller|Controller_Control 118 13 controller
Corruptor_Buff 153 17 corruptor|Corruptor_Ranged 139 15 corruptor
Defender_Buff 153 17 defender|Defender_Ranged 139 15 defender
Dominator_Assault 117 13 dominator|Dominator_Assault_Aux 3 1 dominator|Dominator_Control 118 13 dominator
Epic 405 81 epic
Incarnate 975 97 incarnate|Incarnate_AlphaStrike 90 18 incarnate|Incarnate_I20 101 24 incarnate
Inherent 160 2 inherent
Inspirations 96 17 inspirations
Kheldian_Pets 30 8 kheldian_pets
Mastermind_Buff 153 17 mastermind|Mastermind_Summon 63 7 mastermind
Mastermind_Pets 475 100 mastermind_pets
Peacebringer_Defensive 22 1 peacebringer|Peacebringer_Offensive 18 1 peacebringer
Pets 653 313 pets
Pool 83 15 pool
Prestige 377 9 prestige
Redirects 312 55 redirects
Scrapper_Defense 142 15 scrapper|Scrapper_Melee 201 22 scrapper|Scrapper_Melee_Aux 3 1 scrapper
Sentinel_Defense 133 14 sentinel|Sentinel_Ranged 139 15 sentinel
Set_Bonus 997 2 set_bonus
Stalker_Defense 142 15 stalker|Stalker_Melee 171 19 stalker|Stalker_Melee_Aux 3 1 stalker
Tanker_Defense 132 14 tanker|Tanker_Melee 210 23 tanker|Tanker_Melee_Aux 3 1 tanker
Temporary_Powers 1248 8 temporary
Villain_Pets 366 125 villain_pets
Warshade_Defensive 21 1 warshade|Warshade_Offensive 18 1 warshade
"""

PLAYER_KEYS = (
    "arachnos_soldier",
    "arachnos_widow",
    "blaster",
    "brute",
    "controller",
    "corruptor",
    "defender",
    "dominator",
    "mastermind",
    "peacebringer",
    "scrapper",
    "sentinel",
    "stalker",
    "tanker",
    "warshade",
)

# Everything else is npc: 14,025 powers in 137 categories, from 938 powers down to one.
_NPC_POWERS = 14_025
_NPC_CATEGORIES = 137

# Per mille of a category's powers that lie in its largest powerset (measured).
_HEAD = {
    "Temporary_Powers": 776,
    "Prestige": 650,
    "Incarnate": 190,
    "Inherent": 975,
    "Set_Bonus": 530,
    "Redirects": 150,
}
_EVEN_KEYS = frozenset((*PLAYER_KEYS, "boosts", "pool", "epic", "inspirations"))

_FIRST_WORDS = (
    "Amber Ashen Azure Bitter Blazing Bramble Brazen Bright Broken Calm Cedar Cinder Clear Cobalt Copper Crimson "
    "Crystal Distant Dusky Ebon Echoing Ember Endless Fading Feral Flint Frozen Gentle Gilded Granite Grim Hollow "
    "Humming Iron Ivory Jagged Keen Lesser Lucid Lunar Marble Misty Molten Mossy Nimble Ochre Opal Pale "
    "Polar Quiet Quick Rapid Rising Rugged Rustic Sable Scarlet Silent Silver Solar Stark Tidal Umbral Velvet"
)
_SECOND_WORDS = (
    "Anchor Arc Arrow Aura Barrage Beacon Blade Blast Bloom Bolt Bond Brand Burst Cage Canopy Chain "
    "Chill Chord Circle Clasp Cloak Comet Crest Current Dart Drift Drum Edge Eruption Field Flare Flurry "
    "Focus Fog Gaze Gale Grasp Guard Hammer Harvest Haze Hook Howl Lance Lash Mantle Mirror Needle "
    "Orbit Pulse Quake Ray Ripple Rush Shell Shield Shroud Spark Spiral Step Surge Torrent Veil Ward"
)
_FIRST = _FIRST_WORDS.split()
_SECOND = _SECOND_WORDS.split()
_PAIRS = len(_FIRST) * len(_SECOND)


class Powerset(msgspec.Struct, frozen=True, kw_only=True):
    """A powerset of ``size`` powers, the first of which has the ordinal ``start`` in the file."""

    category: str
    name: str
    display_name: str
    key: str
    start: int
    size: int
    shift: int

    @property
    def full_name(self) -> str:
        """The name with its category."""
        return f"{self.category}.{self.name}"


class Names:
    """Names of powers: 4,096 pairs of words, each set walking through all of them before it numbers them anew.

    A name is unique in its powerset whatever the size, without a list of what was given. Among the pairs are the odd
    but legal forms of real names: '-', ':' and '.' inside, and blanks that are no blanks in display names.
    """

    def __init__(self) -> None:
        pairs = [(index, first, second) for index, (first, second) in enumerate(_word_pairs())]
        self._names = tuple(f"{first}{_joiner(index)}{second}" for index, first, second in pairs)
        self._displays = tuple(_display(index, first, second) for index, first, second in pairs)

    def power(self, powerset: Powerset, position: int) -> tuple[str, str]:
        """Return the name and the display name of the power at this position of the set."""
        pair = (position * 1_237 + powerset.shift) % _PAIRS  # odd, so every pair comes once per round
        if position < _PAIRS:
            return self._names[pair], self._displays[pair]
        again = position // _PAIRS + 1
        return f"{self._names[pair]}_{again}", f"{self._displays[pair]} {again}"


def plan(records: int, seed: int) -> list[Powerset]:
    """Return the powersets of a file in file order: by category, then as numbered; their sizes add up to ``records``.

    Powersets grow with the records up to the reference's 7,597, then only their sizes grow.
    """
    dice = Dice(seed, "world")
    categories = sorted(_categories())
    powers = apportion(records, [weight for _, weight, _, _ in categories])
    wanted = min(records, REFERENCE_POWERS) * REFERENCE_POWERSETS
    powersets: list[Powerset] = []
    start = 0
    for (category, _, sets, key), count in zip(categories, powers, strict=True):
        if count:
            number = max(1, min(count, sets * wanted // (REFERENCE_POWERS * REFERENCE_POWERSETS)))
            sizes = _sizes(dice, category, key, count, number)
            powersets.extend(_powersets(dice, category, key, start, sizes))
            start += count
    return powersets


def _categories() -> Iterator[tuple[str, int, int, str]]:
    fixed_powers = fixed_sets = 0
    for entry in "|".join(_CATEGORIES.split("\n")[1:-1]).split("|"):
        name, powers, sets, key = entry.split()
        fixed_powers, fixed_sets = fixed_powers + int(powers), fixed_sets + int(sets)
        yield name, int(powers), int(sets), key
    weights = [(_NPC_CATEGORIES - rank) ** 2 * 1000 // (rank + 8) + 1 for rank in range(_NPC_CATEGORIES)]
    powers_of = apportion(_NPC_POWERS - _NPC_CATEGORIES, weights)
    sets_of = apportion(REFERENCE_POWERSETS - fixed_sets - _NPC_CATEGORIES, weights)
    for rank in range(_NPC_CATEGORIES):
        prefix = ("", "V_", "", "P_")[rank % 4]
        name = f"{prefix}{_FIRST[(rank * 5) % 64]}_{('Order', 'Court', 'Legion')[rank % 3]}"
        yield name, powers_of[rank] + 1, sets_of[rank] + 1, "npc"


def _sizes(dice: Dice, category: str, key: str, powers: int, sets: int) -> list[int]:
    """Sizes of the sets of a category, each at least one: even for player sets, else long-tailed as measured."""
    if key in _EVEN_KEYS:
        weights = [1_000 + dice.below(250) for _ in range(sets)]
    else:
        weights = [int(1_000 / (1 - 0.997 * dice.share())) - 950 for _ in range(sets)]
    head = _HEAD.get(category)
    if head and sets > 1:
        weights[0] = sum(weights[1:]) * head // (1_000 - head)
    return [1 + extra for extra in apportion(powers - sets, weights)]


def _powersets(dice: Dice, category: str, key: str, start: int, sizes: list[int]) -> Iterator[Powerset]:
    offset = dice.below(_PAIRS)
    for number, size in enumerate(sizes):
        pair = (number * 1_237 + offset) % _PAIRS
        first, second = _FIRST[pair >> 6], _SECOND[pair & 63]
        comma = pair % 199 == 3  # as in "Pets.Titan_Weapons,Titan_Weapons" of older exports
        name = f"{first}_{second},{first}_{second}" if comma else f"{first}_{second}"
        name = name if number < _PAIRS else f"{name}_{number // _PAIRS + 1}"
        yield Powerset(
            category=category,
            name=name,
            display_name=name.replace("_", " "),
            key=key,
            start=start,
            size=size,
            shift=dice.below(_PAIRS),
        )
        start += size


def _word_pairs() -> Iterator[tuple[str, str]]:
    return ((first, second) for first in _FIRST for second in _SECOND)


def _joiner(pair: int) -> str:
    if pair % 251 == 17:
        return ":_"
    if pair % 199 == 23:
        return "-"
    return "." if pair % 1_021 == 5 else "_"


def _display(pair: int, first: str, second: str) -> str:
    if pair % 37 == 11:
        return f"{first}'s {second}"
    if pair % 401 == 29:
        return f"{first}\u00a0{second}"
    if pair % 997 == 31:
        return f"\u2606 {first} {second}"
    return f"{first} {second}"


# 128 levels as the game counts them, from 1; 0 and below are "not by level", and legal.
LEVELS = spread([
    (1, 48), (0, 3), (2, 6), (4, 6), (6, 5), (8, 5), (10, 5), (12, 5), (16, 5), (18, 5), (20, 5), (24, 5), (26, 4),
    (28, 4), (30, 4), (32, 4), (35, 3), (38, 3), (41, 1), (44, 1), (50, 1),
])  # fmt: skip
