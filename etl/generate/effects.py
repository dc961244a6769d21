"""Nested effect groups in the City of Data shape: groups within groups, each with its templates.

Counts, keys, enumerations and odd values are those measured over real exports: 5.6 templates and 3.3 groups a power,
at most 60 templates, groups nested to depth 7, chances outside 0..1, scales to 99,999, "UntilKilled".
"""

from typing import Any

from etl.generate.dice import Dice, lengths

_GROUP: dict[str, Any] = {
    "tags": [], "chance": 1.0, "ppm": 0.0, "delay": 0.0, "radius_inner": -1.0, "radius_outer": -1.0,
    "requires_expression": "", "flags": [], "eval_flags": 0, "child_effects": [], "templates": [],
    "is_pvp": "EITHER",
}  # fmt: skip
_TEMPLATE: dict[str, Any] = {
    "attribs": [], "type": "Magnitude", "application_type": "OnTick", "aspect": "Current", "target": "AnyAffected",
    "table": "Melee_Ones", "scale": 1.0, "duration": "0 seconds", "magnitude": 1.0, "delay": 0.0,
    "duration_expression": "", "magnitude_expression": "", "application_period": 0.0, "tick_chance": 1.0,
    "tick_mag_multiplier": 1.0, "tick_mag_additive": 0.0, "jit_requires": "", "caster_stack": "Individual",
    "stack": "Stack", "stack_limit": 2, "stack_key": None, "cancel_events": [], "boost_mod_allowed": "Science_Boost",
    "flags": [], "mode_name": None, "target_info": None, "messages": None, "suppress_events": [],
    "required_events": [], "params": None, "fx": None,
}  # fmt: skip

DAMAGES = ("Smashing", "Lethal", "Fire", "Cold", "Energy", "Negative_Energy", "Psionic", "Toxic")
_ALL_DAMAGE = [f"{name}_Dmg" for name in DAMAGES]
_MEZZES = ("Held", "Stunned", "Sleep", "Immobilized", "Terrorized", "Confused", "Knockback", "Knockup")
_BUFFS = ("ToHit", "Regeneration", "Recovery", "RunningSpeed", "JumpHeight", "RechargeTime", "Absorb", "Endurance")
_DEFENSES = ["Melee", "Ranged", "Area", "Smashing", "Lethal", "Fire", "Cold", "Energy", "Negative_Energy"]
_RESISTED = ["ResistMagnitude (7)", "CombatModMagnitude (9)"]
_IGNORING = ["IgnoreStrength (4)", "IgnoreResistance (5)", "CombatModMagnitude (9)"]
_CONDITIONS = (
    "target>enttype eq 'player'",
    "target>enttype eq 'critter'",
    "(target>enttype eq 'critter') && (source>kMeter > 0)",
    "source.ownPower?(Temporary_Powers.Absent_Set.Absent_Power)",
    "minmax(5 * target>kHitPoints% / 2 - 25, 0, 100) < 100 * rand()",
    "(target>arch eq 'Class_Minion_Grunt') || (target>arch eq 'Class_Minion_Small')",
)
_DURATIONS = [
    ("0 seconds", 40), ("0.75 seconds", 10), ("10 seconds", 6), ("30 seconds", 4), ("10.3 seconds", 3),
    ("99999 seconds", 1), ("UntilKilled", 1),
]  # fmt: skip
_CHANCES = [(1.0, 780), (0.0, 47), (0.2, 27), (0.5, 26), (0.05, 40), (0.3, 40), (0.6, 40)]
_ODD_CHANCES = [(-6.0, 1), (-0.2, 2), (1.5, 2), (3.0, 1)]
_ODD_SCALES = (-10_000.0, 99_999.0, -0.0333, 1e-05)
_TEMPLATE_COUNTS = [((0, 0), 8), ((1, 1), 170), ((2, 2), 150), ((3, 3), 140), ((4, 4), 120), ((5, 7), 200)]
_TEMPLATE_COUNTS += [((8, 14), 160), ((15, 23), 68), ((24, 59), 12)]


def pool(dice: Dice, count: int) -> list[list[dict[str, Any]]]:
    """Return so many lists of groups; the first four are empty, flat, of 60 templates, and 7 levels deep."""
    forced = [[], _groups(dice, 3), _groups(dice, 60), [_deep(dice, 7)]]
    return forced + [_groups(dice, templates) for templates in lengths(dice, count - len(forced), _TEMPLATE_COUNTS)]


def _groups(dice: Dice, templates: int) -> list[dict[str, Any]]:
    groups = []
    while templates > 0:
        taken = min(templates, dice.weighted([(1, 45), (2, 33), (3, 16), (6, 6)]))
        groups.append(_group(dice, taken))
        templates -= taken
    if len(groups) > 3 and dice.happens(0.5):  # a parent without templates of its own holds the rest
        children = groups[2:]
        if dice.happens(0.2):
            children = [children[0], _group(dice, 0) | {"child_effects": children[1:]}]
        groups = [*groups[:2], _group(dice, 0) | {"child_effects": children}]
    return groups


def _deep(dice: Dice, levels: int) -> dict[str, Any]:
    group = _group(dice, 1)
    for _ in range(levels - 1):
        group = _group(dice, 1) | {"child_effects": [group]}
    return group


