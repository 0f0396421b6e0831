"""Two trees: the same answer or not. Shapes are matched part by part, values by number.

Symmetric by construction: every rule for one order of kinds is tried in the other order too.
One class, because its methods call each other: a set holds intervals, an interval expressions.
"""

from __future__ import annotations

import enum
from fractions import Fraction
from typing import Final, Literal, NamedTuple

from grpo_rewards import limits
from grpo_rewards.rules.math import units
from grpo_rewards.rules.math.compare import sampling
from grpo_rewards.rules.math.compare.canonical import canonical
from grpo_rewards.rules.math.compare.intervals import merged
from grpo_rewards.rules.math.compare.matrices import evaluated
from grpo_rewards.rules.math.compare.pairing import (
    agreed,
    counted,
    letters,
    without_constant,
    without_denominators,
)
from grpo_rewards.rules.math.compare.shapes import (
    as_union,
    both_bounds,
    collapsed,
    inequalities_as_union,
    interval_of,
    items_of,
    members,
    named_items,
    named_value,
    oriented,
    side_names,
    union_parts,
)
from grpo_rewards.rules.math.compare.unit_notes import DEGREE, without_units
from grpo_rewards.rules.math.latex.tree import (
    CONSTANTS,
    Term,
    function_names,
    names,
    negated,
    num,
    ops,
    size,
)
from grpo_rewards.rules.math.numbers import stands_for


class EqualityOptions(NamedTuple):
    """What counts as equal beyond equality; see `equality.equal`."""

    units: Literal["lenient", "strict", "ignore"] = "lenient"
    decimals: float | None = None
    rtol: float | None = None
    figures: int = 6
    evaluate: bool = False
    positive: bool = False

    @property
    def exact(self) -> bool:
        """Whether no tolerance was asked for."""
        return self.decimals is None and self.rtol is None

    def near(self, answer: Fraction, gold: Fraction) -> bool:
        """Whether two numbers agree within the tolerance that was asked for."""
        gap = abs(answer - gold)
        if self.decimals is not None and 2 * gap * Fraction(10) ** int(self.decimals) <= 1:
            return True
        return self.rtol is not None and gap <= Fraction(self.rtol) * abs(gold)


class Rung(enum.Enum):
    """What was found, and how."""

    TREE = "the same tree"
    VALUE = "the same value"
    SHAPE = "another kind"
    DIFFERENT = "another value"
    UNEVALUATED = "not evaluated"
    UNIT = "another unit"
    TOO_LARGE = "too large"
    PASS = "pass"

    @property
    def yes(self) -> bool:
        return self in (Rung.TREE, Rung.VALUE)


_NUMERIC: Final = {
    sampling.Answer.SAME: Rung.VALUE,
    sampling.Answer.DIFFERENT: Rung.DIFFERENT,
    sampling.Answer.POSITIVE: Rung.DIFFERENT,
    sampling.Answer.PASS: Rung.PASS,
    sampling.Answer.TOO_LARGE: Rung.TOO_LARGE,
}
_COLLECTIONS: Final = frozenset({"list", "set"})
_SETS: Final = frozenset({"cup", "cap", "setminus"})
_PLAIN: Final = frozenset({"text", "base", "domain", "cases", "dots"})


def compare_terms(answer: Term, gold: Term, options: EqualityOptions) -> Rung:
    """The rung that settles it, or PASS."""
    if canonical(answer) == canonical(gold):
        return Rung.TREE
    left, unit_left = without_units(answer)
    right, unit_right = without_units(gold)
    if options.units != "ignore" and not _units_fit(unit_left, unit_right, options):
        return Rung.UNIT
    if options.units == "lenient" and unit_left and unit_right and unit_left != unit_right:
        left, right = _scaled(left, unit_left), _scaled(right, unit_right)
    rung = _Comparison(options).same(evaluated(left), evaluated(right))
    if rung is Rung.DIFFERENT and (unit_left is None) != (unit_right is None):
        rung = _in_radians(left, right, unit_left, unit_right, options)
    if rung is Rung.PASS and size(answer) + size(gold) > limits.MAX_SYMPY_NODES:
        return Rung.TOO_LARGE
    return rung


