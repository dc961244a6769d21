"""Archetypes and powersets as the tables want them, from their own files where there are such, else from the records."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from etl import categories, storage
from etl.errors import InputError
from etl.model import Partition
from etl.sources import mids, streams
from etl.splitter.tasks import MergeTask
from etl.store import places
from etl.store.results import RangeResult

_LEVEL = 49  # the index of level 50 in lists by level

# What an archetype's caps are called in the modifiers column, and the attribute whose maximum strength they are.
_CAPS = {
    "recharge": "recharge_time",
    "regeneration": "regeneration",
    "recovery": "recovery",
    "threat": "threat_level",
}


class Set(msgspec.Struct, frozen=True, kw_only=True):
    """A powerset as the records name it; a ``Partition`` says the same, and what it holds."""

    archetype: str
    powerset: str
    name: str
    display_name: str


class _Attributes(msgspec.Struct):
    hit_points: list[float] = []
    damage_type: dict[str, list[float]] = {}
    recharge_time: list[float] = []
    regeneration: list[float] = []
    recovery: list[float] = []
    perception_radius: list[float] = []
    threat_level: list[float] = []


class _Archetype(msgspec.Struct):
    name: str
    display_name: str | None = None
    display_help: str | None = None
    icon: str | None = None
    primary_category: str | None = None
    secondary_category: str | None = None
    attrib_max: _Attributes = msgspec.field(default_factory=_Attributes)
    attrib_max_max: _Attributes = msgspec.field(default_factory=_Attributes)
    attrib_strength_max: _Attributes = msgspec.field(default_factory=_Attributes)
    attrib_resistance_max: _Attributes = msgspec.field(default_factory=_Attributes)


class _Powerset(msgspec.Struct):
    name: str = ""
    key: str | None = None
    display_name: str | None = None
    display_fullname: str | None = None
    display_help: str | None = None
    icon: str | None = None
    requires: str | None = None
    available_level: list[int] = []
    power_names: list[str] = []


def build(task: MergeTask, ranges: Sequence[RangeResult], sets: Sequence[Set]) -> dict[str, list[dict[str, Any]]]:
    """Return {"archetypes": …, "powersets": …}, at least one entity for every key and powerset that the records name.

    Raises:
        InputError: a file of archetypes or powersets cannot be read.
    """
    powersets = {entity["uid"]: entity for entity in _powersets(task, ranges, sets)}
    for one in sets:
        if one.powerset not in powersets:
            powersets[one.powerset] = _from_set(one, flat=ranges[0].format == "i12")
    keys = {entity["archetype"] for entity in powersets.values()}
    archetypes = {entity["uid"]: entity for entity in map(_from_key, keys)}
    archetypes |= {entity["uid"]: entity for entity in _archetypes(task)}
    return {"archetypes": list(archetypes.values()), "powersets": list(powersets.values())}


def extend(
    known: dict[str, list[dict[str, Any]]], partitions: Iterable[Partition], form: str
) -> dict[str, list[dict[str, Any]]]:
    """Return the entities of a split with those that its partitions need besides."""
    powersets = {entity["uid"]: entity for entity in known["powersets"]}
    archetypes = {entity["uid"]: entity for entity in known["archetypes"]}
    for partition in partitions:
        if partition.powerset not in powersets:
            powersets[partition.powerset] = _from_set(partition, flat=form == "i12")
        archetypes.setdefault(partition.archetype, _from_key(partition.archetype))
    return {"archetypes": list(archetypes.values()), "powersets": list(powersets.values())}


def _archetypes(task: MergeTask) -> Iterable[dict[str, Any]]:
    found = []
    if task.archetypes:
        found += _read(task.archetypes, list[_Archetype])
    for folder in task.trees:
        for path in sorted((Path(folder).parent / "archetypes").glob("*.json")):
            if path.name != "index.json" and path.stat().st_size:
                found += _read(str(path), _Archetype, listed=False)
    return map(_from_archetype, found)


def _powersets(task: MergeTask, ranges: Sequence[RangeResult], sets: Sequence[Set]) -> Iterable[dict[str, Any]]:
    decoder = msgspec.json.Decoder(mids.Powerset)
    for result in ranges:
        place = places.in_range(task.store, task.split_id, result.number, "powersets")
        if result.format == "mids" and storage.exists(place):
            yield from map(_from_mids, decoder.decode_lines(storage.read_bytes(place)))
    spelling = {one.powerset: one.name for one in sets}
    found = list(_read(task.powersets, list[_Powerset])) if task.powersets else []
    for folder, names in task.indexes:
        for name in names:
            one = _read(str(Path(folder) / name), _Powerset, listed=False)[0]
            one.key = one.key or name.removesuffix("/index.json").replace("/", ".").lower()
            found.append(one)
    for powerset in found:
        if powerset.name:
            yield _from_powerset(powerset, spelling)


def _read(path: str, kind: Any, *, listed: bool = True) -> list[Any]:
    with streams.open_stream(path) as stream:
        text = stream.read()
    try:
        value = msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{path}: not a file of the expected kind: {error}", "check the file, or leave it out"
        ) from error
    return list(value) if listed else [value]


def _from_key(key: str) -> dict[str, Any]:
    return {
        "uid": key,
        "name": key,
        "display_name": _title(key),
        "description": "",
        "is_player": key in categories.PLAYER_KEYS,
        "primary_group": None,
        "secondary_group": None,
        "hit_points_base": None,
        "hit_points_max": None,
        "icon_path": None,
        "modifiers": {},
    }


def _from_archetype(archetype: _Archetype) -> dict[str, Any]:
    uid = archetype.name.strip().lower()
    return _from_key(uid) | {
        "name": archetype.name.strip(),
        "display_name": _clean(archetype.display_name) or _title(uid),
        "description": _clean(archetype.display_help),
        "primary_group": archetype.primary_category,
        "secondary_group": archetype.secondary_category,
        "hit_points_base": _at(archetype.attrib_max.hit_points),
        "hit_points_max": _at(archetype.attrib_max_max.hit_points),
        "icon_path": archetype.icon,
        "modifiers": _caps(archetype),
    }


def _caps(archetype: _Archetype) -> dict[str, float]:
    strength = archetype.attrib_strength_max
    caps = {
        "res": _at(archetype.attrib_resistance_max.damage_type.get("smashing", [])),
        "damage": _at(strength.damage_type.get("smashing", [])),
        "perception": _at(archetype.attrib_max.perception_radius),
        **{name: _at(getattr(strength, attribute)) for name, attribute in _CAPS.items()},
    }
    return {name: value for name, value in caps.items() if value is not None}


def _at(values: Sequence[float]) -> float | None:
    return values[_LEVEL] if len(values) > _LEVEL else None


def _from_powerset(powerset: _Powerset, spelling: dict[str, str]) -> dict[str, Any]:
    """Return a powerset; its category is spelled as in its powers, since its own key is in lower case."""
    key = powerset.key or (powerset.power_names or [powerset.name])[0].rpartition(".")[0] or powerset.name
    uid = key.strip().lower()
    first = powerset.power_names[0] if powerset.power_names else ""
    own = ".".join(first.split(".", 2)[:2])
    full_name = spelling.get(uid) or (own if own.lower() == uid else f"{key.partition('.')[0]}.{powerset.name}")
    return _entity(uid, full_name, _clean(powerset.display_name) or _title(powerset.name)) | {
        "name": powerset.name.strip(),
        "description": _clean(powerset.display_help),
        "icon_path": powerset.icon,
        "available_levels": powerset.available_level,
        "power_order": [name.lower() for name in powerset.power_names],
        "requires": _clean(powerset.requires),
    }


def _from_mids(powerset: mids.Powerset) -> dict[str, Any]:
    full_name = _clean(powerset.FullName).strip()
    entity = _entity(full_name.lower(), full_name, _clean(powerset.DisplayName).strip() or _title(powerset.SetName))
    return entity | {
        "name": _clean(powerset.SetName).strip() or entity["name"],
        "description": _clean(powerset.Description),
        "icon_path": powerset.ImageName or None,
        "powerset_type": mids.SET_TYPES.get(powerset.SetType, entity["powerset_type"]),
    }


def _from_set(one: Set | Partition, *, flat: bool) -> dict[str, Any]:
    """Return a powerset told from its records; flat ones of strange categories are of unknown type."""
    title = one.display_name or _title(one.name.rpartition(".")[2])
    entity = _entity(one.powerset, one.name, title) | {"archetype": one.archetype}
    if flat and not categories.is_known(entity["category"]):
        entity["powerset_type"] = "unknown"
    return entity


def _entity(uid: str, full_name: str, title: str) -> dict[str, Any]:
    category, _, name = full_name.partition(".")
    return {
        "uid": uid,
        "name": name or full_name,
        "full_name": full_name,
        "display_name": title,
        "description": "",
        "archetype": categories.archetype_of(category),
        "powerset_type": categories.set_type_of(category),
        "icon_path": None,
        "category": category,
        "available_levels": [],
        "power_order": [],
        "requires": "",
    }


def _clean(text: str | None) -> str:
    return (text or "").replace("\0", "")


def _title(name: str) -> str:
    """Return a name as words: blanks for underscores, a capital at the start of lower-case words."""
    return " ".join(word[:1].upper() + word[1:] for word in name.replace("_", " ").split())
