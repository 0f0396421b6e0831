"""LaTeX and plain algebra, mixed → a small tree → SymPy by constructors. Text is never evaluated.

The tree is nested tuples: ("num", "1/2"), ("sym", "x"), ("add", a, b), ("pow", a, b), …
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from grpo_rewards.limits import MAX_EXPONENT, MAX_MATH_CHARS, MAX_MATH_DEPTH, MAX_MATH_TOKENS
from grpo_rewards.rules.decimals import exact

Tree = tuple[Any, ...]

_TOKEN = re.compile(r"\s*(\\[A-Za-z]+|\\.|\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+|\*\*|[^\s])")
_SPACING = re.compile(r"\\(?:left|right|,|;|!|:|quad|qquad|displaystyle|big|Big)(?![A-Za-z])|~")
_UNICODE = {"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "π": "\\pi", "√": "\\sqrt", "∞": "\\infty",
            "²": "^2", "³": "^3", "½": "(1/2)", "≤": "\\le", "≥": "\\ge"}  # fmt: skip
_FUNCTIONS = {"sin", "cos", "tan", "log", "ln", "exp", "sqrt"}
_CONSTANTS = {"\\pi": "pi", "pi": "pi", "e": "E", "\\infty": "oo", "i": "I"}


class Unreadable(Exception):
    """The text is no expression that this reader knows."""


def parse(text: str) -> Tree | None:
    r"""The tree of an expression; None where it is none, or too large to read.

    >>> parse(r"\frac{x}{2} + 1")
    ('add', ('div', ('sym', 'x'), ('num', '2')), ('num', '1'))
    """
    for char, plain in _UNICODE.items():
        text = text.replace(char, plain)
    text = _SPACING.sub(" ", text.strip().strip("$")).strip().rstrip(".")
    if not text or len(text) > MAX_MATH_CHARS or re.search(r"(?<!\\)\b[A-Za-z]{5,}", text):
        return None  # words are no algebra
    tokens = _TOKEN.findall(text)
    if len(tokens) > MAX_MATH_TOKENS:
        return None
    reader = _Reader(tokens)
    try:
        tree = reader.sum(0)
    except Unreadable:
        return None
    return tree if reader.at == len(tokens) else None


class _Reader:
    """Recursive descent, a bounded number of levels deep."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.next
        if not token or (wanted and token != wanted):
            raise Unreadable
        self.at += 1
        return token

    def sum(self, depth: int) -> Tree:
        if depth > MAX_MATH_DEPTH:
            raise Unreadable
        left = self.product(depth)
        while self.next in ("+", "-"):
            op = "add" if self.take() == "+" else "sub"
            left = (op, left, self.product(depth))
        return left

    def product(self, depth: int) -> Tree:
        left = self.signed(depth)
        while True:
            if self.next in ("*", "/", "\\cdot", "\\times", "\\div"):
                op = "div" if self.take() in ("/", "\\div") else "mul"
                left = (op, left, self.signed(depth))
            elif self._starts_factor():
                left = ("mul", left, self.power(depth))
            else:
                return left

    def _starts_factor(self) -> bool:
        token = self.next
        return bool(token) and (token in "({" or token[0].isalnum() or token in _OPENERS)

    def signed(self, depth: int) -> Tree:
        signs = 0
        while self.next in ("+", "-"):
            signs += self.take() == "-"
        value = self.power(depth)
        return ("neg", value) if signs % 2 else value

    def power(self, depth: int) -> Tree:
        base = self.atom(depth)
        while self.next == "!":
            self.take()
            base = ("fac", base)
        if self.next in ("^", "**"):
            self.take()
            exponent = self.signed(depth + 1) if self.next == "-" else self.group(depth)
            return ("pow", base, exponent)
        return base

    def group(self, depth: int) -> Tree:
        """`{…}`, or the one atom that LaTeX takes without braces."""
        if depth > MAX_MATH_DEPTH:
            raise Unreadable
        if self.next == "{":
            self.take()
            value = self.sum(depth + 1)
            self.take("}")
            return value
        return self.power(depth + 1)

    def atom(self, depth: int) -> Tree:
        token = self.take()
        if token in "({[":
            value = self.sum(depth + 1)
            self.take({"(": ")", "{": "}", "[": "]"}[token])
            return value
        if token[0].isdigit() or token[0] == ".":
            number = exact(token)
            if number is None:
                raise Unreadable
            return ("num", str(number))
        name = token.lstrip("\\")
        if token in ("\\frac", "\\dfrac", "\\tfrac", "\\cfrac"):
            return ("div", self.group(depth + 1), self.group(depth + 1))
        if name == "sqrt":
            return self._root(depth)
        if name in _FUNCTIONS and token.startswith("\\"):
            return ("fun", name, self.group(depth + 1))
        if token in _CONSTANTS:
            return ("const", _CONSTANTS[token])
        if token.isalpha() and token.isascii():
            return self._word(token, depth)
        if token in _GREEK:
            return ("sym", name)
        raise Unreadable

    def _word(self, letter: str, depth: int) -> Tree:
        """Letters are one token each: look for a function's name, else a symbol."""
        for name in sorted(_FUNCTIONS, key=len, reverse=True):
            rest = self.tokens[self.at : self.at + len(name) - 1]
            if letter + "".join(rest) == name and all(len(t) == 1 for t in rest):
                self.at += len(name) - 1
                if name == "sqrt":
                    return self._root(depth)
                return ("fun", name, self.group(depth + 1))
        return ("sym", letter)

    def _root(self, depth: int) -> Tree:
        index: Tree = ("num", "2")
        if self.next == "[":
            self.take()
            index = self.sum(depth + 1)
            self.take("]")
        return ("pow", self.group(depth + 1), ("div", ("num", "1"), index))


_GREEK = {
    f"\\{name}" for name in ("alpha", "beta", "gamma", "theta", "lambda", "mu", "phi", "omega")
}
_OPENERS = {"\\frac", "\\dfrac", "\\tfrac", "\\cfrac", "\\sqrt", "\\pi", *_GREEK} | {
    f"\\{name}" for name in _FUNCTIONS
}


def to_sympy(tree: Tree) -> Any:
    """The SymPy expression of a tree, by constructors; Unreadable where a power would explode."""
    import sympy

    head, *args = tree
    if head == "num":
        number = Fraction(args[0])
        return sympy.Rational(number.numerator, number.denominator)
    if head == "sym":
        return sympy.Symbol(args[0])
    if head == "const":
        return {"pi": sympy.pi, "E": sympy.E, "oo": sympy.oo, "I": sympy.I}[args[0]]
    if head == "fun":
        functions = {"sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "exp": sympy.exp}
        return functions.get(args[0], sympy.log)(to_sympy(args[1]))
    values = [to_sympy(arg) for arg in args]
    if head == "pow":
        exponent = values[1]
        if exponent.is_number and not abs(exponent) <= MAX_EXPONENT:
            raise Unreadable
        return sympy.Pow(*values)
    if head == "fac":
        if not (values[0].is_Integer and 0 <= values[0] <= MAX_EXPONENT):
            raise Unreadable
        return sympy.factorial(values[0])
    if head == "div" and values[1] == 0:
        raise Unreadable
    if head == "neg":
        return -values[0]
    left, right = values
    return (
        {"add": left + right, "sub": left - right, "mul": left * right}.get(head)
        if (head != "div")
        else left / right
    )
