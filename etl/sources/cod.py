"""City of Data powers: one object per power with about 134 keys, of which the loader uses 60."""

import msgspec

from etl.sources.fields import ABSENT, Json, Small, Whole


class Record(msgspec.Struct, gc=False):
    """One power. Names follow the source, except ``powerset_name`` (its key is ``powerset``)."""

    full_name: str
    name: str | None = None
    display_name: str | None = None
    powerset_name: str | None = msgspec.field(name="powerset", default=None)
    archetypes: Json = ABSENT
    available_level: Small | None = None
    type: str | None = None
    target_type: str | None = None
    target_visibility: str | None = None
    effect_area: str | None = None
    accuracy: float | None = None
    endurance_cost: float | None = None
    recharge_time: float | None = None
    activation_time: float | None = None
    root_time: float | None = None
    interrupt_time: float | None = None
    activate_period: float | None = None
    range: float | None = None
    range_secondary: float | None = None
    radius: float | None = None
    arc: float | None = None
    max_targets_hit: Whole | None = None
    max_boosts: Small | None = None
    requires: str | None = None
    activate_requires: str | None = None
    target_requires: str | None = None
    modes_required: Json = ABSENT
    modes_disallowed: Json = ABSENT
    attack_types: Json = ABSENT
    boosts_allowed: Json = ABSENT
    allowed_boostset_cats: Json = ABSENT
    effects: Json = ABSENT
    activation_effects: Json = ABSENT
    display_help: str | None = None
    display_short_help: str | None = None
    icon: str | None = None
    short_name: str | None = None
    display_fullname: str | None = None
    boost_info: Json = ABSENT
    redirect: Json = ABSENT
    targets_affected: Json = ABSENT
    targets_autohit: Json = ABSENT
    exclusion_groups: Json = ABSENT
    recharge_groups: Json = ABSENT
    tray_placement: str | None = None
    tray_number: Whole | None = None
    tray_slot: Whole | None = None
    message_caster: str | None = None
    message_floater: str | None = None
    message_attacker_hit: str | None = None
    message_target_hit: str | None = None
    message_target_confirm: str | None = None
    message_float_reward: str | None = None
    message_defense_avoidance: str | None = None
    number_allowed: Whole | None = None
    auto_issue: bool | None = None
    toggle_droppable: str | None = None
    cast_when_dead: str | None = None
    show_in_inventory: str | None = None


KEYS = frozenset({"full_name", "powerset", "effects"})
NAMES = ("full_name", "name", "display_name", "powerset_name")
IDENTITY = ("full_name",)


def identify(record: Record) -> tuple[str, str, str | None]:
    """Return (full name, powerset's full name, powerset's display name if the record tells it)."""
    full_name = record.full_name.strip()
    first = full_name.find(".")
    second = full_name.find(".", first + 1)
    return full_name, full_name[:second] if first >= 0 <= second else "", None
