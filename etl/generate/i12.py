"""Records in the flat "I12" shape: the 23 keys of the known sample in its order, 880 bytes on average.

The sample's records are bigger (2.7 kB); 880 bytes is the size the design's measurements use.
"""

from collections.abc import Callable
from typing import Any

from etl.generate import prose
from etl.generate.dice import Dice, dumps, lengths, members, spread
from etl.generate.world import LEVELS, PLAYER_KEYS, Names, Powerset

_DAMAGES = ("Smashing", "Lethal", "Fire", "Cold", "Energy", "Negative_Energy", "Psionic", "Toxic")
_OTHERS = ("Resistance", "Defense", "Stun", "Endurance", "SpeedRunning", "Hold", "ToHit", "Regeneration", "Heal")
_BOOSTS = ("Endurance Cost", "Recharge Speed", "Accuracy", "Damage", "Range", "KnockBack", "Heal", "Threat Duration")
_CHANCES = [(1.0, 400), (0.5, 20), (0.05, 20), (0.3, 10), (-0.2, 1), (3.0, 1)]
_DURATIONS = [(0.0, 60), (10.0, 10), (30.0, 6), (0.75, 12), (-1.0, 2)]
# (effect area, radius, arc), weight
_AREAS = [
    (("SingleTarget", 0.0, 0.0), 60),
    (("AoE", 25.0, 0.0), 22),
    (("Location", 15.0, 0.0), 10),
    (("Cone", 40.0, 0.7854), 7),
    (("Chain", 14.99, 0.0), 1),
    (("Map", 300.0, 3.1416), 1),
]
_EFFECT_COUNTS = [((0, 0), 680), ((1, 1), 150), ((2, 2), 55), ((3, 4), 30), ((5, 9), 8), ((10, 41), 2)]
_TYPES = {"boosts": "Enhancement", "inspirations": "Inspiration", "set_bonus": "Global Enhancement"}

_RANGE = spread([("0.0", 28), ("80.0", 12), ("60.0", 9), ("7.0", 8), ("70.0", 4), ("150.0", 2), ("10000.0", 1)])
_ACCURACY = spread([("1.0", 12), ("1.2", 2), ("0.8", 1), ("1.05", 1)])
_RECHARGE = tuple(str(step * step / 2.5) for step in range(64))
_ENDURANCE = tuple(str(round(step * 0.4875, 4)) for step in range(64))


class I12Renderer:
    """Makes the records of one file; ``some_effects`` is a long effect list."""

    def __init__(self, seed: int, names: Names, powersets: list[Powerset]) -> None:
        self._dice = Dice(seed, "i12 records")
        self._names = names
        self._powersets = powersets
        dice = Dice(seed, "i12 pools")
        self._texts = [dumps(prose.help_text(dice, dice.weighted([(0, 36), (1, 58), (2, 6)]))) for _ in range(512)]
        self._frames = [_frame(dice) for _ in range(128)]
        lists = _effect_lists(dice, 1_024)
        self.some_effects = lists[0]
        self._effects = [dumps(effects) for effects in lists]
        self._boosts = [dumps([name for name in _BOOSTS if dice.happens(0.4)]) for _ in range(32)]

    def open(self, powerset: Powerset) -> Callable[[int], str]:
        """Return the function that gives the text of the set's record at a position; each call draws new numbers."""
        full_set = powerset.full_name
        owner = powerset.key.replace("_", " ").title() if powerset.key in PLAYER_KEYS else ""
        own_set = f'"PowersetFullName":"{full_set}","PowersetName":"{powerset.display_name}","ArchetypeName":"{owner}"'
        fixed_type = _TYPES.get(powerset.key)
        types = (fixed_type,) * 4 if fixed_type else ("Click", "Click", "Toggle", "Auto")
        # The hot path of 360,659 records: everything is looked up once, here.
        bits_of, name_of, requirements = self._dice.bits, self._names.power, self._requirements
        texts, frames, effects, boosts = self._texts, self._frames, self._effects, self._boosts

        def record(position: int) -> str:
            bits = bits_of()
            name, shown = name_of(powerset, position)
            level = LEVELS[bits & 127]
            before, after = frames[bits >> 7 & 127]
            required = requirements(powerset, position, bits) if not bits >> 49 else '"PowersRequired":[],' + _NOTHING
            return (
                f'{{"Name":"{shown}","InternalName":"{full_set}.{name}","DisplayName":"{shown}",'
                f'"Description":{texts[bits >> 14 & 511]},{own_set},"Level":{level},'
                f'"PowerType":"{types[bits >> 8 & 3]}",'
                f'{before}"Accuracy":{_ACCURACY[bits >> 23 & 15]},"EnduranceCost":{_ENDURANCE[bits >> 27 & 63]},'
                f'"RechargeTime":{_RECHARGE[bits >> 33 & 63]},{after}"Effects":{effects[bits >> 39 & 1023]},'
                f'"Requirements":{{"Level":{level},{required}}},"EnhancementTypes":{boosts[bits >> 10 & 31]}}}'
            )

        return record

    def _requirements(self, powerset: Powerset, position: int, bits: int) -> str:
        """Members of ``Requirements`` naming a power of the same set, another set, or something that is nowhere."""
        near = f"{powerset.full_name}.{self._names.power(powerset, (position + 1 + bits % 7) % powerset.size)[0]}"
        far = self._powersets[(bits >> 3) % len(self._powersets)].full_name
        needed, banned, expression = (
            ([near], [], near),
            ([], [far], f"!{far}"),
            ([near.lower(), far], [], f"{near.lower()} && {far}"),
            (["Epic.Absent_Set.Absent_Power"], [], "Epic.Absent_Set.Absent_Power || (char>accesslevel >= 0)"),
        )[bits >> 12 & 3]
        modes = {"ModesRequired": [], "ModesDisallowed": ["Disable_All"]}
        lists = {"PowersRequired": needed, "PowersDisallowed": banned, "Expression": expression}
        return dumps(lists | modes)[1:-1]


