"""rollouts → micro-batches under a token budget, each prompt computed once for its group.

A tree is one row `[prompt | c1 | c2 | … | cG]`: a completion sees the prompt and itself, never its
siblings, and its positions go on from the prompt's. So the prompt is computed once instead of G
times, nothing is padded to the longest completion, and the logprobs are those of separate rows. The
last token of a completion is predicted but never fed.

A completion is never cut; a tree that exceeds the budget is split between completions, and each
part repeats the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_train.logprob import Support, sampled_logprobs
from grpo_train.policy import Policy
from grpo_train.rollout import Rollouts

PROMPT, PADDING = 0, -1  # segments; completion k of a tree is k ≥ 1


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Trees side by side, padded to the longest; the N tokens to train are addressed flat."""

    ids: Tensor  # [R, T]
    positions: Tensor  # [R, T], restarting after the prompt
    segment: Tensor  # [R, T]: PADDING, PROMPT or the completion's number
    source: Tensor  # [N] flat index in [R · T] of the hidden state that predicts the token
    target: Tensor  # [N] the token
    token: Tensor  # [N] index into the rollouts' flat tensors
    row: Tensor  # [N] which rollout

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        return MicroBatch(*(getattr(self, name).to(device) for name in self.__slots__))

    def visible(self) -> Tensor:
        """What sees what: [R, 1, T, T] bool. Earlier, and of the prompt or of the same segment."""
        key, query = self.segment[:, None, :], self.segment[:, :, None]
        index = torch.arange(self.ids.shape[1], device=self.ids.device)
        causal = index[None, :] <= index[:, None]
        return (causal & ((key == PROMPT) | (key == query)))[:, None]


@dataclass(frozen=True, slots=True)
class _Tree:
    """A prompt and some of its completions: (rollout, its first flat token, its ids)."""

    prompt: list[int]
    branches: list[tuple[int, int, list[int]]]

    @property
    def size(self) -> int:
        return len(self.prompt) + sum(len(ids) - 1 for _, _, ids in self.branches)


def pack(
    rollouts: Rollouts, keep: Tensor, token_budget: int, *, tree: bool = True
) -> list[MicroBatch]:
    """Micro-batches of at most `token_budget` tokens, padding included, of the rows to `keep` [B].

    A row is dropped where it teaches nothing (no advantage, no KL): its weight in the step's
    normaliser stays, its forward pass is saved. `tree=False` gives every completion its own row.
    """
    trees = sorted(_trees(rollouts, keep, token_budget, tree=tree), key=lambda t: -t.size)
    batches: list[list[_Tree]] = []
    for item in trees:  # in falling size: the first of a batch sets its width
        if batches and batches[-1][0].size * (len(batches[-1]) + 1) <= token_budget:
            batches[-1].append(item)
        else:
            batches.append([item])
    return [_lay_out(batch) for batch in batches]


def _trees(rollouts: Rollouts, keep: Tensor, budget: int, *, tree: bool) -> list[_Tree]:
    """One tree a group, or several where it is too large."""
    completions = rollouts.completion_ids()
    first = (rollouts.length.cumsum(0) - rollouts.length).tolist()
    wanted = keep.tolist()
    trees: list[_Tree] = []
    for p, prompt in enumerate(rollouts.prompt_ids):
        open_tree: _Tree | None = None
        for row in range(p * rollouts.group_size, (p + 1) * rollouts.group_size):
            ids = completions[row]
            if not wanted[row] or not ids:
                continue
            if open_tree is None or not tree or open_tree.size + len(ids) - 1 > budget:
                open_tree = _Tree(prompt, [])
                trees.append(open_tree)
            open_tree.branches.append((row, first[row], ids))
    return trees


def _lay_out(trees: Sequence[_Tree]) -> MicroBatch:
    """Tensors of one micro-batch."""
    width = max(tree.size for tree in trees)
    ids = torch.zeros(len(trees), width, dtype=torch.int64)
    positions = torch.zeros_like(ids)
    segment = torch.full_like(ids, PADDING)
    source: list[Tensor] = []
    target: list[int] = []
    token: list[Tensor] = []
    row: list[Tensor] = []
    for r, tree in enumerate(trees):
        size = len(tree.prompt)
        ids[r, :size] = torch.tensor(tree.prompt)
        positions[r, :size] = torch.arange(size)
        segment[r, :size] = PROMPT
        at = size
        for k, (rollout, first, completion) in enumerate(tree.branches, start=1):
            n = len(completion)
            ids[r, at : at + n - 1] = torch.tensor(completion[:-1], dtype=torch.int64)
            positions[r, at : at + n - 1] = torch.arange(size, size + n - 1)
            segment[r, at : at + n - 1] = k
            # The first token is predicted by the prompt's last, each later one by the one before.
            source.append(
                torch.cat([torch.tensor([size - 1]), torch.arange(at, at + n - 1)]) + r * width
            )
            target.extend(completion)
            token.append(torch.arange(first, first + n))
            row.append(torch.full((n,), rollout))
            at += n - 1
    return MicroBatch(
        ids,
        positions,
        segment,
        torch.cat(source),
        torch.tensor(target),
        torch.cat(token),
        torch.cat(row),
    )


def batch_logprobs(
    policy: Policy,
    batch: MicroBatch,
    *,
    temperature: float,
    support: Support | None = None,
    with_entropy: bool = True,
    tree: bool = True,
) -> tuple[Tensor, Tensor]:
    """Logprobs and entropy [N] of a micro-batch's tokens, under the policy, with gradients.

    `tree=False`, for batches that were packed so, needs no mask: rows are padded on the right.
    """
    hidden = policy.hidden(batch.ids, batch.positions, batch.visible() if tree else None)
    picked = hidden.flatten(0, 1)[batch.source]
    return sampled_logprobs(
        picked,
        batch.target,
        policy.head,
        temperature=temperature,
        support=None if support is None else support.pick(batch.token).to(policy.device),
        with_entropy=with_entropy,
    )
