"""reward [B] → advantage [B]: how much better than its group a completion was.

Every method takes `reward` [P, G] (P prompts, G completions each; NaN where the reward is null) and
returns an advantage of the same shape and dtype: 0 for a null row, and exactly 0 for a group whose
rewards tie. A null row changes nothing for the others: a group is the rows that have a reward.

One function, `has_signal`, decides whether rewards tie: by how far those of a group lie apart,
relative to their size, and never by a small standard deviation. In fp32 the mean of eight equal
rewards is off by a rounding error in 41% of groups, and 0.1·1 + 0.2·1 is not 0.3·1; divided by its
own standard deviation such an error would be an advantage of 1.5. The methods and their papers:

    grpo        (r − mean) / std              arXiv 2402.03300 §4.1.2
    dr_grpo     r − mean                      2503.20783 §3
    rloo        r − mean of the others        2402.14740 §3
    batch_std   (r − mean) / std of the batch 2508.08221
    reinforce   (r − mean), whitened          2501.03262, the baseline form of REINFORCE++
    opo         r − length-weighted mean      2505.23585
    maxrl       (r − mean) / mean             2602.02710
    pass_at_k   leave-one-out pass@k          2503.19595
    gdpo        sum of per-score z-scores     2601.05242
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grpo_train.config import Advantage, AdvantageMethod
from grpo_train.errors import ConfigError

# Rewards whose difference is at most this share of their size differ by rounding alone. It is some
# 4,500 units in the last place of float64; sums of thousands of terms stay below it. The language's
# `group.*` rules use the same bound.
SAME = 1e-12
SAME_ULPS = 4  # units in the last place of a coarser dtype; four of fp32 are 5e-7
SAME_MOST = 5e-7  # bound for any dtype, so that a difference of 1e-6 always counts
# Rewards smaller than this are taken to be sums of terms of this size: where terms cancel, as in
# 0.1 + 0.2 - 0.3, a small number has the rounding errors of larger ones.
SIZE = 0.1


def valid_rows(reward: Tensor) -> Tensor:
    """Which rows have a reward: bool, like `reward`."""
    return ~torch.isnan(reward)


def rounding(size: Tensor) -> Tensor:
    """The largest difference that rounding explains, for numbers of a size."""
    same = max(SAME, min(SAME_ULPS * torch.finfo(size.dtype).eps, SAME_MOST))
    return size.clamp(min=SIZE) * same


def has_signal(reward: Tensor, *, noise: float = 0.0) -> Tensor:
    """Which groups teach something: [P] bool, False where all present rewards tie.

    Rewards also tie if they differ by rounding alone, or by no more than `noise`.

    >>> has_signal(torch.tensor([[0.1, 0.1, 0.1], [0.0, 1.0, 0.0], [float("nan"), 1.0, 1.0]]))
    tensor([False,  True, False])
    """
    valid = valid_rows(reward)
    high = reward.masked_fill(~valid, -math.inf).amax(dim=-1)
    low = reward.masked_fill(~valid, math.inf).amin(dim=-1)
    return high - low > rounding(torch.maximum(high.abs(), low.abs())) + noise


def group_mean(reward: Tensor) -> Tensor:
    """Mean of each group's present rewards [P, 1]; 0 where there is none."""
    valid = valid_rows(reward)
    count = valid.sum(dim=-1, keepdim=True).clamp(min=1)
    return reward.masked_fill(~valid, 0).sum(dim=-1, keepdim=True) / count


def centered(reward: Tensor, *, noise: float = 0.0) -> Tensor:
    """r − mean, exactly 0 for ties and nulls; most methods start from it.

    The mean is taken off twice: the second time removes the rounding error of the first.
    """
    valid = valid_rows(reward)
    delta = reward - group_mean(reward)
    delta = delta - group_mean(delta)
    return delta.masked_fill(~(has_signal(reward, noise=noise).unsqueeze(-1) & valid), 0)


