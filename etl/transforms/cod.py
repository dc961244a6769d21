"""City of Data: nested effect groups with templates.

Effect rows. Groups are numbered depth first, a group before its children, effects before activation effects; a group's
templates come before those of its children. ``pvp`` is the group's own, or where that says EITHER, the nearest
enclosing group's. ``effect_type`` follows the first attribute and the aspect: X_Dmg Absolute is Damage, Resistance is
Resistance, Strength is DamageBuff; Heal_Dmg Absolute is Heal; anything else is the first attribute's own name ("None"
without attributes). ``damage_type`` is the X of the first attribute if that is X_Dmg, but not for Heal_Dmg.
"""

import functools
import re
from collections import Counter
from collections.abc import Collection
from itertools import chain, repeat
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa

from etl.transforms import derive, dictionary, display, expressions, naming, nested
from etl.transforms.nested import Int4, Text, Values
from etl.transforms.parsed import TABLES, Lists, Parsed

_NULL = msgspec.Raw(b"null")


class Template(msgspec.Struct, gc=False):
    """One attribute modifier, the keys that have a column."""

    attribs: tuple[str, ...] = ()
    type: Text = "Magnitude"
    application_type: Text = "OnTick"
    aspect: Text = "Current"
    target: Text = "AnyAffected"
    table: Text = None
    scale: float = 0.0
    duration: Text = None
    magnitude: float = 1.0
    delay: float = 0.0
    application_period: float = 0.0
    tick_chance: float = 1.0
    stack: Text = "Stack"
    stack_limit: Int4 = 0
    stack_key: Text = None
    flags: tuple[str, ...] = ()
    params: msgspec.Raw = _NULL


class Group(msgspec.Struct, gc=False):
    """An effect group."""

    tags: tuple[str, ...] = ()
    chance: float = 1.0
    ppm: float = 0.0
    requires_expression: Text = ""
    child_effects: list["Group"] = []
    templates: list[Template] = []
    is_pvp: Text = "EITHER"


_GROUPS = nested.Field(list[Group])
_TEXTS = nested.Field(list[str])
_FIELDS = {
    "effects": _GROUPS,
    "activation_effects": _GROUPS,
    "boosts_allowed": _TEXTS,
    "allowed_boostset_cats": _TEXTS,
    "modes_required": _TEXTS,
    "modes_disallowed": _TEXTS,
    "archetypes": _TEXTS,
    "attack_types": _TEXTS,
}

_NO_BOOST = (
    '{"slot_requires":"","ignores_level_differences":false,"bonuses_ignore_exemplar":false,"combinable":t'
    'rue,"tradeable":true,"account_bound":false,"boostable":false,"attuned":false,"catalyzes_to":null,"ma'
    'x_level":50,"min_slot_level":-3,"min_bonus_level":1,"computed_name":null,"aspects":[],"superior_scal'
    'es":false,"boostset_name":null,"global_bonuses":null,"is_proc":false,"is_unique":false,"restricted_a'
    'ts":null,"unique_group":null,"only_at_50":false,"boost_type":null,"icon":null}'
)
"""boost_info of a power that is no boost, as the exporter writes it."""

_INFO: dict[str, Any] = {
    "boost_info": _NO_BOOST,
    "redirect": "[]",
    "targets_affected": "[]",
    "targets_autohit": "[]",
    "exclusion_groups": "[]",
    "recharge_groups": "[]",
    "tray_placement": None,
    "tray_number": 0,
    "tray_slot": 0,
    "message_caster": None,
    "message_floater": None,
    "message_attacker_hit": None,
    "message_target_hit": None,
    "message_target_confirm": None,
    "message_float_reward": None,
    "message_defense_avoidance": None,
    "number_allowed": 1,
    "auto_issue": False,
    "toggle_droppable": "Sometimes",
    "cast_when_dead": "AliveOnly",
    "show_in_inventory": "Show",
    "short_name": None,
    "display_fullname": None,
}
"""What goes into display_info, with the usual value of each: a key at its usual value is left out."""

_INFO_JSON = ("boost_info", "redirect", "targets_affected", "targets_autohit", "exclusion_groups", "recharge_groups")

