"""rollouts → micro-batches under a token budget, each prompt computed once for its group.

A tree is `[prompt | c1 | c2 | … | cG]`: a completion sees the prompt and itself, never its
siblings, and its positions continue the prompt's. So a prompt is computed once instead of G times,
nothing is padded to the longest completion, and logprobs are those of separate rows. The last token
of a completion is predicted but never fed.

A completion is never cut; a tree that exceeds the budget is split between completions, and each
part repeats the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from grpo_train.model.flash_attention import Runs
from grpo_train.model.logprobs import Support, sampled_logprobs
from grpo_train.model.policy import Policy
from grpo_train.model.tree_attention import TreeLayout
from grpo_train.rollouts import Rollouts

Layout = Literal["varlen", "flat", "plain"]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Some trees, with flat indices of the N tokens to train.

    There are three layouts: `flat`, trees end to end in one row, cut apart by our attention;
    `varlen`, the same for flash attention on CUDA; and `plain`, which any model can run, one row
    for each completion with its own copy of the prompt, and no mask at all.
    """

    ids: Tensor  # [R, T]
    positions: Tensor  # [R, T], restarting after the prompt
    source: Tensor  # [N] flat index in [R · T] of the hidden state that predicts the token
    target: Tensor  # [N] the token
    token: Tensor  # [N] index into the rollouts' flat tensors
    row: Tensor  # [N] which rollout
    tree: TreeLayout | Runs | None  # None: `plain`

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return MicroBatch(**{k: v.to(device) if hasattr(v, "to") else v for k, v in moved.items()})


@dataclass(frozen=True, slots=True)
class _Tree:
    """A prompt and some of its completions: (rollout, its first flat token, its ids)."""

    prompt: list[int]
    branches: list[tuple[int, int, list[int]]]

    @property
    def size(self) -> int:
        return len(self.prompt) + sum(len(ids) - 1 for _, _, ids in self.branches)


def pack(
    rollouts: Rollouts, keep: Tensor, token_budget: int, layout: Layout = "flat"
) -> list[MicroBatch]:
    """Micro-batches of at most `token_budget` tokens, padding included, of the rows to `keep` [B].

    Rows that teach nothing (no advantage, no KL) need no forward pass; they are left out here, but
    still count in the step's normaliser.
    """
    found = _trees(rollouts, keep, token_budget, shared=layout != "plain")
    trees = sorted(found, key=lambda tree: -tree.size)
    batches: list[list[_Tree]] = []
    used = 0
    for tree in trees:  # largest first: the first tree of a batch sets its width
        if batches and layout != "plain":
            fits = used + tree.size <= token_budget
        else:
            fits = bool(batches) and batches[-1][0].size * (len(batches[-1]) + 1) <= token_budget
        if fits:
            batches[-1].append(tree)
            used += tree.size
        else:
            batches.append([tree])
            used = tree.size
    return [_lay_out(batch, layout) for batch in batches]


def _trees(rollouts: Rollouts, keep: Tensor, budget: int, *, shared: bool) -> list[_Tree]:
    """One tree for each group, or several if it exceeds the budget."""
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
            if open_tree is None or not shared or open_tree.size + len(ids) - 1 > budget:
                open_tree = _Tree(prompt, [])
                trees.append(open_tree)
            open_tree.branches.append((row, first[row], ids))
    return trees


def _lay_out(trees: Sequence[_Tree], layout: Layout) -> MicroBatch:
    """The tensors of one micro-batch."""
    flat = layout != "plain"
    height = 1 if flat else len(trees)
    width = sum(t.size for t in trees) if flat else max(t.size for t in trees)
    ids = torch.zeros(height * width, dtype=torch.int64)
    positions = torch.zeros_like(ids)
    source, target, token, row = [], [], [], []
    prompts: list[range] = []
    branches: list[list[range]] = []
    start = 0
    for r, tree in enumerate(trees):
        at, size = start if flat else r * width, len(tree.prompt)
        _write(ids, positions, at, tree.prompt, 0)
        prompts.append(range(at, at + size))
        branches.append([])
        last, at = at + size - 1, at + size
        for rollout, first, completion in tree.branches:
            n = len(completion)
            _write(ids, positions, at, completion[:-1], size)
            # The first token is predicted by the prompt's last, each later one by the one before.
            source.append(torch.cat([torch.tensor([last]), torch.arange(at, at + n - 1)]))
            target.append(torch.tensor(completion))
            token.append(torch.arange(first, first + n))
            row.append(torch.full((n,), rollout))
            if n > 1:
                branches[-1].append(range(at, at + n - 1))
            at += n - 1
        start += tree.size
    shape = (height, width)
    kind = Runs if layout == "varlen" else TreeLayout
    return MicroBatch(
        ids.view(shape),
        positions.view(shape),
        torch.cat(source),
        torch.cat(target),
        torch.cat(token),
        torch.cat(row),
        kind.of(prompts, branches) if flat else None,
    )


def _write(ids: Tensor, positions: Tensor, at: int, tokens: list[int], position: int) -> None:
    """Write a run of tokens and its positions at a place of the flat tensors."""
    here = slice(at, at + len(tokens))
    ids[here] = torch.tensor(tokens, dtype=torch.int64)
    positions[here] = torch.arange(position, position + len(tokens))


def batch_logprobs(
    policy: Policy,
    batch: MicroBatch,
    *,
    temperature: float,
    support: Support | None = None,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """Logprobs and entropy [N] of a micro-batch's tokens, under the policy, with gradients."""
    hidden = policy.hidden(batch.ids, batch.positions, batch.tree)
    picked = hidden.flatten(0, 1).index_select(0, batch.source)
    return sampled_logprobs(
        picked,
        batch.target,
        policy.head,
        temperature=temperature,
        support=None if support is None else support.pick(batch.token).to(policy.device),
        with_entropy=with_entropy,
    )
