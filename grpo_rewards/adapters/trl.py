"""TRL: a ruleset as reward functions of `GRPOTrainer` and `AsyncGRPOTrainer`.

    reward = gr.load("rulesets/gsm8k.reward").as_trl()
    GRPOTrainer(model, reward_funcs=reward, …)

TRL adds up what its reward functions return, so the ruleset's `reward` stands for itself and the
named scores are logged: by `reward` alone through TRL's `log_metric`, or as functions of their own
with weight 0 through `reward_funcs=reward.funcs` and `reward_weights=reward.weights`. All functions
share one scoring of a batch. A null reward is None, which TRL leaves out of its group's baseline.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from grpo_rewards.adapters.base import BatchScorer, refuse_groups, refuse_input
from grpo_rewards.adapters.weighted_sum import weights_of
from grpo_rewards.errors import BatchError

Values = list[float | None]


class TRLReward:
    """The reward of a ruleset with the signature that TRL calls; picklable.

    `num_generations` is that of GRPOConfig, which a ruleset that looks at whole groups needs;
    `columns` names dataset columns by the inputs that they feed; a completion that does not end
    with an `eos_token_id` is truncated.
    `split` hands TRL the scores with their own weights instead of their sum, for
    `multi_objective_aggregation="normalize_then_sum"`; the reward has to be a weighted sum.
    """

    def __init__(
        self,
        scorer: BatchScorer,
        *,
        num_generations: int | None = None,
        columns: Mapping[str, str] | None = None,
        eos_token_id: int | Collection[int] | None = None,
        split: bool = False,
    ) -> None:
        if num_generations is None:
            refuse_groups(
                scorer,
                "TRL does not say how long a group is",
                "scorer.as_trl(num_generations=8), the number of GRPOConfig",
            )
        if eos_token_id is None:
            refuse_input(
                scorer,
                "truncated",
                "TRL does not say whether a completion was cut",
                "scorer.as_trl(eos_token_id=tokenizer.eos_token_id)",
            )
        weights = weights_of(scorer.graph) if split else None
        if split and weights is None:
            message = f"{scorer.graph.name}: the reward is not a weighted sum of its scores"
            raise BatchError(message, hint="leave `split` away: TRL then gets the reward itself")
        self.__name__ = "reward"
        self._weights = weights
        self._scorer = scorer
        self._group_size = num_generations
        self._columns = dict(columns or {})
        ends = (eos_token_id,) if isinstance(eos_token_id, int) else eos_token_id
        self._ends = frozenset(ends or ())
        self._lock = threading.Lock()
        self._last: tuple[Any, dict[str, Values]] | None = None

    @property
    def funcs(self) -> list[TRLReward | TRLComponent]:
        """The reward, then every named score; with `split` the scores alone: for `reward_funcs`."""
        scores = [TRLComponent(self, name) for name in self._scorer.names]
        return [*scores] if self._weights is not None else [self, *scores]

    @property
    def weights(self) -> list[float]:
        """1 for the reward and 0 for what is only logged, or the weights of the sum: for
        `GRPOConfig(reward_weights=…)`."""
        if self._weights is not None:
            return [self._weights[name] for name in self._scorer.names]
        return [1.0] + [0.0] * len(self._scorer.names)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **known: Any) -> Values:
        """[B] rewards, None where null; scores go to TRL's log where it offers one."""
        found = self.values(prompts, completions, known)
        log = known.get("log_metric")
        if log is not None:
            for name, values in found.items():
                present = [value for value in values if value is not None]
                if name != "reward" and present:
                    log(f"score/{name}", sum(present) / len(present))
        return found["reward"]

    def values(
        self, prompts: Sequence[Any], completions: Sequence[Any], known: Mapping[str, Any]
    ) -> dict[str, Values]:
        """The reward and every score by name, scored once for a batch however many ask."""
        with self._lock:
            if self._last is None or self._last[0] is not completions:
                self._last = (completions, self._score(prompts, completions, known))
            return self._last[1]

    def _score(
        self, prompts: Sequence[Any], completions: Sequence[Any], known: Mapping[str, Any]
    ) -> dict[str, Values]:
        scored = self._scorer(**self._batch(prompts, completions, known)).to_columns()
        absent = [value is None for value in scored["reward"]]
        # A score beside a null reward would turn TRL's sum into a reward of 0.
        return {
            name: [
                None if gone or value is None else float(value)
                for gone, value in zip(absent, scored[name], strict=True)
            ]
            for name in ("reward", *self._scorer.names)
        }

    def _batch(
        self, prompts: Sequence[Any], completions: Sequence[Any], known: Mapping[str, Any]
    ) -> dict[str, Any]:
        size = len(completions)
        batch: dict[str, Any] = {
            name: values
            for name, values in known.items()
            if isinstance(values, list) and len(values) == size
        }
        batch |= {name: known[column] for name, column in self._columns.items() if column in known}
        batch |= {"prompt": list(prompts), "completion": list(completions)}
        ids = known.get("completion_ids")
        if ids is not None:
            batch["n_tokens"] = [float(len(row)) for row in ids]
            if self._ends:
                batch["truncated"] = [not row or row[-1] not in self._ends for row in ids]
        state = known.get("trainer_state")
        if state is not None:
            batch["step"] = float(state.global_step)
            batch["progress"] = state.global_step / max(1, state.max_steps)
        if self._group_size is not None:
            batch["group"] = self._groups(prompts, self._group_size)
        return batch

    def _groups(self, prompts: Sequence[Any], size: int) -> list[int]:
        """TRL keeps the completions of a prompt adjacent; a batch that cuts a group is refused."""
        for start in range(0, len(prompts), size):
            group = prompts[start : start + size]
            if len(group) < size or any(prompt != group[0] for prompt in group[1:]):
                message = f"rows {start} to {start + size - 1} are not one group of {size}"
                hint = (
                    "let a process's batch be a multiple of num_generations, and evaluate with as "
                    "many (num_generations_eval)"
                )
                raise BatchError(message, hint=hint)
        return [i // size for i in range(len(prompts))]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_last": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


class TRLComponent:
    """One named score with the signature that TRL calls, under its own name in TRL's log."""

    def __init__(self, reward: TRLReward, name: str) -> None:
        self.__name__ = name
        self._reward = reward

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **known: Any) -> Values:
        """[B] values of the score, None where it or the reward is null."""
        return self._reward.values(prompts, completions, known)[self.__name__]
