"""Repeatable chance: the same seed and purpose give the same choices on every machine and Python version.

Only ``random.Random.random()`` is used, whose sequence Python promises to keep, and only + - * / on its results: no
libm function, no ``hash()``, no order of a set.
"""

import json
import random
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_BITS = float(1 << 53)


class Dice:
    """One stream of choices. Streams of different purposes do not disturb each other."""

    def __init__(self, seed: int, purpose: str) -> None:
        # A text as seed is hashed by sha512, independent of PYTHONHASHSEED (random.seed, version 2).
        self._next = random.Random(f"{seed}/{purpose}").random

    def bits(self) -> int:
        """Return 53 random bits, to be cut into several small indices."""
        return int(self._next() * _BITS)

    def below(self, limit: int) -> int:
        """Return a whole number from 0 to ``limit`` - 1."""
        return int(self._next() * limit)

    def between(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``, both included."""
        return low + int(self._next() * (high - low + 1))

    def share(self) -> float:
        """Return a number from 0 to just under 1."""
        return self._next()

    def happens(self, probability: float) -> bool:
        """Tell whether an event of this probability happens now."""
        return self._next() < probability

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of the choices, all equally likely."""
        return choices[int(self._next() * len(choices))]

    def weighted(self, choices: Sequence[tuple[T, int]]) -> T:
        """Return one of the choices by their whole-numbered weights."""
        point = self.below(sum(weight for _, weight in choices))
        for choice, weight in choices:
            if point < weight:
                return choice
            point -= weight
        return choices[-1][0]


def spread(choices: Sequence[tuple[T, int]]) -> tuple[T, ...]:
    """Return each choice as often as its weight says; 64 or 128 in all make a table to be indexed by random bits."""
    return tuple(choice for choice, weight in choices for _ in range(weight))


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Divide ``total`` in proportion to the weights by largest remainders; the parts add up exactly.

    Whole-number arithmetic, ties go to the earlier weight.
    """
    whole = sum(weights) or 1
    parts = [total * weight // whole for weight in weights]
    order = sorted(range(len(weights)), key=lambda index: (-(total * weights[index] % whole), index))
    for index in order[: total - sum(parts)]:
        parts[index] += 1
    return parts


def lengths(dice: Dice, count: int, ranges: Sequence[tuple[tuple[int, int], int]]) -> list[int]:
    """Return ``count`` lengths, from each range as many as its weight says, so that averages hold for every seed."""
    counts = apportion(count, [weight for _, weight in ranges])
    return [dice.between(*edges) for (edges, _), number in zip(ranges, counts, strict=True) for _ in range(number)]


def dumps(value: Any) -> str:
    """Return minified JSON text, non-ASCII characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def members(value: dict[str, Any]) -> str:
    """Return the members of a JSON object without its braces, with a comma at the end."""
    return dumps(value)[1:-1] + ","
