"""Records in the City of Data shape: 134 keys in the order of real exports, 12.7 KB on average.

A record is put together from ready-made JSON text: a frame (type, targets, flags, boosts), a description, a list of
effects and the visual effects come from pools, its names and main numbers are its own.
"""

from collections.abc import Callable
from typing import Any

from etl.generate import effects, prose
from etl.generate.dice import Dice, dumps, lengths, members, spread
from etl.generate.world import LEVELS, PLAYER_KEYS, Names, Powerset

_FLT_MAX = 3.4028234663852886e38

# The keys between the names and the numbers.
_OPENING: dict[str, Any] = {
    "auto_issue": False, "auto_issue_keeps_level": False, "message_caster": None, "message_floater": None,
    "message_attacker_hit": None, "message_target_hit": None, "message_target_confirm": None,
    "message_float_reward": None, "message_defense_avoidance": None, "attack_types": [],
}  # fmt: skip
_CASTING: dict[str, Any] = {
    "number_allowed": 1, "caster_near_ground": False, "target_near_ground": False, "cast_when_dead": "AliveOnly",
    "cast_through": [], "toggle_ignores": [], "ignore_level_gained": False, "works_on_untouchable": False,
    "works_through_vision_phase": False, "target_untargetable": False, "interrupt_like_sleep": False,
    "notify_ai_when": "Always", "effect_area": "SingleTarget", "max_targets_hit": 0, "radius": 0.0, "arc": 0.0,
}  # fmt: skip
_BOOST_INFO: dict[str, Any] = {
    "slot_requires": "", "ignores_level_differences": False, "bonuses_ignore_exemplar": False, "combinable": True,
    "tradeable": True, "account_bound": False, "boostable": False, "attuned": False, "catalyzes_to": None,
    "max_level": 50, "min_slot_level": -3, "min_bonus_level": 1, "computed_name": None, "aspects": [],
    "superior_scales": False, "boostset_name": None, "global_bonuses": None, "is_proc": False, "is_unique": False,
    "restricted_ats": None, "unique_group": None, "only_at_50": False, "boost_type": None, "icon": None,
}  # fmt: skip
_RULES: dict[str, Any] = {
    "cancelable": False, "self_confirm": False, "confirm_requires": "", "time_to_confirm": 0, "chain_delay": 0.0,
    "chain_effect_expr": "", "chain_forks": [], "chain_into_power_name": None, "chain_into_optional": False,
    "vec_box_offset": [0.0, 0.0, 0.0], "vec_box_size": [0.0, 0.0, 0.0], "number_of_charges": 0, "max_num_charges": 0,
    "destroy_on_last_use": True, "power_lifetime": 0.0, "max_power_lifetime": 0.0, "power_lifetime_ingame": 0.0,
    "max_power_lifetime_ingame": 0.0, "stacking_lifetime": False, "toggle_on_time": 0.0, "max_toggle_on_time": 0.0,
    "toggle_detoggle_time": 0.0, "toggle_droppable": "Sometimes", "ignore_toggle_max_distance": False,
    "target_type": "Self", "target_type_secondary": None, "target_visibility": "LineOfSight", "targets_affected": [],
    "targets_autohit": [], "target_requires": "", "proc_allowed": "All", "boosts_allowed": [],
    "allowed_boostset_cats": [], "exclusion_groups": [], "modes_required": [], "modes_disallowed": ["Disable_All"],
    "modes_suspended": [], "recharge_groups": [], "ignore_strength": False, "strengths_disallowed": [],
    "global_strengths_disallowed": [], "proc_ignore_over_cap": False, "proc_ignore_chain_effect": True,
    "procs_only_on_main_target": False, "vars_attribmods_can_reference": [], "show_buff_icon": True,
    "show_in_info": True, "show_in_manage": True, "show_in_inventory": "Show", "deletable": False, "tradeable": False,
    "do_not_save": False, "max_boosts": 6, "boost_info": _BOOST_INFO, "instance_locked": False,
    "is_environment_hit": False, "shuffle_target_list": False, "enforced_level_bought": -1,
    "refreshes_on_active_player_change": False, "highlight_expression": "", "highlight_icon": None,
    "highlight_color": "#00000000", "travel_suppression_time": 0.0, "server_tray_priority": 0,
    "server_tray_requires": "", "tray_placement": "Forward", "tray_number": 1, "tray_slot": 1, "abusive_buff": True,
    "position_center": "kModTarget_Caster", "position_distance": 0.0, "position_height": 0.0, "position_yaw": 0.0,
    "face_target": True, "ignore_stance": False, "remember_stance": True, "attrib_cache": [],
    "max_targets_expression": "", "chain_target_expr": "",
}  # fmt: skip
_FX: dict[str, Any] = {
    "source_file": None, "attack_bits": [], "block_bits": [], "wind_up_bits": [], "hit_bits": [], "death_bits": [],
    "activation_bits": [], "deactivation_bits": [], "initial_attack_bits": [], "continuing_bits": [],
    "conditional_bits": [], "activation_fx": None, "deactivation_fx": None, "attack_fx": None,
    "secondary_attack_fx": None, "hit_fx": None, "wind_up_fx": None, "block_fx": None, "death_fx": None,
    "initial_attack_fx": None, "continuing_fx": [], "conditional_fx": [], "mode_bits": [], "frames_before_hit": 15,
    "frames_before_secondary_hit": 0, "delayed_hit": False, "frames_attack": 35, "initial_frames_before_hit": 15,
    "initial_attack_fx_frame_delay": 0, "projectile_speed": _FLT_MAX, "secondary_projectile_speed": 0.0,
    "initial_frames_before_block": 0, "ignore_attack_time_errors": None, "frames_before_block": 0,
    "fx_important": False,
}  # fmt: skip

