"""Parity with TRL's own loss, to 1e-6 in float64, for the variants that both have.

TRL's `_compute_loss` runs on logprobs that we hand it: no model, only its mathematics.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo_train.objective.loss import LOSSES, Clip, Tokens, kl_loss, off_policy_mask, row_weights

pytestmark = [
    pytest.mark.slow,  # importing trl takes ten seconds
    pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed"),
]
B, T, LONGEST = 6, 5, 9


@pytest.fixture(scope="module")
def trl_loss() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl import GRPOTrainer
    return GRPOTrainer


def inputs(seed: int) -> dict[str, Tensor]:
    """Padded [B, T] logprobs of a made-up batch."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    logp = -rand(B, T).abs()
    length = torch.randint(1, T + 1, (B,), generator=g)
    return {
        "logp": logp.requires_grad_(),
        "old": (logp + 0.4 * rand(B, T)).detach(),
        "ref": (logp + 0.4 * rand(B, T)).detach(),
        "advantage": rand(B),
        "length": length,
        "mask": (torch.arange(T) < length[:, None]).double(),
    }


def theirs(trainer: Any, x: dict[str, Tensor], **changes: Any) -> Tensor:
    """TRL's loss of the batch."""
    whole = {"steps_per_generation": 1, "delta": None, "use_bias_correction_kl": False}
    args = whole | {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05}
    args |= {name: changes.pop(name) for name in list(changes) if name in args}
    fields: dict[str, Any] = {
        "_get_per_token_logps_and_entropies": lambda *a, **k: (x["logp"], torch.zeros(B, T), None),
        "args": SimpleNamespace(**args),
        "accelerator": SimpleNamespace(
            gather=lambda v: v, reduce=lambda v, reduction: v, num_processes=1
        ),
        "model": SimpleNamespace(training=True),
        "_metrics": {"train": defaultdict(list)},
        "current_gradient_accumulation_steps": 1,
        "max_completion_length": LONGEST,
        "importance_sampling_level": "token",
        "loss_type": "dapo",
        "epsilon_low": 0.2,
        "epsilon_high": 0.28,
        "beta": 0.0,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "get_off_policy_mask": trainer.get_off_policy_mask,
        "use_vllm": False,
        "aux_loss_enabled": False,
        "_entropy_bonus_enabled": False,
    }
    batch = {
        "prompt_ids": torch.zeros(B, 1, dtype=torch.int64),
        "prompt_mask": torch.ones(B, 1, dtype=torch.int64),
        "completion_ids": torch.zeros(B, T, dtype=torch.int64),
        "completion_mask": x["mask"],
        "advantages": x["advantage"],
        "old_per_token_logps": x["old"],
        "ref_per_token_logps": x["ref"],
        "num_items_in_batch": x["mask"].sum(),
    }
    loss: Tensor = trainer._compute_loss(SimpleNamespace(**(fields | changes)), None, batch)
    return loss


def ours(
    x: dict[str, Tensor],
    kind: str,
    how: Any,
    clip: Clip,
    *,
    kl: float = 0.0,
    weighted: bool = False,
    delta: float = 0.0,
) -> Tensor:
    """The same batch, flat."""
    on = x["mask"].bool()
    row = torch.arange(B)[:, None].expand(B, T)[on]
    tokens = Tokens(x["logp"][on], x["old"][on], x["advantage"][row], row, B)
    value = LOSSES[kind](tokens, clip)
    if delta:
        value = value * off_policy_mask(tokens, delta)
    if kl:
        value = value + kl * kl_loss(tokens, x["ref"][on], "k3", weighted=weighted)
    weight = row_weights(x["length"], torch.ones(B).bool(), 2, how, max_length=LONGEST)
    return (value * weight[row]).sum()


CLIP = Clip(low=0.2, high=0.28)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({"loss_type": "grpo"}, {"kind": "ppo", "how": "sequence"}),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {"kind": "ppo", "how": "constant"}),
    "dapo": ({"loss_type": "dapo"}, {"kind": "ppo", "how": "token"}),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        {"kind": "gspo", "how": "sequence"},
    ),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.3}, {"kind": "cispo", "how": "token"}),
    "sapo": ({"loss_type": "sapo"}, {"kind": "sapo", "how": "sequence"}),
    "dual clip": ({"delta": 1.5}, {"kind": "ppo", "how": "token"}),
    "kl": ({"beta": 0.1}, {"kind": "ppo", "how": "token", "kl": 0.1}),
    "kl weighted": (
        {"beta": 0.1, "use_bias_correction_kl": True},
        {"kind": "ppo", "how": "token", "kl": 0.1, "weighted": True},
    ),
    "off-policy mask": (
        {"off_policy_mask_threshold": 0.1},
        {"kind": "ppo", "how": "token", "delta": 0.1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_trls(trl_loss: Any, name: str) -> None:
    their_options, our_options = CASES[name]
    clip = {"dual clip": Clip(low=0.2, high=0.28, dual=1.5), "cispo": Clip(cap=1.3)}.get(name, CLIP)
    for seed in range(20):
        x = inputs(seed)
        a = theirs(trl_loss, x, **their_options)
        b = ours(x, clip=clip, **our_options)
        torch.testing.assert_close(b, a.double(), rtol=1e-6, atol=1e-6)
        (grad_a,) = torch.autograd.grad(a, x["logp"])
        (grad_b,) = torch.autograd.grad(b, x["logp"])
        torch.testing.assert_close(grad_b, grad_a, rtol=1e-6, atol=1e-6)
