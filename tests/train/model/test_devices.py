"""What holds on any device but the CPU, on torch's `meta`: shapes and types without numbers.

Reading a number there is an error, as it is an error while a CUDA graph is captured, and costs time
at any other moment.
"""

from __future__ import annotations

import contextlib
from typing import Any

import models
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grpo_train.config import Loss, Optim, Precision
from grpo_train.engines.decoder import KINDS, Decoder
from grpo_train.engines.native import NativeEngine, _Run
from grpo_train.model.kv_cache import wide
from grpo_train.model.logprobs import Head
from grpo_train.model.policy import Policy
from grpo_train.objective.packing import Layout, pack
from grpo_train.objective.update import Batch, Updater
from grpo_train.rollouts import Sampling, row_seeds

PROMPTS = [[5, 6, 7], [8, 9]]
SEEDS = row_seeds(0, torch.arange(8))


class NoHost(TorchDispatchMode):
    """Refuses operations on tensors of the CPU, numbers aside."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs or {})):
            assert not isinstance(leaf, Tensor) or leaf.is_meta or leaf.ndim == 0, func
        return func(*args, **kwargs or {})


def on_meta(kind: str, precision: Precision = "auto") -> Policy:
    policy = models.make_policy(kind, precision=precision)
    policy.model.to("meta")
    return policy


@pytest.mark.parametrize("sampling", [Sampling(20), Sampling(20, top_k=5, top_p=0.9)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_asks_nothing_of_the_host(
    kind: str, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Policy, "autocast", lambda _: contextlib.nullcontext())
    policy = on_meta(kind, "bfloat16")  # as on a GPU
    engine = NativeEngine(policy, fixed=True)
    with torch.inference_mode():
        run = _Run(engine, Decoder.of(policy, 8), PROMPTS, 4, sampling, SEEDS, None)
        for prompt in PROMPTS:
            run.cache.take_rows(run.cache.take_slot(len(prompt)), 4)
        run._prefill([0, 1])
        for pairs in (run.cache.prompts, run.cache.own):  # what autocast would have made of them
            pairs[:] = [(keys.bfloat16(), values.bfloat16()) for keys, values in pairs]
        extent = run.cache.begin(1)
        with NoHost():
            logits = run._step(extent)
    assert (logits is not None) == sampling.cuts


@pytest.mark.parametrize("layout", ["varlen", "flat"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3_text", "gpt2"])
def test_an_updates_tensors_are_where_its_weights_are(kind: str, layout: Layout) -> None:
    """And torch's flash attention takes what it is given: its shapes, not its numbers."""
    rollouts = NativeEngine(models.make_policy()).generate(PROMPTS, 4, Sampling(20), SEEDS)
    policy = on_meta(kind)
    optimizer = torch.optim.AdamW(policy.model.parameters())
    loss = Loss(kl_coef=0.1, entropy_coef=0.1, off_policy_delta=0.1)
    updater = Updater(policy, optimizer, loss, Optim(), 0.9, 1000, 20, layout)
    ones = torch.ones(len(rollouts.ids))
    old = rollouts.old_logprobs
    batch = Batch(rollouts, torch.linspace(-1, 1, 8), torch.ones(8).bool(), old, ones, old)
    (micro,) = pack(rollouts, batch.valid, 1000, layout)
    sums = updater._backward(batch, micro, torch.ones(8))
    assert all(value.is_meta for value in sums.values())
    assert all(p.grad is not None and p.grad.is_meta for p in policy.model.parameters())


def test_products_of_bf16_are_summed_and_left_in_fp32_on_a_gpu() -> None:
    with FakeTensorMode():  # a GPU's tensors by name, so that torch refuses what it has no way for
        states, keys = (
            torch.empty(sizes, device="cuda", dtype=torch.bfloat16)
            for sizes in [(6, 2, 4, 16), (6, 2, 30, 16)]
        )
        scores = wide(states, keys.narrow(2, 0, 20).mT)
        assert scores.dtype == torch.float32 and scores.shape == (6, 2, 4, 20)
        logits = Head(states.new_empty(99, 16, dtype=torch.float32)).raw(states)
        assert logits.dtype == torch.float32 and logits.shape == (6, 2, 4, 99)
