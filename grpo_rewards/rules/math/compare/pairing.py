"""What two trees mean beside each other: one meaning of what has several when it stands alone.

`C(5, 2)` is a binomial beside a number and a point beside a point; the constant of an integral has
any name; an equation may be cleared of its denominators. Each function takes both sides.
"""

from __future__ import annotations

from typing import Final

from grpo_rewards import limits
from grpo_rewards.rules.math.compare.canonical import canonical, rename
from grpo_rewards.rules.math.compare.shapes import collapsed, without_conditions
from grpo_rewards.rules.math.latex.tree import Term, names, negated, num, size, subterms


def agreed(a: Term, b: Term) -> tuple[Term, Term]:
    """Both without conditions on their parameters where those agree, or where one says none."""
    bare_a, over_a = without_conditions(a)
    bare_b, over_b = without_conditions(b)
    if len(over_a) == len(over_b) == 1 and _said(a) == _said(b):
        (name_a,), (name_b,) = over_a, over_b
        if name_a not in names(b) and name_b not in names(a):
            bare_b = rename(bare_b, name_b, name_a)
        return collapsed(bare_a), collapsed(bare_b)
    if bool(over_a) != bool(over_b):
        renamed = _any_integer(bare_a, over_a, bare_b, over_b)
        bare_a, bare_b = renamed or (bare_a, bare_b)
        if renamed:
            return collapsed(bare_a), collapsed(bare_b)
    if bool(over_a) != bool(over_b) and (over_a | over_b) <= names(a) & names(b):
        return collapsed(bare_a), collapsed(bare_b)
    return a, b


def _any_integer(
    a: Term, over_a: frozenset[str], b: Term, over_b: frozenset[str]
) -> tuple[Term, Term] | None:
    """`x = k \\pi, k \\in Z` beside `x = n \\pi`: the parameter under one name."""
    (name,) = over_a or over_b
    own, other = (a, b) if over_a else (b, a)
    more = names(other) - names(own)
    if len(over_a | over_b) != 1 or len(more) != 1 or not more <= _INTEGERS or name in names(other):
        return None
    (free,) = more
    return (a, rename(b, free, name)) if over_a else (rename(a, free, name), b)


_INTEGERS: Final = frozenset("k n m l K N".split())


def _said(node: Term) -> tuple[Term, ...]:
    """The conditions of a list, whatever they are said of."""
    return tuple(canonical(Term("rel", (part.args[0], *part.args[2:]))) for part in node.args[1:])


def counted(node: Term, other: Term) -> Term:
    """`C(5, 2)` as a binomial beside a number or an expression; beside a point it is a point."""
    if node.op != "mul" or len(node.args) != 2:
        return node
    name, pair = node.args
    if other.op == "tuple":  # `P(2, -3)` names the point
        upper = name.op == "sym" and name.args[0].isupper() and pair.op == "tuple"
        return pair if upper else node
    if name.op == "sym" and name.args[0] in _COUNTS and pair.op == "tuple" and len(pair.args) == 4:
        return Term("fn", (_COUNTS[name.args[0]], *pair.args[2:]))
    return node


_COUNTS: Final = {"C": "binom", "P": "perm"}


def letters(node: Term) -> tuple[str, ...]:
    """The choices of `A, C` or `AC`; none where anything else stands there."""
    found = [part.args[0] for part in node.args if isinstance(part, Term) and part.op == "sym"]
    choices = len(found) == len(node.args) and all(n in "ABCDEFGHIJ" and len(n) == 1 for n in found)
    return tuple(sorted(found)) if choices else ()


_CONSTANTS_OF_INTEGRATION: Final = frozenset({"C", "c", "K", "C_1", "c_1"})


def without_constant(a: Term, b: Term) -> tuple[Term, Term] | None:
    """`x^2 + C` and `x^2 + c` without their constants, where these differ in name only."""
    if a.op != "add" or b.op != "add":
        return None
    only_a, only_b = names(a) - names(b), names(b) - names(a)
    if len(only_a) != 1 or len(only_b) != 1 or not only_a | only_b <= _CONSTANTS_OF_INTEGRATION:
        return None
    bare = []
    for node, only in ((a, only_a), (b, only_b)):
        rest = [part for part in node.args if part != Term("sym", tuple(only))]
        if len(rest) != len(node.args) - 1 or any(names(part) & only for part in rest):
            return None
        bare.append(rest[0] if len(rest) == 1 else Term("add", tuple(rest)))
    return (bare[0], bare[1]) if names(bare[0]) else None


def without_denominators(a: Term, b: Term) -> tuple[Term, Term] | None:
    """Two equations cleared of the denominators that hold unknowns, `y = 1/x` as `y x = 1`; None
    where there are none, or where clearing them would make large trees.

    Like every comparison of values this holds wherever both sides have one.
    """
    sides = (*a.args[1:], *b.args[1:])
    if sum(map(size, sides)) > limits.MAX_CLEARED_NODES or max(map(_levels, sides)) > 3:
        return None
    if not any(names(_split(side)[1]) for side in sides):
        return None
    left, right = _cleared(a), _cleared(b)
    return (left, right) if _is_small(left) and _is_small(right) else None


def _levels(node: Term) -> int:
    """How deep divisions stand in divisions."""
    inverse = node.op == "pow" and node.args[1].op == "num" and node.args[1].args[0] < 0
    return int(node.op == "div" or inverse) + max(map(_levels, subterms(node)), default=0)


def _is_small(node: Term) -> bool:
    todo, seen = [node], 0
    while todo and seen <= 20 * limits.MAX_CLEARED_NODES:
        seen += 1
        todo.extend(subterms(todo.pop()))
    return not todo


def _cleared(rel: Term) -> Term:
    (top_a, bottom_a), (top_b, bottom_b) = map(_split, rel.args[1:])
    left, right = Term("mul", (top_a, bottom_b)), Term("mul", (top_b, bottom_a))
    return Term("rel", (("=",), left, right))


def _split(node: Term) -> tuple[Term, Term]:
    """An expression as a numerator over a denominator."""
    one = num(1)
    if node.op == "div":
        (top, under), (below, over) = _split(node.args[0]), _split(node.args[1])
        return Term("mul", (top, over)), Term("mul", (under, below))
    if node.op == "pow" and node.args[1].op == "num" and node.args[1].args[0] < 0:
        top, bottom = _split(node.args[0])
        power = negated(node.args[1])
        return Term("pow", (bottom, power)), Term("pow", (top, power))
    if node.op == "mul":
        pairs = [_split(part) for part in node.args]
        return Term("mul", tuple(p[0] for p in pairs)), Term("mul", tuple(p[1] for p in pairs))
    if node.op == "add":
        return _sum_split(node)
    return node, one


def _sum_split(node: Term) -> tuple[Term, Term]:
    pairs = [_split(part) for part in node.args]
    if not any(names(bottom) for _, bottom in pairs):
        return node, num(1)
    bottoms = tuple(dict.fromkeys(canonical(bottom) for _, bottom in pairs))
    terms = []
    for top, bottom in pairs:
        others = [b for b in bottoms if b != canonical(bottom)]
        terms.append(Term("mul", (top, *others)))
    return Term("add", tuple(terms)), Term("mul", bottoms)
