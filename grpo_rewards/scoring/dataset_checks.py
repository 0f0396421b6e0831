"""The `check` statements of a ruleset: what must hold of a whole dataset, scored batch by batch.

checks = gr.Checks(scorer)
for batch in batches:
    scores = checks(**batch)       # what scorer(**batch) gives
for result in checks.results():
    print(result.name, result.verdict, result.values)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from grpo_rewards.columns import Column
from grpo_rewards.compiler.graph import CheckCase
from grpo_rewards.compiler.plan import Plan
from grpo_rewards.rules.dataset import accumulator_state, restore
from grpo_rewards.rules.rule import Accumulator, DatasetKernel
from grpo_rewards.scoring.execution import Execution
from grpo_rewards.scoring.scorer import Scorer
from grpo_rewards.scoring.scores import Scores


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check: whether it held (None where no row had a value), and the values over
    the dataset that it rests on, by their text."""

    name: str
    text: str
    verdict: bool | None
    values: Mapping[str, float | None]


class Checks:
    """Scores batches as a scorer does, and adds up what the ruleset's checks ask for.

    Batches hold whole groups where a check looks at groups.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._cases: list[CheckCase] = scorer.graph.checks
        graph = scorer.graph
        self._accumulators: dict[int, Accumulator] = {
            part: _kernel_of(scorer, part).start() for case in self._cases for part, _ in case.parts
        }
        arguments = {n for part in self._accumulators for n in graph[part].args}
        self._plan = Plan.of(graph, {**graph.columns, **{f"%{n}": n for n in sorted(arguments)}})
        self.needs_groups = self._plan.needs_groups or any(
            _kernel_of(scorer, part).needs_groups for part in self._accumulators
        )

    def __call__(self, **columns: Any) -> Scores:
        """The scores of one batch; see `Scorer`. Raises BatchError."""
        execution = self.scorer.execute(self._plan, columns, needs_groups=self.needs_groups)
        scores = self.scorer.scores_of(execution)
        everything = np.ones(execution.size, bool)
        for part, accumulator in self._accumulators.items():
            arguments = [execution.need(n, everything) for n in self.scorer.graph[part].args]
            accumulator.add(*arguments, groups=execution.groups)
        return scores

    def state(self) -> dict[str, Any]:
        """What was added up so far, as plain values; see `restore`."""
        return {str(part): accumulator_state(found) for part, found in self._accumulators.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the `state` of another `Checks` of the same ruleset."""
        for part, accumulator in self._accumulators.items():
            restore(accumulator, state[str(part)])

    def results(self) -> list[CheckResult]:
        """Every check of the ruleset, in order, over all that was scored."""
        values = {part: accumulator.value() for part, accumulator in self._accumulators.items()}
        return [self._result(case, values) for case in self._cases]

    def _result(self, case: CheckCase, values: Mapping[int, float | None]) -> CheckResult:
        given = {part: Column.from_rows([values[part]], np.float64) for part, _ in case.parts}
        plan = Plan.of(self.scorer.graph, {case.name: case.condition})
        verdict = Execution(plan, {}, 1, given=given).run()[case.name].row(0)
        shown = {text: values[part] for part, text in case.parts}
        return CheckResult(case.name, case.text, None if verdict is None else bool(verdict), shown)


def _kernel_of(scorer: Scorer, part: int) -> DatasetKernel:
    rule = scorer.graph[part].rule
    assert rule is not None and isinstance(rule.kernel, DatasetKernel)
    return rule.kernel
