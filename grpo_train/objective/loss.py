"""logprobs → objective, KL, entropy: pure tensor functions on any device.

Tokens are flat: every tensor is [N], one entry a completion token that counts, and `row` [N] says
which completion (0 … rows−1) a token belongs to. A completion is never cut over micro-batches, so
sequence-level terms are exact. Losses are minimised, and a step's loss is

    Σ over tokens  weight[row] · token_loss          (`row_weights`: one normaliser per step)

whatever the micro-batches: the weights come from the whole step, so micro-batches just add up.

ρ = exp(logprob − old). At ρ = 1 every loss below has the gradient of REINFORCE, −A ∇logprob. Its
value says nothing: an on-policy loss near 0 is expected, so watch the reward.

    ppo     −min(ρA, clip(ρ, 1−low, 1+high) A)      GRPO 2402.03300; clip-higher DAPO 2503.14476
            with a dual clip for A < 0: loss ≤ dual |A|         1912.09729
    gspo    ppo with ρ = exp(mean of the row's log-ratios)      2507.18071 Eq. 5-7
    gmpo    ρ clipped token by token, then its geometric mean   2507.20673
    cispo   −sg(min(ρ, cap)) A logprob: no token is lost        2506.13585, 2510.13786
    sapo    −(4/τ) sigmoid(τ(ρ−1)) A: a soft gate, no clip      2511.20347
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grpo_train.config import Aggregation, KLEstimator, Loss, LossKind, MismatchLevel

LOG_RATIO_MAX = 20.0  # keeps exp finite in fp32; such a token is clipped or masked anyway


@dataclass(frozen=True, slots=True)
class Clip:
    """The trust region: what bounds a token's ratio, under the papers' names; `dual` 0 is off."""

    low: float = 0.2
    high: float = 0.2
    dual: float = 0.0
    cap: float = 5.0  # cispo
    tau_pos: float = 1.0  # sapo
    tau_neg: float = 1.05

    @staticmethod
    def of(c: Loss) -> Clip:
        """The trust region of a config."""
        return Clip(c.clip_low, c.clip_high, c.clip_dual, c.clip_cap, c.tau_pos, c.tau_neg)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tensors that a loss reads, all [N]; a row's advantage is repeated for its tokens."""

    logprobs: Tensor
    old_logprobs: Tensor
    advantage: Tensor
    row: Tensor
    rows: int

    @property
    def log_ratio(self) -> Tensor:
        """log ρ [N], bounded so that its exponential is finite."""
        return (self.logprobs - self.old_logprobs).clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX)


def row_sum(value: Tensor, row: Tensor, rows: int) -> Tensor:
    """Σ over each row's tokens: [N] → [rows]."""
    return torch.zeros(rows, dtype=value.dtype, device=value.device).index_add(0, row, value)


def row_mean(value: Tensor, row: Tensor, rows: int) -> Tensor:
    """Mean over each row's tokens: [N] → [rows]; 0 for a row without tokens."""
    return row_sum(value, row, rows) / row_sum(torch.ones_like(value), row, rows).clamp(min=1)


# -- token losses ----------------------------------------------------------------------------------


def _clipped(ratio: Tensor, advantage: Tensor, clip: Clip) -> Tensor:
    """−min(ρA, clip(ρ)A), at most dual·|A| where A < 0."""
    loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - clip.low, 1 + clip.high) * advantage)
    if clip.dual:
        loss = torch.where(advantage < 0, torch.minimum(loss, -clip.dual * advantage), loss)
    return loss


def ppo(tokens: Tokens, clip: Clip) -> Tensor:
    """The clipped surrogate of GRPO, Dr. GRPO and DAPO (they differ in advantage and weights)."""
    return _clipped(tokens.log_ratio.exp(), tokens.advantage, clip)


def gspo(tokens: Tokens, clip: Clip) -> Tensor:
    """One ratio a sequence, its length-normalised likelihood ratio; clip near 3e-4 / 4e-4.

    The value is spread over the row's tokens so that a sequence mean gives the paper's Eq. 5; with
    a token mean it is LUSPO (2602.05261), sequences weighted by length.
    """
    mean = row_mean(tokens.log_ratio, tokens.row, tokens.rows)[tokens.row]
    return _clipped(mean.exp(), tokens.advantage, clip)


