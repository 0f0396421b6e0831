"""Expressions → nodes: names looked up, rules bound to their arguments, constants folded.

Long, because each kind of expression has a method of its own over one graph that is being built.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grpo_rewards.columns import Column
from grpo_rewards.compiler.graph import (
    Graph,
    InputSpec,
    Node,
    Settings,
    node_interval,
    tight_interval,
)
from grpo_rewards.errors import Finding, Place
from grpo_rewards.limits import MAX_GRAPH_DEPTH, MAX_GRAPH_NODES, MAX_INLINE_STEPS
from grpo_rewards.rules.catalog import CATALOG
from grpo_rewards.rules.rule import REQUIRED, ColumnKernel, Parameter, Rule
from grpo_rewards.syntax import tree as x
from grpo_rewards.types import (
    ANY,
    BOOL,
    CHAT,
    EVERYTHING,
    FORMAT,
    NOTHING,
    NULL,
    NUM,
    PATTERN,
    TEXT,
    UNIT,
    Interval,
    Level,
    Type,
)

#: Columns that every batch may bring; a ruleset uses them without an `input` statement.
AMBIENT: dict[str, InputSpec] = {
    spec.name: spec
    for spec in (
        InputSpec("prompt", CHAT, ("prompt",)),
        InputSpec("completion_ids", Type("list", item=NUM), ("completion_ids",), level=Level.ROW),
        InputSpec("n_tokens", NUM, ("n_tokens",), level=Level.ROW),
        InputSpec("truncated", BOOL, ("truncated",), level=Level.ROW),
        InputSpec("step", NUM, ("step",), level=Level.CONST),
        InputSpec("progress", NUM, ("progress",), level=Level.CONST),
    )
}
_AMBIENT_RANGES = {"n_tokens": Interval(0), "step": Interval(0), "progress": UNIT}

#: Parts of a match that are not captures.
MATCH_PARTS = {"ok": "match.ok", "credit": "match.credit", "at": "match.at"}


class Problem(Exception):
    """What is wrong with one statement; None where it rests on something already reported."""

    def __init__(self, code: str, message: str, place: Place, hint: str = "") -> None:
        self.finding: Finding | None = Finding(code, message, place, hint) if code else None

    @staticmethod
    def silent() -> Problem:
        return Problem("", "", x.NOWHERE)


@dataclass(frozen=True, slots=True)
class Function:
    """A `let` with parameters: inlined where it is called, in the scope where it was written."""

    name: str
    params: tuple[str, ...]
    body: x.Expr
    scope: dict[str, Any]


def _alike(one: Type, other: Type) -> bool:
    """Whether a column of one type can be read as another."""
    return (one.kind, one.item) == (other.kind, other.item) or (one.is_text and other.is_text)


def nearest(name: str, known: Sequence[str]) -> str:
    """`did you mean …?`, or nothing where no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else ""


