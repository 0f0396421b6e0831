"""What was written: expressions, statements, and the ruleset that holds them.

The parser and the Python operators build these same nodes, so text and Python are two spellings of
one tree. `str()` prints canonical text (see `printer`), and parsing that text gives an equal tree.
Nodes know their place in the source, but two nodes that say the same are `same` wherever they
stand. `==` on expressions *builds* a comparison, as in pandas; it does not compare trees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from grpo_rewards.errors import Place

NOWHERE = Place(0, 0)

#: Words that cannot name anything. (Statement keywords are free inside expressions.)
RESERVED = frozenset(
    ("if", "else", "and", "or", "not", "in", "matches", "true", "false", "null", "case")
)


@dataclass(frozen=True, eq=False)
class Node:
    """Base of everything that can be written. Fields marked as style do not count in `same`."""

    place: Place = field(default=NOWHERE, kw_only=True, metadata={"style": True})

    def key(self) -> tuple[Any, ...]:
        """All that the node means, as a hashable value."""
        own = (f for f in fields(self) if not f.metadata.get("style"))
        return (type(self).__name__, *(_key(getattr(self, f.name)) for f in own))

    def same(self, other: object) -> bool:
        """Whether the other node says the same, places and spelling aside."""
        return isinstance(other, Node) and self.key() == other.key()

    def __str__(self) -> str:
        from grpo_rewards.syntax.printer import show  # a view of the nodes, so it stands below them

        return show(self)


def _key(value: Any) -> Any:
    if isinstance(value, Node):
        return value.key()
    if isinstance(value, tuple):
        return tuple(_key(item) for item in value)
    return (type(value).__name__, value) if isinstance(value, bool) else value


@dataclass(frozen=True, eq=False)
class Expr(Node):
    """A value of one column: a number, a truth, a text. Operators build larger expressions."""

    __array_ufunc__: ClassVar[None] = None  # numpy leaves the operators to us

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


@dataclass(frozen=True, eq=False)
class Pattern(Expr):
    """`re"…"flags`: a regular expression of the linear-time engine (RE2 syntax)."""

    pattern: str
    flags: str = ""


@dataclass(frozen=True, eq=False)
class Name(Expr):
    """An input, param, format, let or score, by name.

    In Python a name carries the statement that declares it, so that `gr.compile` can write the
    ruleset; in text the statement stands in the file.
    """

    id: str
    declares: Statement | None = field(default=None, metadata={"style": True})


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


@dataclass(frozen=True, eq=False)
class Attr(Expr):
    """`shape.answer`: a part of a match, or the first half of a dotted name."""

    of: Expr
    name: str


@dataclass(frozen=True, eq=False)
class Index(Expr):
    """`shape.step[0]`: one of several captures or list items."""

    of: Expr
    index: Expr


@dataclass(frozen=True, eq=False)
class ListExpr(Expr):
    """`[a, b]`."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, eq=False)
class Arrow(Expr):
    """`200 -> 1.0`: a point of a schedule."""

    at: Expr
    value: Expr


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


