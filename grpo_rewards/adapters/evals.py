"""Evaluation harnesses: Inspect and lm-evaluation-harness.

# Inspect: Task(dataset=…, solver=generate(), scorer=scorer.as_inspect())
# lm-eval: `process_results: !function my_task.process_results`
process_results = gr.load("rulesets/gsm8k.reward").as_lm_eval(gold="answer")
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_rewards.adapters.base import BatchScorer, bound, columns_of, records, refuse_groups

_FIX = "score the log afterwards: grpo-rewards score RULESET LOG.jsonl --group COLUMN"


class LMEvalResults:
    """`process_results(doc, results)`: scores of the first result by name, without null ones."""

    def __init__(self, scorer: BatchScorer, *, gold: str | None = None) -> None:
        refuse_groups(scorer, "lm-eval scores one document at a time", _FIX)
        self.__name__ = "process_results"
        self._scorer = scorer
        self._gold = gold

    def __call__(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
        """The reward and every named score of one document."""
        columns: dict[str, Any] = columns_of(self._scorer, [doc])
        columns["completion"] = [results[0]]
        if self._gold is not None:
            columns |= bound(self._scorer, "gold", [doc[self._gold]])
        row = records(self._scorer, columns)[0]
        return {name: value for name, value in row.items() if value is not None}


def inspect_scorer(scorer: BatchScorer) -> Any:
    """An Inspect scorer: a value per named score and the reward, each with its mean and stderr."""
    refuse_groups(scorer, "Inspect scores one sample at a time", _FIX)
    kit: Any = importlib.import_module("inspect_ai.scorer")
    metrics = {name: [kit.mean(), kit.stderr()] for name in ("reward", *scorer.names)}

    @kit.scorer(metrics=metrics, name=scorer.graph.name or "ruleset")  # type: ignore[untyped-decorator]
    def made() -> Callable[..., Any]:
        async def score(state: Any, target: Any) -> Any:
            columns: dict[str, Any] = columns_of(scorer, [state.metadata])
            columns |= {"prompt": [_asked(state)], "completion": [state.output.completion]}
            columns |= bound(scorer, "gold", [target.text])
            row = records(scorer, columns)[0]
            values = {name: float("nan") if v is None else v for name, v in row.items()}
            return kit.Score(value=values, answer=state.output.completion)

        return score

    return made()


def _asked(state: Any) -> Any:
    """A sample's prompt, a text or messages: `input_text` raises where no user has spoken."""
    if isinstance(state.input, str):
        return state.input
    return [{"role": message.role, "content": message.text} for message in state.input]
