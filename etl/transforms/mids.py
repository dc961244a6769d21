"""MidsReborn JSON: powers inside powersets, enumerations as numbers, default values left out.

Effect rows: one per effect, each its own group. ``attribs`` is what the effect changes: the kind of mez for Mez and
MezResist, the modified effect type for Enhancement and ResEffect, else the effect type. MidsReborn gives a number of
ticks and no period. Masks (modes, attack types, targets) become the text of their bits, as their names are not in the
export.
"""

import functools
from collections.abc import Collection
from itertools import chain
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa

from etl.transforms import derive, dictionary, display, expressions, mids_enums, naming, nested
from etl.transforms.expressions import Reference
from etl.transforms.mids_enums import named
from etl.transforms.nested import Int4, Values
from etl.transforms.parsed import TABLES, Lists, Parsed


class Effect(msgspec.Struct, gc=False):
    """One effect; a key that is left out has the value 0, false or ""."""

    EffectType: Int4 = 0
    DamageType: Int4 = 0
    MezType: Int4 = 0
    ETModifies: Int4 = 0
    Aspect: Int4 = 0
    AttribType: Int4 = 0
    ToWho: Int4 = 0
    PvMode: Int4 = 0
    Scale: float = 0.0
    Magnitude: float = msgspec.field(default=0.0, name="nMagnitude")
    Duration: float = msgspec.field(default=0.0, name="nDuration")
    BaseProbability: float = 0.0
    ProcsPerMinute: float = 0.0
    DelayedTime: float = 0.0
    Ticks: Int4 = 0
    Stacking: Int4 = 0
    ModifierTable: str = ""
    EffectId: str = ""
    Summon: str = ""
    Reward: str = ""
    Override: str = ""


class Requires(msgspec.Struct, gc=False):
    """Who may take the power: pairs are joined by "and", the entries of a list by "or"."""

    ClassName: list[str] = []
    ClassNameNot: list[str] = []
    PowerID: list[list[str]] = []
    PowerIDNot: list[list[str]] = []


_FIELDS = {
    "Effects": nested.Field(list[Effect]),
    "Requires": nested.Field(Requires, b"{}"),
    "BoostsAllowed": nested.Field(list[str]),
    "SetTypes": nested.Field(list[int]),
}

_DTYPES: dict[Any, pl.DataType] = {float: pl.Float64(), str: pl.String()}

_CONTROL = ["Confused", "Held", "Immobilized", "Sleep", "Stunned", "Terrorized", "Afraid"]
_SUPPORT = ["Heal", "Absorb", "Regeneration", "Recovery", "Endurance"]
_TRAVEL = ["SpeedFlying", "SpeedRunning", "SpeedJumping", "JumpHeight", "Fly"]
_INFO = {
    "DisplayLocation": 0,
    "VariableName": "",
    "VariableMin": 0,
    "VariableMax": 0,
    "VariableEnabled": False,
    "StaticIndex": 0,
    "SetType": 0,
}
_GIVEN = {
    "effects": "Effects",
    "allowed_enhancements": "BoostsAllowed",
}


def parse(batch: pa.RecordBatch, wanted: Collection[str] = TABLES) -> Parsed:
    """Turn MidsReborn powers into canonical frames, as far as the ``wanted`` tables need them."""
    batch, records, values, rejects = nested.decode(batch, _FIELDS)
    return Parsed(
        batch=batch,
        records=records,
        rejects=rejects,
        powers=_powers(records, values["Requires"]) if "powers" in wanted else pl.DataFrame(),
        given=_GIVEN,
        lists=Lists.flat(values["Effects"], wanted, _effects),
        references=_references(values["Requires"]) if "power_prerequisites" in wanted else [],
        boosts=values["BoostsAllowed"],
        categories=values["SetTypes"].map(lambda numbers: list(map(str, numbers))),
    )