_PVP = {"EITHER": "any", "PVP_ONLY": "pvp", "PVE_ONLY": "pve"}
_TARGETS = {
    "AnyAffected": "target",
    "Self": "self",
    "AnyAffectedAndPets": "target_and_pets",
    "SelfAndPets": "self_and_pets",
    "Marker": "marker",
    "TargetOnly": "target_only",
}
_DEFENSE = frozenset(
    [
        "Base_Defense",
        "Melee",
        "Ranged",
        "Area",
        "Smashing",
        "Lethal",
        "Fire",
        "Cold",
        "Energy",
        "Negative_Energy",
        "Psionic",
        "Toxic",
    ]
)
_CONTROL = frozenset(["Held", "Immobilized", "Stunned", "Sleep", "Confused", "Terrorized", "Afraid"])
_SUPPORT = frozenset(["Heal_Dmg", "Absorb", "Regeneration", "Recovery", "Endurance"])
_TRAVEL = frozenset(["FlyingSpeed", "RunningSpeed", "JumpingSpeed", "JumpHeight", "Fly", "Teleport"])
_DAMAGE_TYPES = {"Absolute": "Damage", "Resistance": "Resistance", "Strength": "DamageBuff"}
_GIVEN = {
    "effects": "effects",
    "activation_effects": "activation_effects",
    "modes_required": "modes_required",
    "modes_disallowed": "modes_disallowed",
    "allowed_enhancements": "boosts_allowed",
}


def parse(batch: pa.RecordBatch, wanted: Collection[str] = TABLES) -> Parsed:
    """Turn City of Data records into canonical frames, as far as the ``wanted`` tables need them."""
    batch, records, values, rejects = nested.decode(batch, _FIELDS)
    return Parsed(
        batch=batch,
        records=records,
        rejects=rejects,
        powers=_powers(records, values) if "powers" in wanted else pl.DataFrame(),
        given=_GIVEN,
        lists=_lists(values["effects"], values["activation_effects"], wanted),
        references=_references(records) if "power_prerequisites" in wanted else [],
        boosts=values["boosts_allowed"],
        categories=values["allowed_boostset_cats"],
    )


def _lists(effects: Values, activation: Values, wanted: Collection[str]) -> Lists:
    if "powers" not in wanted and "power_effects" not in wanted:
        return Lists()
    pairs, numbers = dictionary.encode(zip(effects.numbers, activation.numbers, strict=True))
    groups, places, counts = _walk([(effects.distinct[one], activation.distinct[other]) for one, other in pairs])
    return Lists(frame=_effects(groups, places, full="power_effects" in wanted), numbers=numbers, group_counts=counts)


_Place = tuple[int, int, int | None, int, str, str | None]
"""Where a group stands: list, group_seq, parent_group_seq, depth, phase, effective is_pvp."""


def _walk(lists: list[tuple[list[Group], list[Group]]]) -> tuple[list[Group], list[_Place], list[int]]:
    """Return all groups in order, the place of each, and the number of groups of each list of effects."""
    found: _Found = ([], [])
    counts = []
    for number, (first, second) in enumerate(lists):
        seq = _visit(found, first, number, 0, None, 0, "effect", "EITHER")
        counts.append(_visit(found, second, number, seq, None, 0, "activation", "EITHER") if second else seq)
    return *found, counts


_Found = tuple[list[Group], list[_Place]]


def _visit(
    found: _Found, siblings: list[Group], number: int, seq: int, parent: int | None, depth: int, phase: str, pvp: Text
) -> int:
    """Append the groups and what they enclose to ``found``; return the next group_seq.

    No closure: one that calls itself is a cycle, and would keep a batch's objects until a garbage collection.
    """
    groups, places = found
    for group in siblings:
        own = group.is_pvp
        if own == "EITHER" or own is None:
            own = pvp
        groups.append(group)
        places.append((number, seq, parent, depth, phase, own))
        seq += 1
        if group.child_effects:
            seq = _visit(found, group.child_effects, number, seq, seq - 1, depth + 1, phase, own)
    return seq


def _effects(groups: list[Group], places: list[_Place], *, full: bool) -> pl.DataFrame:
    """One row per template of each list, in order; without ``full`` only the columns that derivations need."""
    several = [group.templates for group in groups]
    templates = list(chain.from_iterable(several))
    of_group = list(chain.from_iterable(map(repeat, range(len(groups)), map(len, several))))
    frame = _group_frame(groups, places, full=full)[pl.Series(of_group, dtype=pl.UInt32)]
    counts = Counter(frame.get_column("list").to_list()).values()  # the list of each is in order
    seq = pl.Series("seq", list(chain.from_iterable(map(range, counts))), dtype=pl.Int32)
    return frame.hstack([seq, *_template_columns(templates, full=full)]).with_columns(**_judgements())


