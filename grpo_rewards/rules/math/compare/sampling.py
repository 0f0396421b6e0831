"""Whether two expressions have the same value, by computing both at the same points to many digits.

Random points decide identities with certainty for practice (Schwartz, Zippel): analytic functions
that agree to 60 digits at five unrelated points are the same. Every step has a counted bound;
what has no value at a point (a pole), or no value at all (an integral), passes.
"""

from __future__ import annotations

import enum
import math
import threading
import zlib
from fractions import Fraction
from typing import Any, Final

from grpo_rewards import limits
from grpo_rewards.rules.math.latex.tree import Term, names, ops


class Answer(enum.Enum):
    """What the numbers say. POSITIVE: equal, but only where all variables are positive."""

    SAME = "same"
    DIFFERENT = "different"
    POSITIVE = "positive"
    PASS = "pass"
    TOO_LARGE = "too large"


class _NoValue(Exception):
    """At this point there is no number."""


class _TooLarge(Exception):
    """A counted bound was reached."""


_DIGITS: Final = (60, 150, 400)  # the later ones only where digits cancel
_LOCAL: Final = threading.local()
_OPAQUE: Final = frozenset(
    "text set list tuple matrix row rel ratio cases big domain dots pm cup cap setminus"
    " base".split()
)


def _context(digits: int) -> Any:
    """mpmath's functions at a fixed precision; one context a thread, for it holds state."""
    contexts: dict[int, Any] = getattr(_LOCAL, "contexts", {})
    if digits not in contexts:
        import mpmath

        contexts[digits] = mpmath.MPContext()
        contexts[digits].dps = digits
        _LOCAL.contexts = contexts
    return contexts[digits]


def has_value(node: Term) -> bool:
    """Whether every part is a number, a variable or a function of such."""
    return not ops(node) & _OPAQUE


def compare_values(left: Term, right: Term, *, natural_log: bool = False) -> Answer:
    """Whether two expressions are the same function of their variables.

    >>> from grpo_rewards.rules.math.latex.parser import parse_math
    >>> compare_values(parse_math("(x+1)^2"), parse_math("x^2+2x+1"))
    <Answer.SAME: 'same'>
    >>> compare_values(parse_math("2"), parse_math(r"\\sqrt 5"))
    <Answer.DIFFERENT: 'different'>
    """
    if not (has_value(left) and has_value(right)):
        return Answer.PASS
    variables = sorted(names(left) | names(right))
    if len(variables) > limits.MAX_VARIABLES:
        return Answer.PASS
    same_positive = same_negative = wrong = 0
    too_large = False
    for index in range(limits.SAMPLE_POINTS if variables else 1):
        try:
            verdict = _at_point(left, right, _point(variables, index), natural_log)
        except _TooLarge:
            too_large = True
            continue
        if verdict is None:
            continue
        if not verdict:
            if index in _NEGATIVE and same_positive >= 2:
                wrong += 1
                continue
            return Answer.DIFFERENT
        if index in _NEGATIVE:
            same_negative += 1
        else:
            same_positive += 1
    if wrong:
        return Answer.POSITIVE
    if too_large and same_positive + same_negative < 2:
        return Answer.TOO_LARGE
    if not variables:  # a constant without a value (`7/0`) equals nothing but itself
        return Answer.SAME if same_positive else Answer.DIFFERENT
    return Answer.SAME if same_positive + same_negative >= 2 else Answer.PASS


