"""Attention of trees, a prompt with its completions, without a [T, T] mask.

Trees lie end to end in one row. Every token passes the linear layers once, without padding; only
here are prompts and branches cut out: a prompt attends to itself, a branch to its prompt and
itself. That costs P² + G·C·(P + C) instead of (P + G·C)², and is exact. The function is registered
with transformers under `NAME`, so any model that hands its keyword arguments down to its attention
runs unmodified: a layout is passed down as `tree`, either of packed trees (`TreeLayout`) or of rows
that are being decoded (`kv_cache.py`). Without a layout the model's usual attention is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "grpo_tree"
SCORES_BYTES = 64 << 20  # largest scores held whole, which makes products of whole groups faster


@dataclass(frozen=True, slots=True)
class Rules:
    """How a layer computes its scores: scale, soft cap and sliding window."""

    scale: float
    cap: float = 0.0  # Gemma 2: cap · tanh(x / cap); 0 = off
    window: int = 0  # how many tokens back a token sees, itself included; 0 = all

    def weights(self, scores: Tensor, bias: Tensor | None) -> Tensor:
        """Scores (scaled already) → softmax over the keys that `bias` does not hide."""
        if self.cap:
            scores = self.cap * torch.tanh(scores / self.cap)
        if bias is not None:
            scores = scores + bias
        return torch.softmax(scores, dim=-1).to(scores.dtype)  # autocast widens

    def near(self, query: Tensor, key: Tensor) -> Tensor:
        """Which keys, by position, are neither later than the query nor outside its window."""
        back = query - key
        return (back >= 0) & (back < self.window) if self.window else back >= 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """q [n, H, L, D], k and v [n, heads, K, D], bias [n, 1, L, K] → [n, H, L, D].

        `bias` None is plain causality, where L = K: SDPA is faster with its flag than with a mask.
        """
        if bias is None and not self.cap:
            gqa = q.shape[1] != k.shape[1]
            return scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=self.scale, enable_gqa=gqa
            )
        # A GPU's kernels take a mask, or fewer heads of keys than of queries, but not both.
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        if not self.cap:
            return scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        if bias is None:
            seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
            bias = hiding(seen, q.dtype)
        return self.weights(q * self.scale @ k.mT, bias) @ v


def hiding(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: 0 for a visible key, the smallest number for a hidden one."""
    zero = torch.zeros((), dtype=dtype, device=visible.device)
    return torch.where(visible, zero, torch.finfo(dtype).min)