def _group_frame(groups: list[Group], places: list[_Place], *, full: bool) -> pl.DataFrame:
    lists, seqs, parents, depths, phases, pvps = zip(*places, strict=True) if places else ((),) * 6
    tags, chances, ppms, requires, _, _, _ = nested.fields_of(Group, groups)
    needed = [
        pl.Series("list", lists, dtype=pl.UInt32),
        pl.Series("pvp", [_PVP.get(pvp or "EITHER", pvp) for pvp in pvps], dtype=pl.String),
        pl.Series("chance", chances, dtype=pl.Float64),
    ]
    if not full:
        return pl.DataFrame(needed)
    return pl.DataFrame(
        [
            *needed,
            pl.Series("group_seq", seqs, dtype=pl.Int32),
            pl.Series("parent_group_seq", parents, dtype=pl.Int32),
            pl.Series("depth", depths, dtype=pl.Int32),
            pl.Series("phase", phases, dtype=pl.String),
            pl.Series("ppm", ppms, dtype=pl.Float64),
            pl.Series("requires_expr", [expression or "" for expression in requires], dtype=pl.String),
            dictionary.list_column(*dictionary.encode(tags)).alias("tags"),
        ]
    )


def _template_columns(templates: list[Template], *, full: bool) -> list[pl.Series]:
    of = dict(zip(Template.__struct_fields__, nested.fields_of(Template, templates), strict=True))
    durations, of_duration = dictionary.encode(of["duration"])
    attribs, of_attribs = dictionary.encode(of["attribs"])
    needed = [
        _text("aspect", of["aspect"]),
        _text("target", [_TARGETS.get(target or "", target) for target in of["target"]]),
        pl.Series("scale", of["scale"], dtype=pl.Float64),
        pl.Series("magnitude", of["magnitude"], dtype=pl.Float64),
        pl.Series("period_s", of["application_period"], dtype=pl.Float64),
        dictionary.column(map(_seconds, durations), of_duration, pl.Float64).alias("duration_s"),
        *_attribute_columns(attribs, full=full)[pl.Series(of_attribs, dtype=pl.UInt32)].get_columns(),
    ]
    if not full:
        return needed
    return [
        *needed,
        _text("kind", of["type"]),
        _text("application", of["application_type"]),
        _text("table_name", of["table"]),
        pl.Series("delay_s", of["delay"], dtype=pl.Float64),
        pl.Series("tick_chance", of["tick_chance"], dtype=pl.Float64),
        _text("stack", of["stack"]),
        pl.Series("stack_limit", of["stack_limit"], dtype=pl.Int32),
        _text("stack_key", of["stack_key"]),
        dictionary.list_column(*dictionary.encode(of["flags"])).alias("flags"),
        pl.Series("params", _params(of["params"]), dtype=pl.String),
        dictionary.column([d == "UntilKilled" for d in durations], of_duration, pl.Boolean).alias("until_killed"),
    ]


def _text(name: str, values: list[Text]) -> pl.Series:
    return pl.Series(name, values, dtype=pl.String)


def _params(values: list[msgspec.Raw]) -> list[Text]:
    """Return the JSON text of each template's params, None for null."""
    return [None if params == _NULL else bytes(params).decode() for params in values]


def _seconds(duration: Text) -> float | None:
    """Return the seconds in "N seconds", 0 for Instant, None for UntilKilled and whatever else is said."""
    found = re.fullmatch(r"(-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?) seconds?", duration or "")
    if found:
        return float(found[1])
    return 0.0 if duration == "Instant" else None


_FACTS: dict[str, Any] = {
    "first": pl.String,
    "damage_type": pl.String,
    "has_damage": pl.Boolean,
    "has_control": pl.Boolean,
    "has_defense": pl.Boolean,
    "has_support": pl.Boolean,
    "has_travel": pl.Boolean,
}


def _attribute_columns(attribs: list[tuple[str, ...]], *, full: bool) -> pl.DataFrame:
    facts = zip(*map(_facts, attribs), strict=True) if attribs else ((),) * len(_FACTS)
    columns = [pl.Series(name, values, kind) for (name, kind), values in zip(_FACTS.items(), facts, strict=True)]
    return pl.DataFrame([*columns, dictionary.text_lists(attribs).alias("attribs")] if full else columns)


@functools.lru_cache(maxsize=4096)
def _facts(attribs: tuple[str, ...]) -> tuple[Any, ...]:
    """Return what ``_FACTS`` names: what follows from the attributes of a template alone."""
    damage = [name for name in attribs if name.endswith("_Dmg") and name != "Heal_Dmg"]
    first = attribs[0] if attribs else "None"
    return (
        first,
        first.removesuffix("_Dmg") if first in damage else None,
        bool(damage),
        *(not names.isdisjoint(attribs) for names in (_CONTROL, _DEFENSE, _SUPPORT, _TRAVEL)),
    )


