"""Invented descriptive texts with everything real ones carry: markup, placeholders, quotes and non-ASCII letters."""

from etl.generate.dice import Dice

_OPENINGS = (
    "You call up a {thing} that strikes {whom}",
    "A {thing} settles around {whom}",
    "This power releases a {thing} at {whom}",
    "While it runs, a {thing} protects {whom}",
    "Your {thing} steadies {whom}",
)
_THINGS = ("ring of embers", "wall of mist", "sudden gust", "humming shell", "rain of shards", "tide of shadow")
_WHOM = ("a single target", "all foes nearby", "you and your allies", "the chosen place", "whatever stands before you")
_ENDINGS = (
    " for moderate damage.",
    ", and some of them may be knocked down.",
    ". It lasts longer than most, but recharges slowly.",
    " and lowers the target\u2019s defense for a short while.",
    '; the "first blow" always lands.',
    " over time \u2013 unless it is interrupted.",
    " and restores a little of what was lost\u2026",
)
_NOTES = (
    "<br><br><color #fcfc95>Notes: This power ignores buffs to its recharge time.</color>",
    "<br><br><b>Recharge:</b>\u00a0Slow",
    "<br><br><color #fcfc95>Notes: {PlayerSource} cannot be its target.",  # unbalanced, as one real text is
    "<br>Bonus: {Boost.Attrib.Defense.Scale}%",
    " <i>Damage</i> C:\\Moderate",
    " (\u0394 \u00b1 \u03a9)",
)
_SHORT = ("Melee, DMG(Lethal)", "Ranged, Foe -DEF", "Self +DMG, +To Hit", "PBAoE, Ally +RES", "Toggle: Self +DEF", "")


def help_text(dice: Dice, sentences: int) -> str:
    """Return a description of so many sentences, one in three with a note in markup; empty for none."""
    text = " ".join(_sentence(dice) for _ in range(sentences))
    return text + dice.pick(_NOTES) if sentences and dice.happens(0.3) else text


def short_help(dice: Dice) -> str:
    """Return the one-line form of a description, sometimes empty."""
    return dice.pick(_SHORT)


def _sentence(dice: Dice) -> str:
    opening = dice.pick(_OPENINGS).format(thing=dice.pick(_THINGS), whom=dice.pick(_WHOM))
    return opening + dice.pick(_ENDINGS)