def _effects(lists: list[list[Effect]], *, full: bool) -> pl.DataFrame:
    """One row per effect of each list, in order; without ``full`` only the columns that derivations need."""
    effects = list(chain.from_iterable(lists))
    columns = [
        pl.Series(field.name, values, _DTYPES.get(field.type, pl.Int32()))
        for field, values in zip(msgspec.structs.fields(Effect), nested.fields_of(Effect, effects), strict=True)
    ]
    frame = pl.DataFrame(
        [
            pl.Series("list", [number for number, found in enumerate(lists) for _ in found], dtype=pl.UInt32),
            pl.Series("seq", [seq for found in lists for seq in range(len(found))], dtype=pl.Int32),
            *columns,
        ]
    )
    wanted = {name: column for name, column in _columns().items() if full or name in derive.COLUMNS}
    return frame.with_columns(**_names()).with_columns(**wanted, **_judgements())


def _names() -> dict[str, pl.Expr]:
    effect_type = named(pl.col("EffectType"), mids_enums.EFFECT_TYPES)
    attribute = (
        pl.when(pl.col("EffectType").is_in([19, 20]))
        .then(named(pl.col("MezType"), mids_enums.MEZ_TYPES))
        .when(pl.col("EffectType").is_in([9, 28]))
        .then(named(pl.col("ETModifies"), mids_enums.EFFECT_TYPES))
        .otherwise(effect_type)
    )
    damage_type = pl.when(pl.col("DamageType") != 0).then(named(pl.col("DamageType"), mids_enums.DAMAGE_TYPES))
    return {
        "effect_type": effect_type,
        "attribute": attribute,
        "damage_type": damage_type,
        "aspect": named(pl.col("Aspect"), mids_enums.ASPECTS),
        "kind": named(pl.col("AttribType"), mids_enums.ATTRIB_TYPES),
        "target": named(pl.col("ToWho"), mids_enums.TARGETS),
        "pvp": named(pl.col("PvMode"), mids_enums.PVP),
    }


@functools.cache
def _columns() -> dict[str, pl.Expr]:
    """Return the columns of power_effects that are plain copies, or of which MidsReborn says nothing."""
    nothing = pl.lit([], dtype=pl.List(pl.String))
    params = pl.struct(pl.col("Summon", "Reward", "Override").replace("", None)).struct.json_encode()
    said = pl.any_horizontal(pl.col("Summon", "Reward", "Override") != "")
    return {
        "group_seq": pl.col("seq"),
        "parent_group_seq": pl.lit(None, dtype=pl.Int32),
        "depth": pl.lit(0, dtype=pl.Int32),
        "phase": pl.lit("effect"),
        "chance": pl.col("BaseProbability"),
        "ppm": pl.col("ProcsPerMinute"),
        "requires_expr": pl.lit(""),
        "tags": pl.when(pl.col("EffectId") != "").then(pl.concat_list("EffectId")).otherwise(nothing),
        "attribs": pl.concat_list("attribute"),
        "application": pl.lit(None, dtype=pl.String),
        "table_name": pl.col("ModifierTable"),
        "scale": pl.col("Scale"),
        "magnitude": pl.col("Magnitude"),
        "duration_s": pl.when(pl.col("Duration") >= 0).then("Duration"),
        "until_killed": pl.col("Duration") < 0,
        "delay_s": pl.col("DelayedTime"),
        "period_s": pl.lit(0.0),
        "tick_chance": pl.lit(1.0),
        "stack": named(pl.col("Stacking"), {0: "No", 1: "Yes"}),
        "stack_limit": pl.lit(None, dtype=pl.Int32),
        "stack_key": pl.lit(None, dtype=pl.String),
        "flags": nothing,
        "params": pl.when(said).then(params),
    }


@functools.cache
def _judgements() -> dict[str, pl.Expr]:
    """Return the columns that derivations need."""
    others = pl.col("ToWho") != 2
    damages = (pl.col("effect_type") == "Damage") & (pl.col("aspect") == "Absolute") & others
    controls = (pl.col("effect_type") == "Mez") & pl.col("attribute").is_in(_CONTROL) & (pl.col("aspect") == "Current")
    defends = ((pl.col("effect_type") == "Resistance") & (pl.col("aspect") == "Resistance")) | (
        (pl.col("effect_type") == "Defense") & (pl.col("aspect") == "Current")
    )
    moves = pl.col("effect_type").is_in(_TRAVEL) | (pl.col("attribute") == "Teleport")
    rank = (
        pl.when(damages)
        .then(0)
        .when(controls & others)
        .then(1)
        .when(defends & (pl.col("Scale") * pl.col("Magnitude") > 0))
        .then(2)
        .when(pl.col("effect_type").is_in(_SUPPORT))
        .then(3)
        .when(moves & (pl.col("Scale") > 0))
        .then(4)
    )
    return {
        "rank": rank.cast(pl.Int8),
        "is_damage": damages & (pl.col("PvMode") != 2),
        "ticks": pl.col("Ticks").clip(1).cast(pl.Float64),
    }


