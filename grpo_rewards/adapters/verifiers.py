"""verifiers: a ruleset as functions of a `Rubric`, and as hooks of a v1 `Task`.

reward = gr.load("rulesets/gsm8k.reward").as_verifiers()
rubric = vf.Rubric(funcs=reward.funcs, weights=reward.weights)      # verifiers < 0.4

class Sum(vf.Task[SumData]):                                        # verifiers ≥ 0.4
    @vf.reward
    async def reward(self, trace): return reward.task_reward(self.data, trace)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_rewards.adapters.base import BatchScorer, bound, columns_of, records, refuse_groups


class VerifiersReward:
    """`funcs` and `weights` for a `Rubric`: the reward with weight 1, every named score with 0.

    A ruleset that looks at whole groups becomes group functions, which a Rubric calls with all
    rollouts of a prompt. verifiers has no null: a null value becomes `on_null`.
    """

    def __init__(self, scorer: BatchScorer, *, gold: str = "gold", on_null: float = 0.0) -> None:
        self._scorer = scorer
        self._gold = gold
        self._on_null = on_null

    @property
    def weights(self) -> list[float]:
        """1 for the reward, 0 for what is only recorded."""
        return [1.0] + [0.0] * len(self._scorer.names)

    @property
    def funcs(self) -> list[Callable[..., Any]]:
        """One function a name, the reward first."""
        make = self._of_group if self._scorer.needs_groups else self._of_one
        return [make(name) for name in ("reward", *self._scorer.names)]

    def _of_one(self, name: str) -> Callable[..., float]:
        def score(prompt: Any, completion: Any, answer: Any, info: Any) -> float:
            return self._score([prompt], [completion], [answer], [info])[0][name]

        score.__name__ = name
        return score

    def _of_group(self, name: str) -> Callable[..., list[float]]:
        def score(prompts: Any, completions: Any, answers: Any, infos: Any) -> list[float]:
            return [row[name] for row in self._score(prompts, completions, answers, infos)]

        score.__name__ = name
        return score

    def task_reward(self, task: Any, trace: Any) -> float:
        """The reward of a v1 trace; the task's fields are the columns."""
        return self._of_trace(task, trace)["reward"]

    def task_metrics(self, task: Any, trace: Any) -> dict[str, float]:
        """The named scores of a v1 trace, for a `@vf.metric`."""
        row = self._of_trace(task, trace)
        return {name: row[name] for name in self._scorer.names}

    def _of_trace(self, task: Any, trace: Any) -> dict[str, float]:
        refuse_groups(self._scorer, "a v1 task scores one trace", "compare in the Env's `finalize`")
        fields = task.model_dump()
        columns = columns_of(self._scorer, [fields])
        known: dict[str, Any] = {**columns, "completion": [trace.last_reply]}
        return self._filled(records(self._scorer, known))[0]

    def _score(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        answers: Sequence[Any],
        infos: Sequence[Any],
    ) -> list[dict[str, float]]:
        rows = [info if isinstance(info, Mapping) else None for info in infos]
        columns: dict[str, Any] = columns_of(self._scorer, rows)
        columns |= {"prompt": list(prompts), "completion": list(completions)}
        columns |= bound(self._scorer, self._gold, list(answers))
        columns["group"] = [0] * len(completions)
        return self._filled(records(self._scorer, columns))

    def _filled(self, rows: list[dict[str, float | None]]) -> list[dict[str, float]]:
        return [{n: self._on_null if v is None else v for n, v in row.items()} for row in rows]
