"""Expressions: the nodes that stand for a value of one column.

Every class holds the fields of a node and, in `_spell`, how it is written. Helper methods begin
with an underscore, because any other attribute of an expression builds an `Attr`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from grpo_rewards.syntax.tree.node import Node, Statement
from grpo_rewards.syntax.tree.spelling import (
    COMPARE,
    INFIX,
    NOT,
    PIPE,
    POSTFIX,
    SUM,
    TERNARY,
    UNARY,
    show_literal,
)


@dataclass(frozen=True, eq=False)
class Expr(Node):
    """A value of one column: a number, a truth, a text. Operators build larger expressions.

    `==` builds a comparison, as in pandas; `same` compares two expressions.
    """

    __array_ufunc__: ClassVar[None] = None  # numpy leaves the operators to us

    def __str__(self) -> str:
        return self._spell()[0]

    def _spell(self) -> tuple[str, int]:
        """The text, and how tightly its outermost construct binds (see `spelling`)."""
        raise NotImplementedError(f"{type(self).__name__} has no spelling")

    def __bool__(self) -> bool:
        raise TypeError(
            "an expression has no truth value before it is scored; use & | ~ instead of and/or/not,"
            " and gr.where(condition, a, b) instead of if/else"
        )

    def __add__(self, other: Any) -> Call:
        return call("+", self, other)

    def __radd__(self, other: Any) -> Call:
        return call("+", other, self)

    def __sub__(self, other: Any) -> Call:
        return call("-", self, other)

    def __rsub__(self, other: Any) -> Call:
        return call("-", other, self)

    def __mul__(self, other: Any) -> Call:
        return call("*", self, other)

    def __rmul__(self, other: Any) -> Call:
        return call("*", other, self)

    def __truediv__(self, other: Any) -> Call:
        return call("/", self, other)

    def __rtruediv__(self, other: Any) -> Call:
        return call("/", other, self)

    def __pow__(self, other: Any) -> Call:
        return call("**", self, other)

    def __rpow__(self, other: Any) -> Call:
        return call("**", other, self)

    def __neg__(self) -> Call:
        return call("neg", self)

    def __lt__(self, other: Any) -> Call:
        return call("<", self, other)

    def __le__(self, other: Any) -> Call:
        return call("<=", self, other)

    def __gt__(self, other: Any) -> Call:
        return call(">", self, other)

    def __ge__(self, other: Any) -> Call:
        return call(">=", self, other)

    def __eq__(self, other: Any) -> Call:  # type: ignore[override]  # builds, as in pandas
        return call("==", self, other)

    def __ne__(self, other: Any) -> Call:  # type: ignore[override]
        return call("!=", self, other)

    __hash__ = object.__hash__

    def __and__(self, other: Any) -> Call:
        return call("and", self, other)

    def __rand__(self, other: Any) -> Call:
        return call("and", other, self)

    def __or__(self, other: Any) -> Call:
        return call("or", self, other)

    def __ror__(self, other: Any) -> Call:
        return call("or", other, self)

    def __invert__(self) -> Call:
        return call("not", self)

    def fill(self, other: Any) -> Call:
        """This value, or the other where this one is null: `a ?? b`."""
        return call("??", self, other)

    def clamp(self, lo: Any, hi: Any) -> Call:
        """This number, kept between two others."""
        return call("clamp", self, lo, hi)

    def within(self, lo: Any, hi: Any) -> Call:
        """Whether this number lies between two others, ends included: `x in lo..hi`."""
        return call("within", self, lo, hi)

    def is_in(self, *choices: Any) -> Call:
        """Whether this value is one of the choices: `x in [a, b]`."""
        return Call("in", (self, ListExpr(tuple(map(as_expr, choices)))))

    def matches(self, pattern: str, flags: str = "") -> Call:
        """Whether a regular expression is found in this text: `x matches re"…"`."""
        return Call("matches", (self, Pattern(pattern, flags)))

    def __getattr__(self, name: str) -> Attr:
        if name.startswith("_"):
            raise AttributeError(name)
        return Attr(self, name)

    def __getitem__(self, index: Any) -> Index | Attr:
        """`match["answer"]` is `match.answer`; `match.step[0]` one of several captures."""
        return Attr(self, index) if isinstance(index, str) else Index(self, as_expr(index))

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("an expression cannot be iterated; it stands for a column, not a list")


@dataclass(frozen=True, eq=False)
class Const(Expr):
    """A number, truth, text or null written into the ruleset. `spelling` keeps `60k` as written."""

    value: float | int | bool | str | None
    spelling: str = field(default="", metadata={"style": True})

    def _spell(self) -> tuple[str, int]:
        text = self.spelling or show_literal(self.value)
        return text, UNARY if text.startswith("-") else POSTFIX


@dataclass(frozen=True, eq=False)
class Pattern(Expr):
    """`re"…"flags`: a regular expression of the linear-time engine (RE2 syntax)."""

    pattern: str
    flags: str = ""

    def _spell(self) -> tuple[str, int]:
        return f're"{self.pattern}"{self.flags}', POSTFIX


@dataclass(frozen=True, eq=False)
class Name(Expr):
    """An input, param, format, let or score, by name.

    In Python a name carries the statement that declares it, so that `gr.compile` can write the
    ruleset; in text the statement stands in the file.
    """

    id: str
    declares: Statement | None = field(default=None, metadata={"style": True})

    def _spell(self) -> tuple[str, int]:
        return self.id, POSTFIX


@dataclass(frozen=True, eq=False)
class Call(Expr):
    """A rule or operator applied to arguments; options are constants, given by name.

    In Python the call of a user's own rule carries the statement that declares it, as a Name does.
    """

    function: str
    args: tuple[Expr, ...]
    options: tuple[tuple[str, Expr], ...] = ()
    piped: bool = field(default=False, metadata={"style": True})
    declares: Statement | None = field(default=None, metadata={"style": True})

    def _spell(self) -> tuple[str, int]:
        args = self.args
        if self.function in INFIX:
            own, left, right = INFIX[self.function]
            text = f"{show_expr(args[0], left)} {self.function} {show_expr(args[1], right)}"
            return text, own
        match self.function:
            case "neg":
                return f"-{show_expr(args[0], UNARY)}", UNARY
            case "not":
                return f"not {show_expr(args[0], NOT)}", NOT
            case "if":
                condition, yes, no = (show_expr(arg, PIPE) for arg in args)
                return f"{yes} if {condition} else {no}", TERNARY
            case "within":
                value, lo, hi = (show_expr(arg, SUM) for arg in args)
                return f"{value} in {lo}..{hi}", COMPARE
            case "in" | "matches":
                return f"{show_expr(args[0], SUM)} {self.function} {args[1]}", COMPARE
            case "case":
                return f"case {{ {', '.join(case_arms(self))} }}", POSTFIX
        if self.piped and args:
            rest = show_arguments(args[1:], self.options)
            return f"{show_expr(args[0], PIPE)} |> {self.function}({rest})", PIPE
        return f"{self.function}({show_arguments(args, self.options)})", POSTFIX


@dataclass(frozen=True, eq=False)
class Attr(Expr):
    """`shape.answer`: a part of a match, or the first half of a dotted name."""

    of: Expr
    name: str

    def _spell(self) -> tuple[str, int]:
        return f"{show_expr(self.of, POSTFIX)}.{self.name}", POSTFIX


@dataclass(frozen=True, eq=False)
class Index(Expr):
    """`shape.step[0]`: one of several captures or list items."""

    of: Expr
    index: Expr

    def _spell(self) -> tuple[str, int]:
        return f"{show_expr(self.of, POSTFIX)}[{self.index}]", POSTFIX


@dataclass(frozen=True, eq=False)
class ListExpr(Expr):
    """`[a, b]`."""

    items: tuple[Expr, ...]

    def _spell(self) -> tuple[str, int]:
        return f"[{', '.join(map(str, self.items))}]", POSTFIX


@dataclass(frozen=True, eq=False)
class Arrow(Expr):
    """`200 -> 1.0`: a point of a schedule."""

    at: Expr
    value: Expr

    def _spell(self) -> tuple[str, int]:
        return f"{self.at} -> {self.value}", POSTFIX


def show_expr(expr: Expr, level: int) -> str:
    """The expression, in parentheses where it binds more loosely than a place needs it to."""
    text, own = expr._spell()
    return f"({text})" if own < level else text


def show_arguments(args: Iterable[Expr | str], options: Iterable[tuple[str, Expr]]) -> str:
    """What stands between the parentheses of a call."""
    return ", ".join([*map(str, args), *(f"{name}={value}" for name, value in options)])


def case_arms(case: Call) -> list[str]:
    """The arms of a `case`, each `condition -> value`, the last perhaps `else -> value`."""
    args = case.args
    arms = [
        f"{condition} -> {value}" for condition, value in zip(args[0::2], args[1::2], strict=False)
    ]
    return [*arms, f"else -> {args[-1]}"] if len(args) % 2 else arms


def as_expr(value: Any) -> Expr:
    """An expression as it is; a plain Python value as a constant."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, list | tuple):
        return ListExpr(tuple(as_expr(item) for item in value))
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a ruleset holds finite numbers only, not {value}")
    if value is None or isinstance(value, bool | int | float | str):
        return Const(value)
    raise TypeError(f"a ruleset cannot hold a {type(value).__name__}: {value!r}")


def call(function: str, *args: Any) -> Call:
    """The call of a rule or operator on values as Python has them."""
    return Call(function, tuple(as_expr(arg) for arg in args))


def dotted_name(expr: Expr) -> str | None:
    """`a.b.c` as one name; None where the expression is not of this form."""
    if isinstance(expr, Name):
        return expr.id
    if isinstance(expr, Attr):
        head = dotted_name(expr.of)
        return f"{head}.{expr.name}" if head else None
    return None


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and everything inside it, outermost first."""
    yield expr
    for part in _parts(expr):
        yield from walk(part)


def _parts(expr: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside one, in the order of writing."""
    match expr:
        case Call():
            return (*expr.args, *(value for _, value in expr.options))
        case Attr():
            return (expr.of,)
        case Index():
            return (expr.of, expr.index)
        case ListExpr():
            return expr.items
        case Arrow():
            return (expr.at, expr.value)
        case _:
            return ()