def gmpo(tokens: Tokens, clip: Clip) -> Tensor:
    """Geometric mean of token-clipped ratios; `low` and `high` bound log ρ (the paper: 0.4)."""
    sign = tokens.advantage.sign()
    log_ratio = tokens.log_ratio
    bounded = sign * torch.minimum(sign * log_ratio, sign * log_ratio.clamp(-clip.low, clip.high))
    mean = row_mean(bounded, tokens.row, tokens.rows)[tokens.row]
    return -mean.exp() * tokens.advantage


def cispo(tokens: Tokens, clip: Clip) -> Tensor:
    """Truncated importance weight without gradient: every token keeps one. `cap` is absolute."""
    weight = tokens.log_ratio.detach().exp().clamp(max=clip.cap)
    return -weight * tokens.advantage * tokens.logprobs


def sapo(tokens: Tokens, clip: Clip) -> Tensor:
    """A sigmoid gate around ρ = 1, sharper where A < 0."""
    tau = torch.full_like(tokens.advantage, clip.tau_neg)
    tau[tokens.advantage > 0] = clip.tau_pos
    gate = torch.sigmoid(tau * (tokens.log_ratio.exp() - 1))
    return -4 / tau * gate * tokens.advantage


#: A new loss is one entry here, its name in `config.LossKind`, a law in
#: tests/train/objective/test_loss.py and a line in docs/training.md.
LOSSES: dict[LossKind, Callable[[Tokens, Clip], Tensor]] = {
    "ppo": ppo,
    "gspo": gspo,
    "gmpo": gmpo,
    "cispo": cispo,
    "sapo": sapo,
}


# -- aggregation -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rows:
    """Token counts of a step's rows, all float64: integers would divide into fp32."""

    n: Tensor  # [B] tokens of each row, 0 where it does not count
    count: Tensor  # rows that count
    group_size: int
    max_length: int


def _by_prompt(rows: _Rows) -> Tensor:
    """1 / (P · tokens of the prompt's group), over prompts with a row that counts."""
    group = rows.n.view(-1, rows.group_size).sum(dim=-1)
    prompts = (group > 0).sum().clamp(min=1).to(group)
    return (1 / (prompts * group.clamp(min=1))).repeat_interleave(rows.group_size)


#: The weight of one token of each row, [B] or the same for all.
AGGREGATIONS: dict[Aggregation, Callable[[_Rows], Tensor]] = {
    "token": lambda rows: 1 / rows.n.sum().clamp(min=1),
    "sequence": lambda rows: 1 / (rows.count * rows.n.clamp(min=1)),
    "constant": lambda rows: 1 / (rows.count * max(rows.max_length, 1)),
    "prompt": _by_prompt,
}


def row_weights(
    length: Tensor, valid: Tensor, group_size: int, how: Aggregation, *, max_length: int = 0
) -> Tensor:
    """The weight of one token of each row in the step's loss: [B], from the whole step's rows.

    token     1 / N                 every token weighs the same (DAPO)
    sequence  1 / (B · n_i)         every completion weighs the same (GRPO's paper)
    constant  1 / (B · max_length)  no length bias (Dr. GRPO)
    prompt    1 / (P · N_prompt)    every prompt weighs the same
    `length` [B] counts tokens; rows that are not `valid` weigh 0 and are counted nowhere.

    >>> row_weights(torch.tensor([1, 3]), torch.tensor([True, True]), 2, "token")
    tensor([0.2500, 0.2500], dtype=torch.float64)
    """
    valid = valid & (length > 0)
    n = length.to(torch.float64) * valid
    rows = _Rows(n, valid.sum().clamp(min=1).to(n), group_size, max_length)
    return AGGREGATIONS[how](rows) * valid


# -- KL to the reference ---------------------------------------------------------------------------


def _k3(k1: Tensor) -> Tensor:
    bounded = k1.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX)
    return torch.exp(-bounded) + bounded - 1


