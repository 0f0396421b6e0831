"""The last rung: SymPy. Objects are built by constructors from a tree, never from text.

Meant for a worker that can be killed; even so, what is obviously too large is refused first.
SymPy is imported inside the functions: `import grpo_rewards` does not pay for it.
"""

from __future__ import annotations

from typing import Any, Final

from grpo_rewards import limits
from grpo_rewards.rules.math.compare.canonical import rename
from grpo_rewards.rules.math.latex.tree import Term, names, negated, num, size


class NotAlgebra(Exception):
    """Internal: a part that has no counterpart in SymPy."""


_FUNCTIONS: Final = {
    **{name: name for name in "sin cos tan cot sec csc sinh cosh tanh coth sech csch".split()},
    **{"arc" + name: "a" + name for name in "sin cos tan cot sec csc sinh cosh tanh".split()},
    "ln": "log", "log": "log", "sign": "sign", "floor": "floor", "ceil": "ceiling", "re": "re",
    "im": "im", "conj": "conjugate", "factorial": "factorial", "factorial2": "factorial2",
    "binom": "binomial", "gcd": "gcd", "lcm": "lcm", "min": "Min", "max": "Max", "gamma": "gamma",
    "zeta": "zeta", "erf": "erf", "abs": "Abs", "arg": "arg", "norm": "Abs",
}  # fmt: skip


def to_sympy(node: Term) -> Any:
    """The SymPy object of an expression; raises NotAlgebra for what is none.

    >>> from grpo_rewards.rules.math.latex.parser import parse_math
    >>> to_sympy(parse_math(r"\\\\frac{x}{2} + \\\\sin y"))
    x/2 + sin(y)
    """
    import sympy

    args = node.args
    match node.op:
        case "num":
            return sympy.Rational(args[0].numerator, args[0].denominator)
        case "sym":
            constants = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}
            return constants.get(args[0]) or sympy.Symbol(args[0])
        case "inf":
            return sympy.oo
        case "add":
            return sympy.Add(*map(to_sympy, args))
        case "mul":
            return sympy.Mul(*map(to_sympy, args))
        case "div":
            return sympy.Mul(to_sympy(args[0]), sympy.Pow(to_sympy(args[1]), -1))
        case "pow":
            return _power(args[0], args[1])
        case "root":
            return sympy.root(to_sympy(args[0]), to_sympy(args[1]))
        case "percent":
            return sympy.Mul(to_sympy(args[0]), sympy.Rational(1, 100))
        case "fn":
            return _function(args)
        case "apply":
            return sympy.Function(args[0])(*map(to_sympy, args[1:]))
        case "big":
            return _big(*args)
    raise NotAlgebra(node.op)


def _power(base: Term, exponent: Term) -> Any:
    import sympy

    power = to_sympy(exponent)
    is_real = power.is_number and power.is_real is not False
    if is_real and abs(sympy.N(power, 5)) > limits.MAX_SYMPY_POWER:
        raise NotAlgebra("a large power")
    return sympy.Pow(to_sympy(base), power)


def _function(args: tuple[Any, ...]) -> Any:
    import sympy

    name, *given = args
    parts = [to_sympy(part) for part in given]
    if name == "logb" and len(parts) == 2:
        return sympy.log(parts[0], parts[1])
    if name not in _FUNCTIONS:
        raise NotAlgebra(name)
    if name.startswith(("factorial", "gamma", "binom")) and any(
        part.is_number and abs(part) > limits.MAX_FACTORIAL for part in parts
    ):
        raise NotAlgebra("a large factorial")
    return getattr(sympy, _FUNCTIONS[name])(*parts)


def _big(name: str, low: Term, high: Term, body: Term) -> Any:
    """Sums, products, integrals and limits, unevaluated."""
    import sympy

    if name in ("sum", "prod") and low.op == "rel" and low.args[0] == ("=",):
        if low.args[1].op != "sym":
            raise NotAlgebra("an index that is no name")
        make = sympy.Sum if name == "sum" else sympy.Product
        body = rename(body, low.args[1].args[0], "index_")  # `i` is no imaginary unit here
        bounds = (sympy.Symbol("index_", integer=True), to_sympy(low.args[2]), to_sympy(high))
        return make(to_sympy(body).subs(sympy.Symbol("index_"), bounds[0]), bounds)
    if name == "int":
        integrand, variable = _integrand(body)
        symbol = sympy.Symbol(variable)
        if low == num(0) and high == num(0):
            return sympy.Integral(to_sympy(integrand), symbol)
        return sympy.Integral(to_sympy(integrand), (symbol, to_sympy(low), to_sympy(high)))
    if name == "lim" and low.op == "rel" and low.args[0] == ("to",):
        return sympy.Limit(to_sympy(body), to_sympy(low.args[1]), to_sympy(low.args[2]), "+-")
    raise NotAlgebra(name)


def _integrand(body: Term) -> tuple[Term, str]:
    """`x^2 d x` as (x^2, "x"); `d x` alone as 1."""
    parts = body.args if body.op == "mul" else (body,)
    if len(parts) < 2 or parts[-2] != Term("sym", ("d",)) or parts[-1].op != "sym":
        raise NotAlgebra("an integral without its variable")
    rest = parts[:-2]
    if not rest:
        return num(1), parts[-1].args[0]
    return rest[0] if len(rest) == 1 else Term("mul", rest), parts[-1].args[0]


def same_by_algebra(left: Term, right: Term) -> bool | None:
    """Whether two trees are equal by algebra; None where SymPy cannot tell.

    >>> from grpo_rewards.rules.math.latex.parser import parse_math
    >>> same_by_algebra(parse_math(r"\\\\sum_{k=1}^{n} k"), parse_math("n(n+1)/2"))
    True
    """
    if size(left) + size(right) > limits.MAX_SYMPY_NODES:
        return None
    try:
        if left.op == "rel" or right.op == "rel":
            rel, other = (left, right) if left.op == "rel" else (right, left)
            return _solves(rel, other)
        return _zero(to_sympy(left), to_sympy(right))
    except (NotAlgebra, TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError,
            RecursionError):  # fmt: skip  # SymPy's ways to say that it cannot
        return None


def _zero(left: Any, right: Any) -> bool | None:
    import sympy

    left, right = left.doit(), right.doit()
    if not (left.is_finite is not False and right.is_finite is not False):
        return bool(left == right)
    difference = sympy.simplify(left - right)
    if difference == 0:
        return True
    found = difference.equals(0)
    return None if found is None else bool(found)


def _solves(rel: Term, other: Term) -> bool | None:
    """Whether a set holds all roots of a polynomial equation in one unknown."""
    import sympy

    variables = names(rel)
    if len(variables) != 1 or other.op != "set" or rel.args[0] != ("=",):
        return None
    symbol = sympy.Symbol(next(iter(variables)))
    left = to_sympy(Term("add", (rel.args[1], negated(rel.args[2]))))
    polynomial = sympy.Poly(sympy.fraction(sympy.together(left))[0], symbol)
    if polynomial.degree() > limits.MAX_DEGREE:
        return None
    roots = sympy.roots(polynomial)
    if sum(roots.values()) != polynomial.degree():
        return None
    given = [to_sympy(part) for part in other.args]
    real = [root for root in roots if root.is_real]
    for wanted in (list(roots), real):
        if len(wanted) == len(given) and all(
            any(sympy.simplify(root - value) == 0 for value in given) for root in wanted
        ):
            return True
    return False
