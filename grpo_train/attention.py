"""How the tokens of trees attend, without a [T, T] mask.

Trees lie end to end in one row. Every token goes through the linear layers once, without padding;
only here prompts and branches are cut out: a prompt attends to itself, a branch to its prompt and
itself. That costs P² + G·C·(P + C) instead of (P + G·C)², and is exact. The function is registered
with transformers under `NAME`, so any model that hands its keyword arguments down to its attention
runs unmodified; without a layout it is SDPA.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "grpo_tree"


@dataclass(frozen=True, slots=True)
class TreeLayout:
    """Where K prompts and B branches lie in a row of T tokens; padded indices point at token 0."""

    prompt: Tensor  # [K, P] index in the row
    branch: Tensor  # [B, C] index in the row
    owner: Tensor  # [B] which prompt a branch follows
    visible: Tensor  # [B, 1, C, P + C] bool: the prompt's real tokens, then the branch up to itself
    prompt_real: Tensor  # flat positions in [K · P] that are not padding
    branch_real: Tensor  # flat positions in [B · C] that are not padding

    @staticmethod
    def of(prompts: list[range], branches: list[range], owner: list[int]) -> TreeLayout:
        """From the spans of prompts and branches; a branch without tokens is not listed."""
        prompt, prompt_on = _indices(prompts)
        branch, branch_on = _indices(branches)
        who = torch.tensor(owner, dtype=torch.int64)
        causal = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool).tril()
        before = prompt_on[who][:, None, :].expand(-1, branch.shape[1], -1)
        own = causal.expand(len(branch), -1, -1)
        return TreeLayout(
            prompt,
            branch,
            who,
            torch.cat([before, own], dim=-1)[:, None],
            prompt_on.flatten().nonzero().flatten(),
            branch_on.flatten().nonzero().flatten(),
        )

    def to(self, device: torch.device) -> TreeLayout:
        """The same on another device."""
        return TreeLayout(*(getattr(self, field.name).to(device) for field in fields(self)))


def _indices(spans: list[range]) -> tuple[Tensor, Tensor]:
    """Padded indices [n, longest] and where they are real."""
    if not spans:
        empty = torch.zeros(0, 0, dtype=torch.int64)
        return empty, empty.bool()
    rows = [torch.arange(span.start, span.stop) for span in spans]
    index = pad_sequence(rows, batch_first=True)
    length = torch.tensor([len(span) for span in spans])
    return index, torch.arange(index.shape[1]) < length[:, None]


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree: TreeLayout | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention of one packed row: query [1, H, T, D] → output [1, T, H, D]."""
    if tree is None:
        out: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return out
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, heads, D]
    gqa = q.shape[1] != k.shape[1]
    pq, pk, pv = (_cut(x, tree.prompt) for x in (q, k, v))  # [K, heads, P, D]
    # Padding stands on the right, so causality hides it from every real token.
    first = scaled_dot_product_attention(pq, pk, pv, is_causal=True, scale=scaling, enable_gqa=gqa)
    result = torch.zeros_like(q)
    result = _put(result, tree.prompt, tree.prompt_real, first)
    if len(tree.branch):
        bq, bk, bv = (_cut(x, tree.branch) for x in (q, k, v))  # [B, heads, C, D]
        bk = torch.cat([pk.index_select(0, tree.owner), bk], dim=2)
        bv = torch.cat([pv.index_select(0, tree.owner), bv], dim=2)
        second = scaled_dot_product_attention(
            bq, bk, bv, attn_mask=tree.visible, scale=scaling, enable_gqa=gqa
        )
        result = _put(result, tree.branch, tree.branch_real, second)
    return result[None], None


def _cut(x: Tensor, index: Tensor) -> Tensor:
    """[T, heads, D] at [n, L] → [n, heads, L, D]."""
    found = x.index_select(0, index.flatten())
    return found.view(*index.shape, *x.shape[1:]).transpose(1, 2)


def _put(result: Tensor, index: Tensor, real: Tensor, x: Tensor) -> Tensor:
    """Write [n, heads, L, D] to its tokens; padding is left out."""
    flat = x.transpose(1, 2).flatten(0, 1)
    return result.index_copy(0, index.flatten()[real], flat.index_select(0, real))


def register() -> None:
    """Make `NAME` known to transformers; its masks are SDPA's."""
    AttentionInterface.register(NAME, tree_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
