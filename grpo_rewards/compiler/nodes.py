"""Adds nodes to a graph: infers types, ranges and levels, folds constants, holds the bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grpo_rewards.columns import Column
from grpo_rewards.compiler.graph import Graph, GraphNode, InputSpec, Settings
from grpo_rewards.compiler.ranges import node_interval, tight_interval
from grpo_rewards.errors import Finding, Place, Problem
from grpo_rewards.limits import MAX_GRAPH_DEPTH, MAX_GRAPH_NODES, MAX_INLINE_STEPS
from grpo_rewards.rules.format.matching import Format
from grpo_rewards.rules.rule import ColumnKernel, Rule
from grpo_rewards.types import (
    ANY,
    BOOL,
    CHAT,
    EVERYTHING,
    FORMAT,
    NOTHING,
    NULL,
    NUM,
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

_CONSTANT_TYPES = {bool: BOOL, int: NUM, float: NUM, str: TEXT, type(None): NULL}


class NodeBuilder:
    """Adds nodes to one graph, for a ruleset and all that it imports. Its methods return numbers of
    nodes and raise Problem."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._is_sealed = False
        self._depths: list[int] = []  # by node: how many ops rest on each other below it
        self._steps = 0
        self._warnings: list[Finding] = []

    def take_warnings(self) -> list[Finding]:
        """The warnings since the last call."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def warn(self, code: str, message: str, place: Place, hint: str) -> None:
        """Keep a warning for `take_warnings`."""
        self._warnings.append(Finding(code, message, place, hint, "warning"))

    def seal(self) -> None:
        """The ruleset is complete: tests, attacks and checks that read it must not change it."""
        self._is_sealed = True

    def count_step(self, place: Place) -> None:
        """Count one expression; functions that call functions can multiply without end."""
        self._steps += 1
        if self._steps > MAX_INLINE_STEPS:
            raise Problem("T12", "the functions of the ruleset expand without end", place)

    # Inputs

    def declare_input(self, spec: InputSpec, place: Place, *, is_imported: bool) -> int:
        """A declared column; the importing file's own declaration stands, then an imported one."""
        known = self.graph.inputs.get(spec.name)
        if known is not None and not _alike(known.type, spec.type):
            message = f"`{spec.name}` is a {spec.type} here and a {known.type} elsewhere"
            hint = "a name is one column: declare it alike in every file, or rename it"
            raise Problem("N02", message, place, hint)
        if known is None or not is_imported or known is AMBIENT.get(spec.name):
            self.graph.inputs[spec.name] = spec
        return self._read(spec, place)

    def find_input(self, spec: InputSpec, place: Place) -> int:
        """A column that nothing here declares: as an imported file does, else as `spec` says."""
        known = {**self.graph.asides, **self.graph.inputs}.get(spec.name)
        if known is None:
            new = self.graph.asides if self._is_sealed else self.graph.inputs
            known = new[spec.name] = spec
        return self._read(known, place)

    def _read(self, spec: InputSpec, place: Place) -> int:
        interval = UNIT if spec.type.kind == "bool" else EVERYTHING
        interval = _AMBIENT_RANGES.get(spec.name, interval)
        options = (("name", spec.name),)
        return self._add(
            GraphNode("input", (), options, spec.type, interval, spec.level, place=place)
        )

    # Constants

    def constant(self, value: Any, place: Place) -> int:
        """A constant of a type that a ruleset can write."""
        if isinstance(value, float) and value == int(value) and abs(value) < 2**53:
            value = int(value)  # 1.0 and 1 are one node
        type_ = _CONSTANT_TYPES.get(type(value), ANY)
        interval = NOTHING if value is None else EVERYTHING
        if type_.is_numeric:
            interval = Interval(float(value), float(value))
        return self.special_constant(value, type_, place, interval)

    def special_constant(
        self, value: Any, type_: Type, place: Place, interval: Interval = EVERYTHING
    ) -> int:
        """A constant whose type its value does not tell, such as a pattern."""
        return self._add(GraphNode("const", (), (("value", value),), type_, interval, place=place))

    def param(
        self, name: str, value: Any, type_: Type, interval: Interval | None, place: Place
    ) -> int:
        """A param is a constant; its declared range stands for all values it may be set to."""
        number = self.constant(value, place)
        if interval is None:
            return number
        # a node of its own, for a param 0.2 in 0..0.2 is not the same as the number 0.2
        options = (("value", value), ("param", name))
        return self._add(GraphNode("const", (), options, type_, interval, place=place))

    def format(self, compiled: Format, place: Place) -> int:
        """A compiled format; only `match` takes it."""
        return self.special_constant(compiled, FORMAT, place)

    # Ops

    def rule(
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
                return self.constant(as_type(value), place)
            self._warn_null(rule, place)
        elif rule.name == "/" and nodes[1].op == "const" and nodes[1].interval == Interval(0, 0):
            self._warn_null(rule, place)
        name = rule.identity or rule.name
        return self.op(name, args, rule.returns, place, rule=rule, options=options)

    def _warn_null(self, rule: Rule, place: Place) -> None:
        message = f"`{rule.name}` is null here, whatever the row"
        self.warn("W03", message, place, "write null if that is meant")

    def op(
        self,
        op: str,
        args: tuple[int, ...],
        type_: Type,
        place: Place,
        *,
        rule: Rule | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> int:
        """The node of an op, its level, cost and range from those of its arguments."""
        nodes = [self.graph[arg] for arg in args]
        level = max([node.level for node in nodes] + [rule.level if rule else Level.CONST])
        cost = max([node.cost for node in nodes] + [rule.cost if rule else 0])
        pairs = tuple(sorted((options or {}).items()))
        node = GraphNode(op, args, pairs, type_, EVERYTHING, level, cost, rule, place)
        interval = node_interval(node, [n.interval for n in nodes])
        return self._add(GraphNode(op, args, pairs, type_, interval, level, cost, rule, place))

    def settle(self, number: int, settings: Settings) -> int:
        """A named result: errors become what the policy says. Without a policy they are null, but a
        completion that is too large gets the lowest value, for its length is its own fault."""
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
        return self.op("settle", (number,), type_, node.place, options={"on_error": values})

    def _add(self, node: GraphNode) -> int:
        if len(self.graph.nodes) >= MAX_GRAPH_NODES:
            raise Problem("T12", f"the ruleset has over {MAX_GRAPH_NODES:,} ops", node.place)
        number = self.graph.add(node)
        if number == len(self._depths):
            self._depths.append(1 + max((self._depths[arg] for arg in node.args), default=0))
        if self._depths[number] > MAX_GRAPH_DEPTH:
            raise Problem("T13", f"ops rest on each other {MAX_GRAPH_DEPTH} deep", node.place)
        return number

    # What is asked of nodes

    def common_type(self, numbers: Sequence[int], place: Place) -> Type:
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

    def refuse_dataset(self, number: int, place: Place) -> None:
        """Raises the Problem of a value that needs the whole dataset, where none can be had."""
        if self.graph[number].level == Level.DATASET:
            reached = (self.graph[n] for n in self.graph.reachable([number]))
            rules = (n.title for n in reached if n.rule and n.rule.level == Level.DATASET)
            message = f"`{next(rules)}` looks at the whole dataset"
            raise Problem("T32", message, place, "only a `check` can use it")


def _alike(one: Type, other: Type) -> bool:
    """Whether a column of one type can be read as another."""
    return (one.kind, one.item) == (other.kind, other.item) or (one.is_text and other.is_text)
