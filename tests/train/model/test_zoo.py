"""Every causal class that transformers brings: trained rightly, or refused in a line.

The oracle is the model as it came, before anything of ours has touched it.
"""

from __future__ import annotations

import copy
from typing import Any

import models
import pytest
import torch
import zoo

from grpo_train.config import build_config
from grpo_train.engines.native import NativeEngine
from grpo_train.errors import TrainError
from grpo_train.model.policy import wrap
from grpo_train.objective.packing import batch_logprobs, pack
from grpo_train.rollouts import Rollouts, Sampling, row_seeds
from grpo_train.run.preflight import memory_plan, self_test

PROMPTS = [[5, 6, 7, 8, 11, 12, 13], [9, 10], [20]]
CONFIG = build_config(
    {"name": "x", "model": "x", "data": {"train": "x"}, "reward": {"ruleset": "x"}}
)
REFUSED = "refused"

# What packs and what samples. `flat` and `step` or `ours` are our attention; `plain` rows and
# `masked` the model's own; `own` its own cache too.
COMMON = {
    "bert": REFUSED,  # sees what comes later
    "bloom": "plain own",  # ALiBi, made from a 2-D mask
    "deepseek_v2": "plain masked",  # keys and values of different widths
    "falcon": "plain masked",  # an attention of its own
    "gpt_oss": "plain masked",  # attention sinks
    "granite": "flat ours",  # a scale of its own
    "lfm2": "plain own",  # convolutions
    "llama4_text": "plain own",  # sees in chunks
    "mamba": "plain own",  # no attention at all
    "minimax": "plain own",  # linear attention
    "modernbert-decoder": REFUSED,  # more than a product behind the last states
    "mpt": "plain own",  # ALiBi, by the place of a key in the cache
    "qwen3_next": "plain own",  # gated delta nets
    "stablelm": "plain masked",  # hands no layout down
}
TAIL = {
    "afmoe": "flat ours",
    "apertus": "flat ours",
    "arcee": "flat ours",
    "aria_text": "flat ours",
    "biogpt": "flat ours",
    "bitnet": "flat ours",
    "cohere": "flat ours",  # scales its logits
    "cohere2": "flat ours",
    "cohere2_moe": "flat ours",
    "cwm": "flat ours",
    "deepseek_v3": "plain masked",
    "deepseek_v4": "plain own",
    "diffllama": "flat masked",
    "doge": "plain masked",
    "dots1": "flat ours",
    "ernie4_5": "flat ours",
    "ernie4_5_moe": "flat ours",
    "exaone4": "flat ours",
    "exaone_moe": "flat ours",
    "falcon_mamba": "plain own",
    "flex_olmo": "flat ours",
    "gemma": "flat ours",
    "gemma2": "flat ours",
    "gemma3_text": "flat ours",
    "glm": "flat ours",
    "glm4": "flat ours",
    "glm4_moe": "flat ours",
    "glm4_moe_lite": "plain masked",
    "gpt2": "flat ours",
    "gpt_bigcode": "flat ours",
    "gpt_neox": "flat ours",
    "granitemoe": "flat ours",
    "helium": "flat ours",
    "hunyuan_v1_dense": "flat ours",
    "hunyuan_v1_moe": "flat ours",
    "internlm3": "flat ours",
    "jetmoe": "flat masked",
    "llama": "flat step",
    "longcat_flash": "plain masked",
    "mamba2": "plain own",
    "megatron-bert": REFUSED,
    "mimo_v2_flash": "plain masked",
    "minicpm3": "plain masked",
    "minimax_m2": "flat ours",
    "ministral": "flat ours",
    "mistral": "flat step",
    "mixtral": "flat ours",
    "nanochat": "flat ours",
    "nemotron": "plain masked",
    "olmo": "flat ours",
    "olmo2": "flat ours",
    "olmo3": "flat ours",
    "olmo_hybrid": "plain own",
    "olmoe": "flat ours",
    "openai-gpt": "plain own",
    "opt": "flat ours",  # learned positions
    "persimmon": "flat ours",
    "phi": "flat ours",
    "phi3": "flat ours",
    "phimoe": "plain masked",
    "qwen2": "flat step",
    "qwen2_moe": "flat ours",
    "qwen3": "flat step",
    "qwen3_5_text": "plain own",
    "qwen3_moe": "flat ours",
    "rembert": REFUSED,
    "roberta": REFUSED,
    "rwkv": REFUSED,
    "seed_oss": "flat ours",
    "smollm3": "flat ours",
    "solar_open": "flat ours",
    "starcoder2": "flat ours",
    "vaultgemma": "flat ours",
    "xglm": "plain own",
    "xlnet": REFUSED,
}


def outcome(kind: str) -> str:
    """What becomes of a class; where it is accepted, all logprobs are those of the model alone."""
    raw = zoo.build(kind)
    try:
        policy = wrap(copy.deepcopy(raw), models.FakeTokenizer(), device="cpu")
        found = self_test(policy, NativeEngine(policy, 4), PROMPTS, Sampling(20))
    except TrainError as error:
        assert len(str(error).splitlines()) == 2 and "hint: " in str(error)
        return REFUSED
    r = found.engine.generate(PROMPTS, 3, Sampling(12), row_seeds(7, torch.arange(9)))
    truth = dense(raw, r)
    torch.testing.assert_close(r.old_logprobs, truth, rtol=0, atol=1e-4)
    for batch in pack(r, torch.ones(len(r)).bool(), 60, found.layout):
        logp, _ = batch_logprobs(policy, batch, temperature=1.0)
        torch.testing.assert_close(logp.detach(), truth[batch.token], rtol=0, atol=1e-4)
    assert memory_plan(CONFIG, policy, 20)["weights"] > 0
    assert isinstance(found.engine, NativeEngine)
    return f"{found.layout} {found.engine.way}"


@torch.no_grad()
def dense(model: Any, r: Rollouts) -> torch.Tensor:
    """One text after another, nothing padded, no cache of ours."""
    found = []
    for row, ids in enumerate(r.completion_ids()):
        prompt = r.prompt_ids[row // r.group_size]
        logits = model(input_ids=torch.tensor([prompt + ids])).logits[0]
        logp = torch.log_softmax(logits[len(prompt) - 1 : -1].float(), -1)
        found.append(logp.gather(1, torch.tensor(ids)[:, None])[:, 0])
    return torch.cat(found)


@pytest.mark.parametrize("kind", COMMON)
def test_a_class_is_trained_rightly_or_refused(kind: str) -> None:
    assert outcome(kind) == COMMON[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", TAIL)
def test_so_are_all_the_others(kind: str) -> None:
    assert outcome(kind) == TAIL[kind]
