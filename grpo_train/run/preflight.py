"""Before the first step: do engine and trainer agree, and will the memory suffice?"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

import torch

from grpo_train.config import Config
from grpo_train.engines.decoder import copied_bytes
from grpo_train.errors import EngineError
from grpo_train.model.logprobs import chunk_bytes
from grpo_train.model.policy import Policy
from grpo_train.objective.packing import Layout, batch_logprobs, pack
from grpo_train.rollouts import Engine, Rollouts, Sampling, row_seeds

COPY_TOLERANCE = 0.05  # mean over tokens, of an engine with weights of its own, perhaps in bf16
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # nats a token; bf16 rounds every product
PROBE_TOKENS = 64  # of a prompt: enough to span a page or a short sliding window
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Largest differences of a logprob: packed against plain rows, engine against trainer."""

    layout: Layout  # the fastest that is right for this model
    gaps: dict[str, float]  # of each layout tried
    engine_gap: float

    def __str__(self) -> str:
        found = f"self-test: engine and trainer differ by {self.engine_gap:.1e} nats a token"
        tried = ", ".join(f"{name} {gap:.1e}" for name, gap in self.gaps.items())
        found += f"; packing `{self.layout}` ({tried})"
        if self.layout != "plain":
            return found
        return (
            f"{found}. Our attention is wrong for this model, so each completion gets a row and a "
            "copy of the prompt of its own, which is slower"
        )


def self_test(
    policy: Policy, engine: Engine, prompts: list[list[int]], sampling: Sampling
) -> SelfTest:
    """Sample a little and compare; EngineError where the engine does not sample from the policy.

    A model that our attention is wrong for gets its own back, and is compared once more.
    """
    bound = TOLERANCE[torch.bfloat16 if policy.mixed else torch.float32]
    apart = COPY_TOLERANCE if engine.copies else bound
    gaps: dict[str, float] = {}
    if policy.ours:
        rollouts, plain, engine_gap = _probe(policy, engine, prompts, sampling)
        for layout in layouts(policy) if engine_gap <= apart else ():  # NaN is not
            gaps[layout] = _gap(policy, rollouts, plain, sampling, layout)
            if gaps[layout] <= bound:
                return SelfTest(layout, gaps, engine_gap)
        policy.use_own_attention()
    _, _, engine_gap = _probe(policy, engine, prompts, sampling)
    if not engine_gap <= apart:
        raise EngineError(
            f"the engine's logprobs differ from the trainer's by {engine_gap:.2g} nats a token\n"
            + (
                "hint: does it report the logprobs that it sampled with (processed_logprobs)?"
                if engine.copies
                else "hint: does this model support a 4-D attention mask and a custom cache?"
            )
        )
    return SelfTest("plain", gaps, engine_gap)


def layouts(policy: Policy) -> tuple[Layout, ...]:
    """What may pack this policy's rollouts, the fastest first."""
    return ("varlen", "flat") if policy.device.type == "cuda" and policy.mixed else ("flat",)


def _probe(
    policy: Policy, engine: Engine, prompts: list[list[int]], sampling: Sampling
) -> tuple[Rollouts, torch.Tensor, float]:
    """A few rollouts, their logprobs by plain rows, and how far the engine's are from them."""
    probe = [ids[-PROBE_TOKENS:] for ids in prompts[:2]]
    short = replace(sampling, max_tokens=8)
    rollouts = engine.generate(probe, 3, short, row_seeds(0, torch.arange(3 * len(probe))))
    plain = _logprobs(policy, rollouts, sampling.temperature, "plain")
    apart = (rollouts.old_logprobs - plain).abs()
    return rollouts, plain, float(apart.mean() if engine.copies else apart.max())


def _gap(
    policy: Policy, rollouts: Rollouts, plain: torch.Tensor, sampling: Sampling, layout: Layout
) -> float:
    """How far packing is from plain rows; infinitely where it cannot be done, or undone, here."""
    try:
        back = layout == "varlen"
        found = _logprobs(policy, rollouts, sampling.temperature, layout, backward=back)
    except (ImportError, NotImplementedError, RuntimeError):
        if layout != "varlen":
            raise
        return math.inf
    return float((found - plain).abs().max())


