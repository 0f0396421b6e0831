"""hidden states → logprobs and entropy, without ever holding [T, V].

Logits are the largest tensor of a step: those of 8 × 1,024 tokens over a vocabulary of 150,000 take
4.6 GiB in fp32, and three times that in a naive backward pass. Here tokens pass in chunks, whose
logits are computed, read in fp32 and dropped; the backward pass computes them again. If all logits
together are small (`KEEP_BYTES`), they are kept, which saves that second product.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from grpo_train.model.onednn import product, reordered

CHUNK_BYTES = 64 << 20  # fp32 logits of one chunk: bounds the head's working memory on a CPU
CUDA_CHUNK_BYTES = 512 << 20  # on a GPU smaller chunks spend their time on reading the weights
KEEP_BYTES = 64 << 20  # up to here it is cheaper to keep the logits than to compute them again


@dataclass(frozen=True, slots=True)
class Head:
    """An output layer as numbers: logits = softcap(x Wᵀ + b) · scale / temperature."""

    weight: Tensor  # [V, h]
    bias: Tensor | None = None  # [V]
    softcap: float = 0.0  # Gemma 2: cap · tanh(x / cap); 0 = off
    scale: float = 1.0  # Cohere and Granite multiply their logits
    packed: Tensor | None = None  # the weight once more, in oneDNN's layout

    def pack(self, rows: int, dtype: torch.dtype) -> Head:
        """The head, faster for inputs of `rows` rows in `dtype`, until the weights change."""
        weight = self.weight.detach()
        if weight.is_cuda:
            return replace(self, weight=weight.to(dtype))
        return replace(self, weight=weight, packed=reordered(weight, rows))

    def logits(self, hidden: Tensor, temperature: float = 1.0) -> Tensor:
        """[…, h] → fp32 logits […, V] (fp64 stays), divided by the temperature."""
        raw = self.raw(hidden)
        if self.softcap:
            raw = self.softcap * torch.tanh(raw / self.softcap)
        factor = self.scale / temperature
        return raw if factor == 1.0 else raw * factor

    def raw(self, hidden: Tensor) -> Tensor:
        """x Wᵀ + b in fp32 or wider: bf16 inputs, but never bf16 logits."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(wide)
        if hidden.dtype == wide or not hidden.is_cuda:  # a CPU has no product of bf16 into fp32
            weight = self.weight.to(wide) if self.packed is None else self.packed
            return product(hidden.to(wide), weight, bias)
        raw = torch.mm(
            hidden.flatten(0, -2), self.weight.to(hidden.dtype).T, out_dtype=torch.float32
        )
        raw = raw.view(*hidden.shape[:-1], -1)
        return raw if bias is None else raw + bias


@dataclass(frozen=True, slots=True)
class Support:
    """The tokens that top-p or top-k left: `ids` flat, token n's are `ids[start[n]:start[n+1]]`.

    Logprobs are those of the distribution that was sampled from, so tokens that the engine cut are
    cut here too; otherwise every ratio would be off by the mass that was kept.
    """

    ids: Tensor  # [K] int64
    start: Tensor  # [N + 1] int64

    def pick(self, token: Tensor) -> Support:
        """The support of some tokens, in that order."""
        token = token.to(self.start.device)
        start, size = self.start[token], self.start[token + 1] - self.start[token]
        ends = pad(size.cumsum(0), (1, 0))
        at = torch.arange(int(ends[-1])) + torch.repeat_interleave(start - ends[:-1], size)
        return Support(self.ids[at], ends)

    @staticmethod
    def of(kept: list[Tensor]) -> Support:
        """From the kept ids of every token."""
        sizes = torch.tensor([0] + [len(ids) for ids in kept])
        return Support(torch.cat(kept) if kept else sizes[:0], sizes.cumsum(0))

    @staticmethod
    def join(parts: list[Support]) -> Support:
        """One after another."""
        sizes = [torch.zeros(1, dtype=torch.int64)] + [part.start.diff() for part in parts]
        return Support(torch.cat([part.ids for part in parts]), torch.cat(sizes).cumsum(0))

    def to(self, device: torch.device) -> Support:
        """The same on another device."""
        return Support(self.ids.to(device), self.start.to(device))

    def mask(self, begin: int, end: int, vocab: int) -> Tensor:
        """Kept tokens of rows begin … end−1: bool [end−begin, V]. A token without ids keeps all."""
        start = self.start[begin : end + 1]
        count = start[1:] - start[:-1]
        row = torch.repeat_interleave(torch.arange(end - begin, device=count.device), count)
        kept = torch.zeros(end - begin, vocab, dtype=torch.bool, device=count.device)
        kept[row, self.ids[int(start[0]) : int(start[-1])]] = True
        kept[count == 0] = True
        return kept


