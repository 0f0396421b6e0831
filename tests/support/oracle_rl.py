"""Slow float64 oracles for the trainer: plain Python, row by row, from the formulas.

They share no code with grpo_train: lists in, lists out, `math` only.
"""

from __future__ import annotations

import math
from itertools import combinations


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def std(values: list[float], ddof: int = 1) -> float:
    center = mean(values)
    return math.sqrt(math.fsum((v - center) ** 2 for v in values) / (len(values) - ddof))


def advantages(groups: list[list[float]], method: str) -> list[list[float]]:
    """Advantages of groups of rewards; NaN is a null reward and gets 0."""
    everything = [r for group in groups for r in group if not math.isnan(r)]
    centered = [[r - mean(_present(g)) for r in _present(g)] for g in groups if _present(g)]
    flat = [d for group in centered for d in group]
    return [_group(group, method, everything, flat) for group in groups]


def _present(group: list[float]) -> list[float]:
    return [r for r in group if not math.isnan(r)]


def _group(
    group: list[float], method: str, everything: list[float], flat: list[float]
) -> list[float]:
    present = _present(group)
    if len(present) < 2 or max(present) == min(present):
        return [0.0] * len(group)
    center, n = mean(present), len(present)
    scale = {
        "grpo": lambda: std(present),
        "dr_grpo": lambda: 1.0,
        "rloo": lambda: (n - 1) / n,
        "batch_std": lambda: std(everything),
        "reinforce": lambda: std(flat),
        "maxrl": lambda: center,
    }[method]()
    return [0.0 if math.isnan(r) else (r - center) / scale for r in group]


def pass_at_k(group: list[float], k: int) -> list[float]:
    """E[max of a k-subset with i] − E[max of a k-subset without i], by enumeration."""
    out = []
    for i, value in enumerate(group):
        others = group[:i] + group[i + 1 :]
        with_i = [max([value, *rest]) for rest in combinations(others, k - 1)]
        without = [max(subset) for subset in combinations(others, k)]
        out.append(mean(with_i) - mean(without))
    return out


def token_loss(
    kind: str,
    logp: list[float],
    old: list[float],
    advantage: float,
    *,
    low: float,
    high: float,
    dual: float = 0.0,
    cap: float = 5.0,
) -> list[float]:
    """Losses of one completion's tokens."""
    log_ratio = [a - b for a, b in zip(logp, old, strict=True)]
    if kind == "ppo":
        return [_clip(math.exp(x), advantage, low, high, dual) for x in log_ratio]
    if kind == "gspo":
        return [_clip(math.exp(mean(log_ratio)), advantage, low, high, dual)] * len(logp)
    if kind == "cispo":
        return [
            -min(math.exp(x), cap) * advantage * a for x, a in zip(log_ratio, logp, strict=True)
        ]
    if kind == "sapo":
        tau = 1.0 if advantage > 0 else 1.05
        gates = [1 / (1 + math.exp(-tau * (math.exp(x) - 1))) for x in log_ratio]
        return [-4 / tau * gate * advantage for gate in gates]
    if kind == "gmpo":
        if advantage >= 0:
            bounded = [min(x, high) for x in log_ratio]
        else:
            bounded = [max(x, -low) for x in log_ratio]
        return [-math.exp(mean(bounded)) * advantage] * len(logp)
    raise ValueError(kind)


def _clip(ratio: float, advantage: float, low: float, high: float, dual: float) -> float:
    bounded = min(max(ratio, 1 - low), 1 + high)
    loss = -min(ratio * advantage, bounded * advantage)
    if dual and advantage < 0:
        loss = min(loss, dual * abs(advantage))
    return loss


def step_loss(losses: list[list[float]], how: str, group_size: int, max_length: int) -> float:
    """Aggregate the token losses of a step's completions (a completion may be empty)."""
    rows = [row for row in losses if row]
    if how == "token":
        return math.fsum(x for row in rows for x in row) / sum(map(len, rows))
    if how == "sequence":
        return mean([mean(row) for row in rows])
    if how == "constant":
        return math.fsum(x for row in rows for x in row) / (len(rows) * max_length)
    groups = [losses[i : i + group_size] for i in range(0, len(losses), group_size)]
    flat = [[x for row in group for x in row] for group in groups]
    return mean([mean(group) for group in flat if group])
