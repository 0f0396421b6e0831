"""Rollouts, which engines return: G completions of each prompt, with their logprobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from grpo_train.model.logprobs import Support


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `top_k` 0 and `top_p` 1 keep the whole vocabulary; temperature > 0."""

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    @property
    def cuts(self) -> bool:
        """Whether some tokens cannot be drawn."""
        return self.top_k > 0 or self.top_p < 1.0


@dataclass(frozen=True, slots=True)
class Rollouts:
    """B = P · G completions; those of a prompt are adjacent. Token tensors are flat, on the CPU.

    `old_logprobs` are of the distribution sampled from; `stopped` is False where the length limit
    cut the completion; an end-of-text token is part of the completion, and nothing follows it.
    """

    prompt_ids: list[list[int]]  # P
    group_size: int
    ids: Tensor  # [N] int64
    length: Tensor  # [B] int64
    old_logprobs: Tensor  # [N] fp32
    entropy: Tensor  # [N] fp32, nats
    stopped: Tensor  # [B] bool
    support: Support | None = None

    def __len__(self) -> int:
        return len(self.length)

    def completion_ids(self) -> list[list[int]]:
        """Token ids of every completion."""
        ids, end = self.ids.tolist(), self.length.cumsum(0).tolist()
        return [ids[a:b] for a, b in zip([0, *end], end, strict=False)]

    def pick(self, prompts: Sequence[int]) -> Rollouts:
        """The groups of some prompts, in that order."""
        g = self.group_size
        rows = torch.tensor([p * g + i for p in prompts for i in range(g)], dtype=torch.int64)
        start = self.length.cumsum(0) - self.length
        spans = [torch.arange(int(start[r]), int(start[r] + self.length[r])) for r in rows]
        token = torch.cat(spans) if spans else torch.zeros(0, dtype=torch.int64)
        return Rollouts(
            [self.prompt_ids[p] for p in prompts],
            g,
            self.ids[token],
            self.length[rows],
            self.old_logprobs[token],
            self.entropy[token],
            self.stopped[rows],
            None if self.support is None else self.support.pick(token),
        )


def join_rollouts(parts: Sequence[Rollouts]) -> Rollouts:
    """Groups of several batches, one after another."""
    supports = [part.support for part in parts if part.support is not None]
    return Rollouts(
        [ids for part in parts for ids in part.prompt_ids],
        parts[0].group_size,
        torch.cat([part.ids for part in parts]),
        torch.cat([part.length for part in parts]),
        torch.cat([part.old_logprobs for part in parts]),
        torch.cat([part.entropy for part in parts]),
        torch.cat([part.stopped for part in parts]),
        Support.join(supports) if supports else None,
    )


# Called with prompts whose completions are all there, and these, while others are still sampled.
Done = Callable[[list[int], Rollouts], None]


class Engine(Protocol):
    """What samples completions from the policy."""

    @property
    def copies(self) -> bool:
        """Whether it has weights of its own, so that its logprobs are not quite the trainer's."""
        ...

    def generate(
        self,
        prompts: Sequence[list[int]],
        n: int,
        sampling: Sampling,
        seeds: Tensor,
        done: Done | None = None,
    ) -> Rollouts:
        """`n` completions of each prompt; `seeds` [P · n] int64, one a completion.

        An engine that gets all completions at once never calls `done`.
        """
        ...

    def sync(self) -> None:
        """Take over the policy's current weights; nothing happens where they are shared."""
        ...


# -- random numbers --------------------------------------------------------------------------------


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 (wrapping), the same on every device."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def row_seeds(*parts: Tensor | int) -> Tensor:
    """One int64 seed out of several numbers (run, step, prompt, row), element by element."""
    out = torch.zeros((), dtype=torch.int64)
    for part in parts:
        out = _mix(out + torch.as_tensor(part, dtype=torch.int64) + -7046029254386353131)
    return out


def uniforms(seeds: Tensor, count: int) -> Tensor:
    """[rows, count] float64 in [0, 1): number t of a row depends on its seed and t only.

    >>> uniforms(torch.tensor([7]), 3)[0, :2].equal(uniforms(torch.tensor([7]), 2)[0])
    True
    """
    index = torch.arange(1, count + 1, device=seeds.device) * -7046029254386353131
    bits = _mix(_mix(seeds)[:, None] + index)
    return ((bits >> 11) & ((1 << 53) - 1)).to(torch.float64) / (1 << 53)