def _group(dice: Dice, templates: int) -> dict[str, Any]:
    condition = dice.pick(_CONDITIONS) if dice.happens(0.52) else ""
    pvp = {_CONDITIONS[0]: "PVP_ONLY", _CONDITIONS[1]: "PVE_ONLY"}.get(condition, "EITHER")
    return _GROUP | {
        "tags": [dice.pick(("Containment", "Defiance", "StealthCrit"))] if dice.happens(0.23) else [],
        "chance": dice.weighted(_ODD_CHANCES) if dice.happens(0.004) else dice.weighted(_CHANCES),
        "ppm": dice.weighted([(0.0, 990), (2.0, 3), (3.5, 4), (6.0, 3)]),
        "radius_outer": dice.weighted([(-1.0, 990), (15.0, 5), (14.99, 5)]),
        "requires_expression": condition,
        "flags": [dice.pick(("PVPOnly", "PVEOnly", "MainTargetOnly", "Fallback"))] if dice.happens(0.14) else [],
        "templates": [_template(dice) for _ in range(templates)],
        "is_pvp": pvp,
    }


def _template(dice: Dice) -> dict[str, Any]:
    make = dice.weighted([(_damage, 36), (_mez, 20), (_buff, 22), (_protection, 8), (_grant, 10), (_create, 4)])
    template = _TEMPLATE | {
        "scale": dice.pick(_ODD_SCALES) if dice.happens(0.004) else dice.between(1, 4_000) / 1_000,
        "duration": dice.weighted(_DURATIONS),
        "delay": dice.weighted([(0.0, 890), (0.5, 30), (1.0, 30), (0.25, 30), (-0.3, 1), (90.0, 2)]),
        "stack": dice.weighted([("Stack", 63), ("Replace", 29), ("Ignore", 6), ("Suppress", 1), ("RefreshToLimit", 1)]),
        "flags": _RESISTED if dice.happens(0.6) else _IGNORING,
    }
    return template | make(dice)


def _damage(dice: Dice) -> dict[str, Any]:
    name = dice.pick(DAMAGES)
    return {
        "attribs": [f"{name}_Dmg"],
        "aspect": "Absolute",
        "table": dice.pick(("Melee_Damage", "Ranged_Damage", "Melee_PvPDamage", "Ranged_InherentDamage")),
        "messages": _messages(name),
    }


def _mez(dice: Dice) -> dict[str, Any]:
    name = dice.pick(_MEZZES)
    knock = {
        "type": "Knock", "vec_start": "kKnock_Target", "vec_end": "kKnock_Down", "vec_adjust_pyr": [0.0, 0.0, 0.0],
        "priority": 0, "vel": 0.0, "vel_mag": 0.1, "height": -1.0, "height_mag": -1.0,
    }  # fmt: skip
    return {
        "attribs": [name],
        "type": dice.weighted([("Duration", 60), ("Magnitude", 35), ("Expression", 5)]),
        "table": f"Ranged_{name}",
        "magnitude": dice.pick((1.0, 2.0, 3.0, 4.0, -50.0, 1_000.0)),
        "params": knock if name.startswith("Knock") else None,
        "fx": _part_fx(conditional="SHARED/MEZ.FX"),
    }


def _buff(dice: Dice) -> dict[str, Any]:
    return {
        "attribs": [dice.pick(_BUFFS)],
        "aspect": dice.weighted([("Current", 60), ("Strength", 25), ("Maximum", 5), ("Resistance", 10)]),
        "target": dice.weighted([("Self", 70), ("AnyAffected", 25), ("SelfAndPets", 3), ("AnyAffectedAndPets", 2)]),
        "cancel_events": ["Immobilized", "Sleep", "Terrorized"] if dice.happens(0.3) else [],
        "suppress_events": [_event(name) for name in ("Held", "Sleep")] if dice.happens(0.3) else [],
        "stack_key": "TravelBuff" if dice.happens(0.05) else None,
        "fx": _part_fx(continuing="PFX") if dice.happens(0.5) else None,
    }


def _protection(dice: Dice) -> dict[str, Any]:
    resists = dice.happens(0.5)
    return {
        "attribs": _ALL_DAMAGE if resists else _DEFENSES,
        "aspect": "Resistance" if resists else "Current",
        "table": "Melee_Res_Dmg" if resists else "Melee_Buff_Def",
        "target": "Self",
        "magnitude_expression": "0.003 * minmax(60 - source>kHitPoints%, 0, 100)" if dice.happens(0.03) else "",
    }


def _grant(dice: Dice) -> dict[str, Any]:
    names = ["Temporary_Powers.Absent_Set.Absent_Power"]
    lists = {"category_names": [], "powerset_names": [], "power_names": names}
    return {
        "attribs": [dice.pick(("Grant_Power", "Revoke_Power"))],
        "target": "Self",
        "application_type": dice.pick(("OnTick", "OnActivate", "OnDeactivate", "OnEnable", "OnDisable")),
        "params": {"type": "Power", "count": 1} | lists,
    }


def _create(dice: Dice) -> dict[str, Any]:
    return {
        "attribs": ["Create_Entity"],
        "duration": "UntilKilled" if dice.happens(0.1) else "60 seconds",
        "params": {
            "type": "EntCreate", "entity_def": f"Pets_Thing_{dice.below(90)}", "class_name": None,
            "costume_name": None, "display_name": None, "priorities": "PL_Invented", "ai_config": None,
            "category_names": [], "powerset_names": [], "power_names": [], "redirects": [],
        },
    }  # fmt: skip


def _messages(name: str) -> dict[str, Any]:
    return {
        "display_attacker_hit": f"Your {{PowerName}} does {{Damage}} points of {name} damage to {{PlayerDest}}.",
        "display_victim_hit": f"{{PlayerSource}} does {{Damage}} points of {name} damage to you by {{PowerName}}.",
        "display_float": None,
        "display_defense_float": None,
    }


def _event(name: str) -> dict[str, Any]:
    return {"event": name, "post_event_duration": 15.0, "always": False}


def _part_fx(continuing: str | None = None, conditional: str | None = None) -> dict[str, Any]:
    return {
        "continuing_bits": [],
        "continuing_fx": continuing,
        "conditional_bits": [],
        "conditional_fx": conditional,
    }