def _logprobs(
    policy: Policy,
    rollouts: Rollouts,
    temperature: float,
    layout: Layout,
    *,
    backward: bool = False,
) -> torch.Tensor:
    found = torch.zeros(len(rollouts.ids))
    with torch.set_grad_enabled(backward):
        for batch in pack(rollouts, torch.ones(len(rollouts)).bool(), 4096, layout):
            logp, _ = batch_logprobs(
                policy,
                batch.to(policy.device),
                temperature=temperature,
                support=rollouts.support,
                with_entropy=False,
            )
            found[batch.token] = logp.detach().cpu()
            if backward:
                torch.autograd.backward(logp.sum())
    policy.model.zero_grad(set_to_none=True)
    return found


def memory_plan(config: Config, policy: Policy, longest_prompt: int) -> dict[str, float]:
    """Estimated bytes of each part at its peak; activations are the roughest.

    Weights, gradients and Adam's two moments are fp32. Copies are the decoder's. The cache holds
    `max_rows` rows of completion, and prompts once for a group. Activations of a token in a layer:
    about 34 widths.
    """
    c = policy.model.config.get_text_config()
    weights = 4.0 * sum(p.numel() for p in policy.model.parameters())
    trained = 4.0 * sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    rows = min(config.sampling.max_rows, config.prompts_per_step * config.sampling.group_size)
    prompts = min(config.prompts_per_step, 2 * -(-rows // config.sampling.group_size))
    columns = rows * config.sampling.max_tokens + prompts * longest_prompt
    layers = 1 if policy.checkpointing else c.num_hidden_layers
    boundary = c.num_hidden_layers if policy.checkpointing else 0
    found = {
        "weights": weights,
        "gradients": trained,
        "optimizer": 2 * trained,
        "reference": weights if config.loss.kl_coef and policy.adapter is None else 0.0,
        "copies": float(copied_bytes(policy)),
        "cache": 2.0 * policy.held.itemsize * columns * c.num_hidden_layers * heads * head_dim,
        "activations": float(
            policy.compute.itemsize * config.token_budget * c.hidden_size * (34 * layers + boundary)
        ),
        "head": 3.0 * chunk_bytes(policy.device),
    }
    return {name: value for name, value in found.items() if value}


def peak_bytes(plan: dict[str, float]) -> float:
    """The whole at its peak: what samples and what trains is never there at the same time."""
    samples, trains = (
        sum(plan.get(name, 0.0) for name in names)
        for names in (("copies", "cache"), ("activations", "head"))
    )
    return sum(plan.values()) - min(samples, trains)


def room_bytes(policy: Policy) -> float:
    """Memory of the device, less a tenth for what no plan knows."""
    if policy.device.type == "cuda":
        return 0.9 * torch.cuda.get_device_properties(policy.device).total_memory
    return 0.9 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def choose_checkpointing(config: Config, policy: Policy, longest_prompt: int) -> Policy:
    """The policy, recomputing activations where that is asked for, or the plan needs it."""
    on = config.checkpointing == "on"
    if config.checkpointing == "auto":
        on = peak_bytes(memory_plan(config, policy, longest_prompt)) > room_bytes(policy)
    return policy.with_checkpointing() if on else policy


def memory_advice(plan: dict[str, float], policy: Policy) -> str:
    """The plan in words, with what to change where it does not fit."""
    peak, room = peak_bytes(plan), room_bytes(policy)
    parts = "  ".join(f"{name} {value / GIB:.2f}" for name, value in plan.items())
    text = f"memory, GiB: {parts}  peak about {peak / GIB:.2f} of {room / GIB:.0f}"
    if policy.checkpointing:
        text += "; activations are recomputed"
    if peak <= room:
        return text
    largest = "sampling.max_rows" if plan["cache"] > plan["activations"] else "token_budget"
    return f"{text}: lower `{largest}`" + (
        "" if policy.checkpointing else ', or set `checkpointing = "on"`'
    )
