"""Drawing a token from logits: cut to the likeliest tokens, then inverted at a uniform number."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from grpo_train.rollouts import Sampling

# Tokens of the vocabulary that are drawn together at first: about the root of a vocabulary's size,
# which makes both sums short.
BLOCK = 64


def cut_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """−inf outside the top-k and then the top-p tokens; the most likely token always stays."""
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, index = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
        before[..., 0] = 0
        drop = torch.zeros_like(logits, dtype=torch.bool)
        drop.scatter_(-1, index, before >= sampling.top_p)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One token a row by inverting the distribution function: ids, logprobs, entropy, all [R].

    `logits` [R, V] fp32 with temperature and cuts applied, `uniform` [R] float64. First a block of
    the vocabulary is drawn, then a token in it: cumulative sums are float64, because in fp32 the
    tail of a large vocabulary would be lost, and those over all tokens are slow.
    """
    # Bounded, so that a token that was cut has probability 0, and 0 · log 0 is 0.
    shifted = (logits - logits.amax(dim=-1, keepdim=True)).clamp_(min=-1e4)
    mass = shifted.exp()
    blocks = pad(mass, (0, -mass.shape[1] % BLOCK)).view(len(mass), -1, BLOCK)
    ends = blocks.sum(dim=-1).double().cumsum(dim=-1)
    total = ends[:, -1:]
    target = uniform[:, None] * total
    block = _first_above(ends, target)
    chosen = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK)).squeeze(1)
    rest = target - pad(ends, (1, 0)).gather(1, block)
    ids = block * BLOCK + _first_above(chosen.double().cumsum(dim=-1), rest)
    log_total = total.log()
    logprob = shifted.gather(1, ids) - log_total
    entropy = log_total.squeeze(1) - mass.mul_(shifted).sum(dim=-1) / total.squeeze(1)
    return ids.squeeze(1), logprob.squeeze(1).float(), entropy.float()


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """[R, 1] the first place where a row [R, n] is above `target` [R, 1].

    It never lies where a row does not rise, and always exists: the target is kept below its end.
    """
    end = cumulative[:, -1:]
    target = torch.minimum(target, torch.nextafter(end, torch.zeros_like(end)))
    return torch.searchsorted(cumulative, target, right=True)
