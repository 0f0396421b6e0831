"""Python expressions → Ruleset: `gr.col`, `gr.param`, the formats and what collects them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from grpo_rewards.errors import RewardError
from grpo_rewards.syntax import tree as x


def column(
    name: str,
    type: str = "text",
    *,
    sources: tuple[str, ...] = (),
    default: Any = ...,
) -> x.Name:
    """A column of the batch: `input name: type from sources = default`.

    >>> str(column("lang", "text", sources=("language",), default="en").declares)
    'input lang: text from "language" = "en"'
    """
    value = None if default is ... else x.as_expr(default)
    return x.Name(name, x.Input(name, type, tuple(sources), value))


def param(
    name: str, value: Any, *, type: str = "", bounds: tuple[float, float] | None = None
) -> x.Name:
    """A constant that a user may set: `param name: num in lo..hi = value`."""
    kinds = {bool: "bool", str: "text"}
    kind = type or kinds.get(value.__class__, "num")
    limits = None if bounds is None else x.Bounds(*(x.as_expr(end) for end in bounds))
    return x.Name(name, x.Param(name, kind, limits, x.as_expr(value)))


def lark_format(name: str, grammar: str, *, prefix: str = "", engine: str = "lalr") -> x.Name:
    """A format described by a Lark grammar, for `gr.match(format, text)`.

    `prefix` is the text with which the chat template already began the completion.
    `engine="earley"` accepts ambiguous grammars, for short texts only.
    """
    options = {"prefix": prefix} if prefix else {}
    options |= {"engine": engine} if engine != "lalr" else {}
    return _format(name, "lark", grammar, options)


def json_format(name: str, schema: str) -> x.Name:
    """A format described by a JSON Schema, for `gr.match(format, text)`."""
    return _format(name, "json", schema)


def regex_format(name: str, pattern: str, flags: str = "") -> x.Name:
    """A format described by a regular expression (RE2 syntax), for `gr.match(format, text)`."""
    if '"' in pattern.replace('\\"', ""):
        raise ValueError('a pattern is written re"…", so write \\x22 for a quote inside it')
    return _format(name, "re", f"{pattern}\n{flags}")


def tags_format(name: str, *tags: str, prefix: str = "") -> x.Name:
    """`<a>…</a><b>…</b>` in this order, for `gr.match(format, text)`."""
    return _format(name, "tags", " ".join(tags), {"prefix": prefix} if prefix else {})


def _format(name: str, kind: str, body: str, options: Mapping[str, str] | None = None) -> x.Name:
    given = tuple((key, x.Const(value)) for key, value in (options or {}).items())
    return x.Name(name, x.FormatDecl(name, kind, body, given))


def where(condition: Any, yes: Any, no: Any) -> x.Call:
    """`yes if condition else no`, row by row; the value that is not chosen is not computed."""
    return x.call("if", condition, yes, no)


def case(*arms: tuple[Any, Any], otherwise: Any = None) -> x.Call:
    """The value of the first arm (condition, value) whose condition holds, else `otherwise`.

    >>> print(case((column("a", "num") > 1, 2), otherwise=0))
    case { a > 1 -> 2, else -> 0 }
    """
    return x.call("case", *(part for arm in arms for part in arm), otherwise)


def schedule(over: Any, points: Mapping[float, float]) -> x.Call:
    """A value that moves in straight lines between points of `gr.step` or `gr.progress`.

    Before the first point and after the last it stays constant.

    >>> print(schedule(x.Name("step"), {0: 0.0, 200: 1.0}))
    schedule(step, 0 -> 0, 200 -> 1)
    """
    arrows = (x.Arrow(x.as_expr(at), x.as_expr(value)) for at, value in points.items())
    return x.Call("schedule", (x.as_expr(over), *arrows))


def ruleset_of(
    scores: Mapping[str, Any],
    reward: Any,
    *,
    name: str = "",
    bounds: tuple[float, float] | None = None,
    policy: Mapping[str, Any] | None = None,
) -> x.Ruleset:
    """The ruleset that a file with these scores and this reward would hold."""
    declared: dict[str, x.Statement] = {}
    statements: list[x.Statement] = []
    named: list[tuple[Any, str]] = []  # the key of a score's expression, and its name
    for score, value in scores.items():
        expr = _prepare(value, declared, named)
        statements.append(x.Score(score, None, expr))
        named.append((x.as_expr(value).key(), score))
    limits = None if bounds is None else x.Bounds(*(x.as_expr(end) for end in bounds))
    statements.append(x.Reward(limits, _prepare(reward, declared, named)))
    clash = [score for score in scores if score in declared]
    if clash:
        raise RewardError(f"`{clash[0]}` names a score and an input, param or format")
    kinds = [x.Input, x.Param, x.FormatDecl, x.Extern]
    heads = sorted(declared.values(), key=lambda statement: kinds.index(type(statement)))
    title = [x.RulesetDecl(name)] if name else []
    settings = tuple(x.Setting(key, x.as_expr(value)) for key, value in (policy or {}).items())
    statements += [x.Policy(settings)] if settings else []
    return x.Ruleset((*title, *heads, *statements))


def _prepare(value: Any, declared: dict[str, x.Statement], named: list[tuple[Any, str]]) -> x.Expr:
    """Collect the declarations that names carry, and refer to earlier scores by name."""
    expr = x.as_expr(value)
    for node in x.walk(expr):
        if isinstance(node, x.Name | x.Call) and node.declares is not None:
            name = node.id if isinstance(node, x.Name) else node.function
            known = declared.setdefault(name, node.declares)
            same_function = _extern_function(known) is _extern_function(node.declares)
            if not (known.same(node.declares) and same_function):
                raise RewardError(f"`{name}` is declared twice:\n  {known}\n  {node.declares}")
    return _rename(expr, named)


def _extern_function(statement: x.Statement) -> Any:
    return statement.function if isinstance(statement, x.Extern) else None


def _rename(expr: x.Expr, named: list[tuple[Any, str]]) -> x.Expr:
    """The expression with every part that has a name replaced by it, the largest first."""
    if not isinstance(expr, x.Const | x.Name):
        key = expr.key()
        for known, name in named:
            if known == key:
                return x.Name(name)
    changes: dict[str, Any] = {}
    for field in fields(expr):
        value = getattr(expr, field.name)
        if isinstance(value, x.Expr):
            changes[field.name] = _rename(value, named)
        elif isinstance(value, tuple):
            changes[field.name] = tuple(_rename_item(item, named) for item in value)
    return replace(expr, **changes) if changes else expr


def _rename_item(item: Any, named: list[tuple[Any, str]]) -> Any:
    if isinstance(item, x.Expr):
        return _rename(item, named)
    if isinstance(item, tuple):  # an option: (name, value)
        return tuple(_rename_item(part, named) for part in item)
    return item
