"""The self-test finds what it is there for, and the plan knows what takes memory."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import models
import pytest
import tiny_run
import torch
from torch import Tensor

from grpo_train.engines.native import NativeEngine
from grpo_train.errors import EngineError
from grpo_train.model.policy import load_policy
from grpo_train.model.tree_attention import Rules, TreeLayout
from grpo_train.rollouts import Rollouts, Sampling
from grpo_train.run.preflight import (
    choose_checkpointing,
    memory_advice,
    memory_plan,
    peak_bytes,
    self_test,
)

PROMPTS = [[5, 6, 7, 8], [9, 10]]


@pytest.mark.parametrize("kind", models.CLASSES)
def test_every_class_passes(kind: str) -> None:
    policy = models.make_policy(kind)
    found = self_test(policy, NativeEngine(policy), PROMPTS, Sampling(20, top_p=0.9))
    assert found.layout == "flat"
    assert max(found.engine_gap, found.gaps[found.layout]) < 1e-5
    assert "self-test" in str(found)


def test_an_attention_that_leaks_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    real = TreeLayout._visible

    def leak(layout: TreeLayout, rules: Rules) -> tuple[Tensor | None, Tensor]:
        prompts, branches = real(layout, rules)
        return prompts, torch.ones_like(branches)

    monkeypatch.setattr(TreeLayout, "_visible", leak)
    policy = models.make_policy()
    found = self_test(policy, NativeEngine(policy), PROMPTS, Sampling(20))
    assert found.layout == "plain" and not policy.ours
    assert found.gaps["flat"] > 1e-3
    assert found.engine_gap < 1e-5
    assert "slower" in str(found)


@pytest.mark.parametrize("right", [True, False])
def test_flash_attention_is_used_where_it_is_right(
    right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*args: Any, **rest: Any) -> Tensor:
        return models.varlen_attn(*args, **rest | {"window_size": (-1, 10_000)})  # nothing is later

    flash = models.varlen_attn if right else other
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", flash)
    monkeypatch.setattr("grpo_train.run.preflight.layouts", lambda _: ("varlen", "flat"))
    policy = models.make_policy()
    found = self_test(policy, NativeEngine(policy), PROMPTS, Sampling(20))
    assert found.layout == ("varlen" if right else "flat")
    assert all(p.grad is None for p in policy.model.parameters())


def test_an_attention_that_cannot_be_had_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch has no flash attention on a CPU, which is what a card too old says too."""
    monkeypatch.setattr("grpo_train.run.preflight.layouts", lambda _: ("varlen", "flat"))
    policy = models.make_policy()
    found = self_test(policy, NativeEngine(policy), PROMPTS, Sampling(20))
    assert found.layout == "flat" and policy.ours
    assert found.gaps["varlen"] == float("inf")


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
    # 2 (keys, values) × 4 bytes × (16 rows × 16 + 4 prompts × 20) tokens × 2 layers × width 32
    assert plan["cache"] == 2 * 4 * (16 * 16 + 4 * 20) * 2 * 32
    thrifty = policy.with_checkpointing()
    assert memory_plan(config, thrifty, 20)["activations"] < plan["activations"]
    assert "peak" in memory_advice(plan, policy)
    assert "recomputed" in memory_advice(plan, thrifty)


def test_activations_are_recomputed_where_they_would_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run.make_config(tmp_path)
    policy = load_policy(config.model, device="cpu")
    choose = functools.partial(choose_checkpointing, policy=policy, longest_prompt=20)
    assert not choose(config).checkpointing
    peak = peak_bytes(memory_plan(config, policy, 20))
    monkeypatch.setattr("grpo_train.run.preflight.room_bytes", lambda _: peak - 1)
    assert "checkpointing" in memory_advice(memory_plan(config, policy, 20), policy)
    assert choose(config).checkpointing
    assert not choose(tiny_run.make_config(tmp_path, checkpointing="off")).checkpointing
    monkeypatch.undo()
    assert choose(tiny_run.make_config(tmp_path, checkpointing="on")).checkpointing
