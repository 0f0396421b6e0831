"""Canonical text: one spelling for every tree. `parse(show(tree))` gives an equal tree.

Parentheses stand only where the grammar needs them. What an author chose among equal spellings
(`50%` or `0.5`, a pipe or a call) is kept; white space and alignment are not.
"""

from __future__ import annotations

import re

from grpo_rewards.syntax.tree import (
    Arrow,
    Attack,
    Attr,
    Bounds,
    Call,
    Check,
    Const,
    Expect,
    Expr,
    Extern,
    FormatDecl,
    Import,
    Index,
    Input,
    Let,
    ListExpr,
    Name,
    Node,
    Param,
    Pattern,
    Policy,
    Reward,
    Row,
    Ruleset,
    RulesetDecl,
    Score,
    Statement,
    Test,
)

WIDTH = 100

# How tightly each construct binds; the same ladder as grammars/reward.lark.
TERNARY, PIPE, COALESCE, OR, AND, NOT, COMPARE, SUM, PRODUCT, UNARY, POWER, POSTFIX = range(12)

#: operator → (its own level, level asked of the left side, of the right side)
INFIX = {
    "??": (COALESCE, COALESCE, OR),
    "or": (OR, OR, AND),
    "and": (AND, AND, NOT),
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), (COMPARE, SUM, SUM)),
    "+": (SUM, SUM, PRODUCT),
    "-": (SUM, SUM, PRODUCT),
    "*": (PRODUCT, PRODUCT, UNARY),
    "/": (PRODUCT, PRODUCT, UNARY),
    "**": (POWER, POSTFIX, UNARY),
}


def show(node: Node) -> str:
    """Canonical text of an expression, a statement or a whole ruleset."""
    match node:
        case Expr():
            return show_expr(node)
        case Ruleset():
            return show_ruleset(node)
        case Statement():
            return show_statement(node)
        case Expect():
            return _show_expect(node)
    raise TypeError(f"{type(node).__name__} has no text of its own")


def show_expr(expr: Expr, level: int = TERNARY) -> str:
    """The expression, in parentheses where a place of the given level needs them."""
    text, own = _spell(expr)
    return f"({text})" if own < level else text


def _spell(expr: Expr) -> tuple[str, int]:
    """The text of a node and how tightly it binds."""
    match expr:
        case Const():
            return _spell_const(expr)
        case Pattern():
            return f're"{expr.pattern}"{expr.flags}', POSTFIX
        case Name():
            return expr.id, POSTFIX
        case Attr():
            return f"{show_expr(expr.of, POSTFIX)}.{expr.name}", POSTFIX
        case Index():
            return f"{show_expr(expr.of, POSTFIX)}[{show_expr(expr.index)}]", POSTFIX
        case ListExpr():
            return f"[{', '.join(map(show_expr, expr.items))}]", POSTFIX
        case Arrow():
            return f"{show_expr(expr.at)} -> {show_expr(expr.value)}", POSTFIX
        case Call():
            return _spell_call(expr)
    raise TypeError(f"not an expression of the language: {expr!r}")


def _spell_const(const: Const) -> tuple[str, int]:
    value = const.value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value], POSTFIX
    if isinstance(value, str):
        return show_string(value, long=True), POSTFIX
    if const.spelling:
        return const.spelling, UNARY if const.spelling.startswith("-") else POSTFIX
    text = repr(value) if isinstance(value, int) else _show_float(value)
    return text, UNARY if text.startswith("-") else POSTFIX


def _show_float(value: float) -> str:
    text = re.sub(r"e\+?(-?)0*", r"e\1", repr(value))
    return text[:-2] if text.endswith(".0") else text


