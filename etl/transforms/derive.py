"""Derived columns of powers: target type, power type, damage scale and effect groups.

The rules are those of the canonical mapping; each function names its own. ``facts`` works on what powers share,
``parsed.Lists``. A query has its price however few the rows, so there is one.
"""

import functools

import msgspec
import polars as pl

CLASSES = ("attack", "control", "defense", "support", "travel")
"""The power types that effects can say, strongest first; ``rank`` in a frame is the position here."""


COLUMNS = (
    "list", "seq", "effect_type", "pvp", "chance", "scale", "magnitude", "duration_s", "rank", "is_damage", "ticks",
)  # fmt: skip
"""The columns of the effects that ``facts`` reads."""


def target_type(raw: pl.Expr) -> pl.Expr:
    """Return self, ally, enemy, location or any for a City of Data target type.

    Contains "Foe": enemy; "Self": self; "Location" or "Position": location; Any, Anything: any; what else there is
    (Ally, Leaguemate, Player, Own Pet, Pet Root Owner): ally. Nothing: self.
    """
    return (
        pl.when(raw.is_null() | (raw == ""))
        .then(pl.lit("self"))
        .when(raw.str.contains("Foe", literal=True))
        .then(pl.lit("enemy"))
        .when(raw.str.contains("Self", literal=True))
        .then(pl.lit("self"))
        .when(raw.str.contains("Location|Position"))
        .then(pl.lit("location"))
        .when(raw.str.starts_with("Any"))
        .then(pl.lit("any"))
        .otherwise(pl.lit("ally"))
    )


_OLD_TARGETS = {
    "enemy": "enemy",
    "foe": "enemy",
    "hostile": "enemy",
    "ally": "ally",
    "friend": "ally",
    "teammate": "ally",
    "self": "self",
    "caster": "self",
    "location": "location",
    "ground": "location",
    "area": "location",
}


def flat_target_type(raw: pl.Expr) -> pl.Expr:
    """Return the target type for a flat record by the first importer's rule: a known word, else self."""
    return raw.str.strip_chars().str.to_lowercase().replace_strict(_OLD_TARGETS, default="self").fill_null("self")


def mask_target_type(mask: pl.Expr) -> pl.Expr:
    """Return the target type for a MidsReborn target mask."""
    return (
        pl.when(mask & (2048 | 131072 | 16777216 | 64) != 0)
        .then(pl.lit("enemy"))
        .when(mask <= 1)
        .then(pl.lit("self"))
        .when(mask & (8192 | 16384) != 0)
        .then(pl.lit("location"))
        .when(mask == 32768)
        .then(pl.lit("any"))
        .otherwise(pl.lit("ally"))
    )


def facts(effects: pl.DataFrame, count: int, first_effect_rules: bool) -> pl.DataFrame:
    """Return rank, damage_scale and effect_groups for every one of ``count`` lists of effects, in one query."""
    every = pl.LazyFrame({"list": pl.Series(range(count), dtype=pl.UInt32)})
    return (
        every.join(_of_effects(effects.lazy(), first_effect_rules), on="list", how="left", maintain_order="left")
        .join(_effect_groups(effects), on="list", how="left", maintain_order="left")
        .select("rank", "damage_scale", pl.col("effect_groups").fill_null("[]"))
        .collect(engine="in-memory")  # for frames of this size the other engine takes longer
    )


@functools.cache
def power_type() -> pl.Expr:
    """Return attack, control, defense, support or travel for powers with the ``rank`` that their effects give.

    Without a rank: an enemy target is an attack, a toggle on oneself a defense, and the rest is support.
    """
    fallback = (
        pl.when(pl.col("target_type") == "enemy")
        .then(pl.lit("attack"))
        .when((pl.col("target_type") == "self") & (pl.col("activation_kind") == "Toggle"))
        .then(pl.lit("defense"))
        .otherwise(pl.lit("support"))
    )
    names = dict(enumerate(CLASSES))
    said = pl.col("rank").replace_strict(names, default=None, return_dtype=pl.String)
    return pl.coalesce(said, fallback).alias("power_type")


def _of_effects(effects: pl.LazyFrame, first_effect_rules: bool) -> pl.LazyFrame:
    """Return a line for each list with effects: the ``rank`` that decides the power type, and the damage_scale.

    The rank is the lowest among the effects that are not for PvP only, or the first one of all where
    ``first_effect_rules``.

    damage_scale is the damage of one activation in units of the modifier table, null for powers without damage: the sum
    over effects marked ``is_damage`` (damage, absolute, not on oneself, not PvP only) of scale * magnitude * chance
    clamped to 0..1 * ticks. Damage of pets, redirects and granted powers is not followed. Rounded to 6 decimals, so that
    the order in which threads add does not show.
    """
    rank = pl.col("rank").cast(pl.Int64)
    by_place = pl.int_range(pl.len()) * len(CLASSES) + rank  # the lowest one has the first rank in it
    decides = by_place if first_effect_rules else pl.when(pl.col("pvp") != "pvp").then(rank)
    amount = pl.col("scale") * pl.col("magnitude") * pl.col("chance").clip(0.0, 1.0) * pl.col("ticks")
    return (
        effects.select("list", "is_damage", decides.alias("decides"), pl.when("is_damage").then(amount).alias("amount"))
        .group_by("list")
        .agg(pl.col("decides").min() % len(CLASSES), pl.col("is_damage").any(), pl.col("amount").sum().round(6))
        .select("list", rank="decides", damage_scale=pl.when("is_damage").then("amount"))
    )


def _effect_groups(effects: pl.DataFrame) -> pl.LazyFrame:
    """Return a line for each list with effects: the jsonb text of its effect_groups.

    A list by effect type in order of first appearance: {"type", "effects": the seq of its effects, "summary":
    {"count", "avg_scale", "avg_duration", "avg_chance"}}. A duration that is not said counts as 0.
    """
    names = {name: _quoted(name) for name in effects.get_column("effect_type").unique()}
    means = ("scale", "duration_s", "chance")
    return (
        effects.lazy()
        .select("list", "effect_type", "seq", *(pl.col(name).fill_null(0.0) for name in means))
        .group_by("list", "effect_type", maintain_order=True)
        .agg("seq", pl.len().alias("count"), *(pl.col(name).mean() for name in means))
        .select(
            "list",
            pl.concat_str(
                pl.lit('{"type":'),
                pl.col("effect_type").replace_strict(names, return_dtype=pl.String),
                pl.lit(',"effects":['),
                pl.col("seq").cast(pl.List(pl.String)).list.join(","),
                pl.lit('],"summary":{"count":'),
                pl.col("count"),
                pl.lit(',"avg_scale":'),
                _number("scale"),
                pl.lit(',"avg_duration":'),
                _number("duration_s"),
                pl.lit(',"avg_chance":'),
                _number("chance"),
                pl.lit("}}"),
            ).alias("text"),
        )
        .group_by("list", maintain_order=True)
        .agg("text")
        .select("list", effect_groups=pl.format("[{}]", pl.col("text").list.join(",")))
    )


def _number(name: str) -> pl.Expr:
    """Return JSON text of the numbers, rounded to 6 decimals; what overflowed to infinity becomes null."""
    value = pl.col(name).round(6)
    return pl.when(value.is_finite()).then(value.cast(pl.String)).otherwise(pl.lit("null"))


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()
