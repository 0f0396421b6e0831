"""Extractions that find nothing: the data is written in another way than the ruleset looks for.

An extraction is judged where its null goes on as a value. `x != null` asks whether there is one,
and `x ?? other` has another way out, so they do not count; of `x ?? y` with two extractions the
finds of both count. One that reads what another did not find is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from grpo_rewards.compiler.graph import Graph
from grpo_rewards.limits import MIN_FOUND_SHARE
from grpo_rewards.scoring.execution import OpStats
from grpo_rewards.scoring.inputs import text_of

_DOES_CHARS = 200  # of what an extraction looks for: a pattern may be long
_END_CHARS = 60  # of a row's last line


@dataclass(frozen=True, slots=True)
class EmptyExtraction:
    """An extraction of a score that found something in `found` of the `rows` where it was tried.
    `does` says what it looks for, `reads` is the input that it reads."""

    score: str
    does: str
    reads: str
    rows: int
    found: int
    hint: str = ""

    def __str__(self) -> str:
        many = f"only {self.found:,}" if self.found else "none"
        return f"`{self.score}`: {self.does} found something in {many} of {self.rows:,} rows"

    def seen(self, value: Any) -> EmptyExtraction:
        """With a hint at what a first row of the data has instead."""
        lines = [line.strip() for line in text_of(value).splitlines() if line.strip()]
        has = f"ends in {lines[-1][-_END_CHARS:]!r}" if lines else "is empty"
        ways = "another column (--map), or another form, as by a param (--set)"
        return replace(self, hint=f"`{self.reads}` of the first row {has}; read {ways}")


def empty_extractions(graph: Graph, stats: Mapping[int, OpStats]) -> list[EmptyExtraction]:
    """The extractions that found something in less than MIN_FOUND_SHARE of their rows, by what
    every op came to."""
    found: list[EmptyExtraction] = []
    blamed: set[int] = set()
    for members in _judged(graph):
        known = [number for number in members if number in stats]
        rows = max((stats[number].rows for number in known), default=0)
        finds = sum(stats[number].rows - stats[number].nulls for number in known)
        rests_on = set(graph.reachable(members))
        if finds < MIN_FOUND_SHARE * rows and not rests_on & blamed:
            blamed |= set(members)
            found.append(_told(graph, members, rows, finds))
    return found


def _judged(graph: Graph) -> Iterator[list[int]]:
    """Extractions whose null goes on as a value, those of one `??` chain together."""
    users: dict[int, list[int]] = {}
    for number in graph.reachable(graph.columns.values()):
        for arg in graph[number].args:
            users.setdefault(arg, []).append(number)
    for number in sorted(users):
        inside = any(graph[user].op == "??" for user in users[number])
        if graph[number].op == "??" and not inside and _goes_on(graph, users[number]):
            ways = [way for way in _ways(graph, number) if graph[way].op != "const"]
            if all(_is_extraction(graph, way) for way in ways):
                yield ways
        elif _is_extraction(graph, number) and _goes_on(graph, users[number]):
            yield [number]


def _goes_on(graph: Graph, users: list[int]) -> bool:
    return any(graph[user].op not in ("??", "is_null") for user in users)


def _ways(graph: Graph, number: int) -> list[int]:
    """The ways to a value that a chain of `??` tries, in order."""
    if graph[number].op != "??":
        return [number]
    return [way for arg in graph[number].args for way in _ways(graph, arg)]


def _is_extraction(graph: Graph, number: int) -> bool:
    return graph[number].title.startswith("extract.")


def _told(graph: Graph, members: list[int], rows: int, finds: int) -> EmptyExtraction:
    score = next(n for n, root in graph.columns.items() if members[0] in graph.reachable([root]))
    does = " ?? ".join(_spelled(graph, number) for number in members)
    reads = next(iter(graph.inputs_of(members)), "")
    return EmptyExtraction(score, does[:_DOES_CHARS], reads, rows, finds)


def _spelled(graph: Graph, number: int) -> str:
    """An op with all that it is applied to, options only where they are set."""
    node = graph[number]
    if node.op == "const":
        return getattr(node.value, "name", None) or repr(node.value)
    if node.op == "input":
        return str(node.option("name"))
    usual = {} if node.rule is None else node.rule.options
    options = [
        f"{name}={value!r}"
        for name, value in node.options
        if name not in usual or value != usual[name].default
    ]
    return f"{node.title}({', '.join([_spelled(graph, arg) for arg in node.args] + options)})"
