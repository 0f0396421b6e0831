"""Why a row got its reward: the expression tree with every value, span and status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text
from rich.tree import Tree

from grpo_rewards.columns import Column, Span, Status
from grpo_rewards.compiler.graph import Graph, GraphNode
from grpo_rewards.compiler.plan import Plan
from grpo_rewards.scoring.execution import Execution
from grpo_rewards.scoring.scorer import Scorer

SHOWN_CHARS = 44  # of a text value, from both ends, so that a line of the tree fits a terminal


@dataclass(frozen=True, slots=True)
class Explanation:
    """One op of one row: what it is, its value as text, its status, and what it rests on.

    `skipped` ops were not needed for this row. An op that has a name is shown once with its
    children; elsewhere it goes by its name alone.
    """

    label: str
    value: str
    status: str
    children: tuple[Explanation, ...] = ()
    skipped: bool = False

    def to_tree(self) -> Tree:
        """As a rich tree, for a terminal."""
        tree = Tree(self._line())
        for child in self.children:
            tree.add(child.to_tree())
        return tree

    def _line(self) -> Text:
        line = Text(self.label, style="dim" if self.skipped else "bold")
        if self.skipped:
            return line.append("  not needed", style="dim")
        line.append(" = ", style="dim").append(self.value, style="cyan")
        if self.status != "ok":
            line.append(f"  {self.status}", style="yellow")
        return line


def explain_row(
    scorer: Scorer, row: Mapping[str, Any], mates: Sequence[Mapping[str, Any]] = ()
) -> list[Explanation]:
    """The explanation of every score of one row, then of its reward. `mates` are the other rows of
    its group, for a ruleset that looks at groups."""
    plan, execution = executed(scorer, row, mates)
    names: dict[int, str] = {}
    for name, number in plan.outputs.items():
        names.setdefault(number, name)  # a reward that is a score goes by the score's name
    tree = _RowTree(scorer.graph, execution, names)
    return [tree.output(name, number) for name, number in plan.outputs.items()]


def executed(
    scorer: Scorer, row: Mapping[str, Any], mates: Sequence[Mapping[str, Any]] = ()
) -> tuple[Plan, Execution]:
    """The whole ruleset over one row, which comes first, and the other rows of its group."""
    columns = {name: [value, *(mate.get(name) for mate in mates)] for name, value in row.items()}
    columns["group"] = [0] * (1 + len(mates))
    plan = Plan.of(scorer.graph, scorer.graph.columns)
    execution = scorer.execute(plan, columns)
    execution.run()
    return plan, execution


@dataclass(slots=True)
class _RowTree:
    """Walks the graph of one executed row."""

    graph: Graph
    execution: Execution
    names: Mapping[int, str]

    def output(self, name: str, number: int) -> Explanation:
        """A named result: the op that makes it, under its name."""
        own = self.names[number]
        if own != name:
            return self._explained(number, f"{name}: {own}", ())
        inner = self.op(self.graph[number].args[0])
        return self._explained(number, f"{name}: {inner.label}", inner.children)

    def op(self, number: int) -> Explanation:
        """An op and what it rests on; a named result by its name alone."""
        if number in self.names:
            return self._explained(number, self.names[number], ())
        node = self.graph[number]
        shown = [arg for arg in node.args if self.graph[arg].op != "const"]
        return self._explained(number, _label(self.graph, node), tuple(map(self.op, shown)))

    def _explained(self, number: int, label: str, children: tuple[Explanation, ...]) -> Explanation:
        computed = self.execution.computed(number)
        if not computed[0]:
            return Explanation(label, "", "", (), skipped=True)
        column = self.execution.need(number, computed)
        return Explanation(
            label, shown_value(column), Status(int(column.status[0])).label, children
        )


def shown_value(column: Column, row: int = 0) -> str:
    """One value as a person reads it; a span with the offsets of its place."""
    value = column.row(row)
    if value is None:
        return "null"
    if isinstance(value, str):
        place = f" at {value.start}..{value.end}" if isinstance(value, Span) else ""
        return f"{shorten(value)!r}{place}"
    if column.values.dtype == bool:
        return str(bool(value)).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    ok = getattr(value, "ok", None)  # a match
    if ok is not None:
        return f"{'fits' if ok else 'does not fit'}, credit {value.credit:.3g}{_failure(value)}"
    return repr(value)[:SHOWN_CHARS]


def shorten(text: str, chars: int = SHOWN_CHARS) -> str:
    """A text cut to its two ends where it is longer than `chars`, some of which it may exceed."""
    tail = chars * 3 // 10 - 1  # most of what is shown is the head; answers stand in the tail
    return text if len(text) <= chars else f"{text[: chars - tail - 4]} … {text[-tail:]}"


def _failure(match: Any) -> str:
    if match.at is None:
        return ""
    wanted = f" (wants {', '.join(match.at.expected[:4])})" if match.at.expected else ""
    return f", left at {match.at.line}:{match.at.column}{wanted}"


def _label(graph: Graph, node: GraphNode) -> str:
    """An op in the spelling of the language, its constants written out."""
    if node.op == "input":
        return str(node.option("name"))
    if node.args and graph[node.args[0]].type.kind == "match":  # a part of it, by its name
        return f".{dict(node.options).get('name') or node.op.rpartition('.')[2]}"
    constants = [graph[arg] for arg in node.args if graph[arg].op == "const"]
    shown = [str(getattr(c.value, "name", None) or c.value) for c in constants]
    return f"{node.title} {' '.join(shown)}".strip()
