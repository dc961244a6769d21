"""Flat "I12" records: one object per power, effects with attribute modifiers.

Effect rows: one per effect, each its own group. Aspect, table and magnitude are those of its first modifier, and
``attribs`` the attributes of all; a Duration of -1 means until killed. The power type follows the first importer's
rule: the first effect of a known type decides, whether it is for PvP only or not.
"""

import functools
from collections.abc import Collection, Sequence
from itertools import chain

import msgspec
import polars as pl
import pyarrow as pa

from etl.transforms import derive, dictionary, display, expressions, naming, nested
from etl.transforms.expressions import Reference
from etl.transforms.nested import Int4, Text, Values
from etl.transforms.parsed import TABLES, Lists, Parsed


class Modifier(msgspec.Struct, gc=False):
    """One attribute modifier of an effect."""

    Attribute: Text = None
    Aspect: Text = None
    Modifier: Text = None
    Magnitude: float = msgspec.field(default=1.0, name="nMagnitude")


class Effect(msgspec.Struct, gc=False):
    """One effect."""

    EffectType: Text = None
    DamageType: Text = None
    Scale: float = 0.0
    Duration: float = 0.0
    Chance: float = 1.0
    PvMode: Text = "Any"
    ToWho: Text = "Target"
    AttributeModifiers: tuple[Modifier, ...] = ()


class Requirements(msgspec.Struct, gc=False):
    """What a character needs before taking the power."""

    Level: Int4 | None = None
    PowersRequired: list[str] = []
    PowersDisallowed: list[str] = []
    Expression: Text = ""
    ModesRequired: msgspec.Raw = msgspec.Raw(b"[]")
    ModesDisallowed: msgspec.Raw = msgspec.Raw(b"[]")


_FIELDS = {
    "Effects": nested.Field(list[Effect]),
    "Requirements": nested.Field(Requirements, b"{}"),
    "EnhancementTypes": nested.Field(list[str]),
}
_NO_MODIFIER = Modifier()

_ASPECTS = {"Cur": "Current", "Max": "Maximum", "Str": "Strength", "Res": "Resistance", "Abs": "Absolute"}
_RANKS = {
    name: rank
    for rank, names in enumerate(
        (
            "Damage DamageOverTime",
            "Hold Immobilize Stun Sleep Confuse Fear",
            "Defense Resistance DefenseOverTime",
            "Heal HealOverTime EnduranceRecovery",
            "Fly SuperSpeed SuperJump Teleport",
        )
    )
    for name in names.split()
}
"""The first importer's effect types by the class in ``derive.CLASSES`` that they make a power."""
_GIVEN = {
    "effects": "Effects",
    "allowed_enhancements": "EnhancementTypes",
}


def parse(batch: pa.RecordBatch, wanted: Collection[str] = TABLES) -> Parsed:
    """Turn flat records into canonical frames, as far as the ``wanted`` tables need them."""
    batch, records, values, rejects = nested.decode(batch, _FIELDS)
    return Parsed(
        batch=batch,
        records=records,
        rejects=rejects,
        powers=_powers(records, values["Requirements"]) if "powers" in wanted else pl.DataFrame(),
        given=_GIVEN,
        lists=Lists.flat(values["Effects"], wanted, _effects),
        references=_references(values["Requirements"]) if "power_prerequisites" in wanted else [],
        boosts=values["EnhancementTypes"],
        categories=Values([], []),
        first_effect_rules=True,
    )


def _effects(lists: list[list[Effect]], *, full: bool) -> pl.DataFrame:
    """One row per effect of each list, in order; without ``full`` only the columns that derivations need."""
    effects = list(chain.from_iterable(lists))
    kinds, damages, scales, durations, chances, modes, targets, modifiers = nested.fields_of(Effect, effects)
    firsts = [several[0] if several else _NO_MODIFIER for several in modifiers]
    _, aspects, table_names, magnitudes = nested.fields_of(Modifier, firsts)
    texts: dict[str, list[Text]] = {
        "effect_type": [kind or "None" for kind in kinds],
        "pvp": [(mode or "Any").lower() for mode in modes],
        "target": [(target or "Target").lower() for target in targets],
        "aspect": [_ASPECTS.get(aspect or "", aspect) for aspect in aspects],
    }
    numbers: dict[str, list[float]] = {
        "scale": scales,
        "magnitude": magnitudes,
        "chance": chances,
        "duration": durations,
    }
    columns = [
        pl.Series("list", [number for number, found in enumerate(lists) for _ in found], dtype=pl.UInt32),
        pl.Series("seq", [seq for found in lists for seq in range(len(found))], dtype=pl.Int32),
        *(pl.Series(name, values, dtype=pl.String) for name, values in texts.items()),
        *(pl.Series(name, values, dtype=pl.Float64) for name, values in numbers.items()),
    ]
    if not full:
        return pl.DataFrame(columns).with_columns(**_judgements())
    attribs = [tuple([one.Attribute or "" for one in several]) for several in modifiers]
    columns += [
        pl.Series("damage_type", damages, dtype=pl.String),
        pl.Series("table_name", table_names, dtype=pl.String),
        dictionary.list_column(*dictionary.encode(attribs)).alias("attribs"),
    ]
    return pl.DataFrame(columns).with_columns(group_seq="seq", **_judgements(), **_absent())