def _references(requires: Values) -> list[tuple[int, Reference, int | None]]:
    return [(row, found, None) for row, found in zip(*requires.map(_mentions).entries(), strict=True)]


def _mentions(required: Requires) -> list[Reference]:
    """Return the references: an entry of PowerID is a group, and whatever is forbidden or a class stands in all.

    A name starts with "!" where the exporter lost an operator; in PowerIDNot that repeats what the list says.
    """
    alternative = len(required.PowerID) > 1
    found = [
        _reference(name, group_no, alternative, name.startswith("!"))
        for group_no, pair in enumerate(required.PowerID)
        for name in pair
        if name
    ]
    found += [_reference(name, 0, False, True) for pair in required.PowerIDNot for name in pair if name]
    classes = ((required.ClassName, False), (required.ClassNameNot, True))
    for names, negated in classes:
        several = len(names) > 1 and not negated
        found += [
            Reference(uid=name.lower(), kind="archetype", alternative=several, negated=negated)
            for name in names
            if name
        ]
    return found


def _reference(name: str, group_no: int, alternative: bool, negated: bool) -> Reference:
    uid = name.removeprefix("!").strip().lower()
    kind = expressions.reference_kind(uid) if expressions.is_reference(uid) else "other"
    return Reference(uid=uid, kind=kind, group_no=group_no, alternative=alternative, negated=negated)


def _powers(raw: pl.DataFrame, requires: Values) -> pl.DataFrame:
    """One row per record: the columns of table powers that the source says."""
    name = naming.filled("PowerName", naming.own("FullName"))
    return raw.select(
        name=name,
        internal_name="FullName",
        display_name=naming.filled("DisplayName", name),
        description="DescLong",
        level_available=pl.col("Level").cast(pl.Int32),
        target_type=derive.mask_target_type(pl.col("Target")),
        accuracy="Accuracy",
        endurance_cost="EndCost",
        recharge_time="RechargeTime",
        activation_time="CastTime",
        range_feet="Range",
        radius_feet="Radius",
        max_targets=pl.col("MaxTargets").cast(pl.Int32),
        activation_effects=pl.lit("[]"),
        requires_line_of_sight="TargetLoS",
        modes_required=_masks(raw["ModesRequired"], as_json=True),
        modes_disallowed=_masks(raw["ModesDisallowed"], as_json=True),
        icon_path=pl.lit(None, dtype=pl.String),
        display_order=pl.col("PowerSetIndex").cast(pl.Int32),
        display_info=display.info(raw, _INFO),
        activation_kind=named(pl.col("PowerType"), mids_enums.POWER_TYPES),
        target_type_raw=pl.col("Target").cast(pl.String),
        effect_area=named(pl.col("EffectArea"), mids_enums.EFFECT_AREAS),
        root_time=pl.lit(0.0),
        interrupt_time="InterruptTime",
        activate_period="ActivatePeriod",
        range_secondary="RangeSecondary",
        arc_degrees=pl.col("Arc").cast(pl.Float64),
        max_boosts=pl.col("MaxBoosts").cast(pl.Int32, strict=False).fill_null(6),
        requires_expr=pl.lit(""),
        activate_requires_expr=pl.lit(""),
        target_requires_expr=pl.lit(""),
        attack_types=_masks(raw["AttackTypes"], as_json=False),
        archetypes=requires.map(lambda required: required.ClassName).list_column(),
        short_help="DescShort",
    )


def _masks(masks: pl.Series, as_json: bool) -> pl.Series:
    """Return the bits of each mask, as a list of text or as its JSON text."""
    distinct, numbers = dictionary.encode(masks.to_list())
    lists = [mids_enums.bits(mask or 0) for mask in distinct]
    if as_json:
        return dictionary.column([msgspec.json.encode(one).decode() for one in lists], numbers, pl.String)
    return dictionary.list_column(lists, numbers)