_NOTHING = '"PowersDisallowed":[],"Expression":"","ModesRequired":[],"ModesDisallowed":["Disable_All"]'


def _frame(dice: Dice) -> tuple[str, str]:
    """The members before and after accuracy, endurance and recharge."""
    area, radius, arc = dice.weighted(_AREAS)
    before = {
        "TargetType": dice.weighted([("Self", 45), ("Enemy", 42), ("Location", 9), ("Ally", 3), ("Any", 1)]),
        "Range": float(dice.pick(_RANGE)),
        "Radius": radius,
        "Arc": arc,
        "EffectArea": area,
    }
    after = {
        "ActivationTime": dice.pick((0.0, 1.0, 1.17, 1.67, 2.03, 3.17, 7.33)),
        "MaxTargets": dice.weighted([(0, 70), (10, 11), (16, 10), (255, 6), (9_999, 1)]),
        "IconName": f"icon_{dice.below(1_900)}.png",
    }
    return members(before), members(after)


def _effect_lists(dice: Dice, count: int) -> list[list[dict[str, Any]]]:
    """``count`` effect lists: the first with 41 effects, most of the others with none or one."""
    return [[_effect(dice) for _ in range(length)] for length in (41, *lengths(dice, count - 1, _EFFECT_COUNTS))]


def _effect(dice: Dice) -> dict[str, Any]:
    damage = dice.pick(_DAMAGES) if dice.happens(0.4) else None
    kind = "Damage" if damage else dice.pick(_OTHERS)
    scale, duration = dice.between(1, 4_000) / 1_000, dice.weighted(_DURATIONS)
    modifier = {
        "Attribute": f"{damage}_Dmg" if damage else kind,
        "Aspect": "Abs" if damage else dice.pick(("Cur", "Max", "Str", "Res")),
        "Modifier": "Melee_Damage" if damage else "Ranged_Ones",
        "Scale": scale,
        "nMagnitude": dice.pick((1.0, 2.0, 3.0)),
        "nDuration": duration,
    }
    return {"EffectType": kind} | ({"DamageType": damage} if damage else {}) | {
        "Scale": scale,
        "Duration": duration,
        "Chance": dice.weighted(_CHANCES),
        "PvMode": dice.weighted([("Any", 60), ("PvP", 20), ("PvE", 20)]),
        "ToWho": "Self" if dice.happens(0.3) else "Target",
        "AttributeModifiers": [modifier],
    }  # fmt: skip