class Attends(Protocol):
    """A layout: it knows which of its tokens see each other."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
        """query [R, H, T, D] → output [R, T, H, D]."""
        ...


@dataclass(frozen=True, slots=True)
class TreeLayout:
    """Where K prompts with up to G branches each lie in a row; padded indices are token 0."""

    prompt: Tensor  # [K, P] index in the row
    length: Tensor  # [K] tokens of each prompt
    branch: Tensor  # [K, G, C] index in the row
    prompt_real: Tensor  # flat positions in [K · P] that are not padding
    branch_real: Tensor  # flat positions in [K · G · C] that are not padding
    masks: dict[int, tuple[Tensor | None, Tensor]] = field(default_factory=dict)  # by window

    @staticmethod
    def of(prompts: list[range], branches: list[list[range]]) -> TreeLayout:
        """The layout of prompts' spans and their branches'; empty branches are left out."""
        prompt, prompt_on = _indices(prompts)
        group = max(map(len, branches), default=0)
        padded = [span for spans in branches for span in spans + [range(0)] * (group - len(spans))]
        branch, branch_on = _indices(padded)
        return TreeLayout(
            prompt,
            prompt_on.sum(dim=1),
            branch.view(len(prompts), group, -1) if group else branch.view(len(prompts), 0, 0),
            prompt_on.flatten().nonzero().flatten(),
            branch_on.flatten().nonzero().flatten(),
        )

    def to(self, device: torch.device) -> TreeLayout:
        """The same on another device."""
        return TreeLayout(
            self.prompt.to(device),
            self.length.to(device),
            self.branch.to(device),
            self.prompt_real.to(device),
            self.branch_real.to(device),
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
        """Attention of one packed row: query [1, H, T, D] → [1, T, H, D]."""
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, heads, D]
        if rules.window not in self.masks:
            among, of = self._visible(rules)
            first = None if among is None else hiding(among, value.dtype)
            self.masks[rules.window] = first, hiding(of, value.dtype)
        prompt_bias, branch_bias = self.masks[rules.window]
        pq, pk, pv = (cut(x, self.prompt) for x in (q, k, v))  # [K, heads, P, D]
        result = torch.zeros_like(q)
        found = rules.attend(pq, pk, pv, prompt_bias).transpose(1, 2)
        result = _put(result, self.prompt, self.prompt_real, found)
        if self.branch.numel():
            found = self._branches((q, k, v), (pk, pv), branch_bias, rules)
            result = _put(result, self.branch, self.branch_real, found)
        return result[None]

    def _visible(self, rules: Rules) -> tuple[Tensor | None, Tensor]:
        """Visible keys of prompts [1, 1, P, P], None if plainly causal, and branches [K, C, P + C].

        Padding is on the right, where causality hides it from real tokens.
        """
        column = torch.arange(self.prompt.shape[1], device=self.prompt.device)
        at = torch.arange(self.branch.shape[2], device=self.prompt.device)
        far = rules.near(self.length[:, None, None] + at[:, None], column)
        far &= column < self.length[:, None, None]
        own = rules.near(at[:, None], at).expand(len(far), -1, -1)
        prompts = rules.near(column[:, None], column)[None, None] if rules.window else None
        return prompts, torch.cat([far, own], dim=-1)

    def _branches(
        self, row: tuple[Tensor, ...], prompt: tuple[Tensor, ...], bias: Tensor, rules: Rules
    ) -> Tensor:
        """Attention [K, G, C, H, D] of branches, from the row's q, k, v and the prompts' k, v."""
        q, k, v = (x.index_select(0, self.branch.flatten()) for x in row)
        (trees, group, length), (heads, dim), kv = self.branch.shape, q.shape[1:], k.shape[1]
        pk, pv = prompt
        if 4 * heads * self.branch.numel() * bias.shape[-1] > SCORES_BYTES:
            many = [x.repeat_interleave(group, dim=0) for x in (pk, pv)]
            q, k, v = (x.view(trees * group, length, -1, dim).transpose(1, 2) for x in (q, k, v))
            k, v = (torch.cat([p, x], dim=2) for p, x in zip(many, (k, v), strict=True))
            out = rules.attend(q, k, v, bias.repeat_interleave(group, dim=0)[:, None])
            return out.transpose(1, 2).reshape(trees, group, length, heads, dim)
        # A group's queries in one product with their prompt's keys: [K, kv, G, C, rep, D].
        q = (q * rules.scale).view(trees, group, length, kv, -1, dim).permute(0, 3, 1, 2, 4, 5)
        k, v = (x.view(trees, group, length, kv, dim).permute(0, 3, 1, 2, 4) for x in (k, v))
        shape = q.shape[:-1]
        far = q.flatten(2, 4) @ pk.mT
        near = q.flatten(3, 4) @ k.mT
        scores = torch.cat([far.view(*shape, -1), near.view(*shape, -1)], dim=-1)
        weights = rules.weights(scores, bias[:, None, None, :, None])
        size = pk.shape[2]
        out = (weights[..., :size].flatten(2, 4) @ pv).view(*shape, dim)
        out = out + (weights[..., size:].flatten(3, 4) @ v).view(*shape, dim)
        return out.permute(0, 2, 3, 1, 4, 5).flatten(3, 4)


def _indices(spans: list[range]) -> tuple[Tensor, Tensor]:
    """Padded indices [n, longest] and where they are real."""
    if not spans:
        empty = torch.zeros(0, 0, dtype=torch.int64)
        return empty, empty.bool()
    rows = [torch.arange(span.start, span.stop) for span in spans]
    index = pad_sequence(rows, batch_first=True)
    length = torch.tensor([len(span) for span in spans])
    return index, torch.arange(index.shape[1]) < length[:, None]


def cut(x: Tensor, index: Tensor) -> Tensor:
    """[T, heads, D] at [n, L] → [n, heads, L, D]."""
    found = x.index_select(0, index.flatten())
    return found.view(*index.shape, *x.shape[1:]).transpose(1, 2)


def _put(result: Tensor, index: Tensor, real: Tensor, x: Tensor) -> Tensor:
    """Write [..., heads, D] to the tokens of `index` [...]; padding is left out."""
    flat = x.reshape(-1, *result.shape[1:]).to(result.dtype)
    return result.index_copy(0, index.flatten()[real], flat.index_select(0, real))


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    tree: Attends | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention as a model's layers call it: query [R, H, T, D] → output [R, T, H, D]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rules = Rules(scale, softcap or 0.0, sliding_window or 0)
    if tree is not None:
        return tree.attend(query, key, value, rules), None
    if not softcap:
        out: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return out
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        attention_mask = hiding(attention_mask, query.dtype)
    return rules.attend(query, key, value, attention_mask).transpose(1, 2), None


def register() -> None:
    """Register `NAME` with transformers, with the masks of SDPA."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