def sampled_logprobs(
    hidden: Tensor,
    target: Tensor,
    head: Head,
    *,
    temperature: float = 1.0,
    support: Support | None = None,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """Logprobs of `target` [N] and the entropy [N] in nats, from `hidden` [N, h]; fp32 or wider.

    The entropy costs as much memory traffic as the logprobs; without it, zeros come back.

    >>> head = Head(torch.eye(3))
    >>> logprobs, entropy = sampled_logprobs(torch.zeros(1, 3), torch.tensor([2]), head)
    >>> float(logprobs.exp().round(decimals=4)), float(entropy.round(decimals=4))
    (0.33329999446868896, 1.0986000299453735)
    """
    out: tuple[Tensor, Tensor] = _HeadFunction.apply(  # type: ignore[no-untyped-call]  # torch's
        hidden, head.weight, head.bias, target, head, temperature, support, with_entropy
    )
    return out


def _normalised(
    hidden: Tensor, head: Head, temperature: float, support: Support | None, at: slice
) -> Tensor:
    """log-softmax of one chunk [n, V], over the support where there is one."""
    logits = head.logits(hidden[at], temperature)
    if support is not None:
        kept = support.mask(at.start, at.stop, logits.shape[-1])
        logits = logits.masked_fill(~kept, -torch.inf)
    return torch.log_softmax(logits, dim=-1)


def _entropy(logp: Tensor) -> Tensor:
    """−Σ p log p, with 0 log 0 = 0."""
    return -(logp.exp() * logp.clamp(min=-1e4)).sum(dim=-1)


class _HeadFunction(torch.autograd.Function):
    """Forward in chunks; backward with the softmax's own derivative, chunk by chunk.

    d logprob / d z = onehot − p;  d entropy / d z = −p (log p + H);  z = f(x) · factor.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        head: Head,
        temperature: float,
        support: Support | None,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = torch.empty(target.shape, dtype=wide, device=hidden.device)
        entropy = torch.zeros_like(logprobs)
        keep = 4 * target.numel() * weight.shape[0] <= KEEP_BYTES
        kept: list[Tensor] = []
        for at in _chunks(target.numel(), weight):
            logp = _normalised(hidden, head, temperature, support, at)
            logprobs[at] = logp.gather(1, target[at, None]).squeeze(1)
            if with_entropy:
                entropy[at] = _entropy(logp)
            if keep:
                kept.append(logp)
        ctx.save_for_backward(hidden, weight, bias, target, entropy, *kept)
        ctx.rest = (head, temperature, support, with_entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, entropy, *kept = ctx.saved_tensors
        head, temperature, support, with_entropy = ctx.rest
        grad_hidden, grad_weight, grad_bias = (
            torch.zeros_like(tensor, dtype=grads[0].dtype) if wanted else None
            for tensor, wanted in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        )
        for i, at in enumerate(_chunks(target.numel(), weight)):
            logp = kept[i] if kept else _normalised(hidden, head, temperature, support, at)
            raw = _entropy_grad(logp, grads[1][at], entropy[at]) if with_entropy else None
            raw = _logit_grad(logp, target[at], grads[0][at], raw)
            raw = _through_cap(raw, hidden, at, head, temperature)
            narrow = raw.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[at] = product(narrow, weight.to(hidden.dtype).T)
            if grad_weight is not None:
                grad_weight += narrow.T @ hidden[at]
            if grad_bias is not None:
                grad_bias += raw.sum(dim=0)
        found = (grad_hidden, grad_weight, grad_bias)
        pairs = zip(found, (hidden, weight, bias), strict=True)
        narrowed = (None if grad is None else grad.to(leaf.dtype) for grad, leaf in pairs)
        return (*narrowed, None, None, None, None, None)


def _entropy_grad(logp: Tensor, grad: Tensor, entropy: Tensor) -> Tensor:
    """d (grad · entropy) / d z of one chunk [n, V]."""
    return logp.exp() * -(logp.clamp(min=-1e4) + entropy[:, None]) * grad[:, None]


def _logit_grad(logp: Tensor, target: Tensor, grad: Tensor, add: Tensor | None) -> Tensor:
    """d (grad · logprob) / d z of one chunk [n, V], plus `add`.

    In place, because memory traffic is what a head costs; autograd refuses a second backward pass.
    """
    out = logp.exp_().mul_(-grad[:, None])
    out[torch.arange(len(target), device=target.device), target] += grad
    return out if add is None else out.add_(add)


def _through_cap(grad: Tensor, hidden: Tensor, at: slice, head: Head, temperature: float) -> Tensor:
    """Chain rule through softcap and scale."""
    factor = head.scale / temperature
    if head.softcap:
        raw = head.raw(hidden[at]).to(grad.dtype)
        grad = grad * (1 - torch.tanh(raw / head.softcap).square())
    return grad if factor == 1.0 else grad * factor


def chunk_bytes(device: torch.device) -> int:
    """Largest size of the fp32 logits of one chunk."""
    return CUDA_CHUNK_BYTES if device.type == "cuda" else CHUNK_BYTES


def _chunks(tokens: int, weight: Tensor) -> list[slice]:
    """Slices of the tokens whose fp32 logits stay under the bound of the device."""
    size = max(1, chunk_bytes(weight.device) // (4 * weight.shape[0]))
    return [slice(i, min(i + size, tokens)) for i in range(0, tokens, size)]
