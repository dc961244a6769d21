"""MidsReborn's enumerations as numbers in its JSON: the order of 2019. Unknown numbers stay as their digits."""

import polars as pl

EFFECT_TYPES = {
    0: "None",
    1: "Accuracy",
    2: "ViewAttrib",
    3: "Damage",
    4: "DamageBuff",
    5: "Defense",
    6: "DropToggles",
    7: "Endurance",
    8: "EnduranceDiscount",
    9: "Enhancement",
    10: "Fly",
    11: "SpeedFlying",
    12: "GrantPower",
    13: "Heal",
    14: "HitPoints",
    15: "InterruptTime",
    16: "JumpHeight",
    17: "SpeedJumping",
    18: "Meter",
    19: "Mez",
    20: "MezResist",
    21: "MovementControl",
    22: "MovementFriction",
    23: "PerceptionRadius",
    24: "Range",
    25: "RechargeTime",
    26: "Recovery",
    27: "Regeneration",
    28: "ResEffect",
    29: "Resistance",
    30: "RevokePower",
    31: "Reward",
    32: "SpeedRunning",
    33: "SetCostume",
    34: "SetMode",
    35: "Slow",
    36: "StealthRadius",
    37: "StealthRadiusPlayer",
    38: "EntCreate",
    39: "ThreatLevel",
    40: "ToHit",
    41: "Translucency",
    44: "Elusivity",
    45: "GlobalChanceMod",
    47: "UnsetMode",
    48: "Rage",
    53: "PowerRedirect",
    66: "Absorb",
}
DAMAGE_TYPES = {
    1: "Smashing",
    2: "Lethal",
    3: "Fire",
    4: "Cold",
    5: "Energy",
    6: "Negative",
    7: "Toxic",
    8: "Psionic",
    9: "Special",
    10: "Melee",
    11: "Ranged",
    12: "AoE",
}
MEZ_TYPES = {
    1: "Confused",
    2: "Held",
    3: "Immobilized",
    4: "Knockback",
    5: "Knockup",
    6: "OnlyAffectsSelf",
    7: "Placate",
    8: "Repel",
    9: "Sleep",
    10: "Stunned",
    11: "Taunt",
    12: "Terrorized",
    13: "Untouchable",
    14: "Teleport",
    16: "Afraid",
}
ASPECTS = {0: "Resistance", 1: "Maximum", 2: "Absolute", 3: "Strength", 4: "Current"}
ATTRIB_TYPES = {0: "Magnitude", 1: "Duration", 2: "Expression"}
TARGETS = {0: "unspecified", 1: "target", 2: "self", 3: "all"}
PVP = {0: "any", 1: "pve", 2: "pvp"}
POWER_TYPES = {0: "Click", 1: "Auto", 2: "Toggle", 3: "Boost", 4: "Inspiration", 5: "GlobalBoost"}
EFFECT_AREAS = {0: "None", 1: "Character", 2: "Sphere", 3: "Cone", 4: "Location", 6: "Map", 8: "Touch"}


def named(number: pl.Expr, names: dict[int, str]) -> pl.Expr:
    """Return the name of each number, its digits where it has none."""
    return number.replace_strict(names, default=number.cast(pl.String), return_dtype=pl.String)


def bits(mask: int) -> list[str]:
    """Return the bits set in a mask, each as the text of its value, lowest first. A negative mask has none."""
    return [str(1 << bit) for bit in range(max(mask, 0).bit_length()) if mask >> bit & 1]
