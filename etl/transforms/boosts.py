"""One vocabulary for what may be slotted into a power, whatever the format calls it.

Rule: drop a leading "Enhance" or "Reduce" and a trailing "Capable" or "_Boost", lower-case, and join the words with
underscores; then a few MidsReborn names that are other words for the same thing are replaced. "Enhance Damage",
"Damage_Boost" and "Damage" are all ``damage``; "Magic_Boost" is ``magic``. An unknown name goes through the same rule.
"""

import functools
import re

_SAME = {
    "buff_defense": "defense",
    "buff_tohit": "tohit_buffs",
    "debuff_defense": "defense_debuff",
    "debuff_tohit": "tohit_debuffs",
    "endurancediscount": "endurance_cost",
    "immobilized": "immobilization",
    "intangible": "intangibility",
    "interrupt": "interrupt_time",
    "recharge": "recharge_speed",
    "recovery": "endurance_modification",
    "res_damage": "damage_resistance",
    "slow": "slow_movement",
    "speedflying": "flying_speed",
    "speedrunning": "running_speed",
    "stunned": "disorient",
    "taunt": "threat_duration",
}


@functools.cache
def enhancement_type(source_name: str) -> str:
    """Return the common name of an enhancement type. Total: an unknown name gives its own words."""
    words = re.sub(r"^(enhance|reduce) | capable$|_boost$", "", source_name.strip().lower())
    name = re.sub(r"[^a-z0-9]+", "_", words).strip("_") or source_name
    return _SAME.get(name, name)