# (target_type, targets_affected, targets_autohit), weight
_TARGETS = [
    (("Self", ["Self"], ["Self"]), 44),
    (("Foe (Alive)", ["Foe (Alive)"], []), 40),
    (("Location", ["Foe (Alive)"], ["Foe (Alive)"]), 8),
    (("Ally (Alive)", ["Ally (Alive)", "Self"], ["Ally (Alive)", "Self"]), 5),
    (("Own Pet (Alive)", ["Own Pet (Alive)"], []), 1),
    (("Player Ally (Dead)", ["Player Ally (Dead)"], ["Player Ally (Dead)"]), 1),
    (("Any", [], []), 1),
]
# (effect_area, max_targets_hit, radius, arc), weight
_AREAS: list[tuple[tuple[str, int, float, float], int]] = [
    (("SingleTarget", 0, 0.0, 0.0), 60),
    (("AoE", 16, 15.0, 0.0), 20),
    (("Location", 0, 25.0, 0.0), 10),
    (("Cone", 10, 40.0, 0.7854), 7),
    (("Chain", 9_999, 14.99, 0.0), 1),
    (("Map", 255, 300.0, 3.1416), 1),
]
_TYPES = {
    "boosts": [("Enhancement", 1)],
    "inspirations": [("Inspiration", 1)],
    "set_bonus": [("Auto", 3), ("Global Enhancement", 1)],
    "": [("Click", 73), ("Toggle", 14), ("Auto", 13)],
}
_CUSTOM_COUNTS = [((0, 0), 31), ((1, 1), 16), ((2, 2), 33), ((3, 3), 10), ((4, 4), 8), ((5, 10), 2)]
_BOOSTS = ("Reduce Endurance Cost", "Enhance Range", "Enhance Recharge Speed", "Enhance Damage", "Enhance Accuracy")
_SET_CATEGORIES = ("Melee Damage", "Ranged Damage", "Universal Damage Sets", "Healing", "Defense Sets", "Resist Damage")
_ATTACKS = ("Area", "Ranged", "Melee", "Energy", "Lethal", "Smashing", "Fire", "Cold", "Negative_Energy", "Psionic")
_NPC_CLASSES = ("boss_grunt", "boss_archvillain", "minion_pets", "minion_grunt", "boss_elite", "lt_grunt")

_ACCURACY = spread([("1.0", 50), ("1.05", 5), ("1.2", 4), ("0.8", 2), ("1.3", 1), ("0.0", 1), ("2.0", 1)])
_RANGE = spread([("0.0", 28), ("80.0", 12), ("60.0", 9), ("7.0", 8), ("70.0", 4), ("150.0", 2), ("10000.0", 1)])
_CAST = spread([("0.0", 12), ("1.67", 10), ("1.17", 10), ("2.03", 10), ("1.0", 10), ("3.17", 10), ("7.33", 2)])
_PERIOD = spread([("0.0", 45), ("10.0", 8), ("0.5", 7), ("2.0", 2), ("1.0", 1), ("99999.0", 1)])
_RECHARGE = spread([("0.0", 20)] + [(str(2 + step * step / 8), 1) for step in range(107)] + [("3600.0", 1)])
_ENDURANCE = tuple(str(round(step * 0.0125, 4)) for step in range(4_096))


