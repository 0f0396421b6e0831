"""Accuracy and pass@k on held-out prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from grpo_train.data import Prompts
from grpo_train.errors import ConfigError
from grpo_train.model.policy import Policy
from grpo_train.rollouts import Engine, Sampling, row_seeds
from grpo_train.scoring import Moment, Scored, sample_and_score

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Held-out accuracy with its 95% interval, and the mean of every score."""

    pass_at_1: float
    low: float
    high: float
    pass_at_k: dict[int, float]
    intervals: dict[int, tuple[float, float]]  # of each pass@k
    scores: dict[str, float]
    prompts: int
    samples: int

    def metrics(self) -> dict[str, float]:
        """The values as they are named in `metrics.jsonl`."""
        found = {"eval/pass_at_1": self.pass_at_1, "eval/low": self.low, "eval/high": self.high}
        found |= {f"eval/pass_at_{k}": value for k, value in self.pass_at_k.items() if k > 1}
        return found | {f"eval/score/{name}": value for name, value in self.scores.items()}


def wilson(right: float, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95% interval of a share; `total` 0 gives (0, 1).

    >>> [round(bound, 3) for bound in wilson(8, 10)]
    [0.49, 0.943]
    """
    if not total:
        return 0.0, 1.0
    share, square = right / total, z * z / total
    center = (share + square / 2) / (1 + square)
    spread = z / (1 + square) * math.sqrt(share * (1 - share) / total + square / (4 * total))
    return max(0.0, center - spread), min(1.0, center + spread)


def bootstrap(per_prompt: Floats, draws: int = 2000) -> tuple[float, float]:
    """95% interval of the mean over prompts, of which samples are drawn anew, not of completions.

    Where all prompts are alike the bootstrap would claim certainty, so it is Wilson's interval.

    >>> [round(bound, 3) for bound in bootstrap(np.zeros(10))]
    [0.0, 0.278]
    """
    if np.ptp(per_prompt) == 0:
        return wilson(float(per_prompt.sum()), len(per_prompt))
    rng = np.random.default_rng(0)
    index = rng.integers(0, len(per_prompt), (draws, len(per_prompt)))
    low, high = np.quantile(per_prompt[index].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def estimated_pass_at_k(right: npt.NDArray[np.bool_], k: int) -> float:
    """Unbiased pass@k (2107.03374 Eq. 1) of `right` [P, n]: 1 − C(n−c, k) / C(n, k).

    >>> estimated_pass_at_k(np.array([[True, False, False, False]]), 2)
    0.5
    """
    return float(np.mean(_pass_at_k(right, k)))


def _pass_at_k(right: npt.NDArray[np.bool_], k: int) -> Floats:
    """pass@k of every prompt [P]."""
    n = right.shape[1]
    wrong = n - right.sum(axis=1)
    return np.array([1 - math.comb(int(w), k) / math.comb(n, k) for w in wrong])


def evaluate(
    engine: Engine,
    policy: Policy,
    scorer: Any,
    prompts: Prompts,
    sampling: Sampling,
    *,
    samples: int,
    score: str,
    seed: int,
    moment: Moment,
) -> tuple[Evaluation, Scored]:
    """Accuracy over `samples` completions of each prompt, and their scores.

    The seeds are the same in every call, so that evaluations differ by the policy only.
    """
    seeds = row_seeds(seed, -1, torch.arange(len(prompts) * samples))
    _, scored, _ = sample_and_score(engine, scorer, policy, prompts, sampling, seeds, moment)
    if score not in scored.scores:
        have = ", ".join(f"`{name}`" for name in scored.scores)
        raise ConfigError(f"the ruleset has no score `{score}`, it has {have} - at `eval.score`")
    value = np.nan_to_num(scored.scores[score]) >= 0.5  # a null is not right
    right = value.reshape(len(prompts), samples)
    share = right.mean(axis=1)
    low, high = wilson(float(right.sum()), len(prompts)) if samples == 1 else bootstrap(share)
    powers = [2**i for i in range(1, samples.bit_length()) if 2**i <= samples]
    result = Evaluation(
        float(share.mean()),
        low,
        high,
        {k: estimated_pass_at_k(right, k) for k in powers},
        {k: bootstrap(_pass_at_k(right, k)) for k in powers},
        scored.means() | {"reward": float(np.nanmean(scored.reward))},
        len(prompts),
        samples,
    )
    return result, scored