def _units_fit(left: units.Unit | None, right: units.Unit | None, options: EqualityOptions) -> bool:
    if left is None or right is None:
        return options.units == "lenient" or (right is None)
    return units.fit(left, right)


def _scaled(node: Term, unit: units.Unit) -> Term:
    if unit.factor == 1 or not sampling.has_value(node):
        return node
    return Term("mul", (num(unit.factor), node))


def _in_radians(
    left: Term, right: Term, unit_left: units.Unit | None, unit_right: units.Unit | None,
    options: EqualityOptions,
) -> Rung:  # fmt: skip
    """`45^\\circ` and `\\frac{\\pi}{4}`: degrees against a multiple of pi without a unit."""
    in_degrees, other = (left, right) if unit_left is not None else (right, left)
    if (unit_left or unit_right) != DEGREE or Term("sym", ("pi",)) not in _parts(other):
        return Rung.DIFFERENT
    if not (sampling.has_value(in_degrees) and sampling.has_value(other)):
        return Rung.DIFFERENT
    turned = Term("mul", (in_degrees, Term("div", (Term("sym", ("pi",)), num(180)))))
    return _Comparison(options).same(turned, other)


def _parts(node: Term) -> tuple[Term, ...]:
    inner = [part for child in node.args if isinstance(child, Term) for part in _parts(child)]
    return (node, *inner)


