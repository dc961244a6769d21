"""What is asked of the database, and what comes back: JSON with the generation that it is of, from one statement.

``Loaded`` is what can be filed: ``body`` None says that there is no such thing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from psycopg import sql

from etl import db
from etl.errors import DatabaseError
from etl.read import results
from etl.read.pool import Database, Missing

# Places are the way to a power's leaf, no answers: whatever they lead to says itself whether it was there.
_MOST_PLACES = 200_000
_TRIES = 3

_raws = msgspec.json.Decoder(list[msgspec.Raw])
_pairs = msgspec.json.Decoder(list[tuple[int, int]])
_ids = msgspec.json.Decoder(list[int])


class _Identified(msgspec.Struct, array_like=True):
    id: int


_identified = msgspec.json.Decoder(_Identified)


class Loaded(msgspec.Struct, frozen=True):
    """JSON as it was in ``generation``, and has been since ``token``."""

    generation: int
    token: int
    body: bytes | None


class Queries:
    """The questions of a reader, asked of one database; safe to use from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._places: dict[int, tuple[int, int]] = {}
        self._archetypes: dict[str, int] = {}
        self._without_view = False
        self._trigrams: bool | None = None
        self._power_columns = _places(results.power_columns())
        self._member_columns = sql.SQL(", ").join(
            db.query("gathered_time" if place[1] in results.TIMES else "gathered", column=sql.Identifier(*place))
            for place in results.member_columns()
        )
        self._summary_columns = _columns([("b", name, name) for name in results.summary_columns()])

    def power(self, number: int) -> Loaded:
        """Return a power by id: its place in the directory, unless that is known, then the power in its leaf."""
        place = self._places.get(number)
        if place is None:
            generation, found, *place_found = self._database.ask("read_place_by_id", {"id": number})
            if found is None:
                return Loaded(generation, generation, None)
            place = (place_found[0], place_found[1])
            self._keep_place(number, place)
        values = {"id": number, "archetype": place[0], "powerset": place[1]}
        generation, base, changed, body = self._database.ask("read_power_in_place", values, columns=self._power_columns)
        if body is not None:
            return Loaded(generation, max(base, changed or 0), body)
        self._places.pop(number, None)
        return self.powers([number])[number]  # it has moved, or is gone

    def power_id(self, uid: str) -> Loaded:
        """Return the id of a power by its full name in lower case; names keep their ids for ever."""
        generation, number, archetype, powerset = self._database.ask("read_place_by_name", {"uid": uid})
        if number is None:
            return Loaded(generation, generation, None)
        self._keep_place(number, (archetype, powerset))
        return Loaded(generation, 0, b"%d" % number)

    def powers(self, numbers: Sequence[int]) -> dict[int, Loaded]:
        """Return several powers by id, in one statement."""
        values = {"ids": list(numbers)}
        generation, base, changes, found = self._database.ask("read_powers", values, columns=self._power_columns)
        changed: dict[int, int] = {}
        for power, when in _pairs.decode(changes) if changes else ():
            changed[power] = max(when, changed.get(power, 0))
        bodies = [bytes(raw) for raw in _raws.decode(found)] if found else []
        by_id = {_identified.decode(body).id: body for body in bodies}
        return {
            number: Loaded(generation, max(base, changed.get(number, 0)), by_id[number])
            if number in by_id
            else Loaded(generation, generation, None)
            for number in numbers
        }

    def powerset_id(self, name: str) -> Loaded:
        """Return the ids of the powersets of a name, as a JSON array: by full name, else by own or display name."""
        generation, full, own = self._database.ask("read_powerset_called", {"name": name})
        return Loaded(generation, generation, full or own)

    def powerset(self, number: int) -> Loaded:
        """Return the powers of a powerset, in no order, as the JSON that ``results.powers`` takes.

        Raises:
            DatabaseError: it moved each time it was read.
        """
        for _ in range(_TRIES):
            generation, found, archetypes = self._database.ask("read_powerset_place", {"powerset": number})
            if found is None:
                return Loaded(generation, generation, None)
            one = len(archetypes or ()) == 1
            values = {"powerset": number, "archetype": archetypes[0] if one else None, "archetypes": archetypes or []}
            condition = "only_powers_of_archetype" if one else "only_powers_of_archetypes"
            holes = {"columns": self._member_columns, "condition": self._all_of([condition])}
            row = self._database.ask("read_powerset_in_place", values, condition, **holes)
            generation, base, changed, expected, found, names, of_archetypes, count, *columns = row
            if found is not None and expected == count:  # else it moved between the two statements
                members = [b"[", b",".join(columns), b"]"] if count else [b"null"]
                body = b"".join([b"[", names, b",", of_archetypes, b",", *members, b"]"])
                return Loaded(generation, max(base, changed or 0), body)
        raise DatabaseError(f"powerset {number} moved each of the {_TRIES} times that it was read", "ask again")

    def summary_of_powerset(self, number: int) -> Loaded:
        """Return the build summary of a powerset by level, as a JSON array."""
        generation, base, changed, body = self._summary("read_summary_of_powerset", {"powerset": number})
        return Loaded(generation, max(base, changed or 0), body or b"[]")

    def summary(self, archetype: str | int | None, max_level: int | None) -> Loaded:
        """Return the build summary of an archetype, or of all, as a JSON array."""
        conditions = []
        if archetype is not None:
            conditions.append("only_archetype_id" if isinstance(archetype, int) else "only_archetype")
        if max_level is not None:
            conditions.append("only_level")
        values = {"archetype": archetype, "level": max_level}
        generation, body = self._summary(
            "read_summary", values, variant=" ".join(conditions), condition=self._all_of(conditions)
        )
        return Loaded(generation, generation, body or b"[]")

    def search(self, text: str, archetype: str | None, limit: int) -> Loaded:
        """Return lines of the build summary whose display name holds a text, best first, as a JSON array."""
        literal = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        values = {
            "text": text,
            "pattern": f"%{literal}%",
            "prefix": f"{literal}%",
            "archetype": archetype,
            "limit": limit,
        }
        if self._trigrams is None:
            self._trigrams = bool(self._database.ask("read_has_trigrams", {})[0])
        generation, body = self._summary("read_search", values, join=self._trigrams and len(text) > 2)
        return Loaded(generation, generation, body or b"[]")

    def with_effect(self, attribute: str, archetype: str | None, max_level: int | None, limit: int | None) -> Loaded:
        """Return lines of the build summary of the powers that have an effect, by level, as a JSON array.

        ``attribute`` is a type of effect ("Damage"), an attribute ("Fire_Dmg", "ToHit") or, in flat exports, a type of
        damage, as the source spells it.
        """
        number = None if archetype is None else self._archetypes.get(archetype)
        if archetype is not None and number is None:
            generation, number = self._database.ask("read_archetype_called", {"name": archetype})
            if number is None:
                return Loaded(generation, generation, b"[]")
            self._archetypes[archetype] = number  # which it keeps for ever
        forms = (
            {"templates": [{"attribs": [attribute]}]},
            {"DamageType": attribute},
            {"AttributeModifiers": [{"Attribute": attribute}]},
        )
        values = {
            "type": msgspec.json.encode([{"type": attribute}]).decode(),
            **{f"form_{place}": msgspec.json.encode([form]).decode() for place, form in enumerate(forms)},
            "archetype": number,
            "level": max_level,
            "limit": limit,
        }
        conditions = [] if number is None else ["only_powers_of_archetype"]
        holes = {"columns": self._summary_columns, "condition": self._all_of(conditions)}
        generation, body = self._database.ask("read_with_effect", values, "".join(conditions), **holes)
        return Loaded(generation, generation, body or b"[]")

    def powersets_to_warm(self, archetype: str | None) -> list[tuple[int, list[int], list[str]]]:
        """Return the powersets of an archetype, or all: id, ids of its powers, their names in lower case."""
        rows = self._database.ask_rows("read_powersets_to_warm", {"archetype": archetype})
        return [(number, ids, names) for number, ids, names in rows]

    def members(self, powerset: int) -> list[int]:
        """Return the ids of the powers of a powerset."""
        return [number for (number,) in self._database.ask_rows("read_powers_of_powerset", {"powerset": powerset})]

    def powerset_of(self, power: int) -> int | None:
        """Return the powerset of a power."""
        rows = self._database.ask_rows("read_powerset_of_power", {"id": power})
        return int(rows[0][0]) if rows else None

    def forget(self) -> None:
        """Find out anew what this server and build have."""
        self._without_view, self._trigrams = False, None
        self._places.clear()

    def _summary(
        self,
        statement: str,
        values: Mapping[str, Any],
        *,
        join: bool = False,
        variant: str = "",
        **holes: sql.Composable,
    ) -> tuple[Any, ...]:
        """Ask the materialized view; where it is missing, what it was made of."""
        schema = db.identifier(self._database.schema)
        view, joined = db.query("summary_view", schema=schema), db.query("summary_join", schema=schema)
        if not (join or self._without_view):
            try:
                return self._database.ask(
                    statement, values, variant, columns=self._summary_columns, summary=view, **holes
                )
            except Missing:
                self._without_view = True
        joined_holes = {"columns": self._summary_columns, "summary": joined, **holes}
        return self._database.ask(statement, values, f"join {variant}", **joined_holes)

    def _all_of(self, conditions: Sequence[str]) -> sql.Composable:
        schema = db.identifier(self._database.schema)
        parts: list[sql.Composable] = [db.query(name, schema=schema) for name in conditions]
        return sql.SQL(" and ").join(parts or [sql.SQL("true")])

    def _keep_place(self, number: int, place: tuple[int, int]) -> None:
        if len(self._places) >= _MOST_PLACES:
            self._places.clear()
        self._places[number] = place


def _places(places: Sequence[tuple[str, str]]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(*place) for place in places)


def _columns(columns: Sequence[tuple[str, str, str]]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} as {}").format(sql.Identifier(alias, column), sql.Identifier(name))
        for alias, column, name in columns
    )
