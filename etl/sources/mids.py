"""MidsReborn powersets: one object per powerset, whose Powers are the records.

The source leaves default values out, so an absent field is 0, false or empty.
"""

import msgspec

from etl.sources.fields import EMPTY_LIST, EMPTY_OBJECT, Json, Small, Whole


class Powerset(msgspec.Struct, gc=False):
    """The powerset round the records. ``nArchetype`` and the like are positions in lists that are not here."""

    FullName: str
    Powers: list[msgspec.Raw]
    GroupName: str = ""
    SetName: str = ""
    DisplayName: str = ""
    Description: str = ""
    ImageName: str = ""
    ATClass: str = ""
    SetType: Whole = 0


class Record(msgspec.Struct, gc=False):
    """One power; the fields are named as in the source. ``ATClass`` and ``SetType`` are its powerset's."""

    FullName: str
    GroupName: str = ""
    SetName: str = ""
    PowerName: str = ""
    DisplayName: str = ""
    DescShort: str = ""
    DescLong: str = ""
    PowerType: Whole = 0
    Accuracy: float = 0.0
    Level: Small = 0
    ActivatePeriod: float = 0.0
    EffectArea: Whole = 0
    MaxTargets: Whole = 0
    MaxBoosts: str = ""
    Range: float = 0.0
    RangeSecondary: float = 0.0
    Radius: float = 0.0
    Arc: float = 0.0
    EndCost: float = 0.0
    CastTime: float = 0.0
    InterruptTime: float = 0.0
    RechargeTime: float = 0.0
    Target: Whole = 0
    EntitiesAffected: Whole = 0
    EntitiesAutoHit: Whole = 0
    TargetLoS: bool = False
    AttackTypes: Whole = 0
    ModesRequired: Whole = 0
    ModesDisallowed: Whole = 0
    Requires: Json = EMPTY_OBJECT
    BoostsAllowed: Json = EMPTY_LIST
    SetTypes: Json = EMPTY_LIST
    Effects: Json = EMPTY_LIST
    PowerSetIndex: Whole = 0
    StaticIndex: Whole = 0
    DisplayLocation: Whole = 0
    VariableName: str = ""
    VariableMin: Whole = 0
    VariableMax: Whole = 0
    VariableEnabled: bool = False
    ATClass: str = ""
    SetType: Whole = 0


KEYS = frozenset({"FullName", "Powers"})
NAMES = ("FullName", "GroupName", "SetName", "PowerName", "DisplayName")

SET_TYPES = {
    1: "primary",
    2: "secondary",
    3: "epic",
    4: "inherent",
    5: "pool",
    6: "temp",
    7: "temp",
    8: "pet",
    9: "set_bonus",
    10: "boost",
    11: "incarnate",
}
IDENTITY = ("FullName",)


def identify(record: Record) -> tuple[str, str, str | None]:
    """Return (full name, powerset's full name, powerset's display name if the record tells it)."""
    full_name = record.FullName.strip()
    first = full_name.find(".")
    second = full_name.find(".", first + 1)
    return full_name, full_name[:second] if first >= 0 <= second else "", None
