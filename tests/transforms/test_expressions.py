"""The prerequisite language: what is read out of a condition, and that nothing breaks it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etl.transforms import expressions
from etl.transforms.expressions import Reference


def places(text: str) -> list[tuple[str, int | None, bool, bool]]:
    """(uid, group, is alternative, negated) of every reference."""
    return [(one.uid, one.group_no, one.alternative, one.negated) for one in expressions.references(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("0", []),
        ("char>accesslevel >= 0", []),
        ("isVIP? || !isAccountInventoryLoaded?", []),
        ("$archetype == @Class_Brute || $archtype ne @Class_Tanker", []),
        ("Owned?(VetSprints) || auth>Preorder:BestBuy", []),
        ("ownPowerNum?(Epic) > 1", []),
        ("A.B.C", [("a.b.c", 0, False, False)]),
        ("!A.B.C", [("a.b.c", 0, False, True)]),
        ("!!A.B.C", [("a.b.c", 0, False, False)]),
        ("A.B && !C.D", [("a.b", 0, False, False), ("c.d", 0, False, True)]),
        ("A.B || C.D", [("a.b", 0, True, False), ("c.d", 1, True, False)]),
        (
            "A.A && B.B || C.C && D.D",
            [("a.a", 0, True, False), ("b.b", 0, True, False), ("c.c", 1, True, False), ("d.d", 1, True, False)],
        ),
        ("A.A && (B.B || C.C)", [("a.a", 0, False, False), ("b.b", 0, True, False), ("c.c", 1, True, False)]),
        ("!(A.A || B.B)", [("a.a", 0, False, True), ("b.b", 0, False, True)]),
        ("!(A.A && B.B)", [("a.a", 0, True, True), ("b.b", 1, True, True)]),
        ("A.A || isVIP?", [("a.a", 0, True, False)]),
        ("A.A && (char>accesslevel >= 0)", [("a.a", 0, False, False)]),
        ("(x == 1 || y == 2) && A.A", [("a.a", 0, False, False)]),
        ("source.ownPower?(A.B.C)", [("a.b.c", 0, False, False)]),
        ("5thColumn.Set.Power_1-b", [("5thcolumn.set.power_1-b", 0, False, False)]),
        ("Combat:_Training.Set", [("combat:_training.set", 0, False, False)]),
        ("1.5 > 0.5", []),
    ],
)
def test_references_of_conditions(text, expected):
    """Precedence, negation over parentheses, alternatives; what is no reference takes part without a row."""
    assert places(text) == expected


def test_a_sum_compared_with_a_number_needs_that_many():
    """Any two of three: one group of three mentions."""
    found = expressions.references("A.A + B.B.B + C.C > 1")

    assert [(one.uid, one.kind, one.group_no, one.min_count) for one in found] == [
        ("a.a", "powerset", 0, 2),
        ("b.b.b", "power", 0, 2),
        ("c.c", "powerset", 0, 2),
    ]


def test_too_many_alternatives_leave_the_groups_out():
    """64 groups are kept; 128 give the references alone."""
    pair = "(A.A || B.B)"

    assert {one.group_no for one in expressions.references(" && ".join([pair] * 6))} <= set(range(64))
    assert all(one.group_no is None for one in expressions.references(" && ".join([pair] * 7)))
    assert len(expressions.references(" && ".join([pair] * 7))) == 14


@pytest.mark.parametrize(
    "text", ["A.B.C ||", "(A.B.C", "A.B.C)", "A.B.C A.D.E", "&& A.B.C", "enttype target> A.B.C eq {"]
)
def test_a_text_outside_the_grammar_still_gives_its_references(text):
    """Nothing is rejected: the text stays in its column, and names are found."""
    found = expressions.references(text)

    assert found[0] == Reference(uid="a.b.c", kind="power", group_no=None, alternative=True)


def test_depth_is_bounded():
    """A thousand parentheses neither raise nor hide the name."""
    assert places("(" * 1000 + "A.B" + ")" * 1000) == [("a.b", None, True, False)]
    assert places("!" * 1001 + "A.B") == [("a.b", None, True, True)]


@given(st.text(alphabet="AB.c!&|()<>=+ 01$@?>,'\"", max_size=60) | st.text(max_size=60))
@example("A.B && ,")
@example("f(,)")
def test_nothing_raises(text):
    """Whatever the text, there is an answer."""
    for one in expressions.references(text):
        assert one.uid == one.uid.lower()
        assert one.kind in ("power", "powerset")


_NAMES = st.sampled_from(["A.A", "B.B.B", "C.C", "X.Y.Z"])
_TREES = st.recursive(
    _NAMES,
    lambda part: st.one_of(
        st.tuples(st.just("!"), part),
        st.tuples(part, st.sampled_from(["&&", "||"]), part),
    ),
    max_leaves=6,
)


def _written(tree) -> str:
    """The condition with every part in parentheses."""
    if isinstance(tree, str):
        return tree
    return f"!({_written(tree[1])})" if tree[0] == "!" else f"({_written(tree[0])}) {tree[1]} ({_written(tree[2])})"


def _holds(tree, owned) -> bool:
    if isinstance(tree, str):
        return tree.lower() in owned
    if tree[0] == "!":
        return not _holds(tree[1], owned)
    left, right = _holds(tree[0], owned), _holds(tree[2], owned)
    return left and right if tree[1] == "&&" else left or right


def _count(tree) -> int:
    return 1 if isinstance(tree, str) else sum(_count(part) for part in tree if part not in ("!", "&&", "||"))


@given(_TREES, st.sets(_NAMES.map(str.lower)))
def test_groups_mean_what_the_condition_means(tree, owned):
    """Where all mentions of a group hold the condition holds; and every mention has its row."""
    found = expressions.references(_written(tree))

    assert len(found) == _count(tree)
    if all(not one.alternative for one in found):
        assert _holds(tree, owned) == all((one.uid in owned) != one.negated for one in found)
