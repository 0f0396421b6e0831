"""What scoring many batches came to: a summary of each score, and what each op and stage cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from grpo_rewards.columns import Column, Status
from grpo_rewards.compiler.graph import Graph
from grpo_rewards.compiler.plan import describe
from grpo_rewards.data.extractions import EmptyExtraction
from grpo_rewards.rules.dataset import Moments, accumulator_state, restore
from grpo_rewards.scoring.execution import OpStats
from grpo_rewards.scoring.scores import Scores, Summary

STAGES = ("read", "score", "write")


@dataclass(slots=True)
class Tally:
    """Running sums of one score over all batches."""

    moments: Moments = field(default_factory=Moments)
    null: int = 0
    error: int = 0

    def add(self, column: Column) -> None:
        absent = ~column.present
        # The policy has turned errors into nulls by now; their status still tells them apart.
        errors = int(np.count_nonzero(absent & (column.status >= Status.TIMEOUT)))
        self.error += errors
        self.null += int(np.count_nonzero(absent)) - errors
        self.moments.add(column, groups=None)


@dataclass(frozen=True, slots=True)
class Op:
    """What one op of the plan cost: its number, what it does, the score that asked for it first."""

    number: int
    does: str
    score: str
    stats: OpStats


@dataclass(slots=True)
class Totals:
    """What scoring a file came to: `rows` scored, `duplicate_keys` of them with a key twice;
    `skipped` unreadable lines; the seconds of each stage; `warnings` once all rows are there."""

    rows: int = 0
    skipped: int = 0
    duplicate_keys: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)
    stats: dict[int, OpStats] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    warnings: list[EmptyExtraction] = field(default_factory=list)

    def add(self, scores: Scores) -> None:
        """Add the scores of one batch."""
        self.rows += len(scores)
        for name, column in scores.columns.items():
            self.tallies.setdefault(name, Tally()).add(column)
        for number, stats in scores.ops.items():
            self.stats.setdefault(number, OpStats()).add(stats)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Counts the time inside towards a stage."""
        started = perf_counter()
        try:
            yield
        finally:
            self.stages[stage] += perf_counter() - started

    def summary(self, graph: Graph) -> list[Summary]:
        """A row per score, the reward last. The time of an op counts for the score that asked for
        it first."""
        ops = self.ops(graph)
        return [self._row(name, tally, ops) for name, tally in self.tallies.items()]

    def _row(self, name: str, tally: Tally, ops: list[Op]) -> Summary:
        mean, std = tally.moments.average(), tally.moments.spread()
        own = OpStats()
        for op in ops:
            if op.score == name:
                own.add(op.stats)
        return Summary(
            name,
            self.rows,
            float("nan") if mean is None else mean,
            float("nan") if std is None else std,
            tally.null,
            tally.error,
            own.seconds,
            own.hits,
            own.kills,
        )

    def ops(self, graph: Graph) -> list[Op]:
        """What each op cost, in the order of the scores; those of `check` statements last."""
        owners: dict[int, str] = {}
        for name, root in graph.columns.items():
            for number in graph.reachable([root]):
                owners.setdefault(number, name)
        found = [
            Op(number, describe(graph, number), owners.get(number, "check"), stats)
            for number, stats in self.stats.items()
        ]
        order = [*graph.columns, "check"]
        return sorted(found, key=lambda op: (order.index(op.score), op.number))

    def state(self) -> dict[str, Any]:
        """All of it as plain values; see `restore`."""
        tallies = {
            name: {
                "moments": accumulator_state(tally.moments),
                "null": tally.null,
                "error": tally.error,
            }
            for name, tally in self.tallies.items()
        }
        stats = {str(number): asdict(stats) for number, stats in self.stats.items()}
        return {"rows": self.rows, "tallies": tallies, "stats": stats, "stages": dict(self.stages)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the `state` of another run's totals, to the last bit."""
        self.rows = state["rows"]
        self.stages = dict(state["stages"])
        self.stats = {int(number): OpStats(**stats) for number, stats in state["stats"].items()}
        for name, tally in state["tallies"].items():
            self.tallies[name] = Tally(Moments(), tally["null"], tally["error"])
            restore(self.tallies[name].moments, tally["moments"])