def proportional(left: Term, right: Term, *, positive: bool = False) -> Answer:
    """Whether `left` is a constant (positive) multiple of `right`: the same equation (inequality).

    >>> from grpo_rewards.rules.math.latex.parser import parse_math
    >>> proportional(parse_math("2x-4"), parse_math("x-2"))
    <Answer.SAME: 'same'>
    >>> proportional(parse_math("x-1"), parse_math("x-2"))
    <Answer.DIFFERENT: 'different'>
    """
    if not (has_value(left) and has_value(right)):
        return Answer.PASS
    variables = sorted(names(left) | names(right))
    if not variables or len(variables) > limits.MAX_VARIABLES:
        return Answer.PASS
    ratios: list[Any] = []
    ctx = _context(_DIGITS[0])
    for index in range(limits.SAMPLE_POINTS):
        point = _point(variables, index)
        try:
            a, _ = _Evaluation(_DIGITS[0], point, False).value(left)
            b, _ = _Evaluation(_DIGITS[0], point, False).value(right)
        except (_NoValue, _TooLarge):
            continue
        tiny = ctx.ldexp(1, -ctx.prec // 2)
        if abs(b) < tiny or abs(a) < tiny:
            return Answer.DIFFERENT
        ratios.append(a / b)
        if abs(ratios[-1] - ratios[0]) > abs(ratios[0]) * tiny:
            return Answer.DIFFERENT
    if len(ratios) < 3:
        return Answer.PASS
    if positive and (ctx.im(ratios[0]) != 0 or ctx.re(ratios[0]) <= 0):
        return Answer.DIFFERENT
    return Answer.SAME


def real(node: Term) -> Fraction | None:
    """The value of a constant to 60 digits, as a fraction; None where it is none or not real."""
    if node.op == "num":
        value: Fraction = node.args[0]
        return value
    if not has_value(node) or names(node):
        return None
    try:
        found, _ = _Evaluation(_DIGITS[0], {}, False).value(node)
    except (_NoValue, _TooLarge):
        return None
    ctx = _context(_DIGITS[0])
    # Of some 200 bits the last 50 may be rounding; a fraction of 3,000 bits is no answer.
    if abs(ctx.im(found)) > ctx.ldexp(1, -150) or abs(ctx.mag(found)) > 3_000:
        return None
    shift = 200
    return Fraction(int(ctx.nint(ctx.ldexp(ctx.re(found), shift))), 2**shift)


_NEGATIVE: Final = frozenset({3, 4, 5})  # points at which variables may be below 0


def _point(variables: list[str], index: int) -> dict[str, Fraction]:
    """Fixed rationals that no formula expects, by the variable's name and the index."""
    point: dict[str, Fraction] = {}
    # All numbers here are primes, so that hardly any two values stand in a simple ratio.
    for name in variables:
        seed = zlib.crc32(f"{index}:{name}".encode("utf-8", "surrogatepass"))
        value = Fraction(seed % 7919 + 401, 4057)
        if index == 2:
            value = Fraction(seed % 3001 + 7, 3109)  # between 0 and 1
        elif index in (1, 5):  # far out: `|x - 100|` is not `100 - x`
            value *= 1009
        negative = index == 3 or (index in (4, 5) and seed >> index & 1)
        point[name] = -value if negative else value
    return point


def _at_point(left: Term, right: Term, point: dict[str, Fraction], natural: bool) -> bool | None:
    """Same or different there; None where one of them has no value."""
    before: tuple[Any, Any] | None = None
    for digits in _DIGITS:
        try:
            a, lost_a = _Evaluation(digits, point, natural).value(left)
            b, lost_b = _Evaluation(digits, point, natural).value(right)
        except _NoValue:
            return None
        ctx = _context(digits)
        difference, scale = abs(a - b), max(abs(a), abs(b))
        if difference <= scale * ctx.ldexp(1, -ctx.prec // 2) and difference <= scale:
            if difference == 0 and scale == 0 and (lost_a or lost_b) and before is None:
                before = (a, b)
                continue  # zero after everything cancelled: look closer
            return True
        if before is not None:
            moved = abs(before[0] - a) + abs(before[1] - b)
            if moved * 1024 > difference and difference < ctx.ldexp(1, -ctx.prec // 3):
                return True  # what was left shrinks with the precision: it is zero
            if moved * 1024 < difference:
                return False
        elif max(lost_a, lost_b) < ctx.prec // 3 and difference > ctx.ldexp(1, -ctx.prec // 3):
            return False
        before = (a, b)
    return None


class _Evaluation:
    """One expression at one point; `lost` is how many bits cancelled in sums."""

    def __init__(self, digits: int, point: dict[str, Fraction], natural: bool) -> None:
        self.ctx = _context(digits)
        self.point = point
        self.natural = natural
        self.lost = 0
        self.in_angle = False

    def value(self, node: Term) -> tuple[Any, int]:
        """The number and the bits lost; raises _NoValue or _TooLarge."""
        try:
            result = self.of(node)
        except (ZeroDivisionError, ValueError, OverflowError, ArithmeticError):
            raise _NoValue from None
        if self.ctx.isnan(result) or self.ctx.isinf(result):
            raise _NoValue
        return result, self.lost

    def of(self, node: Term) -> Any:
        """The number of a node."""
        match node.op:
            case "num":
                return self.fraction(node.args[0])
            case "sym":
                return self.symbol(node.args[0])
            case "add":
                return self.add(node)
            case "mul":
                result = self.of(node.args[0])
                for part in node.args[1:]:
                    result = result * self.of(part)
                return result
            case "div":
                return self.of(node.args[0]) / self.of(node.args[1])
            case "pow":
                return self.power(self.of(node.args[0]), self.of(node.args[1]))
            case "root":
                return self.power(self.of(node.args[0]), 1 / self.of(node.args[1]))
            case "fn":
                return self.function(node)
            case "percent":
                return self.of(node.args[0]) / 100
            case "degrees":
                inner = self.of(node.args[0])
                return inner * self.ctx.pi / 180 if self.in_angle else inner
            case "note":
                return self.of(node.args[0])
            case "mod":
                return self.modulo(self.of(node.args[0]), self.of(node.args[1]))
            case "apply":
                return self.unknown(node)
            case _:
                raise _NoValue

    def fraction(self, value: Fraction) -> Any:
        if value.denominator == 1:
            return self.ctx.mpf(value.numerator)
        return self.ctx.mpf(value.numerator) / value.denominator

    def symbol(self, name: str) -> Any:
        if name == "pi":
            return +self.ctx.pi
        if name == "e":
            return +self.ctx.e
        if name == "i":
            return self.ctx.mpc(0, 1)
        if name == "deg":
            return self.ctx.pi / 180
        return self.fraction(self.point[name])

    def add(self, node: Term) -> Any:
        total, top = self.ctx.mpf(0), None
        for part in node.args:
            value = self.of(part)
            size = self.ctx.mag(value)
            top = size if top is None or size > top else top
            total = total + value
        if top is not None and self.ctx.isfinite(top):
            left = self.ctx.mag(total)
            lost = self.ctx.prec if not self.ctx.isfinite(left) else int(top) - int(left)
            self.lost = max(self.lost, lost)
        return total

    def power(self, base: Any, exponent: Any) -> Any:
        ctx = self.ctx
        if base == 0:
            if exponent == 0 or ctx.re(exponent) <= 0:
                raise _NoValue
            return ctx.mpf(0)
        if (
            abs(exponent) > 1
            and abs(exponent) * (1 + abs(ctx.mag(base))) > limits.MAX_MAGNITUDE_BITS
        ):
            raise _TooLarge
        return ctx.power(base, exponent)

    def modulo(self, left: Any, right: Any) -> Any:
        if abs(left) > 1e30 or not (self.ctx.isint(left) and self.ctx.isint(right)) or right == 0:
            raise _NoValue
        return left % right

    def unknown(self, node: Term) -> Any:
        """An unknown function: some fixed smooth function of its name and arguments."""
        name, *given = node.args
        seed = zlib.crc32(name.encode("utf-8", "surrogatepass"))
        total = self.ctx.mpf(seed % 997 + 3) / 331
        for place, part in enumerate(given):
            inner = self.of(part)
            if abs(inner) > 1e6:
                raise _NoValue
            total += self.ctx.sin(inner * (seed % 89 + 2 + place) / 97 + place + seed % 7)
        return total

    def function(self, node: Term) -> Any:
        name, *parts = node.args
        if name in _ANGLES:
            before, self.in_angle = self.in_angle, True
            given = [self.of(part) for part in parts]
            self.in_angle = before
        else:
            given = [self.of(part) for part in parts]
        if any(abs(x) > limits.MAX_ANGLE for x in given) and name in _ANGLES:
            raise _TooLarge
        evaluate = getattr(self, "fn_" + name, None)
        if evaluate is not None:
            return evaluate(*given) if len(given) in _ARITY.get(name, (1,)) else self._none()
        if name in _SIMPLE and len(given) == 1:
            return getattr(self.ctx, _SIMPLE[name])(given[0])
        raise _NoValue

    def _none(self) -> Any:
        raise _NoValue

    def fn_log(self, x: Any) -> Any:
        if x == 0:
            raise _NoValue
        return self.ctx.ln(x) if self.natural else self.ctx.ln(x) / self.ctx.ln(10)

    def fn_ln(self, x: Any) -> Any:
        if x == 0:
            raise _NoValue
        return self.ctx.ln(x)

    def fn_logb(self, x: Any, base: Any) -> Any:
        if x == 0 or base in (0, 1):
            raise _NoValue
        return self.ctx.ln(x) / self.ctx.ln(base)

    def fn_sqrt(self, x: Any) -> Any:
        return self.ctx.sqrt(x)

    def fn_abs(self, x: Any) -> Any:
        return abs(x)

    def fn_norm(self, x: Any) -> Any:
        return abs(x)

    def fn_floor(self, x: Any) -> Any:
        return self.ctx.floor(x)

    def fn_ceil(self, x: Any) -> Any:
        return self.ctx.ceil(x)

    def fn_factorial(self, x: Any) -> Any:
        self._bounded(x)
        return self.ctx.gamma(x + 1)

    def fn_gamma(self, x: Any) -> Any:
        self._bounded(x)
        return self.ctx.gamma(x)

    def fn_factorial2(self, x: Any) -> Any:
        self._bounded(x)
        return self.ctx.fac2(x)

    def fn_zeta(self, x: Any) -> Any:
        if abs(x) > limits.MAX_ZETA or abs(x - 1) < 1e-6:  # its pole is at 1
            raise _NoValue
        return self.ctx.zeta(x)

    def fn_binom(self, n: Any, k: Any) -> Any:
        self._bounded(n)
        self._bounded(k)
        return self.ctx.binomial(n, k)

    def fn_perm(self, n: Any, k: Any) -> Any:
        self._bounded(n)
        return self.ctx.gamma(n + 1) / self.ctx.gamma(n - k + 1)

    def fn_cis(self, x: Any) -> Any:
        return self.ctx.expj(x)

    def fn_min(self, *given: Any) -> Any:
        return min(given, key=self.ctx.re)

    def fn_max(self, *given: Any) -> Any:
        return max(given, key=self.ctx.re)

    def fn_gcd(self, *given: Any) -> Any:
        return self.ctx.mpf(math.gcd(*self._whole(given)))

    def fn_lcm(self, *given: Any) -> Any:
        return self.ctx.mpf(math.lcm(*self._whole(given)))

    def _whole(self, given: tuple[Any, ...]) -> list[int]:
        if any(abs(x) > 1e15 or not self.ctx.isint(x) for x in given):
            raise _NoValue
        return [int(x) for x in given]

    def _bounded(self, x: Any) -> None:
        if abs(x) > limits.MAX_GAMMA:
            raise _TooLarge


_ANGLES: Final = frozenset("sin cos tan cot sec csc sinh cosh tanh coth sech csch cis".split())
_ARITY: Final[dict[str, tuple[int, ...]]] = {
    "logb": (2,), "binom": (2,), "perm": (2,),
    **{name: tuple(range(1, 12)) for name in ("min", "max", "gcd", "lcm")},
}  # fmt: skip
_SIMPLE: Final[dict[str, str]] = {
    **{name: name for name in "sin cos tan cot sec csc sinh cosh tanh coth sech csch".split()},
    **{"arc" + n: "a" + n for n in "sin cos tan cot sec csc sinh cosh tanh coth sech csch".split()},
    "sign": "sign", "re": "re", "im": "im", "conj": "conj", "arg": "arg", "erf": "erf",
}  # fmt: skip
