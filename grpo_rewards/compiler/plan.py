"""Graph → Plan: which ops run, in which order, and how each is run.

Execution is demand-driven: every output asks for its arguments on the rows where it needs them, so
an op never sees a row whose value nobody uses. The plan holds what is known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grpo_rewards.compiler.graph import LAZY, Graph, GraphNode
from grpo_rewards.rules.rule import ColumnKernel, DatasetKernel, GroupKernel, RowKernel

#: How an op is run.
CONSTANT, BOUND, LAZILY, COLUMNS, ROWS, KEYED, WORKER, GROUPS, DATASET = (
    "constant", "input", "lazy", "columns", "rows", "keyed", "keyed+worker", "groups", "dataset",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """The nodes that `outputs` (names to nodes) are computed from, arguments first."""

    graph: Graph
    outputs: dict[str, int]
    order: tuple[int, ...]

    @staticmethod
    def of(graph: Graph, outputs: dict[str, int]) -> Plan:
        return Plan(graph, outputs, tuple(graph.reachable(outputs.values())))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that a batch has to bring, in the order of first use."""
        return self.graph.inputs_of(self.outputs.values())

    @property
    def needs_groups(self) -> bool:
        """Whether an op looks at the whole group of a completion."""
        return any(how(self.graph[number]) == GROUPS for number in self.order)

    def explain(self) -> str:
        """The plan as text: one op a line, its level, range and the way it runs."""
        names = {number: name for name, number in self.outputs.items()}
        rows = [("op", "does", "level", "range", "runs", "")]
        for number in self.order:
            node = self.graph[number]
            if node.op == "const":
                continue
            interval = f"{node.interval}" if node.type.is_numeric else str(node.type)
            if number in names:
                interval = repr(self.graph.ranges.get(names[number], node.interval))
            does = describe(self.graph, number)
            rows.append(
                (f"%{number}", does, node.level.label, interval, how(node), names.get(number, ""))
            )
        return _aligned(rows)


def how(node: GraphNode) -> str:
    """The way a node is run."""
    if node.op in ("const", "input"):
        return CONSTANT if node.op == "const" else BOUND
    if node.op in LAZY:
        return LAZILY
    match node.rule.kernel if node.rule else None:
        case RowKernel(finish=finish, keyed=keyed):
            if finish is not None:
                return WORKER
            return KEYED if keyed else ROWS
        case GroupKernel():
            return GROUPS
        case DatasetKernel():
            return DATASET
        case ColumnKernel() | None:
            return COLUMNS


def describe(graph: Graph, number: int) -> str:
    """One op as `name(arguments)`; an argument that is an op itself is `%` and its number."""
    node = graph[number]
    if node.op == "const":
        value = node.value
        return getattr(value, "name", None) or repr(value)
    if node.op == "input":
        return str(node.option("name"))
    args = [
        describe(graph, arg) if graph[arg].op in ("const", "input") else f"%{arg}"
        for arg in node.args
    ]
    options = [f"{name}={value!r}" for name, value in node.options if node.op != "settle"]
    return f"{node.title}({', '.join(args + options)})"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [min(60, max(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines)
