"""What the adapters share: golds under every name, groups refused, nulls told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grpo_rewards.errors import BatchError

if TYPE_CHECKING:
    from grpo_rewards.scorer import Scorer


def refuse_groups(scorer: Scorer, backend: str, fix: str) -> None:
    """BatchError where a ruleset looks at whole groups and the backend does not hand them over."""
    if scorer.needs_groups:
        message = f"{scorer.graph.name} looks at whole groups, and {backend}"
        raise BatchError(f"{message}\n  hint: {fix}")


def refuse_input(scorer: Scorer, name: str, backend: str, fix: str) -> None:
    """BatchError where a ruleset reads a column that the backend cannot know."""
    if name in scorer.inputs and not scorer.graph.inputs[name].has_default:
        message = f"{scorer.graph.name} reads `{name}`, and {backend}"
        raise BatchError(f"{message}\n  hint: {fix}")


def bound(scorer: Scorer, name: str, values: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """A column under every name that the ruleset may take an input from, so that it wins over
    whatever else the backend's rows carry."""
    spec = scorer.graph.inputs.get(name)
    return dict.fromkeys(spec.names if spec is not None else (name,), values)


def columns_of(
    scorer: Scorer, rows: Sequence[Mapping[str, Any] | None]
) -> dict[str, Sequence[Any]]:
    """The columns of records that the ruleset may read; null where a record has none."""
    wanted = [name for spec in scorer.graph.inputs.values() for name in spec.names]
    given = {name for row in rows if row for name in row}
    return {
        name: [row.get(name) if row else None for row in rows] for name in wanted if name in given
    }


def records(scorer: Scorer, columns: Mapping[str, Any]) -> list[dict[str, float | None]]:
    """Each row's reward and scores by name; None where null."""
    scored = scorer(**columns)
    found = scored.to_columns()
    names = ("reward", *scored.names)
    return [
        {name: None if found[name][i] is None else float(found[name][i]) for name in names}
        for i in range(len(scored))
    ]
