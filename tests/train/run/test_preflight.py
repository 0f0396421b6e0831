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

from grpo_train.config import Precision
from grpo_train.engines.decoder import KINDS, Decoder
from grpo_train.engines.native import NativeEngine
from grpo_train.errors import FAILURES, ConfigError, EngineError
from grpo_train.model.flash_attention import Runs
from grpo_train.model.kv_cache import ForkedCache
from grpo_train.model.policy import Policy, load_policy
from grpo_train.model.tree_attention import Rules, TreeLayout
from grpo_train.objective.packing import _write
from grpo_train.rollouts import Rollouts, Sampling, row_seeds
from grpo_train.run.preflight import (
    SelfTest,
    choose_checkpointing,
    memory_advice,
    memory_plan,
    peak_bytes,
    self_test,
)
from grpo_train.run.probe import Probe

PROMPTS = [[5, 6, 7, 8], [9, 10]]


@pytest.mark.parametrize("kind", models.CLASSES)
def test_every_class_passes(kind: str) -> None:
    policy = models.make_policy(kind)
    found = self_test(policy, NativeEngine(policy), PROMPTS, Sampling(20, top_p=0.9))
    assert found.layout == "flat"
    assert max(found.engine_gap, found.gaps[found.layout]) < 1e-5
    assert "self-test" in str(found)


@pytest.mark.parametrize("right", [True, False])
def test_flash_attention_is_used_where_it_is_right(
    right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*args: Any, **rest: Any) -> Tensor:
        return models.varlen_attn(*args, **rest | {"window_size": (-1, 10_000)})  # nothing is later

    flash = models.varlen_attn if right else functools.wraps(models.varlen_attn)(other)
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