def children(node: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside one, in the order of writing."""
    match node:
        case Call():
            return (*node.args, *(value for _, value in node.options))
        case Attr():
            return (node.of,)
        case Index():
            return (node.of, node.index)
        case ListExpr():
            return node.items
        case Arrow():
            return (node.at, node.value)
        case _:
            return ()


def walk(node: Expr) -> Iterator[Expr]:
    """The node and everything inside it, outermost first."""
    yield node
    for child in children(node):
        yield from walk(child)


# Statements


@dataclass(frozen=True, eq=False)
class Bounds(Node):
    """`lo..hi` of a declaration; the ends are constant expressions."""

    lo: Expr
    hi: Expr


@dataclass(frozen=True, eq=False)
class Statement(Node):
    """One statement of a ruleset. `keyword` is the word that it begins with."""

    keyword: ClassVar[str] = ""


@dataclass(frozen=True, eq=False)
class RulesetDecl(Statement):
    """`ruleset NAME "what it is"`."""

    keyword = "ruleset"
    name: str
    doc: str = ""


@dataclass(frozen=True, eq=False)
class Import(Statement):
    """`import "common.reward" as common`."""

    keyword = "import"
    path: str
    name: str


@dataclass(frozen=True, eq=False)
class Input(Statement):
    """`input NAME: TYPE from "column" | "other" = default`."""

    keyword = "input"
    name: str
    type: str
    sources: tuple[str, ...] = ()
    default: Expr | None = None


@dataclass(frozen=True, eq=False)
class Param(Statement):
    """`param NAME: TYPE in lo..hi = value`: a constant that a user may set."""

    keyword = "param"
    name: str
    type: str
    bounds: Bounds | ListExpr | None
    value: Expr


@dataclass(frozen=True, eq=False)
class FormatDecl(Statement):
    """`format NAME = lark'''…'''`, `json'''…'''`, `re"…"`, `tags("think", "answer")` or
    `from "file.lark"`; with options `lark("…", prefix="<think>")`."""

    keyword = "format"
    name: str
    kind: str  # lark, json, re, tags
    body: str  # the grammar, schema or pattern; for tags their names; "" where it is in a file
    options: tuple[tuple[str, Expr], ...] = ()
    body_place: Place = field(default=NOWHERE, kw_only=True, metadata={"style": True})


@dataclass(frozen=True, eq=False)
class Extern(Statement):
    """`extern NAME(types): type in lo..hi from "module:function"`.

    In Python it carries the function itself, so that it need not be importable.
    """

    keyword = "extern"
    name: str
    params: tuple[str, ...]
    type: str
    bounds: Bounds | None
    target: str
    function: Any = field(default=None, metadata={"style": True})


@dataclass(frozen=True, eq=False)
class Let(Statement):
    """`let NAME = …`, or with parameters a function that is inlined where it is called."""

    keyword = "let"
    name: str
    params: tuple[str, ...]
    bounds: Bounds | None
    expr: Expr


@dataclass(frozen=True, eq=False)
class Score(Statement):
    """`score NAME in lo..hi = …`: a named, logged component."""

    keyword = "score"
    name: str
    bounds: Bounds | None
    expr: Expr


@dataclass(frozen=True, eq=False)
class Reward(Statement):
    """`reward in lo..hi = …`: the column that trains; exactly one."""

    keyword = "reward"
    bounds: Bounds | None
    expr: Expr


@dataclass(frozen=True, eq=False)
class Setting(Node):
    """One item of a policy: `timeout 2s`, `limit chars 60k`, `on timeout -> 0`."""

    name: str
    value: Expr


@dataclass(frozen=True, eq=False)
class Policy(Statement):
    """`policy { … }`: deadlines, limits, and what becomes of an error."""

    keyword = "policy"
    settings: tuple[Setting, ...]


@dataclass(frozen=True, eq=False)
class Expect(Node):
    """`expect CONDITION within TOLERANCE` inside a test."""

    condition: Expr
    within: Expr | None = None


@dataclass(frozen=True, eq=False)
class Row(Node):
    """The columns of one row of a test; the values are constants."""

    columns: tuple[tuple[str, Expr], ...]


@dataclass(frozen=True, eq=False)
class Test(Statement):
    """`test "…" { … }`; with `group`, several rows; with `each from`, a row per line of a file."""

    keyword = "test"
    __test__ = False  # not a test of ours, whatever pytest thinks of the name
    name: str
    rows: tuple[Row, ...]
    expects: tuple[Expect, ...]
    is_group: bool = False
    each_from: str = ""


@dataclass(frozen=True, eq=False)
class Attack(Statement):
    """`attack [families] expect reward <= 0.2`."""

    keyword = "attack"
    families: tuple[str, ...]
    expect: Expr


@dataclass(frozen=True, eq=False)
class Check(Statement):
    """`check NAME: CONDITION` about a whole dataset."""

    keyword = "check"
    name: str
    condition: Expr


KEYWORDS: tuple[str, ...] = (
    "ruleset", "import", "input", "param", "format", "extern", "let", "score", "reward", "policy",
    "test", "attack", "check",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Ruleset(Node):
    """The statements of a file, in order. Equal when they say the same."""

    statements: tuple[Statement, ...]

    def __eq__(self, other: object) -> bool:
        return self.same(other)

    def __hash__(self) -> int:
        return hash(self.key())

    def of(self, kind: type[Any]) -> list[Any]:
        """The statements of one kind, in order."""
        return [statement for statement in self.statements if isinstance(statement, kind)]

    @property
    def name(self) -> str:
        """The declared name, or `ruleset`."""
        declared = self.of(RulesetDecl)
        return declared[0].name if declared else "ruleset"
