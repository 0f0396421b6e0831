"""What the adapters share: what they ask of a scorer, and how rows become columns and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from grpo_rewards.compiler.graph import Graph
from grpo_rewards.errors import BatchError


class ScoredBatch(Protocol):
    """What an adapter reads of a scored batch; `scoring.scores.Scores` is one."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def to_columns(self) -> dict[str, Any]: ...


class BatchScorer(Protocol):
    """What an adapter asks of a ruleset that is ready to score; `gr.Scorer` is one.

    A scorer offers its adapters as methods, so the adapters cannot import it in turn.
    """

    @property
    def graph(self) -> Graph: ...

    @property
    def hash(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def needs_groups(self) -> bool: ...

    def __call__(self, **columns: Any) -> ScoredBatch: ...


def refuse_groups(scorer: BatchScorer, backend: str, fix: str) -> None:
    """BatchError where a ruleset looks at whole groups and the backend does not hand them over."""
    if scorer.needs_groups:
        raise BatchError(f"{scorer.graph.name} looks at whole groups, and {backend}", hint=fix)


def refuse_input(scorer: BatchScorer, name: str, backend: str, fix: str) -> None:
    """BatchError where a ruleset reads a column that the backend cannot know."""
    if name in scorer.inputs and not scorer.graph.inputs[name].has_default:
        raise BatchError(f"{scorer.graph.name} reads `{name}`, and {backend}", hint=fix)


def bound(scorer: BatchScorer, name: str, values: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """A column under every name by which the ruleset may take an input, so that it wins over
    whatever else the rows of the backend carry."""
    spec = scorer.graph.inputs.get(name)
    return dict.fromkeys(spec.names if spec is not None else (name,), values)


def columns_of(
    scorer: BatchScorer, rows: Sequence[Mapping[str, Any] | None]
) -> dict[str, Sequence[Any]]:
    """The columns of records that the ruleset may read; null where a record has none."""
    wanted = [name for spec in scorer.graph.inputs.values() for name in spec.names]
    given = {name for row in rows if row for name in row}
    return {
        name: [row.get(name) if row else None for row in rows] for name in wanted if name in given
    }


def records(scorer: BatchScorer, columns: Mapping[str, Any]) -> list[dict[str, float | None]]:
    """Each row's reward and scores by name; None where null."""
    scored = scorer(**columns)
    found = scored.to_columns()
    names = ("reward", *scored.names)
    return [
        {name: None if found[name][i] is None else float(found[name][i]) for name in names}
        for i in range(len(scored))
    ]