class CodRenderer:
    """Makes the records of one file; ``some_effects`` is an ordinary effect list, not empty."""

    def __init__(self, seed: int, names: Names, powersets: list[Powerset]) -> None:
        self._dice = Dice(seed, "cod records")
        self._names = names
        self._powersets = powersets
        dice = Dice(seed, "cod pools")
        self._frames = {family: [_frame(dice, family) for _ in range(256)] for family in _TYPES}
        self._helps = [_help(dice) for _ in range(512)]
        lists = effects.pool(dice, 1_024)
        self.some_effects = lists[1]
        self._effects = [_effects(dice, groups) for groups in lists]
        self._visuals = [_visuals(dice, customs) for customs in lengths(dice, 256, _CUSTOM_COUNTS)]
        self._redirects = ['"redirect":[],'] * 62 + [_redirect(dice) for _ in range(2)]

    def open(self, powerset: Powerset) -> Callable[[int], str]:
        """Return the function that gives the text of the set's record at a position; each call draws new numbers."""
        full_set, shown_set = powerset.full_name, f"{powerset.category.replace('_', ' ')}.{powerset.display_name}"
        frames = self._frames.get(powerset.key, self._frames[""])
        owners = _owners(powerset.key)

        def record(position: int) -> str:
            bits, more = self._dice.bits(), self._dice.bits()
            name, shown = self._names.power(powerset, position)
            kind, opening, casting, rules = frames[bits & 255]
            requires = self._requires(powerset, position, more) if not bits >> 8 & 7 else ""
            return (
                f'{{"name":"{name}","full_name":"{full_set}.{name}","short_name":"{name}",{kind}"display_name":"{shown}",'
                f'"display_fullname":"{shown_set}.{shown}",{self._helps[bits >> 11 & 511]}{opening}'
                f'"requires":"{requires}","activate_requires":"","accuracy":{_ACCURACY[bits >> 20 & 63]},{casting}'
                f'{_timing(more)}{rules}"powerset":"{full_set}","available_level":{LEVELS[bits >> 26 & 127] - 1},'
                f'"archetypes":{owners[bits >> 33 & 15]},{self._redirects[bits >> 37 & 63]}'
                f"{self._effects[bits >> 43 & 1023]}{self._visuals[more >> 45 & 255]}}}"
            )

        return record

    def _requires(self, powerset: Powerset, position: int, bits: int) -> str:
        """An expression over other powers and sets of the file and some that are nowhere."""
        near = f"{powerset.full_name}.{self._names.power(powerset, (position + 1 + bits % 7) % powerset.size)[0]}"
        far = self._powersets[(bits >> 3) % len(self._powersets)].full_name
        return (
            f"{near}",
            f"!{near.lower()}",
            f"{near} && !{far}",
            f"ownPowerNum?({powerset.full_name}) > {bits & 3}",
            f"($archetype == @Class_Brute) || {far}",
            f"({near} || {far}) && (char>accesslevel >= 0)",
            "Epic.Absent_Set.Absent_Power || Absent_Category.Absent_Set",
            "0",
        )[bits >> 12 & 7]


def _timing(bits: int) -> str:
    cast = _CAST[bits >> 24 & 63]
    return (
        f'"range":{_RANGE[bits >> 18 & 63]},"range_secondary":0.0,"activation_time":{cast},"root_time":{cast},'
        f'"interrupt_time":{"0.0" if bits & 127 else "4.0"},"recharge_time":{_RECHARGE[bits >> 30 & 127]},'
        f'"activate_period":{_PERIOD[bits >> 37 & 63]},"endurance_cost":{_ENDURANCE[bits & 4095]},'
    )


def _frame(dice: Dice, family: str) -> tuple[str, str, str, str]:
    """The parts of a record that hang together: type, messages and attack types, area, targets and other rules."""
    kind = dice.weighted(_TYPES[family])
    target, affected, autohit = dice.weighted(_TARGETS)
    area, most, radius, arc = dice.weighted(_AREAS)
    opening = _OPENING | {
        "auto_issue": dice.happens(0.05),
        "message_attacker_hit": "Your {PowerName} hits {PlayerDest}." if dice.happens(0.2) else None,
        "attack_types": [dice.pick(_ATTACKS[:3]), dice.pick(_ATTACKS[3:])] if target != "Self" else [],
    }
    casting = _CASTING | {
        "cast_when_dead": "DeadOnly" if dice.happens(0.01) else "AliveOnly",
        "toggle_ignores": ["hold", "sleep", "stun"] if kind == "Toggle" else [],
        "effect_area": area, "max_targets_hit": most, "radius": radius, "arc": arc,
    }  # fmt: skip
    rules = _RULES | _slots(dice, family) | {
        "cancelable": dice.happens(0.1), "target_type": target, "targets_affected": affected,
        "targets_autohit": autohit, "target_visibility": "None" if dice.happens(0.02) else "LineOfSight",
        "target_requires": "!target.mode?(kWet)" if dice.happens(0.05) else "",
        "tray_placement": "Forward" if kind in ("Click", "Toggle") else None,
    }  # fmt: skip
    return f'"type":"{kind}",', members(opening), members(casting), members(rules)