def _over(delta: Tensor, scale: Tensor) -> Tensor:
    """The quotient; 0 / 0 is 0, as ties are 0 whatever they are divided by."""
    return delta / scale.clamp(min=torch.finfo(delta.dtype).tiny)


def grpo(reward: Tensor, *, ddof: int = 1) -> Tensor:
    """Group z-score. The paper leaves ddof open; 1 is what TRL, verl and NeMo-RL compute.

    >>> grpo(torch.tensor([[1.0, 0.0, 0.0, 1.0]])).round(decimals=3)
    tensor([[ 0.8660, -0.8660, -0.8660,  0.8660]])
    """
    # The std of tiny or huge rewards would underflow or overflow: their size is divided out first.
    delta = centered(reward)
    peak = delta.abs().amax(dim=-1, keepdim=True)
    unit = _over(delta, peak)
    valid = valid_rows(reward)
    degrees = (valid.sum(dim=-1, keepdim=True) - ddof).clamp(min=1)
    std = (unit.square().sum(dim=-1, keepdim=True) / degrees).sqrt()
    return _over(unit, std)


def dr_grpo(reward: Tensor) -> Tensor:
    """r − mean, not divided by σ, which would make very hard and very easy prompts louder."""
    return centered(reward)


def rloo(reward: Tensor) -> Tensor:
    """r minus the mean of the others = n/(n−1) · (r − mean)."""
    count = valid_rows(reward).sum(dim=-1, keepdim=True)
    return centered(reward) * count / (count - 1).clamp(min=1)


def batch_std(reward: Tensor) -> Tensor:
    """Centered by group, scaled by the std of the whole batch's rewards."""
    present = reward[valid_rows(reward)]
    if present.numel() < 2:
        return torch.zeros_like(reward)
    return _over(centered(reward), present.std())


def reinforce(reward: Tensor) -> Tensor:
    """Centered by group, then divided by the batch's root mean square: global whitening."""
    delta = centered(reward)
    present = delta[valid_rows(reward)]
    if present.numel() < 2 or not bool(present.any()):
        return torch.zeros_like(reward)
    return _over(delta, present.std())


def opo(reward: Tensor, length: Tensor) -> Tensor:
    """r minus the length-weighted mean, the baseline of least variance; `length` [P, G] > 0."""
    valid = valid_rows(reward)
    weight = length.to(reward.dtype).masked_fill(~valid, 0)
    total = weight.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = (weight * reward.masked_fill(~valid, 0)).sum(dim=-1, keepdim=True) / total
    keep = has_signal(reward).unsqueeze(-1) & valid
    return (reward - mean).masked_fill(~keep, 0)


def maxrl(reward: Tensor) -> Tensor:
    """(r − mean) / mean for rewards ≥ 0: maximises the log-likelihood of success.

    A group whose mean is not above 0 gets 0: the quotient has no meaning there.
    """
    mean = group_mean(reward)
    size = reward.nan_to_num().abs().amax(dim=-1, keepdim=True)
    return _over(centered(reward), mean).masked_fill(mean <= rounding(size), 0)


def pass_at_k(reward: Tensor, *, k: int) -> Tensor:
    """Expected best of k completions with the row among them, less that without it.

    At k = 1 it is `rloo`. In a group with fewer than k + 1 present rewards, k is one less than
    their number.

    >>> pass_at_k(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), k=2).round(decimals=3)
    tensor([[ 1.0000, -0.3330, -0.3330, -0.3330]])
    """
    rows = [_pass_at_k_row(row, k) for row in reward]
    return torch.stack(rows) if rows else reward.clone()


def _pass_at_k_row(row: Tensor, k: int) -> Tensor:
    """Leave-one-out marginal value: E[max of k with i] − E[max of k without i]."""
    out = torch.zeros_like(row)
    index = torch.nonzero(~torch.isnan(row)).flatten()
    n = len(index)
    if n < 2 or not bool(has_signal(row[None])[0]):
        return out
    k = min(k, n - 1)
    order = torch.argsort(row[index])
    value = row[index][order]  # ascending
    for place in range(n):
        others = torch.cat([value[:place], value[place + 1 :]])
        with_row = _mean_of_max(torch.maximum(others, value[place]), k - 1, value[place])
        out[index[order[place]]] = with_row - _mean_of_max(others, k, value[place])
    return out


