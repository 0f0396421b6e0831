"""The self-test finds what it is there for, and the plan knows what takes memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import models
import pytest
import tiny_run
import torch

from grpo_train import pack
from grpo_train.attention import TreeLayout
from grpo_train.errors import EngineError
from grpo_train.policy import load_policy
from grpo_train.preflight import memory_advice, memory_plan, self_test
from grpo_train.rollout import NativeEngine, Rollouts, Sampling

PROMPTS = [[5, 6, 7, 8], [9, 10]]


@pytest.mark.parametrize("kind", models.CLASSES)
def test_every_class_passes(kind: str) -> None:
    policy = models.make_policy(kind)
    found = self_test(policy, NativeEngine(policy), PROMPTS, Sampling(20, top_p=0.9))
    assert found.layout == ("flat" if policy.trees else "rows")
    assert max(found.engine_gap, found.gaps[found.layout]) < 1e-5
    assert "self-test" in str(found)


@pytest.mark.parametrize(("also_rows", "expected"), [(False, "rows"), (True, "plain")])
def test_a_leaking_layout_is_not_used(
    monkeypatch: pytest.MonkeyPatch, also_rows: bool, expected: str
) -> None:
    real = pack.MicroBatch.visible

    def leak(batch: pack.MicroBatch) -> torch.Tensor | TreeLayout | None:
        width = batch.ids.shape[1]
        causal = torch.ones(width, width).tril().bool()
        leaks = batch.layout == "flat" or (batch.layout == "rows" and also_rows)
        return causal.expand(len(batch.ids), 1, width, width) if leaks else real(batch)

    monkeypatch.setattr(pack.MicroBatch, "visible", leak)
    policy = models.make_policy()
    found = self_test(policy, NativeEngine(policy), PROMPTS, Sampling(20))
    assert found.layout == expected
    assert found.gaps["flat"] > 1e-3
    assert found.engine_gap < 1e-5
    assert ("slower" in str(found)) == also_rows


def test_an_engine_with_other_weights_is_refused() -> None:
    class Stale(NativeEngine):
        def generate(self, *args: object, **rest: object) -> Rollouts:
            found = super().generate(*args, **rest)  # type: ignore[arg-type]
            return dataclasses.replace(found, old_logprobs=found.old_logprobs - 0.01)

    policy = models.make_policy()
    with pytest.raises(EngineError, match="differ"):
        self_test(policy, Stale(policy), PROMPTS, Sampling(20))


def test_the_plan_adds_up(tmp_path: Path) -> None:
    config = tiny_run.make_config(tmp_path, loss={"kl_coef": 0.1})
    policy = load_policy(config.model, device="cpu")
    plan = memory_plan(config, policy, 20)
    count = sum(p.numel() for p in policy.model.parameters())
    assert plan["weights"] == plan["gradients"] == plan["reference"] == 4 * count
    assert plan["optimizer"] == 8 * count
    # 2 (keys, values) × 4 bytes × 16 rows × (20 + 2·16) columns × 2 layers × width 32
    assert plan["cache"] == 2 * 4 * 16 * 52 * 2 * 32
    thrifty = tiny_run.make_config(tmp_path, checkpointing=True)
    assert memory_plan(thrifty, policy, 20)["activations"] < plan["activations"]
    assert "peak" in memory_advice(plan, policy)