def _slots(dice: Dice, family: str) -> dict[str, Any]:
    boosts = [] if family or dice.happens(0.15) else [name for name in _BOOSTS if dice.happens(0.7)]
    bonus = ["Disable_All", "Disable_Epic"] if dice.happens(0.2) else ["Disable_All"]
    return {
        "boosts_allowed": boosts,
        "allowed_boostset_cats": [name for name in _SET_CATEGORIES if dice.happens(0.25)] if boosts else [],
        "modes_required": ["Absent_Mode"] if dice.happens(0.014) else [],
        "modes_disallowed": [] if dice.happens(0.1) else bonus,
        "max_boosts": 6 if boosts else 0,
        "boost_info": _BOOST_INFO | {"boost_type": dice.pick(_BOOSTS) if family == "boosts" else None},
        "attrib_cache": [f"{name}_Dmg" for name in effects.DAMAGES if dice.happens(0.3)],
    }


def _help(dice: Dice) -> str:
    return members(
        {
            "display_help": prose.help_text(dice, dice.weighted([(0, 1), (1, 60), (3, 80), (5, 40), (14, 2)])),
            "display_short_help": prose.short_help(dice),
            "icon": None if dice.happens(0.024) else f"icon_{dice.below(1_900)}.png",
        }
    )


def _effects(dice: Dice, groups: list[dict[str, Any]]) -> str:
    activation = groups[:2] if dice.happens(0.05) else []
    return members({"effects": groups, "activation_effects": activation})


def _visuals(dice: Dice, customs: int) -> str:
    custom: list[dict[str, Any]] = [
        {"display_name": f"P{dice.below(4_000_000_000)}", "token": f"Theme{number}", "alt_themes": [],
         "category": None, "palette_name": "Additive", "fx": _fx(dice) | {"source_file": "MENU/INVENTED.PFX"}}
        for number in range(customs)
    ]  # fmt: skip
    return dumps({"fx": _fx(dice), "custom_fx": custom, "fx_only_on_main_target": dice.happens(0.01)})[1:-1]


def _fx(dice: Dice) -> dict[str, Any]:
    bits = [dice.pick((20, 253, 49)), dice.below(700)] if dice.happens(0.7) else []
    path = f"POWERS/INVENTED/EFFECT_{dice.below(2_000)}"
    return _FX | {
        "source_file": f"MENU/{path}.PFX" if dice.happens(0.85) else None,
        "attack_bits": bits,
        "hit_bits": [49, 689] if dice.happens(0.45) else [],
        "initial_attack_bits": bits,
        "attack_fx": f"{path}.FX" if bits else None,
        "hit_fx": f"{path}_HIT.FX" if dice.happens(0.44) else None,
        "initial_attack_fx": f"{path}.FX" if bits else None,
        "mode_bits": [20] if dice.happens(0.6) else [],
        "frames_attack": dice.between(20, 120),
        "projectile_speed": 90.0 if dice.happens(0.15) else _FLT_MAX,
    }


def _redirect(dice: Dice) -> str:
    name = f"Redirects.Absent_Set.Other_Form_{dice.below(9)}"
    return members({"redirect": [{"name": name, "condition_expression": "Always", "show_in_info": True}]})


def _owners(key: str) -> tuple[str, ...]:
    """16 possible ``archetypes`` lists of a partition: the class itself, all player classes, some npc's, or nobody."""
    everybody = dumps(list(PLAYER_KEYS))
    if key in PLAYER_KEYS:
        return (dumps([key]),) * 15 + (dumps([key, "minion_grunt"]),)
    if key in ("pool", "incarnate", "prestige"):
        return (everybody,) * 12 + ("[]",) * 4
    if key in ("boosts", "epic", "inherent", "set_bonus", "inspirations"):
        return ("[]",) * 16
    singles = tuple(dumps([name]) for name in _NPC_CLASSES)
    return singles + ('["boss_elite","boss_grunt"]', everybody) + ("[]",) * 8