#: From k1 = logprob − ref to the estimate (Schulman's names).
KL_ESTIMATORS: dict[KLEstimator, Callable[[Tensor], Tensor]] = {
    "k1": lambda k1: k1,
    "k2": lambda k1: k1.square() / 2,
    "k3": _k3,
}


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, how: KLEstimator) -> Tensor:
    """Per-token estimate [N] of KL(policy ‖ reference) from the policy's own samples.

    k1 = logprob − ref, k2 = k1²/2, k3 = exp(−k1) + k1 − 1. As a *loss term* on policy, k1 has zero
    expected gradient, k2 that of the reverse KL, k3 that of the forward KL; weighted by ρ, k1 and
    k3 have the reverse KL's too (test_loss.py enumerates all of it).
    """
    return KL_ESTIMATORS[how](logprobs - ref_logprobs)


def kl_loss(tokens: Tokens, ref_logprobs: Tensor, how: KLEstimator, *, weighted: bool) -> Tensor:
    """The KL term of the loss [N]: the estimate, times ρ where `weighted` (the default's k3·ρ)."""
    estimate = kl_estimate(tokens.logprobs, ref_logprobs, how)
    return tokens.log_ratio.exp() * estimate if weighted else estimate


def kl_penalty(logprobs: Tensor, ref_logprobs: Tensor, row: Tensor, rows: int) -> Tensor:
    """The KL that is taken off a completion's reward: Σ k1 over its tokens [rows], no gradient.

    REINFORCE on it has the gradient of the reverse KL, whose integrand is k1.
    """
    return row_sum((logprobs - ref_logprobs).detach(), row, rows)


# -- sampler mismatch ------------------------------------------------------------------------------


def mismatch_weight(
    old_logprobs: Tensor,
    sampler_logprobs: Tensor,
    row: Tensor,
    rows: int,
    *,
    level: MismatchLevel = "token",
    how: Literal["truncate", "mask"] = "truncate",
    low: float = 0.0,
    high: float = 2.0,
) -> Tensor:
    """Importance weights [N] for completions that another engine sampled, without gradient.

    w = exp(old − sampler), of the token, of the whole row, or as the row's geometric mean.
    `truncate` caps it at `high` (TIS); `mask` makes it 0 outside [low, high] (MIS, IcePop
    2510.18855).
    """
    log_weight = (old_logprobs - sampler_logprobs).detach()
    if level == "sequence":
        log_weight = row_sum(log_weight, row, rows)[row]
    elif level == "geometric":
        log_weight = row_mean(log_weight, row, rows)[row]
    weight = log_weight.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX).exp()
    if how == "truncate":
        return weight.clamp(max=high)
    return weight * ((weight >= low) & (weight <= high))


def off_policy_mask(tokens: Tokens, delta: float) -> Tensor:
    """Mask [N]: 0 where A < 0 and the row has become unlikely, else 1 (2512.02556 Eq. 9)."""
    drift = row_mean(-tokens.log_ratio.detach(), tokens.row, tokens.rows)[tokens.row]
    return (~((tokens.advantage < 0) & (drift > delta))).to(tokens.logprobs.dtype)


def top_entropy_mask(entropy: Tensor, share: float) -> Tensor:
    """Mask [N]: 1 for the `share` of the batch's tokens with the highest entropy (2506.01939)."""
    keep = max(1, round(share * entropy.numel())) if entropy.numel() else 0
    mask = torch.zeros_like(entropy)
    mask[torch.topk(entropy, keep).indices] = 1
    return mask


# -- what is logged --------------------------------------------------------------------------------


@torch.no_grad()
def ratio_stats(tokens: Tokens, clip: Clip) -> dict[str, Tensor]:
    """Sums over tokens, to be divided by the step's tokens: `ratio`, `clip_frac`, `kl_old`."""
    log_ratio = tokens.log_ratio
    ratio = log_ratio.exp()
    advantage = tokens.advantage
    out = ((ratio > 1 + clip.high) & (advantage > 0)) | ((ratio < 1 - clip.low) & (advantage < 0))
    return {
        "ratio": ratio.sum(),
        "clip_frac": out.to(ratio.dtype).sum(),
        "kl_old": (ratio - 1 - log_ratio).sum(),
    }