def _spell_call(expr: Call) -> tuple[str, int]:
    args = expr.args
    if expr.function in INFIX:
        own, left, right = INFIX[expr.function]
        return f"{show_expr(args[0], left)} {expr.function} {show_expr(args[1], right)}", own
    match expr.function:
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
            return f"{show_expr(args[0], SUM)} {expr.function} {show_expr(args[1])}", COMPARE
        case "case":
            return _spell_case(args), POSTFIX
    if expr.piped and args:
        rest = _arguments(args[1:], expr.options)
        return f"{show_expr(args[0], PIPE)} |> {expr.function}({rest})", PIPE
    return f"{expr.function}({_arguments(args, expr.options)})", POSTFIX


def _arguments(args: tuple[Expr, ...], options: tuple[tuple[str, Expr], ...]) -> str:
    shown = [show_expr(arg) for arg in args]
    return ", ".join(shown + [f"{name}={show_expr(value)}" for name, value in options])


def _spell_case(args: tuple[Expr, ...]) -> str:
    pairs = zip(args[0::2], args[1::2], strict=False)
    arms = [f"{show_expr(condition)} -> {show_expr(value)}" for condition, value in pairs]
    if len(args) % 2:
        arms.append(f"else -> {show_expr(args[-1])}")
    return "case { " + ", ".join(arms) + " }"


def show_string(text: str, *, long: bool = False) -> str:
    r"""A string literal. A backslash stands for itself except before `"`, `\` and `x{`.

    `long` allows a text with newlines to stand between three quotes.

    >>> print(show_string(r'\boxed{42} "x"'), show_string("a\tb"))
    "\boxed{42} \"x\"" "a\x{9}b"
    """
    if long and "\n" in text and not _needs_escapes(text):
        return f'"""{text}"""'
    return '"' + re.sub(r'\\|"|[^ -~]', _escape, text) + '"'


def _needs_escapes(text: str) -> bool:
    hidden = any(not char.isprintable() and char not in "\n\t" for char in text)
    return hidden or text.endswith('"') or '"""' in text


def _escape(match: re.Match[str]) -> str:
    """A character that would not stand for itself, or could not be seen: controls, line ends, lone
    surrogates, spaces of other widths or of none."""
    char, behind = match[0], match.string[match.end() : match.end() + 2]
    if char == "\\":
        plain = behind and behind[0] not in '"\\' and behind != "x{" and behind[0].isprintable()
        return char if plain else "\\\\"
    if char == '"':
        return '\\"'
    return char if char.isprintable() else f"\\x{{{ord(char):x}}}"


def show_statement(statement: Statement) -> str:
    """One statement in canonical text."""
    match statement:
        case RulesetDecl(name=name, doc=doc):
            return f"ruleset {name}" + (f" {show_string(doc)}" if doc else "")
        case Import(path=path, name=name):
            return f"import {show_string(path)} as {name}"
        case Input():
            return _show_input(statement)
        case Param():
            bounds = _show_bounds(statement.bounds)
            return f"param {statement.name}: {statement.type}{bounds} = {statement.value}"
        case FormatDecl():
            return f"format {statement.name} = {_show_body(statement)}"
        case Extern():
            types = ", ".join(statement.params)
            bounds = _show_bounds(statement.bounds)
            head = f"extern {statement.name}({types}): {statement.type}{bounds}"
            return f"{head} from {show_string(statement.target)}"
        case Let():
            params = f"({', '.join(statement.params)})" if statement.params else ""
            head = f"let {statement.name}{params}{_show_bounds(statement.bounds)} ="
            return _head_and_expr(head, statement.expr)
        case Score():
            head = f"score {statement.name}{_show_bounds(statement.bounds)} ="
            return _head_and_expr(head, statement.expr)
        case Reward():
            return _head_and_expr(f"reward{_show_bounds(statement.bounds)} =", statement.expr)
        case Policy():
            return _show_policy(statement)
        case Test():
            return _show_test(statement)
        case Attack():
            return f"attack [{', '.join(statement.families)}] expect {statement.expect}"
        case Check():
            return f"check {statement.name}: {statement.condition}"
    raise TypeError(f"not a statement of the language: {statement!r}")