class _Comparison:
    """One comparison; `budget` counts the pairs that may still be looked at."""

    def __init__(self, options: EqualityOptions) -> None:
        self.options = options
        self.budget = limits.MAX_PAIRS

    def same(self, a: Term, b: Term) -> Rung:
        """Whether two trees are the same answer."""
        self.budget -= 1
        if self.budget < 0:
            return Rung.TOO_LARGE
        if canonical(a) == canonical(b):
            return Rung.TREE
        a, b = agreed(as_union(collapsed(a)), as_union(collapsed(b)))
        if a.op == "mul" or b.op == "mul":
            a, b = counted(a, b), counted(b, a)
        if a.op == "rel" or b.op == "rel":
            return self.relations(a, b)
        if a.op in _SETS or b.op in _SETS:
            sets = merged(a), merged(b)
            if sets[0] is not None and sets[1] is not None:
                return self.all_same(sets[0].args, sets[1].args)
        if a.op in _COLLECTIONS or b.op in _COLLECTIONS or "pm" in (ops(a) | ops(b)):
            return self.collections(a, b)
        if a.op == "tuple" or b.op == "tuple":
            return self.tuples(a, b)
        if a.op == "matrix" or b.op == "matrix":
            return self.matrices(a, b)
        if a.op in _SETS or b.op in _SETS:
            return self.unions(a, b)
        if a.op in _PLAIN or b.op in _PLAIN:
            return self.plain(a, b)
        if a.op == "ratio" or b.op == "ratio":
            return self.ratios(a, b)
        return self.scalars(a, b)

    # -- numbers and expressions ------------------------------------------------------------

    def scalars(self, a: Term, b: Term) -> Rung:
        big_a, big_b = "big" in ops(a), "big" in ops(b)
        if "text" in (ops(a) | ops(b)):
            return Rung.SHAPE
        if big_a != big_b and not self.options.evaluate:
            return Rung.UNEVALUATED
        if "inf" in (ops(a) | ops(b)):
            return Rung.DIFFERENT if not (big_a or big_b) else Rung.PASS
        if a.op == "percent" or b.op == "percent":
            return self.percents(a, b)
        rung = self.values(a, b)
        if rung is Rung.DIFFERENT and self.rounded(a, b):
            return Rung.VALUE
        if rung is Rung.DIFFERENT and (bare := without_constant(a, b)) is not None:
            return self.scalars(*bare)
        return rung

    def percents(self, a: Term, b: Term) -> Rung:
        rung = self.values(a, b)
        if not rung.yes and (a.op == "percent") != (b.op == "percent"):
            bare = [x.args[0] if x.op == "percent" else x for x in (a, b)]
            return self.values(bare[0], bare[1])
        return rung

    def values(self, a: Term, b: Term) -> Rung:
        a, b = canonical(a), canonical(b)
        if a.op == "num" and b.op == "num":
            return Rung.VALUE if a.args[0] == b.args[0] else Rung.DIFFERENT
        found = sampling.compare_values(a, b)
        if found is sampling.Answer.POSITIVE and self.options.positive:
            return Rung.VALUE
        if found is sampling.Answer.DIFFERENT and self._mixes_logs(a, b):
            found = sampling.compare_values(a, b, natural_log=True)
        return _NUMERIC[found]

    def _mixes_logs(self, a: Term, b: Term) -> bool:
        """`\\log` may be natural where neither side, or the same side, writes `\\ln` too."""
        log_a, log_b = function_names(a), function_names(b)
        if "log" not in log_a | log_b:
            return False
        return not (("ln" in log_a and "log" in log_b) or ("ln" in log_b and "log" in log_a))

    def rounded(self, a: Term, b: Term) -> bool:
        """Whether one is a decimal to which the other rounds, or both are near by the options."""
        value_a, value_b = sampling.real(canonical(a)), sampling.real(canonical(b))
        if value_a is None or value_b is None:
            return False
        places = [x.args[1] if x.op == "num" else None for x in (a, b)]
        if places[0] is not None and (places[1] is None or places[0] < places[1]):
            stands = self._stands_for(a, value_b)  # the shorter decimal may stand for the longer
        else:
            stands = places[0] != places[1] and self._stands_for(b, value_a)
        if stands:
            return True
        return self.options.near(value_a, value_b)

    def _stands_for(self, node: Term, value: Fraction) -> bool:
        if node.op != "num" or node.args[1] is None:
            return False
        shown: Fraction = node.args[0]
        places: int = node.args[1]
        figures = len(str(abs(shown.numerator * 10 ** max(places, 0) // shown.denominator)))
        return figures >= self.options.figures and stands_for(shown, places, figures, value)

    # -- parts ------------------------------------------------------------------------------

    def all_same(self, left: tuple[Term, ...], right: tuple[Term, ...]) -> Rung:
        """Part by part, in order."""
        if len(left) != len(right):
            return Rung.SHAPE
        worst = Rung.TREE
        for a, b in zip(left, right, strict=True):
            rung = self.same(a, b)
            if not rung.yes and rung is not Rung.PASS:
                return rung
            worst = rung if rung is Rung.PASS or worst is Rung.TREE else worst
        return worst

    def any_order(self, left: tuple[Term, ...], right: tuple[Term, ...]) -> Rung:
        """Part by part, in any order."""
        if len(left) != len(right):
            return Rung.SHAPE
        rest = list(right)
        open_: list[Term] = []
        forms = [canonical(b) for b in rest]
        for a in left:
            form = canonical(a)
            if form in forms:
                at = forms.index(form)
                del forms[at], rest[at]
            else:
                open_.append(a)
        worst = Rung.TREE
        for a in open_:
            for at, b in enumerate(rest):
                rung = self.same(a, b)
                if rung.yes:
                    del rest[at]
                    worst = Rung.VALUE
                    break
                if rung is Rung.TOO_LARGE:
                    return rung
            else:
                return Rung.DIFFERENT
        return worst

    def collections(self, a: Term, b: Term) -> Rung:
        named_a, named_b = named_items(a), named_items(b)
        if named_a is not None and named_b is not None and named_a.keys() == named_b.keys():
            return self.all_same(tuple(named_a.values()), tuple(named_b[key] for key in named_a))
        between = both_bounds(a.args) if a.op == "list" else None
        other = both_bounds(b.args) if b.op == "list" else None
        if between is not None or other is not None:
            return self.same(between or a, other or b)
        if {a.op, b.op} == {"list", "mul"} and letters(a) == letters(b) != ():
            return Rung.VALUE  # several choices: `A, C` and `AC`
        if {a.op, b.op} == {"list", "cup"}:
            listed, cup = (a, b) if a.op == "list" else (b, a)
            union = inequalities_as_union(listed.args)
            return Rung.SHAPE if union is None else self.unions(union, cup)
        left, right = items_of(a), items_of(b)
        if a.op == "tuple" or b.op == "tuple":
            other = b if a.op == "tuple" else a
            bracketed = a if a.op == "tuple" else b
            if other.op == "set" and bracketed.args[:2] == ("[", "]") and len(bracketed.args) > 4:
                return self.collections(other, Term("list", members(bracketed)))
            if other.op == "list" and "pm" not in ops(other):
                one, two = (members(x) if x.op == "tuple" else items_of(x) for x in (a, b))
                return self.all_same(one, two) if a.op != b.op and len(one) > 1 else Rung.SHAPE
            return Rung.SHAPE
        if (a.op == "set" and b.op == "set") or {a.op, b.op} == {"set", "list"}:
            left, right = _distinct(left), _distinct(right)
        if len(left) == 1 and len(right) == 1 and a.op != "pm" and b.op != "pm":
            return self.same(left[0], right[0]) if (a, b) != (left[0], right[0]) else Rung.SHAPE
        return self.any_order(left, right)

    def tuples(self, a: Term, b: Term) -> Rung:
        if a.op == "tuple" and b.op == "tuple":
            if a.args[:2] != b.args[:2]:
                return Rung.SHAPE
            return self.all_same(members(a), members(b))
        pair, other = (a, b) if a.op == "tuple" else (b, a)
        if other.op == "matrix":
            rows = [row.args for row in other.args]
            written = tuple(part.args[2:] for part in members(pair) if part.op == "tuple")
            if [len(part) for part in written] == [len(row) for row in rows]:
                return self.all_same(sum(written, ()), sum(rows, ()))
            flat = tuple(row[0] for row in rows) if len(rows[0]) == 1 else ()
            return self.all_same(members(pair), flat) if flat else Rung.SHAPE
        if other.op == "cup":
            return self.unions(a, b)
        if len(members(pair)) == 1 and pair.args[0] == "[":
            return self.same(members(pair)[0], other)
        return Rung.SHAPE

    def matrices(self, a: Term, b: Term) -> Rung:
        if a.op != "matrix" or b.op != "matrix":
            return Rung.SHAPE if sampling.has_value(a) or sampling.has_value(b) else Rung.PASS
        if len(a.args[0].args) != len(b.args[0].args):
            return Rung.SHAPE
        cells = [tuple(cell for row in m.args for cell in row.args) for m in (a, b)]
        return self.all_same(cells[0], cells[1])

    def unions(self, a: Term, b: Term) -> Rung:
        if a.op == b.op == "cup" or "cup" in (a.op, b.op):
            return self.any_order(union_parts(a), union_parts(b))
        if a.op == b.op == "cap":
            return self.any_order(a.args, b.args)
        if a.op == b.op:
            return self.all_same(a.args, b.args)
        return Rung.SHAPE

    def plain(self, a: Term, b: Term) -> Rung:
        if a.op == b.op == "text":
            same = a.args[0].casefold() == b.args[0].casefold()
            return Rung.TREE if same else Rung.DIFFERENT
        if a.op == b.op == "base":
            if a.args[1] != b.args[1]:
                return Rung.DIFFERENT
            return self.same(a.args[0], b.args[0])
        if a.op == b.op == "cases":
            return self.any_order(a.args, b.args)
        return Rung.SHAPE

    def ratios(self, a: Term, b: Term) -> Rung:
        left = a.args if a.op == "ratio" else _as_ratio(a)
        right = b.args if b.op == "ratio" else _as_ratio(b)
        if left is None or right is None or len(left) != len(right):
            return Rung.SHAPE
        worst = Rung.TREE
        for i in range(1, len(left)):
            rung = self.scalars(Term("mul", (left[0], right[i])), Term("mul", (right[0], left[i])))
            if not rung.yes:
                return rung
            worst = rung
        return worst

    # -- relations --------------------------------------------------------------------------

    def relations(self, a: Term, b: Term) -> Rung:
        if a.op == "rel" and b.op == "rel":
            return self.two_relations(a, b)
        rel, other = (a, b) if a.op == "rel" else (b, a)
        if rel.args[0] == ("in",):
            return self.same(rel.args[2], other)
        if rel.args[0] == ("=",):
            value = named_value(rel)
            return self.same(value, other) if value is not None else self.roots(rel, other)
        if other.op in _COLLECTIONS or "pm" in ops(other):
            return self.collections(a, b)
        interval = interval_of(rel)
        if interval is not None and other.op in ("tuple", *_SETS):
            return self.same(interval, other)
        return Rung.SHAPE

    def roots(self, rel: Term, other: Term) -> Rung:
        """An equation against its solutions: only where these are given as a set."""
        variables = names(rel) - CONSTANTS
        if other.op == "set" and len(variables) == 1 and not names(other):
            return Rung.PASS
        return Rung.SHAPE

    def two_relations(self, a: Term, b: Term) -> Rung:
        if a.args[0] == ("in",) and b.args[0] == ("in",):
            return self.all_same(a.args[1:], b.args[1:])
        if a.args[0] == ("=",) and b.args[0] == ("=",):
            return self.equations(a, b)
        if ("=" in a.args[0]) != ("=" in b.args[0]):
            return Rung.SHAPE
        return self.inequalities(a, b)

    def equations(self, a: Term, b: Term) -> Rung:
        if canonical(a.args[1]) == canonical(b.args[1]) or side_names(a, b):
            rung = self.same(a.args[2], b.args[2])
            if rung.yes or not sampling.has_value(a.args[2]):
                return rung
        sides = [*a.args[1:], *b.args[1:]]
        if not all(sampling.has_value(side) for side in sides):
            value_a, value_b = named_value(a), named_value(b)
            if value_a is not None and value_b is not None and a.args[1] != b.args[1]:
                return Rung.DIFFERENT
            return Rung.SHAPE
        rung = self._ratio(a, b, positive=False)
        if rung.yes:
            return rung
        cleared = without_denominators(a, b)
        return rung if cleared is None else self._ratio(*cleared, positive=False)

    def _ratio(self, a: Term, b: Term, *, positive: bool) -> Rung:
        left = canonical(Term("add", (a.args[1], negated(a.args[2]))))
        right = canonical(Term("add", (b.args[1], negated(b.args[2]))))
        if left == right:
            return Rung.TREE
        return _NUMERIC[sampling.proportional(left, right, positive=positive)]

    def inequalities(self, a: Term, b: Term) -> Rung:
        one, two = oriented(a), oriented(b)
        if len(a.args) == len(b.args) == 3 and "in" not in a.args[0] + b.args[0]:
            if one is None or two is None:
                same_signs = a.args[0] == b.args[0]
                return self.all_same(a.args[1:], b.args[1:]) if same_signs else Rung.SHAPE
            if one.args[0] == two.args[0] and all(
                sampling.has_value(side) for side in one.args[1:] + two.args[1:]
            ):
                rung = self._ratio(one, two, positive=one.args[0] != ("!=",))
                if rung.yes:
                    return rung
        if one is not None and two is not None and one.args[0] == two.args[0]:
            rung = self.all_same(one.args[1:], two.args[1:])
            if rung.yes:
                return rung
        return self.as_intervals(a, b)

    def as_intervals(self, a: Term, b: Term) -> Rung:
        first = a.args[2] if a.args[0] == ("in",) else interval_of(a)
        second = b.args[2] if b.args[0] == ("in",) else interval_of(b)
        if first is None or second is None or names(a) != names(b):
            return Rung.DIFFERENT
        return self.same(first, second)


def _distinct(parts: tuple[Term, ...]) -> tuple[Term, ...]:
    return tuple({canonical(part): part for part in parts}.values())


def _as_ratio(node: Term) -> tuple[Term, ...] | None:
    if node.op == "div":
        return node.args
    return (node, num(1)) if node.op == "num" else None
