"""The number that a text is, and the exact value of arithmetic: read, never evaluated."""

from __future__ import annotations

from fractions import Fraction

from grpo_rewards.rules.math import numbers
from grpo_rewards.rules.math.compare.canonical import canonical
from grpo_rewards.rules.math.latex.parser import parse_math
from grpo_rewards.rules.math.latex.tree import Term, names
from grpo_rewards.rules.math.normalise import normalised
from grpo_rewards.rules.rule import RowKernel, Rule, rule


def number(text: str) -> Fraction | None:
    """The number that a text is, exactly; None where it is none.

    >>> print(number("1,234.50"), number("50%"), number("5 cm"), number("x"))
    2469/2 1/2 5 None
    """
    return numbers.exact(normalised(text))


def eval_arith(text: str) -> Fraction | None:
    r"""The value of arithmetic on numbers, exactly; None for anything else.

    `+ - * / ^ !`, brackets, fractions, percentages, roots that come out even; no names. What grows
    past the bounds of limits.py has no value.

    >>> print(eval_arith("(3 + 5) * 2 / 4"), eval_arith(r"\frac{1}{2} + \sqrt{4}"))
    4 5/2
    >>> eval_arith("9^9^9^9"), eval_arith("x + 1"), eval_arith("1/0")
    (None, None, None)
    """
    tree = parse_math(normalised(text))
    if not isinstance(tree, Term) or names(tree):
        return None
    form = canonical(tree)
    if form.op != "num":
        return None
    value: Fraction = form.args[0]
    return value


RULES: tuple[Rule, ...] = (
    rule("math.eval_arith(text: text) -> num?", RowKernel(eval_arith),
         "The exact value of an arithmetic expression: + - * / ** and brackets over numbers.",
         cost=2, example='math.eval_arith("(1 + 2) * 3 / 4")'),
    rule("math.number(text: text) -> num?", RowKernel(number),
         "The number that a text is: 1,234, -1/2, 2 1/2, 50%, $18, 1e3.",
         example='math.number("1,234.50")'),
)  # fmt: skip
