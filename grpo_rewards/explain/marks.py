"""One row, looked into: why it got its scores, and what to mark in its completion."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from grpo_rewards.explain.row import executed, explain_row, shorten
from grpo_rewards.rules.rule import Mark
from grpo_rewards.scoring.execution import Execution
from grpo_rewards.scoring.inputs import text_of
from grpo_rewards.scoring.scorer import Scorer


def look(
    scorer: Scorer, columns: Mapping[str, Any], mates: Sequence[Mapping[str, Any]] = ()
) -> tuple[list[dict[str, Any]], list[Mark]]:
    """Why a row got its scores, as nested records, and what to mark in its completion; `mates` are
    the other rows of its group."""
    why = [dataclasses.asdict(tree) for tree in explain_row(scorer, columns, mates)]
    return why, marks(scorer, columns, mates)


def marks(
    scorer: Scorer, columns: Mapping[str, Any], mates: Sequence[Mapping[str, Any]] = ()
) -> list[Mark]:
    """Places in a completion that the rules of its ruleset point at: what was extracted, where a
    format is left, what is in another language than asked for."""
    _, execution = executed(scorer, columns, mates)
    found: set[Mark] = set()
    for number, node in enumerate(scorer.graph.nodes):
        if node.rule is not None and node.rule.marks and execution.computed(number)[0]:
            arguments = [_computed(execution, arg) for arg in node.args]
            found.update(node.rule.marks(arguments, _computed(execution, number)))
    return sorted(found)


def format_failures(scorer: Scorer, rows: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """How many completions leave each format for want of what, over rows of a ruleset's inputs.

    A format that is matched with a part of an input, or that needs a deadline, is passed over.
    """
    found: Counter[tuple[str, str]] = Counter()
    graph = scorer.graph
    matches = [
        (graph[node.args[0]].value, graph[node.args[1]].option("name"))
        for node in map(graph.__getitem__, graph.reachable(graph.columns.values()))
        if node.type.kind == "match" and graph[node.args[1]].op == "input"
    ]
    matches = [(shape, name) for shape, name in matches if not shape.needs_deadline]
    for row in rows if matches else ():
        for shape, name in matches:
            left = shape.match(text_of(row.get(name), graph.inputs[name].role)).at
            if left is not None:
                found[shape.name, " or ".join(left.expected[:3]) or "nothing more"] += 1
    return found


STYLES = {"foreign": "black on yellow", "fail": "white on red", "answer": "bold green"}


def marked_text(text: str, found: Sequence[Mark]) -> Text:
    """A completion as rich text: its marks in colour, control characters as escapes, so that the
    terminal does not obey them."""
    shown = Text()
    edges = sorted({0, len(text), *(edge for mark in found for edge in mark[:2])})
    for start, end in itertools.pairwise(edges):
        kinds = [kind for left, right, kind, _ in found if left <= start and end <= right]
        shown.append(printable(text[start:end]), style=STYLES[kinds[0]] if kinds else "")
    return shown


def remarks(text: str, found: Sequence[Mark]) -> list[str]:
    """A line for each mark that finds fault: its place, its kind and the words there."""
    return [
        f"{start}..{end} {kind}: {note}: {shorten(text[start:end])!r}"
        for start, end, kind, note in found
        if kind != "answer"
    ]


def printable(text: str) -> str:
    """A text with what cannot be seen (controls, directions, lone surrogates) as escapes."""
    return "".join(
        char if char.isprintable() or char in "\n\t\u3000" else repr(char)[1:-1] for char in text
    )


def _computed(execution: Execution, number: int) -> Any:
    rows = execution.computed(number)
    return execution.need(number, rows).row(0) if rows[0] else None
