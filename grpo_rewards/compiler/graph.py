"""The graph of a ruleset: typed nodes, one for all equal expressions.

Nodes are numbered so that arguments come before the nodes that use them; a walk over the graph is a
loop over numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from grpo_rewards.errors import Place
from grpo_rewards.rules.rule import Rule
from grpo_rewards.syntax.tree import NOWHERE
from grpo_rewards.types import EVERYTHING, Interval, Level, Type

#: Operators that decide per row which of their arguments are needed at all.
LAZY = ("if", "and", "or", "??")


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One op of the graph. `options` hold constants; `place` is where it was first written."""

    op: str  # const, input, if, and, or, ??, settle, or a rule's name (a user's own: its identity)
    args: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]
    type: Type
    interval: Interval = EVERYTHING
    level: Level = Level.CONST
    cost: int = 0
    rule: Rule | None = None
    place: Place = NOWHERE

    def option(self, name: str) -> Any:
        return dict(self.options)[name]

    @property
    def title(self) -> str:
        """The op by the name that a ruleset calls it."""
        return self.rule.name if self.rule is not None else self.op

    @property
    def value(self) -> Any:
        """The value of a const node."""
        return self.option("value")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A column that a ruleset reads: names to try in order, and a default where none is there."""

    name: str
    type: Type
    sources: tuple[str, ...]
    has_default: bool = False
    default: Any = None
    level: Level = Level.PROMPT

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that may be bound to it, in the order they are tried."""
        return tuple(dict.fromkeys((*self.sources, self.name)))

    @property
    def role(self) -> str:
        """Whose last message is the text of a conversation: the user's for a prompt, which goes by
        that name, and the assistant's for everything else, so that only its words are paid."""
        is_prompt = "prompt" in self.names and self.level != Level.ROW
        return "user" if is_prompt else "assistant"


@dataclass(frozen=True, slots=True)
class TestCase:
    """A `test` block: rows of columns, and the conditions as (node, text, place)."""

    __test__ = False
    name: str
    rows: tuple[Mapping[str, Any], ...]
    expects: tuple[tuple[int, str, Place], ...]
    is_group: bool
    each_from: str
    place: Place


@dataclass(frozen=True, slots=True)
class AttackCase:
    """An `attack` statement: families of attacks, and a node that has to be true of each."""

    families: tuple[str, ...]
    expect: int
    text: str
    place: Place


@dataclass(frozen=True, slots=True)
class CheckCase:
    """A `check` statement: the node of its condition, and the values over the whole dataset that
    the condition is computed from, as (node, text)."""

    name: str
    condition: int
    text: str
    parts: tuple[tuple[int, str], ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Settings:
    """A ruleset's policy. `on_error` maps an error's label to a value, None (null) or "lowest"."""

    timeout_s: float = 2.0
    limit_chars: int = 0  # 0: limits.MAX_TEXT_CHARS
    seed: int = 0
    on_error: tuple[tuple[str, float | str | None], ...] = ()


@dataclass(slots=True)
class Graph:
    """The checked ruleset. `scores` maps names to nodes in the file's order, `reward` is a node."""

    name: str = "ruleset"
    nodes: list[GraphNode] = field(default_factory=list)
    scores: dict[str, int] = field(default_factory=dict)
    reward: int = -1
    inputs: dict[str, InputSpec] = field(default_factory=dict)
    asides: dict[str, InputSpec] = field(default_factory=dict)  # read by tests, attacks, checks
    params: dict[str, Any] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    tests: list[TestCase] = field(default_factory=list)
    attacks: list[AttackCase] = field(default_factory=list)
    checks: list[CheckCase] = field(default_factory=list)
    ranges: dict[str, Interval] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)  # each to a node, a function or a rule
    _ids: dict[Any, int] = field(default_factory=dict)

    def add(self, node: GraphNode) -> int:
        """The number of the node, or of an equal one that is there already."""
        key = (node.op, node.args, node.options, str(node.type))
        known = self._ids.get(key)
        if known is None:
            known = self._ids[key] = len(self.nodes)
            self.nodes.append(node)
        return known

    def input(self, name: str) -> InputSpec:
        """The input of this name; a test, an attack or a check may be all that reads it."""
        return self.inputs[name] if name in self.inputs else self.asides[name]

    def __getitem__(self, number: int) -> GraphNode:
        return self.nodes[number]

    @property
    def columns(self) -> dict[str, int]:
        """The named outputs: every score, then the reward."""
        return {**self.scores, "reward": self.reward}

    def reachable(self, roots: Iterable[int]) -> list[int]:
        """The roots and all nodes they are computed from, as numbers, arguments first."""
        needed: set[int] = set()
        stack = list(roots)
        while stack:
            number = stack.pop()
            if number not in needed:
                needed.add(number)
                stack.extend(self.nodes[number].args)
        return sorted(needed)

    def inputs_of(self, roots: Iterable[int]) -> tuple[str, ...]:
        """The names of the inputs that the roots are computed from, in the order of first use."""
        nodes = (self.nodes[number] for number in self.reachable(roots))
        return tuple(node.option("name") for node in nodes if node.op == "input")

    def hash(self) -> str:
        """SHA-256 of what the scores and the reward mean, in hex.

        Comments, white space, unused statements, tests and the order of commutative operands do
        not change it; every weight, format, option, param, input default and policy does.
        """
        digests: dict[int, str] = {}
        for number in self.reachable(self.columns.values()):
            node = self.nodes[number]
            args = [digests[arg] for arg in node.args]
            if node.op in ("and", "or") or (node.rule is not None and node.rule.commutes):
                args.sort()
            options = [[name, _identity(value)] for name, value in sorted(node.options)]
            if node.op == "input":
                spec = self.inputs[node.option("name")]
                options.append(["input", _identity((spec.sources, spec.has_default, spec.default))])
            digests[number] = _digest([node.op, args, options, str(node.type)])
        named = {name: digests[number] for name, number in self.columns.items()}
        settings = [self.settings.timeout_s, self.settings.limit_chars, self.settings.seed]
        return _digest([sorted(named.items()), settings, sorted(self.settings.on_error)])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _identity(value: Any) -> Any:
    """A constant as JSON in which 1, true and "1" differ; a format is its own identity."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return [type(value).__name__, value]
    if isinstance(value, int | float):
        return ["num", float(value).hex()]
    if isinstance(value, list | tuple):
        return ["list", [_identity(item) for item in value]]
    return ["format", value.identity]
