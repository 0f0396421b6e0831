"""Plain arithmetic: numbers, + - * / and brackets. Exact, linear; read, never evaluated.

Games such as Countdown pay for an expression that reaches a target with given numbers. Powers,
factorials, percentages, roots and mixed numbers would make numbers out of nothing, so none of them
is read here: `math.eval_arith` is for those.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from grpo_rewards.limits import MAX_SUM_CHARS, MAX_SUM_DIGITS
from grpo_rewards.rules.rule import RowKernel, Rule, rule

#: Other spellings of the four operators.
_SPELLINGS = {
    "×": "*", "·": "*", "∗": "*", "⋅": "*", r"\times": "*", r"\cdot": "*", "÷": "/", "∕": "/",
    r"\div": "/", "−": "-", "–": "-", r"\left(": "(", r"\right)": ")",
}  # fmt: skip
_TOKEN = re.compile(
    r"\s*(?:([0-9]+(?:\.[0-9]+)?)|(\\(?:times|cdot|div|left\(|right\))|[-+*/()×·∗⋅÷∕−–]))\s*"
)
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2, "neg": 3}


class Sum(NamedTuple):
    """An expression that was read: its exact value, and the numbers that it is written with."""

    value: Fraction
    numbers: tuple[Fraction, ...]


def read_sum(text: str) -> Sum | None:
    """A plain sum; None for anything else, and for a division by zero.

    >>> found = read_sum("(8 - 3) × 2 / 4")
    >>> print(found.value, *found.numbers)
    5/2 8 3 2 4
    >>> read_sum("3!"), read_sum("1 2"), read_sum("2 ** 3"), read_sum("(1"), read_sum("1 / (2 - 2)")
    (None, None, None, None, None)
    """
    tokens = _tokens(text)
    if tokens is None:
        return None
    values: list[Fraction] = []
    waiting: list[str] = []
    wants_value = True
    try:
        for token in tokens:
            if isinstance(token, Fraction):
                if not wants_value:
                    return None
                values.append(token)
                wants_value = False
            elif token == ")":
                if wants_value or not _close(values, waiting):
                    return None
            elif wants_value:
                if token not in "(-+":
                    return None
                if token != "+":
                    waiting.append("neg" if token == "-" else "(")
            elif token == "(":
                return None
            else:
                while waiting and _RANK.get(waiting[-1], 0) >= _RANK[token]:
                    _apply(values, waiting.pop())
                waiting.append(token)
                wants_value = True
        while not wants_value and waiting and waiting[-1] != "(":
            _apply(values, waiting.pop())
    except ZeroDivisionError:
        return None
    if wants_value or waiting:
        return None
    return Sum(values[0], tuple(token for token in tokens if isinstance(token, Fraction)))


def _tokens(text: str) -> list[Fraction | str] | None:
    if len(text) > MAX_SUM_CHARS:
        return None
    tokens: list[Fraction | str] = []
    pos = 0
    while pos < len(text):
        found = _TOKEN.match(text, pos)
        if not found:
            return None
        number, operator = found.groups()
        if number is not None and len(number) > MAX_SUM_DIGITS:
            return None
        tokens.append(Fraction(number) if number else _SPELLINGS.get(operator, operator))
        pos = found.end()
    return tokens


def _close(values: list[Fraction], waiting: list[str]) -> bool:
    """Work out a bracket; False where none was open."""
    while waiting and waiting[-1] != "(":
        _apply(values, waiting.pop())
    return bool(waiting) and waiting.pop() == "("


def _apply(values: list[Fraction], operator: str) -> None:
    right = values.pop()
    if operator == "neg":
        values.append(-right)
        return
    left = values.pop()
    match operator:
        case "+":
            values.append(left + right)
        case "-":
            values.append(left - right)
        case "*":
            values.append(left * right)
        case "/":
            values.append(left / right)


def value(text: str) -> Fraction | None:
    """The value of a plain sum, exactly.

    >>> print(value("25 * (3 + 1) - 2"))
    98
    """
    found = read_sum(text)
    return None if found is None else found.value


def uses(text: str, numbers: Sequence[float]) -> bool:
    """Whether a plain sum is written with exactly these numbers, each once.

    >>> uses("25 * (3 + 1)", [1, 3, 25]), uses("25 * 3 + 25", [25, 3]), uses("25", [25, 3])
    (True, False, False)
    """
    found = read_sum(text)
    if found is None:
        return False
    try:
        wanted = sorted(Fraction(number) for number in numbers)
    except (TypeError, ValueError, OverflowError):  # null, not a number, infinite
        return False
    return sorted(found.numbers) == wanted


RULES: tuple[Rule, ...] = (
    rule("math.eval_plain(text: text) -> num?", RowKernel(value),
         "The exact value of plain arithmetic, for games: + - * / and brackets, nothing else.",
         cost=2, example='math.eval_plain("25 * (3 + 1)")'),
    rule("math.uses(text: text, numbers: list[num]) -> bool", RowKernel(uses),
         "Whether plain arithmetic is written with exactly these numbers, each once.", cost=2),
)  # fmt: skip
