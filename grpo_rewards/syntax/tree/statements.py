"""Statements, and the ruleset that holds them: the whole of a `.reward` file.

`str()` gives canonical text. Parentheses stand only where the grammar needs them; what an author
chose among equal spellings (`50%` or `0.5`, a pipe or a call) is kept, white space is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from grpo_rewards.errors import Place
from grpo_rewards.syntax.tree.expressions import (
    Call,
    Expr,
    ListExpr,
    case_arms,
    show_arguments,
    show_expr,
)
from grpo_rewards.syntax.tree.node import NOWHERE, Node, Statement
from grpo_rewards.syntax.tree.spelling import PRODUCT, SUM, show_string

#: A sum or a case that would be longer than this is written on several lines.
MAX_LINE_CHARS = 100


@dataclass(frozen=True, eq=False)
class Bounds(Node):
    """`lo..hi` of a declaration; the ends are constant expressions."""

    lo: Expr
    hi: Expr

    def __str__(self) -> str:
        return f"{show_expr(self.lo, SUM)}..{show_expr(self.hi, SUM)}"


def _within(bounds: Bounds | ListExpr | None) -> str:
    """The part of a declaration that bounds its values: ` in lo..hi`, ` in [a, b]` or nothing."""
    return "" if bounds is None else f" in {bounds}"


@dataclass(frozen=True, eq=False)
class RulesetDecl(Statement):
    """`ruleset NAME "what it is"`."""

    keyword = "ruleset"
    name: str
    doc: str = ""

    def __str__(self) -> str:
        return f"ruleset {self.name}" + (f" {show_string(self.doc)}" if self.doc else "")


@dataclass(frozen=True, eq=False)
class Import(Statement):
    """`import "common.reward" as common`."""

    keyword = "import"
    path: str
    name: str

    def __str__(self) -> str:
        return f"import {show_string(self.path)} as {self.name}"


@dataclass(frozen=True, eq=False)
class Input(Statement):
    """`input NAME: TYPE from "column" | "other" = default`."""

    keyword = "input"
    name: str
    type: str
    sources: tuple[str, ...] = ()
    default: Expr | None = None

    def __str__(self) -> str:
        sources = " | ".join(map(show_string, self.sources))
        given = f" from {sources}" if sources else ""
        default = "" if self.default is None else f" = {self.default}"
        return f"input {self.name}: {self.type}{given}{default}"


@dataclass(frozen=True, eq=False)
class Param(Statement):
    """`param NAME: TYPE in lo..hi = value`: a constant that a user may set."""

    keyword = "param"
    name: str
    type: str
    bounds: Bounds | ListExpr | None
    value: Expr

    def __str__(self) -> str:
        return f"param {self.name}: {self.type}{_within(self.bounds)} = {self.value}"


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

    def __str__(self) -> str:
        return f"format {self.name} = {self._spell_body()}"

    def _spell_body(self) -> str:
        if self.kind == "re":
            pattern, _, flags = self.body.rpartition("\n")
            return f're"{pattern}"{flags}'
        if self.kind == "tags":
            return f"tags({show_arguments(map(show_string, self.body.split()), self.options)})"
        path = dict(self.options).get("file")
        if path is not None:
            if len(self.options) == 1 and str(getattr(path, "value", "")).endswith(f".{self.kind}"):
                return f"from {path}"
            return f"{self.kind}({show_arguments([], self.options)})"
        if not self.options and "'''" not in self.body:
            return f"{self.kind}'''{self.body}'''"
        # A heredoc cannot hold ''', and a file read as text would turn \r into \n.
        quoted = "'''" in self.body or "\r" in self.body
        body = show_string(self.body) if quoted else f"text'''{self.body}'''"
        return f"{self.kind}({show_arguments([body], self.options)})"


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

    def __str__(self) -> str:
        head = f"extern {self.name}({', '.join(self.params)}): {self.type}{_within(self.bounds)}"
        return f"{head} from {show_string(self.target)}"


@dataclass(frozen=True, eq=False)
class Let(Statement):
    """`let NAME = …`, or with parameters a function that is inlined where it is called."""

    keyword = "let"
    name: str
    params: tuple[str, ...]
    bounds: Bounds | None
    expr: Expr

    def __str__(self) -> str:
        params = f"({', '.join(self.params)})" if self.params else ""
        return _definition(f"let {self.name}{params}", self.bounds, self.expr)


@dataclass(frozen=True, eq=False)
class Score(Statement):
    """`score NAME in lo..hi = …`: a named, logged component."""

    keyword = "score"
    name: str
    bounds: Bounds | None
    expr: Expr

    def __str__(self) -> str:
        return _definition(f"score {self.name}", self.bounds, self.expr)


@dataclass(frozen=True, eq=False)
class Reward(Statement):
    """`reward in lo..hi = …`: the column that trains; exactly one."""

    keyword = "reward"
    bounds: Bounds | None
    expr: Expr

    def __str__(self) -> str:
        return _definition("reward", self.bounds, self.expr)


def _definition(head: str, bounds: Bounds | None, expr: Expr) -> str:
    """`head in lo..hi = expr` on one line where it fits; a sum or a case otherwise on several."""
    head = f"{head}{_within(bounds)} ="
    line = f"{head} {expr}"
    if len(line) <= MAX_LINE_CHARS:
        return line
    match expr:
        case Call(function="case"):
            return "\n".join([f"{head} case {{", *(f"  {arm}," for arm in case_arms(expr)), "}"])
        case Call(function="+" | "-"):
            first, *rest = _terms(expr)
            return "\n".join([f"{head} {first}", *(f"  {term}" for term in rest)])
    return line


def _terms(expr: Expr) -> list[str]:
    """`a + b - c` as `["a", "+ b", "- c"]`."""
    if isinstance(expr, Call) and expr.function in ("+", "-"):
        left, right = expr.args
        return [*_terms(left), f"{expr.function} {show_expr(right, PRODUCT)}"]
    return [show_expr(expr, SUM)]


@dataclass(frozen=True, eq=False)
class Setting(Node):
    """One item of a policy: `timeout 2s`, `limit chars 60k`, `on timeout -> 0`."""

    name: str
    value: Expr

    def __str__(self) -> str:
        arrow = " ->" if self.name.startswith("on ") else ""
        return f"{self.name}{arrow} {self.value}"


@dataclass(frozen=True, eq=False)
class Policy(Statement):
    """`policy { … }`: deadlines, limits, and what becomes of an error."""

    keyword = "policy"
    settings: tuple[Setting, ...]

    def __str__(self) -> str:
        settings = "  ".join(map(str, self.settings))
        return f"policy {{ {settings} }}" if settings else "policy { }"


@dataclass(frozen=True, eq=False)
class Expect(Node):
    """`expect CONDITION within TOLERANCE` inside a test."""

    condition: Expr
    within: Expr | None = None

    def __str__(self) -> str:
        within = "" if self.within is None else f" within {show_expr(self.within, SUM)}"
        return f"expect {self.condition}{within}"


@dataclass(frozen=True, eq=False)
class Row(Node):
    """The columns of one row of a test; the values are constants."""

    columns: tuple[tuple[str, Expr], ...]

    def __str__(self) -> str:
        return "row { " + "  ".join(f"{name}: {value}" for name, value in self.columns) + " }"


@dataclass(frozen=True, eq=False)
class Test(Statement):
    """`test "…" { … }`; with `group`, several rows; with `each from`, a row per line of a file."""

    keyword = "test"
    __test__ = False  # its name makes pytest take it for a test
    name: str
    rows: tuple[Row, ...]
    expects: tuple[Expect, ...]
    is_group: bool = False
    each_from: str = ""

    def __str__(self) -> str:
        head = "test group" if self.is_group else "test"
        each = f" each from {show_string(self.each_from)}" if self.each_from else ""
        lines = [str(row) for row in self.rows]
        if not self.is_group:
            lines = [f"{name}: {value}" for row in self.rows for name, value in row.columns]
        lines += map(str, self.expects)
        body = "".join(f"  {line}\n" for line in lines)
        return f"{head} {show_string(self.name)}{each} {{\n{body}}}"


@dataclass(frozen=True, eq=False)
class Attack(Statement):
    """`attack [families] expect reward <= 0.2`."""

    keyword = "attack"
    families: tuple[str, ...]
    expect: Expr

    def __str__(self) -> str:
        return f"attack [{', '.join(self.families)}] expect {self.expect}"


@dataclass(frozen=True, eq=False)
class Check(Statement):
    """`check NAME: CONDITION` about a whole dataset."""

    keyword = "check"
    name: str
    condition: Expr

    def __str__(self) -> str:
        return f"check {self.name}: {self.condition}"


#: Every kind of statement; messages list the keywords in this order.
KINDS: tuple[type[Statement], ...] = (
    RulesetDecl, Import, Input, Param, FormatDecl, Extern, Let, Score, Reward, Policy, Test,
    Attack, Check,
)  # fmt: skip

KEYWORDS = tuple(kind.keyword for kind in KINDS)


@dataclass(frozen=True, eq=False)
class Ruleset(Node):
    """The statements of a file, in order. Two rulesets are equal when they say the same."""

    statements: tuple[Statement, ...]

    def __eq__(self, other: object) -> bool:
        return self.same(other)

    def __hash__(self) -> int:
        return hash(self.key())

    def __str__(self) -> str:
        lines: list[str] = []
        for i, statement in enumerate(self.statements):
            if i and needs_gap(self.statements[i - 1], statement):
                lines.append("")
            lines.append(str(statement))
        return "\n".join(lines) + "\n"

    def of(self, kind: type[Any]) -> list[Any]:
        """The statements of one kind, in order."""
        return [statement for statement in self.statements if isinstance(statement, kind)]

    @property
    def name(self) -> str:
        """The declared name, or `ruleset`."""
        declared = self.of(RulesetDecl)
        return declared[0].name if declared else "ruleset"


def needs_gap(above: Statement, below: Statement) -> bool:
    """Whether a blank line separates two statements: kinds are set apart, and so are long ones."""
    return type(above) is not type(below) or "\n" in str(above) + str(below)
