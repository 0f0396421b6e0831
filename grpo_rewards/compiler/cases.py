"""Test, attack and check statements → cases of the graph, for a ruleset that is complete."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from grpo_rewards.compiler.expressions import Lowering
from grpo_rewards.compiler.graph import AttackCase, CheckCase, InputSpec, TestCase
from grpo_rewards.compiler.nodes import AMBIENT, NodeBuilder
from grpo_rewards.compiler.scope import Scope, nearest
from grpo_rewards.errors import Place, Problem
from grpo_rewards.rules.attack_families import FAMILIES
from grpo_rewards.syntax import tree as x
from grpo_rewards.types import ANY, Level


class CaseBuilder:
    """Builds the cases of one ruleset. Each method raises Problem where a statement is wrong."""

    def __init__(self, nodes: NodeBuilder, scope: Scope) -> None:
        self._nodes = nodes
        self._graph = nodes.graph
        self._scope = scope

    def test(self, test: x.Test) -> TestCase:
        if not test.expects:
            raise Problem("T40", "the test expects nothing", test.place, "add an `expect` line")
        read = {
            node.id
            for expect in test.expects
            for node in _parts(expect)
            if isinstance(node, x.Name)
        }
        # A test may bring columns of its own, such as a recorded score, for its expectations.
        own = read - {*self._scope.names, *self._scope.aliases, *AMBIENT}
        rows = tuple(self._row(row, own) for row in test.rows)
        if not test.each_from:  # the columns of a file are not known yet: any new name is one
            own &= {name for row in rows for name in row}
        scope = self._scope.inner()
        for name in sorted(own):
            number = self._nodes.find_input(InputSpec(name, ANY, (name,)), test.place)
            scope.define(name, number)
        expects = tuple(self._expect(expect, scope) for expect in test.expects)
        return TestCase(test.name, rows, expects, test.is_group, test.each_from, test.place)

    def _row(self, row: x.Row, own: set[str]) -> dict[str, Any]:
        """The values of a row; its columns are inputs, or `own` columns of the test."""
        inputs = {name for spec in self._graph.inputs.values() for name in spec.names}
        known = {*inputs, *AMBIENT, *own}
        lowering = Lowering(self._nodes, self._scope)
        for name, value in row.columns:
            if name not in known:
                hint = nearest(name, sorted(inputs)) or f"its inputs: {', '.join(sorted(inputs))}"
                raise Problem("N12", f"the ruleset has no input `{name}`", value.place, hint)
        return {name: lowering.constant(value) for name, value in row.columns}

    def _expect(self, expect: x.Expect, scope: Scope) -> tuple[int, str, Place]:
        condition = expect.condition
        if expect.within is not None:
            if not (isinstance(condition, x.Call) and condition.function == "=="):
                raise Problem("T41", "`within` goes with `==`", expect.place)
            left, right = condition.args
            condition = replace(
                x.call("<=", x.call("abs", left - right), expect.within), place=expect.place
            )
        number = Lowering(self._nodes, scope).lower(condition)
        if not self._graph[number].type.is_numeric:
            raise Problem("T42", "what is expected has to be true or false", expect.place)
        self._nodes.refuse_dataset(number, expect.place)
        return number, str(expect), expect.place

    def attack(self, attack: x.Attack) -> AttackCase:
        for family in attack.families:
            if family not in FAMILIES:
                hint = nearest(family, tuple(FAMILIES)) or f"one of {', '.join(FAMILIES)}"
                raise Problem("N09", f"unknown attack `{family}`", attack.place, hint)
        expect = x.Expect(attack.expect, place=attack.expect.place)
        return AttackCase(attack.families, *self._expect(expect, self._scope))

    def check(self, statement: x.Check) -> CheckCase:
        lowering = Lowering(self._nodes, self._scope)
        number = lowering.lower(statement.condition)
        if not self._graph[number].type.is_numeric:
            message = "what is checked has to be true or false"
            raise Problem("T42", message, statement.condition.place)
        found = self._dataset_parts(number, statement.condition.place)
        calls = (e for e in x.walk(statement.condition) if isinstance(e, x.Call))
        texts = {lowering.lower(call): str(call) for call in calls}
        parts = tuple((part, texts.get(part, self._graph[part].title)) for part in sorted(found))
        return CheckCase(statement.name, number, str(statement.condition), parts, statement.place)

    def _dataset_parts(self, number: int, place: Place) -> set[int]:
        """The values over the whole dataset that a condition rests on; it may rest on no others."""
        found: set[int] = set()
        stack = [number]
        while stack:
            node = self._graph[(at := stack.pop())]
            if node.op == "input" or node.level == Level.GROUP:
                hint = "put it into dataset.mean(…), dataset.fraction(…) or another dataset.* rule"
                message = "a check is one verdict on the dataset; this is a value of each row"
                raise Problem("T33", message, place, hint)
            if node.rule is None or node.rule.level != Level.DATASET:
                stack += node.args
            elif any(self._graph[arg].level == Level.DATASET for arg in node.args):
                message = f"`{node.title}` of what itself needs the whole dataset"
                raise Problem("T33", message, node.place, "a dataset is read only once")
            else:
                found.add(at)
        if not found:
            message = "the check does not look at the dataset"
            raise Problem("T33", message, place, "it may use the dataset.* rules")
        return found


def _parts(expect: x.Expect) -> Iterator[x.Expr]:
    yield from x.walk(expect.condition)
    if expect.within is not None:
        yield from x.walk(expect.within)
