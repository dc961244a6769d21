"""The prerequisite language: from the text of a condition to the powers and powersets it names.

The grammar is domain knowledge measured on the exports: ``||``, ``&&``, ``!``, parentheses, comparisons (``== != >= <=
> <``, ``eq``, ``ne``), sums, function calls ``name?(x)``, ``$variables``, ``@constants``, ``char>accesslevel``; a bare
``Category.Set.Power`` means owning that power and ``Category.Set`` owning any power of that set. ``&&`` binds tighter
than ``||``. The text stays the truth (powers.requires_expr); references are a lossy index of it, so nothing here ever
raises: a text that does not parse still gives its references, without groups.
"""

import functools
import re
from collections.abc import Callable

import msgspec

MAX_GROUPS = 64
"""A condition whose disjunctive form has more alternatives than this gives references without a group."""

MAX_DEPTH = 60
"""Parentheses and negations deeper than this are not parsed (the references are still found)."""

_TOKEN = re.compile(
    r"\|\||&&|[=!<>]=|[!()+*/,<>]"  # operators
    r"|\w+>[A-Za-z_][\w:.]*"  # a field of a context: char>accesslevel
    r"|[^\s|&=!<>()+*/,]+"  # names, numbers, variables, functions
    r"|\S"
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_COMPARISONS = {"==", "!=", ">=", "<=", ">", "<", "eq", "ne", "eq?", "ne?"}


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """One mention of a power or powerset in a condition.

    ``uid`` is lower case; ``kind`` is power, powerset, archetype or other. ``group_no`` numbers the alternatives of the
    disjunctive form from 0 and is the first one in which the mention stands; None where there is no such form.
    ``alternative`` says that the condition can hold without this mention (it is not in every group). ``negated`` says
    that the mention counts when it is *not* owned. ``min_count`` is how many of the mentions of a sum must hold.
    """

    uid: str
    kind: str
    group_no: int | None = 0
    alternative: bool = False
    negated: bool = False
    min_count: int = 1


_Groups = list[frozenset[int]]
"""A disjunctive form: alternatives, each the set of the mentions (by number) that must hold together."""


def is_reference(token: str) -> bool:
    """Return whether a token names a power or a powerset: two or more parts with dots between."""
    parts = token.split(".")
    return (
        len(parts) > 1
        and all(parts[:2])
        and token[0] not in "$@"
        and ">" not in token
        and not token.endswith("?")
        and not _NUMBER.fullmatch(token)
    )


def reference_kind(name: str) -> str:
    """Return what a dotted name names: "powerset" for Category.Set, "power" for more parts, else "other"."""
    dots = name.count(".")
    return "power" if dots > 1 else "powerset" if dots else "other"


@functools.lru_cache(maxsize=4096)
def references(text: str) -> tuple[Reference, ...]:
    """Return one reference per mention in ``text``, in the order of the text. Never raises.

    Conditions repeat (1,619 in December, 420 different), so the last few thousand answers are kept.
    """
    tokens: list[str] = _TOKEN.findall(text)
    if not any(is_reference(token) for token in tokens):
        return ()
    parser = _Parser(tokens)
    try:
        groups: _Groups | None = parser.parse()
    except _Unparsable:
        parser = _Parser(tokens)
        parser.mention_all()
        groups = None
    return tuple(_place(mention, number, groups) for number, mention in enumerate(parser.mentions))


def _place(mention: Reference, number: int, groups: _Groups | None) -> Reference:
    if groups is None:
        return msgspec.structs.replace(mention, group_no=None, alternative=True)
    standing = [position for position, group in enumerate(groups) if number in group]
    return msgspec.structs.replace(
        mention, group_no=standing[0] if standing else None, alternative=len(standing) < len(groups)
    )


class _Unparsable(Exception):
    """The text is outside the grammar, too deep, or expands to too many groups."""


class _Parser:
    """Recursive descent over the tokens; each method returns the disjunctive form of what it read."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.mentions: list[Reference] = []

    def parse(self) -> _Groups:
        groups = self._any(negated=False)
        if self.position < len(self.tokens):
            raise _Unparsable
        return groups

    def mention_all(self) -> None:
        """Record every reference without structure; a ``!`` directly before one negates it."""
        for before, token in zip(["", *self.tokens], self.tokens, strict=False):
            if is_reference(token):
                self._mention(token, negated=before == "!")

    def _peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self.position += 1
        return token

    def _any(self, negated: bool) -> _Groups:
        return self._chain("||", self._all, _both if negated else _either, negated)

    def _all(self, negated: bool) -> _Groups:
        return self._chain("&&", self._comparison, _either if negated else _both, negated)

    def _chain(
        self,
        operator: str,
        part: Callable[[bool], _Groups],
        join: Callable[[_Groups, _Groups], _Groups],
        negated: bool,
    ) -> _Groups:
        groups = part(negated)
        while self._peek() == operator:
            self._next()
            groups = join(groups, part(negated))
        return groups

    def _comparison(self, negated: bool) -> _Groups:
        """Read ``sum [op sum]``: "at least n of these" when a sum of mentions is compared with a number."""
        first = len(self.mentions)
        groups = self._sum(negated)
        operator = self._peek()
        if operator.lower() not in _COMPARISONS:
            return groups
        self._next()
        bound = self._peek()
        self._sum(negated)
        self._count(first, operator, bound)
        return [frozenset(range(first, len(self.mentions)))]

    def _count(self, first: int, operator: str, bound: str) -> None:
        if operator in (">", ">=") and bound.isdecimal() and len(bound) < 6:
            least = int(bound) + (operator == ">")
            self.mentions[first:] = [
                msgspec.structs.replace(mention, min_count=max(least, 1)) for mention in self.mentions[first:]
            ]

    def _sum(self, negated: bool) -> _Groups:
        groups = self._operand(negated)
        while self._peek() in ("+", "*", "/"):
            self._next()
            groups = _both(groups, self._operand(negated))
        return groups

    def _operand(self, negated: bool) -> _Groups:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Unparsable
        token = self._next()
        if token == "!":
            groups = self._operand(not negated)
        elif token == "(":
            groups = self._any(negated)
            self._expect(")")
        elif not token or token in (")", ",") or not (token[0].isalnum() or token[0] in "$@_-'"):
            raise _Unparsable
        elif self._peek() == "(":
            groups = self._call(negated)
        elif is_reference(token):
            groups = [frozenset((self._mention(token, negated),))]
        else:
            groups = [frozenset()]
        self.depth -= 1
        return groups

    def _call(self, negated: bool) -> _Groups:
        """Read the arguments of a function; mentions inside belong together."""
        self._next()
        groups: _Groups = [frozenset()]
        while self._peek() not in (")", ""):
            groups = _both(groups, self._any(negated))
            if self._peek() == ",":
                self._next()
        self._expect(")")
        return groups

    def _expect(self, token: str) -> None:
        if self._next() != token:
            raise _Unparsable

    def _mention(self, token: str, negated: bool) -> int:
        uid = token.lower()
        self.mentions.append(Reference(uid=uid, kind=reference_kind(uid), negated=negated))
        return len(self.mentions) - 1


def _either(left: _Groups, right: _Groups) -> _Groups:
    return _bounded(left + right)


def _both(left: _Groups, right: _Groups) -> _Groups:
    return _bounded([one | other for one in left for other in right])


def _bounded(groups: _Groups) -> _Groups:
    if len(groups) > MAX_GROUPS:
        raise _Unparsable
    return groups
