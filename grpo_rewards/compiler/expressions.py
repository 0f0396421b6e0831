"""Expressions → nodes: names looked up, rules bound to their arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grpo_rewards.compiler.nodes import AMBIENT, NodeBuilder
from grpo_rewards.compiler.scope import Function, Meaning, Scope, nearest
from grpo_rewards.errors import Place, Problem
from grpo_rewards.rules.catalog import CATALOG
from grpo_rewards.rules.rule import REQUIRED, Parameter, Rule
from grpo_rewards.rules.text import check_pattern
from grpo_rewards.syntax import tree as x
from grpo_rewards.types import BOOL, PATTERN

#: Parts of a match that are not captures.
MATCH_PARTS = {"ok": "match.ok", "credit": "match.credit", "at": "match.at"}

#: Rules that the language spells with an operator or an attribute of its own.
_HIDDEN = frozenset(MATCH_PARTS.values()) | {"match.capture", "is_null"}

_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")


class Lowering:
    """Lowers expressions to nodes, in the scope of the statement that holds them."""

    def __init__(self, nodes: NodeBuilder, scope: Scope) -> None:
        self._nodes = nodes
        self._scope = scope
        self._graph = nodes.graph

    def constant(self, expr: x.Expr) -> Any:
        """The value of a constant expression. Raises Problem where it is not constant."""
        if isinstance(expr, x.ListExpr):
            return [self.constant(item) for item in expr.items]
        node = self._graph[self.lower(expr)]
        if node.op != "const":
            raise Problem("T10", "this has to be a constant", expr.place)
        return node.value

    def constant_number(self, expr: x.Expr) -> float:
        """The number that a constant expression stands for. Raises Problem where it is none."""
        value = self.constant(expr)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Problem("T11", "this has to be a number", expr.place)
        return value

    def lower(self, expr: x.Expr) -> int:
        """The node of an expression. Raises Problem."""
        self._nodes.count_step(expr.place)
        match expr:
            case x.Const(value=value):
                return self._nodes.constant(value, expr.place)
            case x.Pattern():
                return self._pattern(expr)
            case x.Name():
                return self._name(expr)
            case x.Attr():
                return self._attribute(expr)
            case x.Index():
                return self._index(expr)
            case x.Call():
                return self._call(expr)
            case x.ListExpr():
                raise Problem("T14", "a list stands here only after `in`", expr.place)
        raise Problem("T15", "`a -> b` stands only in a schedule", expr.place)

    def _name(self, name: x.Name) -> int:
        found = self._scope.find(name.id)
        if found is not None:
            return self._value(found, name.id, name.place)
        if name.id in AMBIENT:
            number = self._nodes.find_input(AMBIENT[name.id], name.place)
            self._scope.define(name.id, number)
            return number
        self._scope.refuse_early(name.id, name.place)
        known = [*self._scope.names, *AMBIENT]
        hint = nearest(name.id, known) or "declare it above with `input`, `param` or `let`"
        if name.id in CATALOG:
            hint = f"it is a rule: call {name.id}(…)"
        raise Problem("N01", f"unknown name `{name.id}`", name.place, hint)

    def _value(self, found: Meaning, name: str, place: Place) -> int:
        """The node that a name stands for; functions and rules are no values."""
        if isinstance(found, int):
            return found
        params = _takes(found) if isinstance(found, Function) else "(…)"
        raise Problem("N01", f"`{name}` is a function", place, f"call {name}{params}")

    def _pattern(self, pattern: x.Pattern) -> int:
        complaint = check_pattern(pattern.pattern, pattern.flags)
        if complaint:
            hint = "patterns are RE2's: no look-around, no back-references"
            raise Problem("T16", complaint, pattern.place, hint)
        value = (pattern.pattern, pattern.flags)
        return self._nodes.special_constant(value, PATTERN, pattern.place)

    def _attribute(self, attr: x.Attr, index: int = -1) -> int:
        """A part of a match, or the name of an imported file; `index` chooses among captures."""
        dotted = x.dotted_name(attr)
        if dotted is not None:
            imported = self._scope.find(dotted)
            if imported is not None:
                return self._value(imported, dotted, attr.place)
            self._refuse_unknown_root(dotted, attr)
        of = self.lower(attr.of)
        node = self._graph[of]
        if node.type.kind != "match":
            raise Problem("T17", f"a {node.type} has no part `{attr.name}`", attr.place)
        if attr.name in MATCH_PARTS:
            return self._nodes.rule(CATALOG[MATCH_PARTS[attr.name]], (of,), {}, attr.place)
        compiled = self._graph[node.args[0]].value
        if attr.name not in compiled.captures:
            known = (*compiled.captures, *MATCH_PARTS)
            hint = nearest(attr.name, known) or f"it has {', '.join(known)}"
            message = f"format `{compiled.name}` captures no `{attr.name}`"
            raise Problem("N07", message, attr.place, hint)
        options = {"name": attr.name, "index": index}
        return self._nodes.rule(CATALOG["match.capture"], (of,), options, attr.place)

    def _refuse_unknown_root(self, dotted: str, attr: x.Attr) -> None:
        """Raises the Problem of `a.b`, where `a` means nothing or is a file without `b`."""
        root = dotted.split(".")[0]
        if root in self._scope.aliases and isinstance(attr.of, x.Name):
            imported = [n.split(".", 1)[-1] for n in self._scope.names if "." in n]
            hint = nearest(attr.name, imported)
            raise Problem("N01", f"`{root}` has no `{attr.name}`", attr.place, hint)
        if root not in self._scope.names and root not in self._scope.aliases:
            self._scope.refuse_early(root, attr.place)
            hint = f"it is a rule: call {dotted}(…)" if dotted in CATALOG else _rules_like(dotted)
            raise Problem("N01", f"unknown name `{dotted}`", attr.place, hint)

    def _index(self, expr: x.Index) -> int:
        index = self.constant_number(expr.index)
        if not isinstance(expr.of, x.Attr) or index != int(index):
            hint = "write match.name[0], or [-1] for the last"
            raise Problem("T18", "only captures can be indexed, by whole numbers", expr.place, hint)
        return self._attribute(expr.of, int(index))

    # Calls

    def _call(self, expr: x.Call) -> int:
        match expr.function:
            case "if":
                return self._if(expr)
            case "case":
                return self._case(expr)
            case "and" | "or" | "??":
                return self._lazy(expr)
            case "==" | "!=":
                return self._equality(expr)
            case "in":
                return self._one_of(expr)
            case "schedule":
                return self._schedule(expr)
        found = self._scope.find(expr.function)
        if isinstance(found, Function):
            return self._inline(found, expr)
        if isinstance(found, Rule):  # the user's own
            return self._bind(found, expr)
        if expr.function not in CATALOG or expr.function in _HIDDEN:
            raise self._unknown_rule(expr, found)
        number = self._bind(CATALOG[expr.function], expr)
        if expr.function in _COMPARISONS:
            self._warn_of_mixed(self._graph[number].args, expr.place)
        return number

    def _unknown_rule(self, expr: x.Call, found: Meaning | None) -> Problem:
        start = expr.place.start
        place = expr.place if expr.piped else Place(start, start + len(expr.function))
        hint = _rules_like(expr.function)
        if isinstance(found, int):
            hint = "it is a value, not a function"
            if self._graph[found].type.kind == "format":
                hint = f"it is a format: match({expr.function}, …).ok"
        else:
            self._scope.refuse_early(expr.function, place)
        return Problem("N08", f"unknown rule `{expr.function}`", place, hint)

    def _if(self, expr: x.Call) -> int:
        condition, yes, no = (self.lower(arg) for arg in expr.args)
        self._condition(condition, expr.args[0])
        type_ = self._nodes.common_type((yes, no), expr.place)
        return self._nodes.op("if", (condition, yes, no), type_, expr.place)

    def _case(self, expr: x.Call) -> int:
        """`case` is nested `if`; without an `else` the last value is null."""
        args = list(expr.args)
        result = x.Const(None) if len(args) % 2 == 0 else args.pop()
        for condition, value in zip(args[-2::-2], args[::-2], strict=True):
            result = x.Call("if", (condition, value, result), place=expr.place)
        return self.lower(result)

    def _lazy(self, expr: x.Call) -> int:
        left, right = (self.lower(arg) for arg in expr.args)
        if expr.function == "??":
            return self._nodes.op(
                "??", (left, right), self._nodes.common_type((left, right), expr.place), expr.place
            )
        for number, arg in zip((left, right), expr.args, strict=True):
            self._condition(number, arg)
        return self._nodes.op(expr.function, (left, right), BOOL, expr.place)

    def _condition(self, number: int, expr: x.Expr) -> None:
        type_ = self._graph[number].type
        if type_.kind not in ("bool", "null"):
            hint = "compare it with something" if type_.is_numeric else ""
            raise Problem("T19", f"a condition is a bool, not a {type_}", expr.place, hint)

    def _equality(self, expr: x.Call) -> int:
        left, right = expr.args
        for value, other in ((left, right), (right, left)):
            if isinstance(other, x.Const) and other.value is None:
                is_null = self._nodes.rule(CATALOG["is_null"], (self.lower(value),), {}, expr.place)
                if expr.function == "==":
                    return is_null
                return self._nodes.rule(CATALOG["not"], (is_null,), {}, expr.place)
        numbers = (self.lower(left), self.lower(right))
        self._nodes.common_type(numbers, expr.place)
        self._warn_of_mixed(numbers, expr.place)
        return self._nodes.rule(CATALOG[expr.function], numbers, {}, expr.place)

    def _warn_of_mixed(self, numbers: Sequence[int], place: Place) -> None:
        """Warn where a bool is compared with a number. A score may be: it is logged as a number."""
        nodes = [self._graph[number] for number in numbers]
        kinds = {"num" if node.op == "settle" else node.type.kind for node in nodes}
        if kinds == {"bool", "num"} and any(node.type.kind == "num" for node in nodes):
            hint = "a bool is a condition by itself: write it alone, or `not` before it"
            self._nodes.warn("W04", "a bool is compared with a number", place, hint)

    def _one_of(self, expr: x.Call) -> int:
        value, choices = expr.args
        assert isinstance(choices, x.ListExpr)
        if not choices.items:
            raise Problem("T23", "nothing is in an empty list", choices.place)
        numbers = tuple(self.lower(item) for item in (value, *choices.items))
        self._nodes.common_type(numbers, expr.place)
        return self._nodes.rule(CATALOG["in"], numbers, {}, expr.place)

    def _schedule(self, expr: x.Call) -> int:
        if len(expr.args) < 2 or expr.options or isinstance(expr.args[0], x.Arrow):
            hint = "write schedule(step, 0 -> 0.0, 200 -> 1.0)"
            raise Problem("T24", "a schedule has a column and points", expr.place, hint)
        points: list[float] = []
        for arrow in expr.args[1:]:
            if not isinstance(arrow, x.Arrow):
                raise Problem("T24", "a point of a schedule is `at -> value`", arrow.place)
            at = self.constant_number(arrow.at)
            if points and at <= points[-2]:
                raise Problem("T24", "the points of a schedule rise", arrow.place)
            points += [at, self.constant_number(arrow.value)]
        numbers = [self.lower(expr.args[0]), *(self._nodes.constant(p, expr.place) for p in points)]
        return self._nodes.rule(CATALOG["schedule"], tuple(numbers), {}, expr.place)

    def _inline(self, function: Function, expr: x.Call) -> int:
        """The body of a `let` function, its parameters standing for the arguments of a call."""
        given = dict(zip(function.params, expr.args, strict=False))
        named = dict(expr.options)
        is_double = len(expr.args) > len(function.params) or set(named) & set(given)
        if is_double or {*given, *named} != set(function.params):
            raise Problem("T25", f"`{function.name}` takes {_takes(function)}", expr.place)
        numbers = {name: self.lower(arg) for name, arg in {**given, **named}.items()}
        return Lowering(self._nodes, function.scope.inner(numbers)).lower(function.body)

    def _bind(self, rule: Rule, expr: x.Call) -> int:
        """The call of a rule: arguments go to parameters, options have to be constants."""
        positional = rule.positional
        args: dict[str, list[x.Expr]] = {param.name: [] for param in positional}
        options: dict[str, Any] = {}
        fixed = [param for param in positional if not param.is_variadic]
        for i, arg in enumerate(expr.args):
            if i >= len(fixed) and len(fixed) == len(positional):
                raise Problem("T26", f"too many arguments for {rule.signature}", arg.place)
            args[positional[min(i, len(positional) - 1)].name].append(arg)
        for name, value in expr.options:
            if name in rule.options:
                options[name] = self._option(rule, rule.options[name], value)
            elif name in args and not args[name]:
                args[name].append(value)
            else:
                known = [*rule.options, *args]
                hint = nearest(name, known) or f"{rule.signature}"
                raise Problem("N05", f"`{rule.name}` has no option `{name}`", value.place, hint)
        numbers = [n for param in positional for n in self._arguments(rule, param, args, expr)]
        defaults = {n: p.default for n, p in rule.options.items() if p.default is not REQUIRED}
        return self._nodes.rule(rule, tuple(numbers), {**defaults, **options}, expr.place)

    def _arguments(
        self, rule: Rule, param: Parameter, args: Mapping[str, Sequence[x.Expr]], expr: x.Call
    ) -> list[int]:
        given = args[param.name]
        if not given and not param.is_variadic:
            if param.default is REQUIRED:
                message = f"`{rule.name}` lacks its argument `{param.name}`"
                raise Problem("T27", message, expr.place, rule.signature)
            return [self._nodes.constant(param.default, expr.place)]
        numbers = [self.lower(arg) for arg in given]
        for number, arg in zip(numbers, given, strict=True):
            type_ = self._graph[number].type
            if not param.type.accepts(type_):
                message = f"`{rule.name}` takes a {param.type} as `{param.name}`, not a {type_}"
                raise Problem("T28", message, arg.place, rule.signature)
        return numbers

    def _option(self, rule: Rule, param: Parameter, expr: x.Expr) -> Any:
        if isinstance(expr, x.Pattern):
            value = self._graph[self._pattern(expr)].value
        else:
            value = self.constant(expr)
        if param.choices and value not in param.choices:
            hint = nearest(str(value), param.choices) or f"one of {', '.join(param.choices)}"
            message = f"`{rule.name}` has no {param.name} {x.Const(value)}"
            raise Problem("T29", message, expr.place, hint)
        return tuple(value) if isinstance(value, list) else value


def _takes(function: Function) -> str:
    return f"({', '.join(function.params)})"


def _rules_like(name: str) -> str:
    """A hint towards the rule that was meant."""
    last = name.rsplit(".", 1)[-1]
    by_last = [rule for rule in CATALOG if rule.rsplit(".", 1)[-1] == last]
    if by_last:
        return f"did you mean `{by_last[0]}`?"
    return nearest(name, list(CATALOG)) or "`grpo-rewards rules` lists them"
