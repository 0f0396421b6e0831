"""An independent interpreter of the reward language: one row at a time, straight from the tree.

Slow and plain on purpose: no graph, no masks, no numpy. What the compiled plan says of a batch has
to equal what this says of each row. Rules of text and mathematics are the same functions; what is
checked here is names, operators, null and error semantics, laziness and policy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from grpo_rewards.columns import Outcome, Status, as_outcome
from grpo_rewards.rules.catalog import CATALOG
from grpo_rewards.rules.rule import RowKernel
from grpo_rewards.syntax import tree as x


@dataclass(frozen=True)
class Absent:
    """No value: null, or an error from TIMEOUT on."""

    status: Status

    @property
    def is_error(self) -> bool:
        return self.status.is_error


def interpret(ruleset: x.Ruleset, row: dict[str, Any]) -> dict[str, Any]:
    """Score names and `reward` → a float, a bool, or Absent."""
    names: dict[str, Any] = {}
    for name, value in row.items():
        names[name] = Absent(Status.MISSING) if value is None else value
    outputs: dict[str, Any] = {}
    for statement in ruleset.statements:
        match statement:
            case x.Input() if statement.name not in row:
                names[statement.name] = evaluate(statement.default or x.Const(None), names)
            case x.Param():
                names[statement.name] = evaluate(statement.value or x.Const(None), names)
            case x.Let():
                if statement.params:
                    names[statement.name] = (statement.params, statement.expr, dict(names))
                else:
                    names[statement.name] = evaluate(statement.expr, names)
            case x.Score():
                names[statement.name] = outputs[statement.name] = evaluate(statement.expr, names)
            case x.Reward():
                outputs["reward"] = evaluate(statement.expr, names)
    return outputs


def evaluate(expr: x.Expr, names: dict[str, Any]) -> Any:
    match expr:
        case x.Const(value=None):
            return Absent(Status.OK)
        case x.Const(value=value):
            return value
        case x.Name(id=name):
            return names[name]
        case x.Call():
            return _call(expr, names)
    raise AssertionError(f"the oracle does not know {type(expr).__name__}")


def _call(expr: x.Call, names: dict[str, Any]) -> Any:
    function, args = expr.function, expr.args
    if function == "if":
        condition = evaluate(args[0], names)
        if isinstance(condition, Absent):
            return condition
        return evaluate(args[1] if condition else args[2], names)
    if function == "case":
        for condition_expr, value in zip(args[0::2], args[1::2], strict=False):
            condition = evaluate(condition_expr, names)
            if isinstance(condition, Absent):
                return condition
            if condition:
                return evaluate(value, names)
        return evaluate(args[-1], names) if len(args) % 2 else Absent(Status.OK)
    if function in ("and", "or"):
        return _kleene(function, [evaluate(arg, names) for arg in args])
    if function == "??":
        left = evaluate(args[0], names)
        is_null = isinstance(left, Absent) and not left.is_error
        return evaluate(args[1], names) if is_null else left
    if function in ("==", "!=") and any(isinstance(a, x.Const) and a.value is None for a in args):
        other = args[0] if isinstance(args[1], x.Const) and args[1].value is None else args[1]
        value = evaluate(other, names)
        if isinstance(value, Absent) and value.is_error:
            return value
        return isinstance(value, Absent) == (function == "==")
    if function in names and isinstance(names[function], tuple):
        params, body, scope = names[function]
        given = [evaluate(arg, names) for arg in args]
        return evaluate(body, {**scope, **dict(zip(params, given, strict=True))})
    if function == "in":
        assert isinstance(args[1], x.ListExpr)
        args = (args[0], *args[1].items)
    values = [evaluate(arg, names) for arg in args]
    missing = [value for value in values if isinstance(value, Absent)]
    errors = [value for value in missing if value.is_error]
    if missing:
        return (errors or missing)[0]
    return _strict(function, values, expr)


def _kleene(function: str, values: list[Any]) -> Any:
    deciding = function == "or"
    if any(not isinstance(v, Absent) and bool(v) == deciding for v in values):
        return deciding
    missing = [v for v in values if isinstance(v, Absent)]
    errors = [v for v in missing if v.is_error]
    return (errors or missing)[0] if missing else not deciding


def _strict(function: str, values: list[Any], expr: x.Call) -> Any:
    operators = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
        "**": lambda a, b: a**b,
        "neg": lambda a: -a,
        "not": lambda a: not a,
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        ">=": lambda a, b: a >= b,
        "within": lambda a, lo, hi: lo <= a <= hi,
        "in": lambda a, *choices: a in choices,
        "min": lambda *a: min(a),
        "max": lambda *a: max(a),
        "abs": abs,
        "clamp": lambda a, lo, hi: max(min(a, hi), lo),
    }
    if function in operators:
        plain = [float(v) if _is_number(v) else v for v in values]
        try:
            result = operators[function](*plain)
        except (ZeroDivisionError, OverflowError):
            return Absent(Status.UNDEFINED)
        if isinstance(result, complex) or (isinstance(result, float) and not math.isfinite(result)):
            return Absent(Status.UNDEFINED)
        return result
    kernel = CATALOG[function].kernel
    assert isinstance(kernel, RowKernel)
    outcome: Outcome = as_outcome(kernel.function(*values))
    return Absent(outcome.status) if outcome.value is None else outcome.value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
