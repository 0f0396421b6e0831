"""Rollouts from the completions of engines that are not ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from grpo_train.errors import EngineError
from grpo_train.rollouts import Rollouts, Sampling


class Completion(NamedTuple):
    """One completion: its tokens, their logprobs, and whether it ended by itself."""

    ids: list[int]
    logprobs: list[float]
    stopped: bool


def collect(
    prompts: Sequence[list[int]], n: int, completions: Sequence[Completion], eos: tuple[int, ...]
) -> Rollouts:
    """Rollouts of `n` completions a prompt, adjacent. Entropy is NaN: only the trainer knows it."""
    for c in completions:
        if len(c.ids) != len(c.logprobs):
            raise EngineError(f"{len(c.ids)} tokens came with {len(c.logprobs)} logprobs")
    ids = torch.tensor([i for c in completions for i in c.ids], dtype=torch.int64)
    ended = [c.stopped and bool(c.ids) and c.ids[-1] in eos for c in completions]
    return Rollouts(
        prompt_ids=[list(prompt) for prompt in prompts],
        group_size=n,
        ids=ids,
        length=torch.tensor([len(c.ids) for c in completions], dtype=torch.int64),
        old_logprobs=torch.tensor([p for c in completions for p in c.logprobs]).float(),
        entropy=torch.full((len(ids),), torch.nan),
        stopped=torch.tensor(ended, dtype=torch.bool),
    )


def check_sampling(sampling: Sampling, name: str) -> None:
    """Refuse top-p and top-k: engines that do not report the cut tokens would bias all ratios."""
    if sampling.cuts:
        raise EngineError(
            f"the engine `{name}` cannot report which tokens top_p and top_k leave\n"
            "hint: sampling.top_p = 1, sampling.top_k = 0, or engine.kind = native"
        )