def _mean_of_max(ascending: Tensor, k: int, empty: Tensor) -> Tensor:
    """E[max] over k-subsets of an ascending vector; `empty` for k = 0."""
    n = len(ascending)
    if k == 0:
        return empty
    weight = [math.comb(i, k - 1) / math.comb(n, k) for i in range(n)]
    return (ascending * torch.tensor(weight, dtype=ascending.dtype)).sum()


def gdpo(scores: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Weighted sum of each score's group z-scores, whitened over the batch.

    `scores` are [P, G] each. A score with a large range cannot drown one with a small range, and a
    row that lacks one score takes part with its others.
    """
    weights = weights or [1.0] * len(scores)
    total = torch.zeros_like(scores[0])
    for weight, score in zip(weights, scores, strict=True):
        total = total + weight * grpo(score)
    # Z-scores that cancel leave rounding errors, which the division would make as large as signal.
    total = total.masked_fill(~has_signal(total).unsqueeze(-1), 0)
    if not bool(total.any()):
        return total
    return _over(total, total.std())


# -- the methods by name ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Groups:
    """What a method may read: P groups of G completions, every tensor [P, G]."""

    reward: Tensor  # NaN where it is null
    length: Tensor  # tokens of each completion
    scores: Mapping[str, Tensor]
    config: Advantage = field(default_factory=Advantage)


def _gdpo_by_config(groups: Groups) -> Tensor:
    """`gdpo` of the scores that `advantage.scores` weighs; of all of them where it is empty."""
    weights = groups.config.scores or dict.fromkeys(groups.scores, 1.0)
    unknown = ", ".join(f"`{name}`" for name in weights if name not in groups.scores)
    if unknown:
        raise ConfigError(f"the ruleset has no score {unknown} - at `advantage.scores`")
    return gdpo([groups.scores[name] for name in weights], list(weights.values()))


#: A new method is one entry here, its name in `config.AdvantageMethod`, a law in
#: tests/train/objective/test_advantage.py and a line in docs/training.md.
METHODS: dict[AdvantageMethod, Callable[[Groups], Tensor]] = {
    "grpo": lambda groups: grpo(groups.reward),
    "dr_grpo": lambda groups: dr_grpo(groups.reward),
    "rloo": lambda groups: rloo(groups.reward),
    "batch_std": lambda groups: batch_std(groups.reward),
    "reinforce": lambda groups: reinforce(groups.reward),
    "maxrl": lambda groups: maxrl(groups.reward),
    "opo": lambda groups: opo(groups.reward, groups.length),
    "pass_at_k": lambda groups: pass_at_k(groups.reward, k=groups.config.k),
    "gdpo": _gdpo_by_config,
}


def group_advantages(reward: Tensor, group_size: int, method: AdvantageMethod = "grpo") -> Tensor:
    """Advantages [B] of rewards alone [B], as if all completions were equally long.

    Groups are `group_size` adjacent rows; float64 → float64.

    >>> group_advantages(torch.tensor([0.7, 0.7, 1.0, 0.0]), 2)
    tensor([ 0.0000,  0.0000,  0.7071, -0.7071])
    """
    grouped = reward.view(-1, group_size)
    alone = Groups(grouped, torch.ones_like(grouped), {"reward": grouped})
    return METHODS[method](alone).view(-1)


def overlong(length: Tensor, *, limit: int, cache: int) -> Tensor:
    """DAPO's soft penalty for length (2503.14476 Eq. 13): 0 to −1 over the last `cache` tokens.

    >>> overlong(torch.tensor([10, 90, 95, 100, 120]), limit=100, cache=10)
    tensor([ 0.0000,  0.0000, -0.5000, -1.0000, -1.0000])
    """
    return ((limit - cache - length) / cache).clamp(min=-1.0, max=0.0)