class Lowering:
    """Adds expressions to a graph. `names` maps what is defined so far to a node, a function, or a
    rule of the user's own."""

    def __init__(self, graph: Graph, functions: Mapping[str, Any]) -> None:
        self.graph = graph
        self.functions = functions
        self.names: dict[str, int | Function | Rule] = {}
        self.broken: set[str] = set()
        self.used: set[str] = set()
        self.aliases: set[str] = set()
        self.is_sealed = False  # the ruleset is complete: what reads it must not change it
        self._is_nested = False
        self._depths: list[int] = []
        self._lints: list[Finding] = []
        self._steps = 0

    def nested(self) -> Lowering:
        """Another scope over the same graph, for an imported file."""
        inner = Lowering(self.graph, self.functions)
        inner._depths = self._depths
        inner._is_nested = True
        return inner

    def take_lints(self) -> list[Finding]:
        """The warnings since the last call."""
        lints, self._lints = self._lints, []
        return lints

    # Declarations

    def add_input(self, spec: InputSpec, place: Place) -> int:
        """A declared column; the importing file's own declaration stands, then an imported one."""
        known = self.graph.inputs.get(spec.name)
        if known is not None and not _alike(known.type, spec.type):
            message = f"`{spec.name}` is a {spec.type} here and a {known.type} elsewhere"
            hint = "a name is one column: declare it alike in every file, or rename it"
            raise Problem("N02", message, place, hint)
        if known is None or not self._is_nested or known is AMBIENT.get(spec.name):
            self.graph.inputs[spec.name] = spec
        return self._read(spec, place)

    def find_input(self, spec: InputSpec, place: Place) -> int:
        """A column that nothing here declares: as an imported file does, else as `spec` says."""
        known = {**self.graph.asides, **self.graph.inputs}.get(spec.name)
        if known is None:
            new = self.graph.asides if self.is_sealed else self.graph.inputs
            known = new[spec.name] = spec
        return self._read(known, place)

    def _read(self, spec: InputSpec, place: Place) -> int:
        interval = UNIT if spec.type.kind == "bool" else EVERYTHING
        interval = _AMBIENT_RANGES.get(spec.name, interval)
        options = (("name", spec.name),)
        node = Node("input", (), options, spec.type, interval, spec.level, place=place)
        number = self.names[spec.name] = self._add(node)
        return number

    def add_param(
        self, name: str, value: Any, type_: Type, interval: Interval | None, place: Place
    ) -> None:
        """A param is a constant; its declared range stands for all values it may be set to."""
        number = self._const(value, place)
        if interval is not None:
            # its own node: a param 0.2 in 0..0.2 is not the same as the number 0.2
            options = (("value", value), ("param", name))
            node = Node("const", (), options, type_, interval, place=place)
            number = self._add(node)
        self.names[name] = number

    def add_format(self, name: str, compiled: Any, place: Place) -> None:
        self.names[name] = self._add(Node("const", (), (("value", compiled),), FORMAT, place=place))

    # Constants

    def constant(self, expr: x.Expr) -> Any:
        """The value of a constant expression."""
        if isinstance(expr, x.ListExpr):
            return [self.constant(item) for item in expr.items]
        node = self.graph[self.lower(expr)]
        if node.op != "const":
            raise Problem("T10", "this has to be a constant", expr.place)
        return node.value

    def constant_number(self, expr: x.Expr) -> float:
        value = self.constant(expr)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Problem("T11", "this has to be a number", expr.place)
        return value

    def _const(self, value: Any, place: Place) -> int:
        if isinstance(value, float) and value == int(value) and abs(value) < 2**53:
            value = int(value)
        kinds = {bool: BOOL, int: NUM, float: NUM, str: TEXT, type(None): NULL}
        type_ = kinds.get(type(value), ANY)
        is_number = type_.is_numeric
        interval = NOTHING if value is None else EVERYTHING
        if is_number:
            interval = Interval(float(value), float(value))
        return self._add(Node("const", (), (("value", value),), type_, interval, place=place))

    def _add(self, node: Node) -> int:
        if len(self.graph.nodes) >= MAX_GRAPH_NODES:
            raise Problem("T12", f"the ruleset has over {MAX_GRAPH_NODES:,} ops", node.place)
        number = self.graph.add(node)
        if number == len(self._depths):
            self._depths.append(1 + max((self._depths[arg] for arg in node.args), default=0))
        if self._depths[number] > MAX_GRAPH_DEPTH:
            raise Problem("T13", f"ops rest on each other {MAX_GRAPH_DEPTH} deep", node.place)
        return number

    # Expressions

    def lower(self, expr: x.Expr) -> int:
        """The node of an expression. Raises Problem."""
        self._steps += 1
        if self._steps > MAX_INLINE_STEPS:
            raise Problem("T12", "the functions of the ruleset expand without end", expr.place)
        match expr:
            case x.Const(value=value):
                return self._const(value, expr.place)
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
        self.used.add(name.id)
        if name.id in self.broken:
            raise Problem.silent()
        found = self.names.get(name.id)
        if isinstance(found, Function | Rule):
            params = _takes(found) if isinstance(found, Function) else "(…)"
            raise Problem(
                "N01", f"`{name.id}` is a function", name.place, f"call {name.id}{params}"
            )
        if found is not None:
            return found
        if name.id in AMBIENT:
            return self.find_input(AMBIENT[name.id], name.place)
        known = [*self.names, *AMBIENT]
        hint = nearest(name.id, known) or "declare it above with `input`, `param` or `let`"
        if name.id in CATALOG:
            hint = f"it is a rule: call {name.id}(…)"
        raise Problem("N01", f"unknown name `{name.id}`", name.place, hint)

    def _pattern(self, pattern: x.Pattern) -> int:
        from grpo_rewards.rules.text import check_pattern

        complaint = check_pattern(pattern.pattern, pattern.flags)
        if complaint:
            hint = "patterns are RE2's: no look-around, no back-references"
            raise Problem("T16", complaint, pattern.place, hint)
        value = (pattern.pattern, pattern.flags)
        return self._add(Node("const", (), (("value", value),), PATTERN, place=pattern.place))

    def _attribute(self, attr: x.Attr, index: int = -1) -> int:
        head = x.Attr(attr.of, attr.name)
        dotted = x.dotted_name(head)
        root = dotted.split(".")[0] if dotted else ""
        imported = self.names.get(dotted) if dotted else None
        if isinstance(imported, int):
            self.used.add(root)
            return imported
        if root in self.broken:
            raise Problem.silent()
        if root in self.aliases and isinstance(attr.of, x.Name):
            hint = nearest(attr.name, [n.split(".", 1)[-1] for n in self.names if "." in n])
            raise Problem("N01", f"`{root}` has no `{attr.name}`", attr.place, hint)
        if dotted and root not in self.names and root not in self.aliases:
            hint = f"it is a rule: call {dotted}(…)" if dotted in CATALOG else ""
            raise Problem(
                "N01", f"unknown name `{dotted}`", attr.place, hint or _rules_like(dotted)
            )
        of = self.lower(attr.of)
        node = self.graph[of]
        if node.type.kind != "match":
            raise Problem("T17", f"a {node.type} has no part `{attr.name}`", attr.place)
        if attr.name in MATCH_PARTS:
            return self._rule(CATALOG[MATCH_PARTS[attr.name]], (of,), {}, attr.place)
        compiled = self.graph[node.args[0]].value
        if attr.name not in compiled.captures:
            known = (*compiled.captures, *MATCH_PARTS)
            hint = nearest(attr.name, known) or f"it has {', '.join(known)}"
            message = f"format `{compiled.name}` captures no `{attr.name}`"
            raise Problem("N07", message, attr.place, hint)
        options = {"name": attr.name, "index": index}
        return self._rule(CATALOG["match.capture"], (of,), options, attr.place)

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
        function = self.names.get(expr.function)
        if expr.function.split(".")[0] in self.broken:
            raise Problem.silent()
        if isinstance(function, Function):
            self.used.add(expr.function.split(".")[0])
            return self._inline(function, expr)
        if isinstance(function, Rule):  # the user's own
            self.used.add(expr.function.split(".")[0])
            return self._bind(function, expr)
        if expr.function not in CATALOG or expr.function in _HIDDEN:
            hint = _rules_like(expr.function)
            if function is not None:
                hint = "it is a value, not a function"
                if isinstance(function, int) and self.graph[function].type.kind == "format":
                    hint = f"it is a format: match({expr.function}, …).ok"
            start = expr.place.start
            place = expr.place if expr.piped else Place(start, start + len(expr.function))
            raise Problem("N08", f"unknown rule `{expr.function}`", place, hint)
        return self._bind(CATALOG[expr.function], expr)

    def _if(self, expr: x.Call) -> int:
        condition, yes, no = (self.lower(arg) for arg in expr.args)
        self._condition(condition, expr.args[0])
        type_ = self._common((yes, no), expr.place)
        return self._op("if", (condition, yes, no), type_, expr.place)

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
            return self._op(
                "??", (left, right), self._common((left, right), expr.place), expr.place
            )
        for number, arg in zip((left, right), expr.args, strict=True):
            self._condition(number, arg)
        return self._op(expr.function, (left, right), BOOL, expr.place)

    def _condition(self, number: int, expr: x.Expr) -> None:
        type_ = self.graph[number].type
        if type_.kind not in ("bool", "null"):
            hint = "compare it with something" if type_.is_numeric else ""
            raise Problem("T19", f"a condition is a bool, not a {type_}", expr.place, hint)

    def _common(self, numbers: Sequence[int], place: Place) -> Type:
        """The type that holds the values of several nodes."""
        types = [self.graph[number].type for number in numbers]
        real = [type_ for type_ in types if type_.kind not in ("null", "any")] or types
        kinds = {type_.kind for type_ in real}
        if kinds <= {"num", "bool"}:
            type_ = BOOL if kinds == {"bool"} else NUM
        elif kinds <= {"text", "chat"}:
            type_ = TEXT
        elif len(kinds) == 1 and kinds != {"match"}:
            type_ = real[0].required
        else:
            shown = " and ".join(sorted(kinds))
            raise Problem("T22", f"values of one expression differ in type: {shown}", place)
        nullable = any(t.nullable for t in types)
        return type_.or_null if nullable else type_

    def _equality(self, expr: x.Call) -> int:
        left, right = expr.args
        for value, other in ((left, right), (right, left)):
            if isinstance(other, x.Const) and other.value is None:
                number = self._rule(CATALOG["is_null"], (self.lower(value),), {}, expr.place)
                if expr.function == "==":
                    return number
                return self._rule(CATALOG["not"], (number,), {}, expr.place)
        numbers = (self.lower(left), self.lower(right))
        self._common(numbers, expr.place)
        return self._rule(CATALOG[expr.function], numbers, {}, expr.place)

    def _one_of(self, expr: x.Call) -> int:
        value, choices = expr.args
        assert isinstance(choices, x.ListExpr)
        if not choices.items:
            raise Problem("T23", "nothing is in an empty list", choices.place)
        numbers = tuple(self.lower(item) for item in (value, *choices.items))
        self._common(numbers, expr.place)
        return self._rule(CATALOG["in"], numbers, {}, expr.place)

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
        numbers = [self.lower(expr.args[0]), *(self._const(p, expr.place) for p in points)]
        return self._rule(CATALOG["schedule"], tuple(numbers), {}, expr.place)

    def _inline(self, function: Function, expr: x.Call) -> int:
        self.used.add(function.name)
        given = dict(zip(function.params, expr.args, strict=False))
        named = dict(expr.options)
        if len(expr.args) > len(function.params) or set(named) & set(given):
            raise Problem("T25", f"`{function.name}` takes {_takes(function)}", expr.place)
        missing = set(function.params) - set(given) - set(named)
        if missing or set(named) - set(function.params):
            raise Problem("T25", f"`{function.name}` takes {_takes(function)}", expr.place)
        numbers = {name: self.lower(arg) for name, arg in {**given, **named}.items()}
        outer, self.names = self.names, {**function.scope, **numbers}
        try:
            return self.lower(function.body)
        finally:
            self.names = outer

    def _bind(self, rule: Rule, expr: x.Call) -> int:
        """A call of a rule: arguments to parameters, options to their constants."""
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
        return self._rule(rule, tuple(numbers), {**defaults, **options}, expr.place)

    def _arguments(
        self, rule: Rule, param: Parameter, args: Mapping[str, Sequence[x.Expr]], expr: x.Call
    ) -> list[int]:
        given = args[param.name]
        if not given and not param.is_variadic:
            if param.default is REQUIRED:
                message = f"`{rule.name}` lacks its argument `{param.name}`"
                raise Problem("T27", message, expr.place, rule.signature)
            return [self._const(param.default, expr.place)]
        numbers = [self.lower(arg) for arg in given]
        for number, arg in zip(numbers, given, strict=True):
            type_ = self.graph[number].type
            if not param.type.accepts(type_):
                message = f"`{rule.name}` takes a {param.type} as `{param.name}`, not a {type_}"
                raise Problem("T28", message, arg.place, rule.signature)
        return numbers

    def _option(self, rule: Rule, param: Parameter, expr: x.Expr) -> Any:
        if isinstance(expr, x.Pattern):
            value = self.graph[self._pattern(expr)].value
        else:
            value = self.constant(expr)
        if param.choices and value not in param.choices:
            hint = nearest(str(value), param.choices) or f"one of {', '.join(param.choices)}"
            message = f"`{rule.name}` has no {param.name} {x.Const(value)}"
            raise Problem("T29", message, expr.place, hint)
        return tuple(value) if isinstance(value, list) else value

    def _rule(
        self, rule: Rule, args: tuple[int, ...], options: Mapping[str, Any], place: Place
    ) -> int:
        """The node of a rule applied to nodes, folded where all of them are constants."""
        nodes = [self.graph[arg] for arg in args]
        constants = [node.value if node.op == "const" else None for node in nodes]
        complaint = rule.validate(constants, options) if rule.validate else None
        if complaint:
            raise Problem("T29", complaint, place, rule.signature)
        is_constant = (
            args
            and not rule.identity
            and all(n.op == "const" and n.interval.is_point for n in nodes)
        )
        if is_constant and isinstance(rule.kernel, ColumnKernel):
            columns = [Column.of(np.array([float(node.value)])) for node in nodes]
            value = rule.kernel.function(*columns, **options).row(0)
            if value is not None:
                as_type = bool if rule.returns.kind == "bool" else float
                return self._const(as_type(value), place)
            self._warn_null(rule, place)
        elif rule.name == "/" and nodes[1].op == "const" and nodes[1].interval == Interval(0, 0):
            self._warn_null(rule, place)
        name = rule.identity or rule.name
        return self._op(name, args, rule.returns, place, rule=rule, options=options)

    def _warn_null(self, rule: Rule, place: Place) -> None:
        message = f"`{rule.name}` is null here, whatever the row"
        self._lints.append(Finding("W03", message, place, "write null if that is meant", "warning"))

    def _op(
        self,
        op: str,
        args: tuple[int, ...],
        type_: Type,
        place: Place,
        *,
        rule: Rule | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> int:
        nodes = [self.graph[arg] for arg in args]
        level = max([node.level for node in nodes] + [rule.level if rule else Level.CONST])
        cost = max([node.cost for node in nodes] + [rule.cost if rule else 0])
        pairs = tuple(sorted((options or {}).items()))
        node = Node(op, args, pairs, type_, EVERYTHING, level, cost, rule, place)
        interval = node_interval(node, [n.interval for n in nodes])
        return self._add(Node(op, args, pairs, type_, interval, level, cost, rule, place))

    def settle(self, number: int, settings: Settings) -> int:
        """A named result: errors become what the policy says; default: null, but a completion
        that is too large gets the lowest value, because the fault is its own."""
        lowest = tight_interval(self.graph, number).lo
        chosen = {"too_large": "lowest", **dict(settings.on_error)}
        floor = None if lowest == -np.inf else lowest
        values = tuple(
            (error, floor if value == "lowest" else value)
            for error, value in sorted(chosen.items())
            if value is not None
        )
        node = self.graph[number]
        if node.op == "settle" and node.option("on_error") == values:
            return number
        type_ = node.type
        if any(value not in (0, 1) for _, value in values):
            type_ = NUM
        options = {"on_error": values}
        return self._op("settle", (number,), type_, node.place, options=options)


#: Rules that the language spells with an operator or an attribute of its own.
_HIDDEN = frozenset(MATCH_PARTS.values()) | {"match.capture", "is_null"}


def _takes(function: Function) -> str:
    return f"({', '.join(function.params)})"


def _rules_like(name: str) -> str:
    """A hint towards the rule that was meant."""
    last = name.rsplit(".", 1)[-1]
    by_last = [rule for rule in CATALOG if rule.rsplit(".", 1)[-1] == last]
    if by_last:
        return f"did you mean `{by_last[0]}`?"
    return nearest(name, list(CATALOG)) or "`grpo-rewards rules` lists them"
