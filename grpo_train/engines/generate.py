"""Sampling through a model's own `generate`, with its own cache: what any causal model can do.

It serves models that remember more of a text than keys and values (the states of Mamba, the
convolutions of LFM2), and those that take no 4-D mask. All prompts of a call have one length, so
nothing is padded. Tokens are drawn as everywhere else (`drawing.py`), from the trainer's own output
layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from grpo_train.engines import drawing
from grpo_train.model.logprobs import Support
from grpo_train.model.policy import Policy
from grpo_train.rollouts import Rollouts, Sampling, uniforms


class _Drawer:
    """A logits processor that draws: the drawn token's score is 0, all others are −inf."""

    def __init__(self, policy: Policy, sampling: Sampling, uniform: Tensor) -> None:
        self.policy, self.sampling, self.uniform = policy, sampling, uniform
        self.head = policy.head
        self.hidden = torch.zeros(())  # [R, h] of the rows' last tokens
        self.drawn: list[tuple[Tensor, Tensor, Tensor]] = []  # one entry a step
        self.kept: list[Tensor] = []  # one entry a step: which tokens could have been drawn [R, V]

    def watch(self, _: Any, inputs: tuple[Any, ...]) -> None:
        """Keep the input of the output layer; a hook that is called before it."""
        self.hidden = inputs[0][:, -1].to(self.policy.compute)

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        logits = self.head.logits(self.hidden, self.sampling.temperature)
        if self.sampling.cuts:
            logits = drawing.cut_logits(logits, self.sampling)
            self.kept.append(~logits.isinf().cpu())
        found = drawing.draw(logits, self.uniform[:, len(self.drawn)])
        self.drawn.append(found)
        chosen = torch.full_like(scores, -torch.inf)
        return chosen.scatter_(1, found[0][:, None], 0.0)


def generate(
    policy: Policy,
    prompts: Sequence[list[int]],
    n: int,
    sampling: Sampling,
    seeds: Tensor,
    max_rows: int,
) -> Rollouts:
    """`n` completions of each prompt, at most `max_rows` at a time."""
    total, limit = len(prompts) * n, sampling.max_tokens
    ids = torch.full((total, limit), policy.pad_id)
    logprobs, entropy = torch.zeros(total, limit), torch.zeros(total, limit)
    length = torch.zeros(total, dtype=torch.int64)
    masks: dict[int, list[Tensor]] = {}  # of each row's tokens
    eos = torch.tensor(policy.eos_ids)
    for rows in _batches(prompts, n, max_rows):
        uniform = uniforms(seeds[rows].to(policy.device), limit)
        drawer = _Drawer(policy, sampling, uniform)
        _run(policy, [prompts[row // n] for row in rows], limit, drawer)
        steps = len(drawer.drawn)
        for i, whole in enumerate((ids, logprobs, entropy)):
            whole[rows, :steps] = torch.stack([drawn[i] for drawn in drawer.drawn], dim=1).cpu()
        over = (ids[rows, :steps, None] == eos).any(dim=-1)
        first = torch.where(over.any(dim=1), over.int().argmax(dim=1) + 1, steps)
        length[rows] = first
        for i, row in enumerate(rows if sampling.cuts else []):
            kept = drawer.kept[: int(first[i])]
            masks[row] = [mask[i].nonzero()[:, 0] for mask in kept]
    used = torch.arange(limit) < length[:, None]
    last = ids.gather(1, length[:, None] - 1)
    return Rollouts(
        [list(prompt) for prompt in prompts],
        n,
        ids[used],
        length,
        logprobs[used],
        entropy[used],
        (last == eos).any(dim=1),
        Support.of([ids for row in range(total) for ids in masks[row]]) if sampling.cuts else None,
    )


def _batches(prompts: Sequence[list[int]], n: int, max_rows: int) -> Iterator[list[int]]:
    """Batches of rows whose prompts have the same length."""
    order = sorted(range(len(prompts) * n), key=lambda row: len(prompts[row // n]))
    for _, alike in groupby(order, key=lambda row: len(prompts[row // n])):
        rows = list(alike)
        yield from (rows[i : i + max_rows] for i in range(0, len(rows), max_rows))


def _run(policy: Policy, texts: list[list[int]], limit: int, drawer: _Drawer) -> None:
    """Let the model continue texts of one length with the tokens that the drawer draws."""
    from transformers import GenerationConfig

    make: Any = GenerationConfig  # untyped
    model, inputs = policy.model, torch.tensor(texts, device=policy.device)
    usual = model.generation_config
    model.generation_config = make(
        do_sample=False,
        num_beams=1,
        max_new_tokens=limit,
        eos_token_id=list(policy.eos_ids),
        pad_token_id=policy.pad_id,
        use_cache=True,
    )
    model.eval()
    hook = model.get_output_embeddings().register_forward_pre_hook(drawer.watch)
    try:
        with policy.autocast():
            model.generate(
                inputs, attention_mask=torch.ones_like(inputs), logits_processor=[drawer]
            )
    finally:
        hook.remove()
        model.generation_config = usual
