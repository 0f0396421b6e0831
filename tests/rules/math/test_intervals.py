"""Sets of reals in one form: the same numbers are in them, and equal sets have equal forms."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from grpo_rewards.rules.math.compare.intervals import merged
from grpo_rewards.rules.math.equality import decide
from grpo_rewards.rules.math.latex.tree import Term, num

ENDS = [Fraction(n, 2) for n in range(-4, 5)]
PROBES = [Fraction(n, 4) for n in range(-12, 13)]
INF = Term("inf", ())


def _interval() -> st.SearchStrategy[Term]:
    def build(low: int, high: int, left: str, right: str) -> Term:
        first, last = sorted((low, high + 1 if high >= low else high))
        return Term("tuple", (left, right, num(ENDS[first]), num(ENDS[last])))

    index = st.integers(0, len(ENDS) - 2)
    return st.builds(build, index, index, st.sampled_from("(["), st.sampled_from(")]")).filter(
        lambda node: node.args[2] != node.args[3]
    )


_POINTS = st.lists(st.sampled_from(ENDS), max_size=3).map(
    lambda values: Term("set", tuple(map(num, values)))
)
SETS = st.recursive(
    st.one_of(_interval(), _POINTS, st.just(Term("domain", ("R",)))),
    lambda inner: st.builds(
        lambda op, a, b: Term(op, (a, b)), st.sampled_from(["cup", "cap", "setminus"]), inner, inner
    ),
    max_leaves=6,
)


def _has(node: Term, x: Fraction) -> bool:
    match node.op:
        case "domain":
            return True
        case "set":
            return num(x) in node.args
        case "tuple":
            left, right, low, high = node.args
            below = low.op != "num" or low.args[0] < x or (low.args[0] == x and left == "[")
            above = high.op != "num" or high.args[0] > x or (high.args[0] == x and right == "]")
            return bool(below and above)
        case "list":
            return any(_has(part, x) for part in node.args)
    first, second = (_has(part, x) for part in node.args)
    return {"cup": first or second, "cap": first and second}.get(node.op, first and not second)


@given(SETS)
def test_the_same_numbers_are_in_it(node: Term) -> None:
    form = merged(node)
    assert form is not None
    assert [_has(form, x) for x in PROBES] == [_has(node, x) for x in PROBES]


@given(SETS, SETS)
def test_sets_of_the_same_numbers_have_one_form(a: Term, b: Term) -> None:
    same = [_has(a, x) for x in PROBES] == [_has(b, x) for x in PROBES]
    assert (merged(a) == merged(b)) == same


def test_ends_that_cannot_be_told_apart_are_left_alone() -> None:
    near = num(1 + Fraction(1, 10**15))
    node = Term("cup", (Term("tuple", ("[", "]", num(0), num(1))), Term("set", (near,))))
    assert merged(node) is None


def test_a_set_may_be_written_in_any_way() -> None:
    gold = r"(-\infty, -1] \cup (1, \infty)"
    for other in (r"\mathbb{R} \setminus (-1, 1]", r"(1, \infty) \cup (-\infty, -2] \cup (-3, -1]"):
        assert decide(other, gold).value is True
        assert decide(other.replace("-1", "-1.5"), gold).value is False
