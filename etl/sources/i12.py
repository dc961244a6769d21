"""Flat "I12" records: one object per power, whose names of power and powerset need not share a prefix."""

import msgspec

from etl import categories
from etl.sources.fields import ABSENT, Json, Small, Whole


class Record(msgspec.Struct, gc=False):
    """One power; the fields are named as in the source."""

    InternalName: str
    Name: str | None = None
    DisplayName: str | None = None
    Description: str | None = None
    PowersetFullName: str | None = None
    PowersetName: str | None = None
    ArchetypeName: str | None = None
    Level: Small | None = None
    PowerType: str | None = None
    TargetType: str | None = None
    Range: float | None = None
    Accuracy: float | None = None
    EnduranceCost: float | None = None
    RechargeTime: float | None = None
    ActivationTime: float | None = None
    MaxTargets: Whole | None = None
    Effects: Json = ABSENT
    Requirements: Json = ABSENT
    EnhancementTypes: Json = ABSENT
    Radius: float | None = None
    Arc: float | None = None
    EffectArea: str | None = None
    RequiresLineOfSight: bool | None = None
    AIReport: str | None = None
    PowerCategory: str | None = None
    IconName: str | None = None
    DisplayOrder: Whole | None = None
    DamageScale: float | None = None


KEYS = frozenset({"InternalName", "PowersetFullName"})
NAMES = ("InternalName", "Name", "DisplayName", "PowersetFullName", "PowersetName")
IDENTITY = ("InternalName", "PowersetFullName", "PowersetName")


def identify(record: Record) -> tuple[str, str, str | None]:
    """Return (full name, powerset's full name, powerset's display name if the record tells it).

    The powerset is PowersetFullName; where its category is unknown and that of InternalName is known, it is the first
    two parts of InternalName.
    """
    full_name = record.InternalName.strip()
    powerset = (record.PowersetFullName or "").strip()
    first = full_name.find(".")
    second = full_name.find(".", first + 1)
    own = full_name[:second] if first >= 0 <= second else ""
    is_strange = not categories.is_known(powerset.partition(".")[0])
    if not powerset or (is_strange and categories.is_known(full_name[: max(first, 0)])):
        powerset = own
    return full_name, powerset if own else "", (record.PowersetName or "").strip() or None