@functools.cache
def _judgements() -> dict[str, pl.Expr]:
    """Return effect_type, and the columns that derivations need."""
    aspect, has_damage = pl.col("aspect"), pl.col("has_damage")
    others = ~pl.col("target").is_in(["self", "self_and_pets"]).fill_null(False)
    damages = has_damage & (aspect == "Absolute") & others
    defends = (has_damage & (aspect == "Resistance")) | (pl.col("has_defense") & (aspect == "Current"))
    rank = (
        pl.when(damages)
        .then(0)
        .when(pl.col("has_control") & (aspect == "Current") & others)
        .then(1)
        .when(defends & (pl.col("scale") * pl.col("magnitude") > 0))
        .then(2)
        .when("has_support")
        .then(3)
        .when(pl.col("has_travel") & (pl.col("scale") > 0))
        .then(4)
    )
    effect_type = (
        pl.when(pl.col("damage_type").is_not_null())
        .then(aspect.replace_strict(_DAMAGE_TYPES, default=pl.col("first")))
        .when((pl.col("first") == "Heal_Dmg") & (aspect == "Absolute"))
        .then(pl.lit("Heal"))
        .otherwise("first")
    )
    ticks = 1.0 + pl.when(pl.col("period_s") > 0).then((pl.col("duration_s") / pl.col("period_s")).floor())
    return {
        "effect_type": effect_type,
        "rank": rank.cast(pl.Int8),
        "is_damage": (damages & (pl.col("pvp") != "pvp")).fill_null(False),
        "ticks": ticks.fill_null(1.0),
    }


def _powers(raw: pl.DataFrame, values: dict[str, Values]) -> pl.DataFrame:
    """One row per record: the columns of table powers that the source says."""
    short_name = pl.when(pl.col("short_name") != _name()).then("short_name")  # nearly always the same
    return raw.select(
        **_columns(),
        archetypes=values["archetypes"].list_column(),
        attack_types=values["attack_types"].list_column(),
        display_info=display.info(raw.with_columns(short_name=short_name), _INFO, _INFO_JSON),
    )


@functools.cache
def _name() -> pl.Expr:
    return naming.filled("name", naming.own("full_name"))


@functools.cache
def _columns() -> dict[str, pl.Expr | str]:
    """Return the columns of table powers that follow from one field or a few."""
    return {
        "name": _name(),
        "internal_name": "full_name",
        "display_name": naming.filled("display_name", _name()),
        "description": pl.col("display_help").fill_null(""),
        "level_available": (pl.col("available_level") + 1).fill_null(1).cast(pl.Int32),
        "target_type": derive.target_type(pl.col("target_type")),
        "accuracy": pl.col("accuracy").fill_null(1.0),
        "endurance_cost": pl.col("endurance_cost").fill_null(0.0),
        "recharge_time": pl.col("recharge_time").fill_null(0.0),
        "activation_time": pl.col("activation_time").fill_null(0.0),
        "range_feet": pl.col("range").fill_null(0.0),
        "radius_feet": pl.col("radius").fill_null(0.0),
        "max_targets": pl.col("max_targets_hit").fill_null(0).cast(pl.Int32),
        "requires_line_of_sight": (pl.col("target_visibility") == "LineOfSight").fill_null(True),
        "icon_path": "icon",
        "activation_kind": pl.col("type").fill_null("Click"),
        "target_type_raw": "target_type",
        "effect_area": "effect_area",
        "root_time": pl.col("root_time").fill_null(0.0),
        "interrupt_time": pl.col("interrupt_time").fill_null(0.0),
        "activate_period": pl.col("activate_period").fill_null(0.0),
        "range_secondary": pl.col("range_secondary").fill_null(0.0),
        "arc_degrees": pl.col("arc").degrees().round(6).fill_null(0.0),
        "max_boosts": pl.col("max_boosts").fill_null(6).cast(pl.Int32),
        "requires_expr": pl.col("requires").fill_null(""),
        "activate_requires_expr": pl.col("activate_requires").fill_null(""),
        "target_requires_expr": pl.col("target_requires").fill_null(""),
        "short_help": "display_short_help",
    }


def _references(raw: pl.DataFrame) -> list[tuple[int, expressions.Reference, int | None]]:
    texts = raw.get_column("requires").to_list()
    return [(row, found, None) for row, text in enumerate(texts) if text for found in expressions.references(text)]
