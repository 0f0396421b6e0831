"""Checks before the first step: whether engine and trainer agree, and whether memory suffices."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

import torch

from grpo_train.config import Config
from grpo_train.engines.decoder import copied_bytes
from grpo_train.engines.native import WAYS, NativeEngine
from grpo_train.errors import FAILURES, ConfigError, EngineError, said
from grpo_train.model.logprobs import chunk_bytes
from grpo_train.model.policy import Policy
from grpo_train.objective.packing import Layout
from grpo_train.rollouts import Engine, Rollouts, Sampling, join_rollouts, row_seeds
from grpo_train.run.probe import Probe, shortened

COPY_TOLERANCE = 0.05  # nats, mean over tokens, for an engine with its own weights, maybe in bf16
PROBE_TOKENS = 64  # last tokens of a prompt that are used: enough to span a page of a cache
GIB = 1 << 30
#: How much is sampled: prompts, completions of each, tokens of each, and least tokens in all. The
#: bound in fp32 holds for every token; that in bf16 holds for averages, which need more of them.
FEW, MANY = (3, 3, 8, 1), (8, 4, 16, 256)
MOST_TURNS = 8  # how often a model whose completions end at once is sampled again
ENDS = 6  # every sixth token ends a completion in the native engine's probe: rows come and go
SLOW = {  # what the user is told of a way of sampling that is not the fastest
    "step": "",
    "ours": "",
    "masked": "This model is sampled from with its own attention, which is slower",
    "own": "This model is sampled from by its own `generate`, which is slower",
}


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The engine and layout that are right for a model, and their distance from its own forward.

    Distances are in nats, at the worst token in fp32 and on average in bf16 (`Probe.gap`).
    """

    engine: Engine  # with the fastest way of sampling, if it is the native one
    layout: Layout  # the fastest packing
    gaps: dict[str, float]  # of each layout tried
    engine_gap: float
    allowed: float = 0.0  # in bf16

    def __str__(self) -> str:
        tried = "".join(f", packing `{name}` by {gap:.1e}" for name, gap in self.gaps.items())
        found = (
            f"self-test: sampling differs from the model's own forward by {self.engine_gap:.1e} "
            f"nats a token{tried}"
        )
        if self.allowed:
            found += f"; bf16 explains {self.allowed:.1e}"
        if self.layout == "plain":
            found += (
                ". Packing does not suit this model, so each completion gets a row and a copy of "
                "the prompt of its own, which is slower"
            )
        slow = SLOW.get(getattr(self.engine, "way", None) or "step")
        return f"{found}. {slow}" if slow else found


def self_test(
    policy: Policy, engine: Engine, prompts: list[list[int]], sampling: Sampling
) -> SelfTest:
    """Sample a little and compare it with the model's own forward.

    Ways of sampling and layouts are judged separately, and the fastest right one of each is taken.
    EngineError where the engine does not sample from the policy, ConfigError where the model cannot
    be trained. The model's layers are left with the attention that training needs.
    """
    if isinstance(engine, NativeEngine):
        engine, probes, engine_gap = _native(policy, engine, prompts, sampling)
    else:
        probes, engine_gap = _other(policy, engine, prompts, sampling)
    gaps: dict[str, float] = {}
    wrong = ""
    for layout in (*layouts(policy), "plain") if policy.own is not None else ("plain",):
        gaps[layout], wrong = _judge(probes, layout)
        if not wrong:
            policy.use_attention(ours=layout != "plain")
            allowed = probes[-1].allowed[0] if policy.mixed else 0.0
            return SelfTest(engine, layout, gaps, engine_gap, allowed)
    raise ConfigError(f"cannot train the model: {wrong} - at `model`\n{HINT}")


def layouts(policy: Policy) -> tuple[Layout, ...]:
    """Layouts that may suit this policy's rollouts, the fastest first."""
    return ("varlen", "flat") if policy.device.type == "cuda" and policy.mixed else ("flat",)


def _native(
    policy: Policy, engine: NativeEngine, prompts: list[list[int]], sampling: Sampling
) -> tuple[NativeEngine, list[Probe], float]:
    """The engine with the fastest way that is right, its samples, and how far off they were."""
    ways = [engine.way] if engine.way else WAYS[:] if policy.own is not None else WAYS[2:]
    reason, least = "", math.inf
    for way in ways:
        if way == "step" and not copied_bytes(policy):
            continue
        probes: list[Probe] = []
        gap, right = math.inf, True
        for twin in _precisions(policy):
            try:
                rollouts = _drawn(replace(engine, policy=twin, way=way), prompts, sampling)
            except FAILURES as error:
                reason, right = said(error), False
                break
            probes.append(_probe(twin, rollouts, sampling, bf16=policy.mixed))
            gap = probes[-1].gap(rollouts.old_logprobs)
            if not probes[-1].right(rollouts.old_logprobs):
                least, right = min(least, gap), False
                break
        if right:
            return replace(engine, way=way), probes, gap
    if math.isinf(least):
        raise ConfigError(
            f"cannot sample from the model: {reason} - at `model`\n"
            "hint: models that make a text token by token can be trained"
        )
    raise EngineError(_apart(least) + "hint: is it a causal language model?")