@functools.cache
def _judgements() -> dict[str, pl.Expr]:
    killed = pl.col("duration") < 0
    damages = pl.col("effect_type").is_in(["Damage", "DamageOverTime"]) & (
        pl.col("aspect").fill_null("Absolute") == "Absolute"
    )
    return {
        "duration_s": pl.when(~killed).then("duration"),
        "until_killed": killed,
        "rank": pl.col("effect_type").replace_strict(_RANKS, default=None, return_dtype=pl.Int8),
        "is_damage": damages & (pl.col("target") != "self") & (pl.col("pvp") != "pvp"),
        "ticks": pl.lit(1.0),
    }


@functools.cache
def _absent() -> dict[str, pl.Expr]:
    """Return the columns of which a flat record says nothing."""
    nothing = pl.lit([], dtype=pl.List(pl.String))
    return {
        "parent_group_seq": pl.lit(None, dtype=pl.Int32),
        "depth": pl.lit(0, dtype=pl.Int32),
        "phase": pl.lit("effect"),
        "ppm": pl.lit(0.0),
        "requires_expr": pl.lit(""),
        "tags": nothing,
        "kind": pl.lit(None, dtype=pl.String),
        "application": pl.lit(None, dtype=pl.String),
        "delay_s": pl.lit(0.0),
        "period_s": pl.lit(0.0),
        "tick_chance": pl.lit(1.0),
        "stack": pl.lit(None, dtype=pl.String),
        "stack_limit": pl.lit(None, dtype=pl.Int32),
        "stack_key": pl.lit(None, dtype=pl.String),
        "flags": nothing,
        "params": pl.lit(None, dtype=pl.String),
    }


def _references(requirements: Values) -> list[tuple[int, Reference, int | None]]:
    levels = [required.Level for required in requirements.distinct]
    rows, found = requirements.map(_mentions).entries()
    return [(row, reference, levels[requirements.numbers[row]]) for row, reference in zip(rows, found, strict=True)]


def _mentions(required: Requirements) -> Sequence[Reference]:
    """Return the references of the expression; where it has none, those of the two lists."""
    found = expressions.references(required.Expression) if required.Expression else ()
    if found or not (required.PowersRequired or required.PowersDisallowed):
        return found
    return [
        Reference(uid=name.strip().lower(), kind=expressions.reference_kind(name), negated=negated)
        for names, negated in ((required.PowersRequired, False), (required.PowersDisallowed, True))
        for name in names
        if name.strip()
    ]


def _powers(raw: pl.DataFrame, requirements: Values) -> pl.DataFrame:
    """One row per record: the columns of table powers that the source says."""
    return raw.select(
        **_columns(),
        modes_required=requirements.map(lambda required: _json(required.ModesRequired)).column(pl.String),
        modes_disallowed=requirements.map(lambda required: _json(required.ModesDisallowed)).column(pl.String),
        display_info=_display_info(raw),
        requires_expr=requirements.map(lambda required: required.Expression or "").column(pl.String),
    )


@functools.cache
def _columns() -> dict[str, pl.Expr | str]:
    """Return the columns of table powers that follow from one field or a few."""
    name = pl.coalesce(naming.own("InternalName"), naming.filled("Name", pl.col("InternalName")))
    level = pl.col("Level").fill_null(1).cast(pl.Int32)
    archetype = pl.col("ArchetypeName").str.strip_chars().fill_null("")
    nothing = pl.lit([], dtype=pl.List(pl.String))
    return {
        "name": name,
        "internal_name": "InternalName",
        "display_name": naming.filled("DisplayName", naming.filled("Name", name)),
        "description": pl.col("Description").fill_null(""),
        "level_available": level,
        "target_type": derive.flat_target_type(pl.col("TargetType")),
        "accuracy": pl.col("Accuracy").fill_null(1.0),
        "damage_scale": "DamageScale",
        "endurance_cost": pl.col("EnduranceCost").fill_null(0.0),
        "recharge_time": pl.col("RechargeTime").fill_null(0.0),
        "activation_time": pl.col("ActivationTime").fill_null(0.0),
        "range_feet": pl.col("Range").fill_null(0.0),
        "radius_feet": pl.col("Radius").fill_null(0.0),
        "max_targets": pl.col("MaxTargets").fill_null(0).cast(pl.Int32),
        "activation_effects": pl.lit("[]"),
        "requires_line_of_sight": pl.col("RequiresLineOfSight").fill_null(True),
        "ai_report": "AIReport",
        "icon_path": "IconName",
        "display_order": pl.col("DisplayOrder").fill_null(level).cast(pl.Int32),
        "activation_kind": pl.col("PowerType").fill_null("Click"),
        "target_type_raw": "TargetType",
        "effect_area": "EffectArea",
        "root_time": pl.lit(0.0),
        "interrupt_time": pl.lit(0.0),
        "activate_period": pl.lit(0.0),
        "range_secondary": pl.lit(0.0),
        "arc_degrees": pl.col("Arc").degrees().round(6).fill_null(0.0),
        "max_boosts": pl.lit(6, dtype=pl.Int32),
        "activate_requires_expr": pl.lit(""),
        "target_requires_expr": pl.lit(""),
        "attack_types": nothing,
        "archetypes": pl.when(archetype != "").then(pl.concat_list(archetype)).otherwise(nothing),
        "short_help": pl.lit(None, dtype=pl.String),
    }


def _json(value: msgspec.Raw) -> str:
    """Return the JSON text of a list; null becomes the empty one."""
    text = bytes(value).decode()
    return "[]" if text == "null" else text


def _display_info(raw: pl.DataFrame) -> pl.Series:
    """Return the JSON text of display_info: the display names that have no column, and the category if it is given."""
    info = raw.select(powerset_name="PowersetName", archetype_name="ArchetypeName", category="PowerCategory")
    return display.info(info, dict.fromkeys(info.columns, ""))
