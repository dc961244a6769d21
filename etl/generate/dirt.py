"""The kinds of bad and odd records that can stand inside a JSON array, each with what must become of it.

A spoiled record starts as a good one. What Python's JSON writer cannot write (``NaN``, ``1e400``, bytes that are no
UTF-8, endless nesting) is put in as a mark first and replaced in the finished text.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from etl.generate.dice import Dice, dumps

HUGE_BYTES = 1_200_000
_HUGE_AT_MOST = 3
_DEPTH = 600  # beyond the 512 levels that a record may have
_WINNER_WITHIN = 20_000  # places after the record it supersedes
_LEAD = 8  # a file begins with some good records, so that its shape can be recognised

_NAN, _INFINITE, _MINUS_ZERO = "<<NaN>>", "<<1e400>>", "<<-0>>"
_INVALID, _SURROGATE, _DEEP = "<<FF>>", "<<D800>>", "<<DEEP>>"
_MARKS = {
    f'"{_NAN}"'.encode(): b"NaN",
    f'"{_INFINITE}"'.encode(): b"1e400",
    f'"{_MINUS_ZERO}"'.encode(): b"-0",
    _INVALID.encode(): b"\xc3\x28\xff",
    _SURROGATE.encode(): b"\\ud800",
}


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """What one shape calls the members that are spoiled; ``optional`` are sets of members that may be absent."""

    name: str
    level: str
    number: str
    cost: str
    time: str
    text: str
    title: str
    kind: str
    target: str
    effects: str
    boosts: str
    optional: tuple[tuple[str, ...], ...]
    deep: str


_COD_ABSENT = ("proc_ignore_over_cap", "proc_ignore_chain_effect", "tray_placement", "tray_number", "tray_slot")
_COD_OLDER = (*_COD_ABSENT, "ignore_stance", "remember_stance", "chain_into_optional")
_COD_GROUP = '{"tags":[],"chance":1.0,"templates":[],"child_effects":['

COD = Keys(
    name="full_name",
    level="available_level",
    number="accuracy",
    cost="endurance_cost",
    time="recharge_time",
    text="display_help",
    title="display_name",
    kind="type",
    target="target_type",
    effects="effects",
    boosts="boosts_allowed",
    # As in real exports: 129 and 126 keys, and the few oldest records.
    optional=(_COD_ABSENT, _COD_OLDER, (*_COD_OLDER, "modes_suspended", "short_name", "boost_info")),
    deep=f"[{_COD_GROUP * (_DEPTH // 2)}{']}' * (_DEPTH // 2)}]",
)
I12 = Keys(
    name="InternalName",
    level="Level",
    number="Accuracy",
    cost="EnduranceCost",
    time="RechargeTime",
    text="Description",
    title="DisplayName",
    kind="PowerType",
    target="TargetType",
    effects="Effects",
    boosts="EnhancementTypes",
    optional=(("Radius",), ("IconName",), ("Radius", "Arc", "EffectArea", "IconName")),
    deep="[" * _DEPTH + "]" * _DEPTH,
)

Spoil = Callable[[dict[str, Any], Keys, int], None]


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of record and what an import must do with it: accept it, reject it (stage and code) or supersede it.

    ``spoil`` changes the decoded record in place; its last argument counts the records of this kind from 0.
    ``is_named`` tells whether the name can still be read from the record.
    """

    name: str
    expect: str
    spoil: Spoil
    stage: str | None = None
    code: str | None = None
    is_named: bool = True


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the file for a record of this kind, the ``turn``-th of them.

    ``by_ordinal`` is the later good record whose name a superseded one takes.
    """

    ordinal: int
    kind: Kind
    turn: int
    by_ordinal: int | None = None


def _set(member: str, *values: Any) -> Spoil:
    """Put one of the values, in turn, in place of a member (named as in ``Keys``)."""

    def spoil(record: dict[str, Any], keys: Keys, turn: int) -> None:
        record[getattr(keys, member)] = values[turn % len(values)]

    return spoil


def _insert(member: str, mark: str) -> Spoil:
    def spoil(record: dict[str, Any], keys: Keys, _turn: int) -> None:
        record[getattr(keys, member)] += f" before{mark}after"

    return spoil


def _accepted(name: str, spoil: Spoil) -> Kind:
    return Kind(name=name, expect="accepted", spoil=spoil)


def _rejected(name: str, code: str, spoil: Spoil, *, stage: str = "split", is_named: bool = True) -> Kind:
    return Kind(name=name, expect="rejected", spoil=spoil, stage=stage, code=code, is_named=is_named)


def _drop_name(record: dict[str, Any], keys: Keys, _turn: int) -> None:
    del record[keys.name]


def _drop_everything(record: dict[str, Any], _keys: Keys, _turn: int) -> None:
    record.clear()


def _drop_optional(record: dict[str, Any], keys: Keys, turn: int) -> None:
    for member in keys.optional[turn % len(keys.optional)]:
        del record[member]


def _lengthen_name(record: dict[str, Any], keys: Keys, _turn: int) -> None:
    record[keys.name] += "_" + "x" * 1_000


def _undot_name(record: dict[str, Any], keys: Keys, _turn: int) -> None:
    record[keys.name] = record[keys.name].replace(".", "_")


def _zero_in_name(record: dict[str, Any], keys: Keys, _turn: int) -> None:
    record[keys.name] += "\0"


def _minus_zeros(record: dict[str, Any], keys: Keys, _turn: int) -> None:
    record[keys.cost], record[keys.time] = -0.0, _MINUS_ZERO


def _repeat_boost(record: dict[str, Any], keys: Keys, _turn: int) -> None:
    record[keys.boosts] = ["Enhance Damage", "Enhance Accuracy", "Enhance Damage"]


def _unknown_words(record: dict[str, Any], keys: Keys, _turn: int) -> None:
    record[keys.kind], record[keys.target] = "Cantrip", "Echo (Distant)"


def _enlarge(record: dict[str, Any], keys: Keys, _turn: int) -> None:
    effects = record[keys.effects]
    record[keys.effects] = effects * (HUGE_BYTES // (len(dumps(effects)) - 1) + 1)


def _retitle(record: dict[str, Any], keys: Keys, _turn: int) -> None:
    record[keys.title] = f"Earlier {record[keys.title]}"


def _change_case(record: dict[str, Any], keys: Keys, turn: int) -> None:
    _retitle(record, keys, turn)
    record[keys.name] = (str.upper, str.lower, str.swapcase)[turn % 3](record[keys.name])


KINDS: tuple[Kind, ...] = (
    _rejected("missing_name", "missing_key", _drop_name, is_named=False),
    _rejected("wrong_type", "wrong_type", _set("number", "fast", {}, True)),
    _accepted("nul_in_text", _insert("text", "\0")),
    _rejected("nul_in_name", "nul_in_name", _zero_in_name, is_named=False),
    _rejected("lone_surrogate", "lone_surrogate", _insert("text", _SURROGATE)),
    _rejected("invalid_utf8", "invalid_utf8", _insert("text", _INVALID)),
    _rejected("empty_name", "bad_name", _set("name", ""), is_named=False),
    _rejected("undotted_name", "bad_name", _undot_name, is_named=False),
    _rejected("long_name", "name_too_long", _lengthen_name, is_named=False),
    _rejected("float_overflow", "out_of_range", _set("number", _INFINITE)),
    _rejected("level_overflow", "out_of_range", _set("level", 10**20, -(10**20))),
    _rejected("bad_effects", "bad_effects", _set("effects", "none", {"damage": 1}, [17]), stage="load"),
    Kind(name="duplicate", expect="superseded", spoil=_retitle),
    Kind(name="case_duplicate", expect="superseded", spoil=_change_case),
    _rejected("too_deep", "too_deep", _set("effects", _DEEP)),
    _rejected("nan", "bad_json", _set("number", _NAN)),
    _accepted("missing_optional", _drop_optional),
    _accepted("minus_zero", _minus_zeros),
    _accepted("repeated_boost", _repeat_boost),
    _accepted("unknown_word", _unknown_words),
    _accepted("huge", _enlarge),
    _rejected("empty_object", "missing_key", _drop_everything, is_named=False),
)


def slots(records: int, share: float, seed: int) -> Iterator[Slot]:
    """Yield the places of dirty records in file order, ``records * share`` of them (at least one), evenly strewn.

    The kinds come in turn. A kind that cannot stand at a place is passed over: a superseded one needs a later good
    record, and there are at most three huge ones.
    """
    dice = Dice(seed, "dirty places")
    ordinals = _places(dice, records, share)
    taken = frozenset(ordinals)
    last_good = next((place for place in range(records - 1, -1, -1) if place not in taken), -1)
    turns = dict.fromkeys((kind.name for kind in KINDS), 0)
    kinds = itertools.cycle(KINDS)
    for ordinal in ordinals:
        kind = next(kind for kind in kinds if _fits(kind, ordinal, last_good, turns))
        winner = None
        if kind.expect == "superseded":
            start = dice.between(ordinal + 1, min(last_good, ordinal + _WINNER_WITHIN))
            winner = next(place for place in range(start, records) if place not in taken)
        yield Slot(ordinal=ordinal, kind=kind, turn=turns[kind.name], by_ordinal=winner)
        turns[kind.name] += 1


def _places(dice: Dice, records: int, share: float) -> list[int]:
    """One ordinal from each of as many equal stretches of the file as there are dirty records."""
    count = min(records, max(1, round(records * share))) if share > 0 else 0
    lead = min(_LEAD, records - count)
    edges = [lead + number * (records - lead) // count for number in range(count + 1)] if count else []
    return [dice.between(low, high - 1) for low, high in itertools.pairwise(edges)]


def _fits(kind: Kind, ordinal: int, last_good: int, turns: dict[str, int]) -> bool:
    if kind.expect == "superseded":
        return ordinal < last_good
    return kind.name != "huge" or turns["huge"] < _HUGE_AT_MOST


def spoil(text: str, slot: Slot, keys: Keys, fallback_effects: list[Any]) -> bytes:
    """Return the bytes of the good record ``text`` spoiled as its slot says, with effects where it had none."""
    record = json.loads(text)
    record[keys.effects] = record[keys.effects] or fallback_effects
    slot.kind.spoil(record, keys, slot.turn)
    spoiled = dumps(record).encode()
    for mark, replacement in _MARKS.items():
        spoiled = spoiled.replace(mark, replacement)
    return spoiled.replace(f'"{_DEEP}"'.encode(), keys.deep.encode())