def _show_input(statement: Input) -> str:
    sources = " | ".join(map(show_string, statement.sources))
    default = f" = {statement.default}" if statement.default is not None else ""
    return f"input {statement.name}: {statement.type}" + (
        f" from {sources}{default}" if sources else default
    )


def _show_bounds(bounds: Bounds | ListExpr | None) -> str:
    if bounds is None:
        return ""
    if isinstance(bounds, ListExpr):
        return f" in {show_expr(bounds)}"
    return f" in {show_expr(bounds.lo, SUM)}..{show_expr(bounds.hi, SUM)}"


def _show_body(statement: FormatDecl) -> str:
    if statement.kind == "re":
        pattern, _, flags = statement.body.rpartition("\n")
        return f're"{pattern}"{flags}'
    if statement.kind == "tags":
        names = [Const(name) for name in statement.body.split()]
        return f"tags({_arguments(tuple(names), statement.options)})"
    options = dict(statement.options)
    if "file" in options:
        path = options["file"]
        if len(options) == 1 and str(getattr(path, "value", "")).endswith(f".{statement.kind}"):
            return f"from {show_expr(path)}"
        return f"{statement.kind}({_arguments((), statement.options)})"
    if options or "'''" in statement.body:
        rest = _arguments((), statement.options)
        quoted = "'''" in statement.body or "\r" in statement.body
        body = show_string(statement.body) if quoted else f"text'''{statement.body}'''"
        return f"{statement.kind}({body}{', ' if rest else ''}{rest})"
    return f"{statement.kind}'''{statement.body}'''"


def _head_and_expr(head: str, expr: Expr) -> str:
    """On one line where it fits; sums and cases over several where it does not."""
    line = f"{head} {show_expr(expr)}"
    if len(line) <= WIDTH:
        return line
    match expr:
        case Call(function="case", args=args):
            pairs = zip(args[0::2], args[1::2], strict=False)
            lines = [f"  {show_expr(c)} -> {show_expr(v)}," for c, v in pairs]
            if len(args) % 2:
                lines.append(f"  else -> {show_expr(args[-1])},")
            return "\n".join([f"{head} case {{", *lines, "}"])
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


def _show_policy(statement: Policy) -> str:
    settings = "  ".join(
        f"{setting.name} -> {setting.value}"
        if setting.name.startswith("on ")
        else f"{setting.name} {setting.value}"
        for setting in statement.settings
    )
    return f"policy {{ {settings} }}" if settings else "policy { }"


def _show_test(statement: Test) -> str:
    head = "test group" if statement.is_group else "test"
    each = f" each from {show_string(statement.each_from)}" if statement.each_from else ""
    lines = [f"{head} {show_string(statement.name)}{each} {{"]
    for row in statement.rows:
        lines += _show_row(row, braces=statement.is_group)
    lines += [f"  {_show_expect(expect)}" for expect in statement.expects]
    return "\n".join([*lines, "}"])


def _show_row(row: Row, *, braces: bool) -> list[str]:
    if braces:
        return ["  row { " + "  ".join(f"{name}: {value}" for name, value in row.columns) + " }"]
    return [f"  {name}: {value}" for name, value in row.columns]


def _show_expect(expect: Expect) -> str:
    within = f" within {show_expr(expect.within, SUM)}" if expect.within is not None else ""
    return f"expect {expect.condition}{within}"


def show_ruleset(ruleset: Ruleset) -> str:
    """The whole file: statements of one kind stand together, kinds apart."""
    lines: list[str] = []
    for i, statement in enumerate(ruleset.statements):
        if i and needs_gap(ruleset.statements[i - 1], statement):
            lines.append("")
        lines.append(show_statement(statement))
    return "\n".join(lines) + "\n"


def needs_gap(above: Statement, below: Statement) -> bool:
    """Whether a blank line stands between two statements."""
    long = "\n" in show_statement(above) or "\n" in show_statement(below)
    return long or type(above) is not type(below)
