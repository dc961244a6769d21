"""The kinds of questions: what each is filed under, how long, how it is decoded, how many bytes its answer takes.

An answer about one power is filed under the power's token, one about a powerset under the powerset's, and whatever looks
at more (lists over many sets, searches, "there is no such thing") under the generation.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from etl.errors import UsageError
from etl.read import results
from etl.read.generations import State
from etl.read.local import Key
from etl.read.queries import Loaded, Queries
from etl.read.shared import Wanted

_HOUR_S = 3600.0
# Seconds that an answer may live, per kind; "absent" is that of answers that there is no such thing. A generation ends
# them earlier, so this only bounds what is kept of what nobody asks for any more.
TTL_S: Mapping[str, float] = {
    "power": 24 * _HOUR_S,
    "power_name": 24 * _HOUR_S,
    "powerset": 24 * _HOUR_S,
    "powerset_name": 24 * _HOUR_S,
    "summary": 24 * _HOUR_S,
    "summaries": _HOUR_S,
    "search": _HOUR_S,
    "effect": _HOUR_S,
    "absent": 600.0,
}
# Of these nothing is left when one power is to be forgotten: any of them may hold it.
LIST_KINDS = ("powerset_name", "summaries", "search", "effect")

_LONGEST_NAME = 100
_MOST_TOLD = 300

# Bytes of Python objects per byte of JSON, and per entry, as tracemalloc saw them over the December export
# (tests/read/test_local.py compares again): a power keeps its JSON and 50 fields, a line of the summary only fields.
_ENTRY_BYTES = 400
_POWER_BYTES = 2_400
_SUMMARY_RATIO = 1.9


class Question(msgspec.Struct, frozen=True):
    """One question; ``load`` asks the database."""

    kind: str
    ident: int | str
    load: Callable[[Queries], Loaded]

    @property
    def key(self) -> Key:
        """The key of the answer in this process."""
        return self.kind, self.ident

    @property
    def is_list(self) -> bool:
        """Whether the answer may hold any power."""
        return self.kind in LIST_KINDS

    def token(self, state: State) -> int:
        """Return what a positive answer must be filed under in this state."""
        if self.kind == "power":
            return state.powers.get(self.ident, state.floor)  # type: ignore[arg-type]  # a power's ident is its id
        if self.kind in ("powerset", "summary"):
            return state.powersets.get(self.ident, state.floor)  # type: ignore[arg-type]  # as is a powerset's
        return 0 if self.kind == "power_name" else state.generation

    def wanted(self, token: int, generation: int) -> Wanted:
        """Return the keys of the answer in Redis."""
        name = self.ident
        if isinstance(name, str) and (len(name) > _LONGEST_NAME or not name.isascii() or self.is_list):
            name = short(name)
        key = f"{self.kind}:{name}:{token}"
        return Wanted(key, key if self.is_list else f"absent:{self.kind}:{name}:{generation}", self.is_list)

    def filed_under(self, loaded: Loaded, state: State) -> int | None:
        """Return the token of what was loaded; None where the state has gone on since, and it must not be filed."""
        if loaded.body is None or self.is_list:
            return loaded.generation
        if self.kind == "power_name":
            return 0
        token = max(loaded.token, state.floor)
        return token if token <= loaded.generation else None

    def decode(self, body: bytes) -> tuple[object, int]:
        """Return the answer, and about how many bytes it takes in memory.

        Raises:
            msgspec.MsgspecError: it is no such answer.
        """
        value = _DECODERS[self.kind](body)
        if self.kind == "power":
            return value, _ENTRY_BYTES + _POWER_BYTES + len(body)
        if self.kind == "powerset":
            return value, _ENTRY_BYTES + _POWER_BYTES * len(value) + len(body)
        return value, _ENTRY_BYTES + round(_SUMMARY_RATIO * len(body))


_SUMMARIES = msgspec.json.Decoder(tuple[results.PowerSummary, ...]).decode
_DECODERS: Mapping[str, Callable[[bytes], Any]] = {
    "power": results.power,
    "power_name": msgspec.json.Decoder(int).decode,
    "powerset": results.powers,
    "powerset_name": msgspec.json.Decoder(tuple[int, ...]).decode,
    "summary": _SUMMARIES,
    "summaries": _SUMMARIES,
    "search": _SUMMARIES,
    "effect": _SUMMARIES,
}


def power(number: int) -> Question:
    """Ask for a power by id."""
    return Question("power", number, lambda queries: queries.power(number))


def power_name(uid: str) -> Question:
    """Ask for the id of a power by its full name in lower case."""
    return Question("power_name", uid, lambda queries: queries.power_id(uid))


def powerset(number: int) -> Question:
    """Ask for the powers of a powerset."""
    return Question("powerset", number, lambda queries: queries.powerset(number))


def powerset_name(name: str) -> Question:
    """Ask for the ids of the powersets that are called so."""
    return Question("powerset_name", name, lambda queries: queries.powerset_id(name))


def summary(powerset: int) -> Question:
    """Ask for the build summary of a powerset."""
    return Question("summary", powerset, lambda queries: queries.summary_of_powerset(powerset))


def summaries(archetype: str | int | None, max_level: int | None) -> Question:
    """Ask for the build summary of an archetype, or of all."""
    ident = _ident(archetype, max_level)
    return Question("summaries", ident, lambda queries: queries.summary(archetype, max_level))


def search(text: str, archetype: str | None, limit: int) -> Question:
    """Ask for powers by a part of their names."""
    ident = _ident(text, archetype, limit)
    return Question("search", ident, lambda queries: queries.search(text, archetype, limit))


def effect(attribute: str, archetype: str | None, max_level: int | None, limit: int | None) -> Question:
    """Ask for powers by an effect."""
    ident = _ident(attribute, archetype, max_level, limit)
    return Question("effect", ident, lambda queries: queries.with_effect(attribute, archetype, max_level, limit))


def times_to_live(given: Mapping[str, float] | None) -> dict[str, float]:
    """Return the seconds to live of every kind, those that are given in place of the usual ones.

    Raises:
        UsageError: there is no such kind, or a time is not above zero.
    """
    for kind, seconds in (given or {}).items():
        if kind not in TTL_S or seconds <= 0:
            raise UsageError(f"ttl_s has {kind}: {seconds}", f"the kinds are {', '.join(TTL_S)}; seconds above 0")
    return {**TTL_S, **(given or {})}


def invalidations(schema: str, powers: Sequence[int], powersets: Sequence[int]) -> Iterator[str]:
    """Yield the messages that tell all processes to forget these; each is shorter than NOTIFY's 8,000 bytes."""
    for start in range(0, max(1, len(powers)), _MOST_TOLD):
        told = (powers[start : start + _MOST_TOLD], powersets)
        yield f"{schema} {msgspec.json.encode(told).decode()}"


def short(text: str) -> str:
    """Return 32 characters for a text of any length and kind."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _ident(*parts: object) -> str:
    return msgspec.json.encode(parts).decode()
