"""What a reader answers with: frozen structs, one per power or line of the build summary.

They encode to JSON as they are (``msgspec.json.encode``). A power comes from the server, and lies in Redis, as a JSON array
of its values, in the order of the fields: fifty names would be more to write, to send and to decode than those. The powers
of a set come as an array per field.
Nested values are kept as the text they came as and decoded when asked for: each time anew, so that nobody can change
what others are given.
"""

import itertools
import operator
from datetime import UTC, datetime
from typing import Any

import msgspec

Json = Any


class Power(msgspec.Struct, frozen=True, gc=False, rename={
    "effects_json": "effects", "activation_effects_json": "activation_effects", "effect_groups_json": "effect_groups",
    "display_info_json": "display_info",
}):  # fmt: skip
    """One power with the names of its powerset and archetype; the columns are those of ``game.powers``.

    Times are seconds, distances feet, ``endurance_cost`` points. Null columns are None. Equal by all fields.
    """

    id: int
    name: str
    internal_name: str
    display_name: str
    description: str
    powerset_id: int
    archetype_id: int
    level_available: int
    power_type: str
    target_type: str
    accuracy: float
    damage_scale: float | None
    endurance_cost: float
    recharge_time: float
    activation_time: float
    range_feet: float
    radius_feet: float
    max_targets: int
    effects_json: msgspec.Raw
    activation_effects_json: msgspec.Raw
    effect_groups_json: msgspec.Raw
    group_count: int
    requires_line_of_sight: bool
    modes_required: tuple[Json, ...]
    modes_disallowed: tuple[Json, ...]
    ai_report: str | None
    icon_path: str | None
    display_order: int
    display_info_json: msgspec.Raw
    allowed_enhancements: tuple[Json, ...]
    activation_kind: str
    target_type_raw: str | None
    effect_area: str | None
    root_time: float
    interrupt_time: float
    activate_period: float
    range_secondary: float
    arc_degrees: float
    max_boosts: int
    requires_expr: str
    activate_requires_expr: str
    target_requires_expr: str
    attack_types: tuple[str, ...]
    archetypes: tuple[str, ...]
    short_help: str | None
    created_at: datetime
    updated_at: datetime
    # The names around it come last, because a list of powers has them only once.
    powerset_name: str
    powerset_full_name: str
    powerset_display_name: str
    archetype_name: str

    def __hash__(self) -> int:
        """Return the hash of the id: the texts of nested values have none."""
        return hash(self.id)

    @property
    def effects(self) -> list[dict[str, Json]]:
        """The source's own effects, decoded anew each time."""
        found: list[dict[str, Json]] = msgspec.json.decode(self.effects_json)
        return found

    @property
    def activation_effects(self) -> list[dict[str, Json]]:
        """The source's own effects on activation, decoded anew each time."""
        found: list[dict[str, Json]] = msgspec.json.decode(self.activation_effects_json)
        return found

    @property
    def effect_groups(self) -> list[dict[str, Json]]:
        """The effects summed up by type: ``{"type", "effects": [seq, …], "summary": {…}}``, decoded anew each time."""
        found: list[dict[str, Json]] = msgspec.json.decode(self.effect_groups_json)
        return found

    @property
    def display_info(self) -> dict[str, Json]:
        """What the source says about showing the power, decoded anew each time."""
        found: dict[str, Json] = msgspec.json.decode(self.display_info_json)
        return found


class PowerSummary(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of the build summary: a power with the names around it and none of its effects."""

    id: int
    name: str
    internal_name: str
    display_name: str
    powerset_id: int
    powerset_name: str | None
    archetype_id: int
    archetype_name: str | None
    level_available: int
    power_type: str
    target_type: str
    accuracy: float
    damage_scale: float | None
    endurance_cost: float
    recharge_time: float
    activation_time: float
    range_feet: float
    max_targets: int
    icon_path: str | None
    display_order: int


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """Which state is published: grows with every publication and update; ``build`` is the schema that it is in."""

    generation: int
    build: int
    published_at: datetime
    etag: str
    """For HTTP: a quoted text that changes when anything does, and differs between databases."""


_FIELDS = msgspec.structs.fields(Power)
# So many fields, the last, are the same in all powers of a set, or of an archetype in it.
_NAMES = 4

_row = msgspec.json.Decoder(msgspec.defstruct("_Row", [(f.name, f.type) for f in _FIELDS], array_like=True, gc=False))
TIMES = frozenset(field.name for field in _FIELDS if field.type is datetime)
"""Columns that come as seconds since 1970 where they come as arrays."""
_kinds: list[Any] = [float if field.name in TIMES else field.type for field in _FIELDS[:-_NAMES]]
_Columns: Any = tuple[tuple(list[kind] for kind in _kinds)]  # type: ignore[valid-type, misc]  # made here
_set = msgspec.json.Decoder(tuple[tuple[str, str, str], dict[int, str], _Columns | None])
_MEMBERS = [field.name for field in _FIELDS[:-_NAMES]]
_ARCHETYPE = _MEMBERS.index("archetype_id")
_order = operator.attrgetter("level_available", "display_order", "internal_name")


def power(text: bytes) -> Power:
    """Return the power that a JSON array of its values is, in the order of ``power_columns``.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return Power(*msgspec.structs.astuple(_row.decode(text)))


def powers(text: bytes) -> tuple[Power, ...]:
    """Return the powers of a powerset by level, place and full name.

    The text has the set's three names, the names of archetypes by id, and ``member_columns``: each an array with a value per
    power; instead of all of them null is no power.

    Raises:
        msgspec.MsgspecError: it is no such list.
    """
    names, archetypes, columns = _set.decode(text)
    if columns is None:
        return ()
    if len(set(map(len, columns))) != 1:
        raise msgspec.ValidationError("the columns of a powerset are not equally long")
    try:
        of_archetypes = [archetypes[number] for number in columns[_ARCHETYPE]]
    except KeyError as error:
        raise msgspec.ValidationError(f"archetype {error} has no name") from None
    try:
        values = [_times(values) if name in TIMES else values for name, values in zip(_MEMBERS, columns, strict=True)]
    except (ValueError, OverflowError, OSError) as error:
        raise msgspec.ValidationError(f"a time is none: {error}") from error
    found: list[Power] = list(map(Power, *values, *map(itertools.repeat, names), of_archetypes))
    found.sort(key=_order)
    return tuple(found)


def _times(seconds: list[float]) -> list[datetime]:
    made = {second: datetime.fromtimestamp(second, UTC) for second in set(seconds)}  # most powers came together
    return [made[second] for second in seconds]


def power_columns() -> list[tuple[str, str]]:
    """Return where the values of a power are, as (alias, column): of p (powers), s (powersets) or a (archetypes)."""
    return [_place(name) for name in Power.__struct_encode_fields__]


def member_columns() -> list[tuple[str, str]]:
    """Return the same without the names of its powerset and archetype: all of p."""
    return [place for place in power_columns() if place[0] == "p"]


def summary_columns() -> list[str]:
    """Return the columns of a line of the build summary."""
    return list(PowerSummary.__struct_encode_fields__)


def _place(name: str) -> tuple[str, str]:
    for prefix, alias in (("powerset_", "s"), ("archetype_", "a")):
        if name.startswith(prefix) and not name.endswith("_id"):
            return alias, name.removeprefix(prefix)
    return "p", name
