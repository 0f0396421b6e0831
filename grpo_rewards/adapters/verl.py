"""verl: a ruleset as `custom_reward_function`, for one row or for a batch.

    # my_reward.py, with custom_reward_function.path=my_reward.py and name=compute_score
    compute_score = gr.load("rulesets/gsm8k.reward").as_verl()

The further columns of a row come from its `extra_info`. verl has no null: a row whose reward is
null gets `on_null`. A null comes from a gold that cannot be read, so all rows of the group have it;
with 0 for each of them the group's advantages are 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grpo_rewards.adapters.base import (
    BatchScorer,
    bound,
    columns_of,
    records,
    refuse_groups,
    refuse_input,
)
from grpo_rewards.errors import BatchError

Row = Mapping[str, Any]


class VerlReward:
    """Both signatures that verl's reward managers call: `solution_str=…` gives a dict with `score`
    and every named score, `solution_strs=[…]` a list of such dicts.

    `group` names the key of `extra_info` that numbers prompts, for a ruleset that looks at whole
    groups; such a ruleset works with the batch signature only.
    """

    def __init__(
        self,
        scorer: BatchScorer,
        *,
        gold: str = "gold",
        group: str | None = None,
        on_null: float = 0.0,
    ) -> None:
        if group is None:
            refuse_groups(
                scorer,
                "verl's reward managers score one row at a time",
                'reward_manager=batch with scorer.as_verl(group="index"), a key of extra_info',
            )
        fix = "put it into extra_info, or give the input a default"
        for name in ("truncated", "step", "progress"):
            refuse_input(scorer, name, "verl does not pass it", fix)
        self.__name__ = "compute_score"
        self._scorer = scorer
        self._gold = gold
        self._group = group
        self._on_null = on_null

    def __call__(
        self,
        data_source: Any = None,
        solution_str: str | None = None,
        ground_truth: Any = None,
        extra_info: Row | None = None,
        *,
        data_sources: Sequence[Any] | None = None,
        solution_strs: Sequence[str] | None = None,
        ground_truths: Sequence[Any] | None = None,
        extra_infos: Sequence[Row | None] | None = None,
        **_: Any,
    ) -> dict[str, float] | list[dict[str, float]]:
        """One row's scores, or those of a batch; NaN for a named score that is null."""
        if solution_strs is not None:
            sources = data_sources if data_sources is not None else [None] * len(solution_strs)
            golds = ground_truths if ground_truths is not None else [None] * len(solution_strs)
            extras = extra_infos if extra_infos is not None else [None] * len(solution_strs)
            return self._score(list(sources), list(solution_strs), list(golds), list(extras))
        if solution_str is None:
            raise BatchError("verl passes `solution_str` or `solution_strs`; neither was given")
        refuse_groups(self._scorer, "this is one row", "use verl's batch reward manager")
        return self._score([data_source], [solution_str], [ground_truth], [extra_info])[0]

    def _score(
        self, sources: list[Any], texts: list[str], golds: list[Any], extras: list[Row | None]
    ) -> list[dict[str, float]]:
        columns: dict[str, Any] = columns_of(self._scorer, extras)
        columns |= {"data_source": sources, "completion": texts}
        columns |= bound(self._scorer, self._gold, golds)
        if self._group is not None:
            columns["group"] = [_id(extra, self._group) for extra in extras]
        return [self._row(row) for row in records(self._scorer, columns)]

    def _row(self, row: Mapping[str, float | None]) -> dict[str, float]:
        reward = row["reward"]
        named = {n: float("nan") if v is None else v for n, v in row.items() if n != "reward"}
        return named | {"score": self._on_null if reward is None else reward}


def _id(extra: Row | None, key: str) -> Any:
    if extra is None or key not in extra:
        raise BatchError(f"a row's extra_info has no `{key}`, which numbers its prompt")
    return extra[key]