@pytest.mark.parametrize(
    ("kind", "attend", "layout"),
    [
        ("llama", models.varlen_attn_2_10, "varlen"),
        ("llama", models.varlen_attn_2_11, "varlen"),
        ("llama", models.varlen_attn, "varlen"),
        ("mistral", models.varlen_attn_2_10, "flat"),  # a window
        ("mistral", models.varlen_attn_2_11, "varlen"),
        ("granite", models.varlen_attn_2_10, "flat"),  # a scale of its own
        ("granite", models.varlen_attn_2_11, "varlen"),
        ("gemma2", models.varlen_attn, "flat"),  # a soft cap
    ],
)
def test_flash_attention_is_told_what_its_version_knows(
    kind: str, attend: Any, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", attend)
    monkeypatch.setattr("grpo_train.run.preflight.layouts", lambda _: ("varlen", "flat"))
    policy = models.make_policy(kind)
    assert self_test(policy, NativeEngine(policy), PROMPTS, Sampling(20)).layout == layout


@pytest.mark.parametrize("error", [*FAILURES, NotImplementedError, KeyError])
def test_a_path_that_fails_is_not_used_however_it_fails(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error("not here")

    monkeypatch.setattr(Runs, "attend", fail)
    monkeypatch.setattr(TreeLayout, "_branches", fail)
    monkeypatch.setattr(Decoder, "step", fail)
    monkeypatch.setattr("grpo_train.run.preflight.layouts", lambda _: ("varlen", "flat"))
    policy = models.make_policy()
    found = self_test(policy, NativeEngine(policy), PROMPTS, Sampling(20))
    assert (found.layout, way(found)) == ("plain", "ours")
    monkeypatch.setattr("grpo_train.engines.drawing.draw", fail)
    with pytest.raises(ConfigError, match=r"not here.? - at `model`\nhint: "):
        self_test(policy, NativeEngine(policy), PROMPTS, Sampling(20))


# -- mistakes that are planted ---------------------------------------------------------------------


def leaking(patch: pytest.MonkeyPatch, _: Policy) -> None:
    """A branch sees its siblings' padding and what comes later."""
    real = TreeLayout._visible

    def leak(layout: TreeLayout, rules: Rules) -> tuple[Tensor | None, Tensor]:
        prompts, branches = real(layout, rules)
        return prompts, torch.ones_like(branches)

    patch.setattr(TreeLayout, "_visible", leak)


def restarting(patch: pytest.MonkeyPatch, _: Policy) -> None:
    """The positions of a packed branch begin at 0, as if it had no prompt."""
    real = _write
    patch.setattr(
        "grpo_train.objective.packing._write",
        lambda ids, at, n, tokens, _: real(ids, at, n, tokens, 0),
    )


def late(patch: pytest.MonkeyPatch, _: Policy) -> None:
    """Decoded tokens stand one place too far."""
    real = ForkedCache.positions
    patch.setattr(ForkedCache, "positions", lambda cache: real(cache) + 1)


def unturned(patch: pytest.MonkeyPatch, _: Policy) -> None:
    """The step without modules forgets the rotation."""
    patch.setattr("grpo_train.engines.decoder._rotate", lambda x, _: x)


def endless(patch: pytest.MonkeyPatch, policy: Policy) -> None:
    """A window is forgotten, which is longer than all that is probed."""
    for owner in (policy.model.config, *policy.model.modules()):
        if hasattr(owner, "sliding_window"):
            owner.sliding_window = 200
    patch.setattr(Rules, "near", lambda _, query, key: query - key >= 0)


def uncapped(patch: pytest.MonkeyPatch, policy: Policy) -> None:
    """Scores are not capped."""
    for owner in (policy.model.config, *policy.model.modules()):
        if hasattr(owner, "attn_logit_softcapping"):
            owner.attn_logit_softcapping = 0.05
    real = Rules
    patch.setattr(
        "grpo_train.model.tree_attention.Rules", lambda scale, _, window=0: real(scale, 1e9, window)
    )


MISTAKES: dict[Any, tuple[str, str]] = {
    leaking: ("llama", "plain step"),
    restarting: ("llama", "plain step"),
    late: ("gpt2", "flat own"),
    unturned: ("llama", "flat ours"),
    endless: ("mistral", "plain own"),
    uncapped: ("gemma2", "plain masked"),
}


@pytest.mark.parametrize("sharpness", [4.0, 12.0])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_costs_the_path_that_makes_it_and_no_other(
    mistake: Any, precision: Precision, sharpness: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, left = MISTAKES[mistake]
    policy = models.make_policy(kind, precision=precision, sharpness=sharpness)
    mistake(monkeypatch, policy)
    found = self_test(policy, NativeEngine(policy), PROMPTS, Sampling(20))
    assert f"{found.layout} {way(found)}" == left
    assert policy.ours == (found.layout == "flat")


def test_a_path_that_rounds_more_than_bf16_does_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What only bf16 shows is held to what bf16 costs."""
    real = TreeLayout._branches

    def coarse(layout: TreeLayout, row: tuple[Tensor, ...], *rest: Any) -> Tensor:
        q, k, v = row
        if v.dtype == torch.bfloat16:
            v = v.to(torch.float8_e4m3fn).to(v.dtype)
        return real(layout, (q, k, v), *rest)

    monkeypatch.setattr(TreeLayout, "_branches", coarse)
    for precision, layout in (("float32", "flat"), ("bfloat16", "plain")):
        policy = models.make_policy(precision=precision)
        found = self_test(policy, NativeEngine(policy), PROMPTS, Sampling(20))
        assert (found.layout, way(found)) == (layout, "step")


@pytest.mark.parametrize("sharpness", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_a_healthy_model_is_not_refused_for_what_bf16_costs(kind: str, sharpness: float) -> None:
    policy = models.make_policy(kind, precision="bfloat16", sharpness=sharpness)
    found = self_test(policy, NativeEngine(policy), PROMPTS, Sampling(20))
    assert (found.layout, way(found)) == ("flat", "step" if kind in KINDS else "ours")
    if kind == "llama" and sharpness == 20.0:  # as real weights are: 0.2 nats at the worst token
        rollouts = found.engine.generate(PROMPTS, 8, Sampling(20), row_seeds(1, torch.arange(16)))
        exact = Probe.of(policy, rollouts, 1.0, short=False, bf16=True).exact
        assert float((rollouts.old_logprobs - exact).abs().max()) > 0.2
    assert "bf16 explains" in str(found)


def way(found: SelfTest) -> str | None:
    assert isinstance(found.engine, NativeEngine)
    return found.engine.way


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


@pytest.mark.parametrize("error", FAILURES)
def test_a_model_that_cannot_be_loaded_is_one_line(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error("no such thing\nand a page more")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(ConfigError, match=r"no such thing.* - at `model`$") as found:
        load_policy(str(tmp_path), device="cpu")
    assert len(str(found.value).splitlines()) == 1
