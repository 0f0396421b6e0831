"""Intervals and pass@k against their definitions."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from grpo_train.evaluate import bootstrap, pass_at_k, wilson


@given(st.integers(0, 50), st.integers(1, 50))
def test_wilson_holds_the_share_and_stays_in_range(right: int, total: int) -> None:
    right = min(right, total)
    low, high = wilson(right, total)
    assert 0 <= low <= right / total + 1e-12
    assert right / total - 1e-12 <= high <= 1
    # Its bounds solve |share − p| = z·sqrt(p(1−p)/n), which is the definition.
    for p in (low, high):
        if 0 < p < 1:
            gap = abs(right / total - p)
            assert math.isclose(gap, 1.959964 * math.sqrt(p * (1 - p) / total), abs_tol=1e-7)


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5))
def test_pass_at_k_is_the_mean_over_subsets(rows: list[list[bool]]) -> None:
    for k in (1, 2, 3, 4):
        expected = np.mean([np.mean([any(s) for s in combinations(row, k)]) for row in rows])
        assert math.isclose(pass_at_k(np.array(rows), k), expected, abs_tol=1e-12)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=40))
def test_the_bootstrap_interval_holds_the_mean(shares: list[float]) -> None:
    low, high = bootstrap(np.array(shares))
    assert 0 <= low <= np.mean(shares) + 1e-12
    assert np.mean(shares) - 1e-12 <= high <= 1
