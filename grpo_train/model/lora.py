"""Low-rank adapters (2106.09685) through peft.

The base model stays as it is, so the reference needs no second copy: it is the policy with its
adapters off. The layers are put into the model in place, so that everything else sees the same
model. Dropout is 0, because it would make every ratio noise. At the start B is 0, so that policy
and reference are equal.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grpo_train import distributed
from grpo_train.config import Lora
from grpo_train.errors import ConfigError
from grpo_train.model.policy import ADAPTER, Policy


def add_lora(policy: Policy, config: Lora, seed: int) -> Policy:
    """The policy with adapters of `config.rank`; only they train."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigError("adapters need peft: pip install peft - at `lora.rank`") from error
    settings: Any = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # floats work
        target_modules=config.targets or "all-linear",
        lora_dropout=0.0,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of what it does by itself for Conv1D
        torch.manual_seed(seed)
        try:
            adapter: Any = get_peft_model(policy.model, settings)
        except ValueError as error:
            raise ConfigError(f"{error} - at `lora.targets`") from error
    if hasattr(policy.model.get_output_embeddings(), "base_layer"):
        raise ConfigError("the output layer cannot have an adapter - at `lora.targets`")
    return replace(policy, adapter=adapter)


def save_adapter(policy: Policy, folder: Path, weights: dict[str, Tensor]) -> None:
    """Save the adapter in peft's own format, from all weights by name."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    named = {f"base_model.model.{name}": tensor for name, tensor in weights.items()}
    found = get_peft_model_state_dict(policy.adapter, named, save_embedding_layers=False)
    assert policy.adapter is not None
    if distributed.rank():
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous() for n, t in found.items()}, folder / "adapter_model.safetensors")
    policy.adapter.peft_config[ADAPTER].save_pretrained(folder)


def load_adapter(folder: Path) -> dict[str, Tensor]:
    """The weights that `save_adapter` wrote, by the names of the model's parameters."""
    from safetensors.torch import load_file

    found = {}
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        stem, _, last = name.removeprefix("base_model.model.").rpartition(".")
        found[f"{stem}.{ADAPTER}.{last}"] = tensor
    return found
