"""Intervals and pass@k against their definitions."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from hypothesis import given
from hypothesis import strategies as st

from grpo_train.errors import DataError
from grpo_train.run.evaluate import bootstrap, estimated_pass_at_k, wilson
from grpo_train.session import (
    evaluate_run,
    evaluate_session,
    export,
    open_session,
    save,
    start,
)
from grpo_train.train import train_step


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
        assert math.isclose(estimated_pass_at_k(np.array(rows), k), expected, abs_tol=1e-12)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=40))
def test_the_bootstrap_interval_holds_the_mean(shares: list[float]) -> None:
    low, high = bootstrap(np.array(shares))
    assert 0 <= low <= np.mean(shares) + 1e-12
    assert np.mean(shares) - 1e-12 <= high <= 1
    assert low < high  # however alike the prompts were


def test_an_evaluation_of_zeros_is_not_certain() -> None:
    assert bootstrap(np.zeros(8)) == wilson(0, 8)
    assert bootstrap(np.ones(8)) == wilson(8, 8)


def test_intervals_hold_what_they_are_about(tmp_path: Path) -> None:
    session = start(tiny_run.make_config(tmp_path, eval={"samples": 4}))
    found = evaluate_session(session)
    assert found is not None
    assert set(found.pass_at_k) == set(found.intervals) == {2, 4}
    for k, value in found.pass_at_k.items():
        low, high = found.intervals[k]
        assert low - 1e-12 <= value <= high + 1e-12
    assert found.pass_at_1 <= found.pass_at_k[2] <= found.pass_at_k[4]


def test_a_run_that_is_not_done_is_evaluated_at_its_last_checkpoint(tmp_path: Path) -> None:
    session = start(tiny_run.make_config(tmp_path, lora={"rank": 2}))
    train_step(session)
    save(session)
    found = evaluate_run(session.record.folder, samples=2, limit=4)
    export(session)
    merged = evaluate_run(session.record.folder, samples=2, limit=4)
    assert found == merged


def test_prompts_without_a_gold_are_counted_before_the_first_step(tmp_path: Path) -> None:
    config = tiny_run.make_config(tmp_path)
    ruleset = Path(config.reward.ruleset)
    ruleset.write_text(
        "input completion: chat\ninput gold: text\n"
        "score correct = math.equal(extract.boxed(completion), gold)\nreward in 0..1 = correct\n"
    )
    data = Path(config.data.train)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[3]["gold"] = None
    data.write_text("\n".join(map(json.dumps, rows)))
    assert "1 of 40 prompts have no reward" in "".join(open_session(config).notes)
    data.write_text("\n".join(json.dumps(row | {"gold": None}) for row in rows))
    with pytest.raises(DataError, match="every reward would be null"):
        open_session(config)