def _drawn(engine: NativeEngine, prompts: list[list[int]], sampling: Sampling) -> Rollouts:
    """Rollouts of one way of the native engine, with short windows.

    In fp32, where every token counts, there are some of single groups, and some of groups of
    different lengths side by side, whose rows come and go: some models manage only one of these.
    """
    policy = engine.policy
    with shortened(policy.model):
        if policy.mixed:
            return _sample(engine, prompts, sampling, MANY)
        ends = (*policy.eos_ids, *range(ENDS, len(policy.head.weight), ENDS))
        alone, crowd = FEW[1], 2 * FEW[1] + 1
        parts = [replace(engine, max_rows=alone)]
        parts.append(replace(engine, max_rows=crowd, policy=replace(policy, eos_ids=ends)))
        return join_rollouts([_sample(part, prompts, sampling, FEW) for part in parts])


def _precisions(policy: Policy) -> list[Policy]:
    """The policy in fp32, where rounding hides no mistake, then in the precision that is used."""
    exact = replace(policy, mixed=False)
    return [exact, policy] if policy.mixed else [policy]


def _other(
    policy: Policy, engine: Engine, prompts: list[list[int]], sampling: Sampling
) -> tuple[list[Probe], float]:
    """Samples of another engine, whose windows stay the model's, and how far off they were."""
    rollouts = _sample(engine, prompts, sampling, MANY if policy.mixed else FEW)
    probe = _probe(policy, rollouts, sampling, bf16=policy.mixed, short=False)
    if engine.copies:
        gap = float((rollouts.old_logprobs - probe.logprobs("plain")).abs().mean())
        right = gap <= COPY_TOLERANCE
    else:
        gap, right = probe.gap(rollouts.old_logprobs), probe.right(rollouts.old_logprobs)
    if not right:
        raise EngineError(
            _apart(gap)
            + "hint: does it report the logprobs that it sampled with (processed_logprobs)?"
        )
    twins = _precisions(policy)
    return [_probe(twin, rollouts, sampling, bf16=policy.mixed) for twin in twins], gap


def _apart(gap: float) -> str:
    return f"the engine's logprobs differ from the model's own by {gap:.2g} nats a token\n"


def _sample(
    engine: Engine, prompts: list[list[int]], sampling: Sampling, size: tuple[int, int, int, int]
) -> Rollouts:
    """A few rollouts of prompts that are cut to different lengths."""
    most, n, tokens, enough = size
    probe = [ids[-PROBE_TOKENS:] for ids in prompts[:most]]
    probe = [ids[len(ids) * (i % 4) // 4 :] for i, ids in enumerate(probe)]
    short = replace(sampling, max_tokens=tokens)
    parts: list[Rollouts] = []
    while len(parts) < MOST_TURNS and sum(len(part.ids) for part in parts) < enough:
        seeds = row_seeds(len(parts), torch.arange(n * len(probe)))
        parts.append(engine.generate(probe, n, short, seeds))
    return join_rollouts(parts)


def _probe(
    policy: Policy, rollouts: Rollouts, sampling: Sampling, *, bf16: bool, short: bool = True
) -> Probe:
    """The model's own logprobs of rollouts; ConfigError where its forward or plain rows fail."""
    try:
        return Probe.of(policy, rollouts, sampling.temperature, short=short, bf16=bf16)
    except FAILURES as error:
        raise ConfigError(f"cannot train the model: {said(error)} - at `model`\n{HINT}") from error


HINT = "hint: a causal language model is needed whose logits are one product of its last states"


def _judge(probes: list[Probe], layout: Layout) -> tuple[float, str]:
    """How far a layout is off, ∞ if forward or backward fail; and what is wrong, if anything."""
    gap = math.inf
    for probe in probes[-1:] if layout == "varlen" else probes:  # flash attention has no fp32
        try:
            found = probe.logprobs(layout, backward=True)
        except FAILURES as error:
            return math.inf, said(error)
        gap = probe.gap(found)
        if not probe.right(found):
            return gap, f"its logprobs differ from those of its own forward by {gap:.2g} nats"
    return gap, ""


def memory_plan(config: Config, policy: Policy, longest_prompt: int) -> dict[str, float]:
    """Estimated bytes of each part at its peak; activations are the roughest.

    Weights, gradients and Adam's two moments are fp32. Copies are the decoder's. The cache holds
    `max_rows` rows of completion, and prompts once for a group. Activations of a token in a layer:
    about 34 widths.
    """
    c = policy.model.config.get_text_config()
    weights = 4.0 * sum(p.numel() for p in policy.model.parameters())
    trained = 4.0 * sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    # Layers with states instead of heads: a state is at most as wide as their keys would be.
    queries = getattr(c, "num_attention_heads", None) or 1
    heads = getattr(c, "num_key_value_heads", None) or queries
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // queries
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
    """Bytes at the peak; what is needed for sampling and for training is never held together."""
    samples, trains = (
        sum(plan.get(name, 0.0) for name in names)
        for names in (("copies", "cache"), ("activations", "head"))
    )
    return sum(plan.values()) - min(samples, trains)


def room_bytes(policy: Policy) -> float:
    """Memory of the device in bytes, less a tenth for what the plan does not know."""
    if policy.device.type == "cuda":
        return 0.9 * torch.cuda.get_device_properties(policy.device).total_memory
    return 0.9 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def choose_checkpointing(config: Config, policy: Policy, longest_prompt: int) -> Policy:
    """The policy, which recomputes activations if the config or the memory plan says so."""
    on = config.checkpointing == "on"
    if config.checkpointing == "auto":
        on = peak_bytes(memory_plan(config, policy, longest_prompt)) > room_bytes(policy)
    return policy.with_checkpointing() if on else policy


def memory_advice(plan: dict[str, float], policy: Policy) -> str:
    """The plan in words, with a setting to change if it does not fit."""
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
