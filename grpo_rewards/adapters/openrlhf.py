"""OpenRLHF: a ruleset as the `reward_func` of a Python file, or as a remote reward model.

    # my_reward.py, with --reward.remote_url my_reward.py
    reward_func = gr.load("rulesets/gsm8k.reward").as_openrlhf()

OpenRLHF hands over `queries`: prompt and completion as one text, with the tokens of the chat
template. The completion is what follows the prompt, without the tokens that end a turn.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from grpo_rewards.adapters.base import BatchScorer, bound, records, refuse_groups, refuse_input
from grpo_rewards.errors import BatchError

#: What ends a turn in the templates of common models.
TURN_ENDS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end|>",
    "</s>",
    "<eos>",
    "<end_of_turn>",
)


class OpenRLHFReward:
    """`reward_func(queries, prompts, labels)`: rewards, scores and extra_logs, as tensors.

    OpenRLHF has no null: a row whose reward is null gets `on_null`; `adapters.verl` says why 0 is
    harmless. `turn_ends` are cut from the end of a completion.
    """

    def __init__(
        self,
        scorer: BatchScorer,
        *,
        gold: str = "gold",
        on_null: float = 0.0,
        turn_ends: Sequence[str] = TURN_ENDS,
    ) -> None:
        refuse_groups(
            scorer,
            "OpenRLHF scores one completion at a time",
            "keep group terms out of this ruleset, or train with TRL or grpo-train",
        )
        fix = "give the input a default"
        for name in ("truncated", "n_tokens", "step", "progress"):
            refuse_input(scorer, name, "OpenRLHF does not pass it", fix)
        self.__name__ = "reward_func"
        self._scorer = scorer
        self._gold = gold
        self._on_null = on_null
        self._turn_ends = tuple(turn_ends)

    def __call__(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any
    ) -> dict[str, Any]:
        """Tensors [B] for OpenRLHF's experience maker."""
        torch: Any = importlib.import_module("torch")  # OpenRLHF has it loaded
        found = self.lists(queries, prompts, labels)
        logs = {name: torch.tensor(values) for name, values in found.pop("extra_logs").items()}
        return {name: torch.tensor(values) for name, values in found.items()} | {"extra_logs": logs}

    def lists(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]
    ) -> dict[str, Any]:
        """The same as plain lists, which is the reply to `--reward.remote_url http://…`."""
        texts = [self._completion(*pair) for pair in zip(queries, prompts, strict=True)]
        columns: dict[str, Any] = {"prompt": list(prompts), "completion": texts}
        columns |= bound(self._scorer, self._gold, list(labels))
        rows = records(self._scorer, columns)
        rewards = [self._on_null if row["reward"] is None else row["reward"] for row in rows]
        logs = {
            name: [0.0 if row[name] is None else row[name] for row in rows]
            for name in self._scorer.names
        }
        return {"rewards": rewards, "scores": rewards, "extra_logs": logs}

    def _completion(self, query: str, prompt: str) -> str:
        if not query.startswith(prompt):
            start = query.rfind(prompt) if prompt else 0
            if start < 0:
                hint = "prompts must be templated as queries are"
                raise BatchError(f"a query does not hold its prompt: {query[:60]!r}", hint=hint)
            query = query[start:]
        text = query[len(prompt) :]
        while end := next((end for end in self._turn_ends if text.rstrip().endswith(end)), ""):
            text = text.rstrip().removesuffix(end)
        return text
