"""The policy: a causal language model, its tokenizer, and how the rest of the package reads them.

Any causal language model of Hugging Face works unmodified: its base model makes hidden states, its
output layer is read as a `Head`, and its layers call our attention, which knows what a token may
see. One copy of the weights both trains and samples. Weights stay fp32 under bf16 products, because
a bf16 copy would round updates away: at lr 1e-6, 98% of a matrix would not move.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grpo_train import distributed
from grpo_train.config import Precision
from grpo_train.errors import FAILURES, ConfigError, said
from grpo_train.model.kv_cache import ForkedCache
from grpo_train.model.logprobs import Head
from grpo_train.model.onednn import make_fast
from grpo_train.model.tree_attention import NAME, Attends, register

ADAPTER = "default"  # peft's name of the only adapter


@dataclass(frozen=True, slots=True)
class Policy:
    """Model and tokenizer. `eos_ids` end a completion; `pad_id` is only ever masked."""

    model: Any
    tokenizer: Any
    eos_ids: tuple[int, ...]
    pad_id: int
    mixed: bool = False  # products are made in bf16 (autocast) from the fp32 weights
    own: str | None = "sdpa"  # the model's own attention; None if ours cannot replace it
    checkpointing: bool = False  # recompute activations in the backward pass
    adapter: Any | None = None  # peft's view of the model, where it has adapters (lora.py)
    adapter_off: bool = False  # for the reference: the same weights without adapters

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def head(self) -> Head:
        """The output layer, over the live weights."""
        config = self.model.config.get_text_config()
        layer = self.model.get_output_embeddings()
        cap = getattr(config, "final_logit_softcapping", None) or 0.0
        scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
        scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
        return Head(layer.weight, getattr(layer, "bias", None), float(cap), float(scale))

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor,
        tree: Attends | None = None,
        cache: ForkedCache | None = None,
    ) -> Tensor:
        """Last hidden states [R, T, h] of `ids` [R, T] at `positions` [R, T].

        With `tree` the one row holds trees; with `cache` the cache knows which keys a token sees.
        Without both, each row is a text from its beginning, and the model masks by itself.
        """
        extra: dict[str, Any] = {}
        if tree is not None or cache is not None:
            extra = {"position_ids": positions, "past_key_values": cache}
            if tree is not None or (cache is not None and cache.shared):
                # Transformers passes a 4-D mask on unchanged, and so makes none of its own.
                extra["attention_mask"] = torch.ones(1, 1, 1, 1, device=ids.device).bool()
                extra["tree"] = cache if tree is None else tree
            elif cache is not None:
                extra["attention_mask"] = self._masks(cache)
        # Transformers recomputes in train mode only, and drops the cache there.
        if self.model.training != (training := self.checkpointing and torch.is_grad_enabled()):
            self.model.train(training)
        off = self.adapter.disable_adapter() if self.adapter and self.adapter_off else None
        with self.autocast(), off or contextlib.nullcontext():
            # FSDP makes weights whole only around a method of the whole model.
            trunk = getattr(self.model, distributed.TRUNK, None) or distributed.trunk(self.model)
            out = trunk(input_ids=ids, use_cache=cache is not None, **extra)
        hidden: Tensor = out.last_hidden_state
        return hidden.to(self.compute)

    @property
    def compute(self) -> torch.dtype:
        """Dtype of matrix products."""
        dtype: torch.dtype = torch.bfloat16 if self.mixed else self.model.dtype
        return dtype

    @property
    def held(self) -> torch.dtype:
        """Dtype of cached keys and values: a CPU would convert bf16 ones before every product."""
        dtype: torch.dtype = self.model.dtype
        return self.compute if self.device.type == "cuda" else dtype

    @property
    def ours(self) -> bool:
        """Whether the model's layers call our attention, which shares prompts."""
        return bool(self.model.config.get_text_config()._attn_implementation == NAME)

    def with_checkpointing(self) -> Policy:
        """The policy, recomputing activations in the backward pass."""
        # The name since transformers 5, where the older one warns.
        newer = getattr(self.model, "activation_checkpointing_enable", None)
        try:
            (newer or self.model.gradient_checkpointing_enable)()
        except ValueError as error:
            raise ConfigError(f"{error} - at `checkpointing`") from error
        return replace(self, checkpointing=True)

    def use_attention(self, *, ours: bool) -> None:
        """Let the model's layers call our attention, or the model's own."""
        if self.own is not None and ours != self.ours:
            self.model.set_attn_implementation(NAME if ours else self.own)

    @contextlib.contextmanager
    def attention(self, *, ours: bool) -> Iterator[None]:
        """Within, the layers call our attention, or the model's own."""
        before = self.ours
        self.use_attention(ours=ours)
        try:
            yield
        finally:
            self.use_attention(ours=before)

    def _masks(self, cache: ForkedCache) -> Any:
        """The mask as this model takes it: one for all layers, or one for each kind of layer."""
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        kinds = set(getattr(config, "layer_types", None) or ())
        full = cache.bias(0, self.compute)
        if not window or (kinds and "sliding_attention" not in kinds):
            return full
        slid = cache.bias(window, self.compute)
        return {"full_attention": full, "sliding_attention": slid} if kinds else slid

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Within, products are in bf16 if the policy is mixed."""
        if not self.mixed:
            yield
            return
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            yield

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with the BOS that the tokenizer may add, but no end token."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids[:-1] if len(ids) > 1 and ids[-1] in self.eos_ids else ids

    def decode(self, ids: list[int]) -> str:
        """Text of a completion, without special tokens."""
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """All weights by Hugging Face name, an adapter merged in, as other engines load them."""
        weights = whole_weights(self.model)
        yield from _merged(self.model, weights) if self.adapter is not None else weights

    def save(self, folder: Path) -> None:
        """A normal Hugging Face directory, an adapter merged in."""
        weights = dict(self.named_weights())  # in every process: they may be sharded
        if distributed.rank() == 0:
            self.model.save_pretrained(folder, state_dict=weights)
            self.tokenizer.save_pretrained(folder)


def load_policy(path: str, *, device: str = "auto", precision: Precision = "auto") -> Policy:
    """A causal LM from a directory or hub id: fp32 weights, dropout off, ready to train."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if path.startswith((".", "/", "~")) and not Path(path).expanduser().is_dir():
        raise ConfigError(f"cannot load the model `{path}`: no such folder - at `model`")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    except FAILURES as error:
        raise ConfigError(f"cannot load the model `{path}`: {said(error)} - at `model`") from error
    return wrap(model, tokenizer, device=device, precision=precision)


def wrap(
    model: Any, tokenizer: Any, *, device: str = "auto", precision: Precision = "auto"
) -> Policy:
    """A policy of a loaded model and tokenizer."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    own = _replace_attention(model)
    model.to(device)
    model.eval()
    _remove_dropout(model)
    if device == "cpu":
        make_fast(model)
    eos = _eos_ids(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos[0]
    bf16 = precision == "bfloat16"
    if precision == "auto":
        bf16 = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    mixed = bf16 and model.dtype == torch.float32
    return Policy(model, tokenizer, eos, int(pad), mixed, own)


def _replace_attention(model: Any) -> str | None:
    """Replace the model's attention by ours; the name of its own, None if it cannot be replaced.

    Whether ours is right for the model is decided by the self-test.
    """
    own: str = model.config.get_text_config()._attn_implementation
    # Asked first, because the setter of a model that cannot would only warn.
    movable = getattr(model, "_can_set_attn_implementation", None)
    if own not in ("sdpa", "eager") or (movable is not None and not movable()):
        return None
    register()
    try:
        model.set_attn_implementation(NAME)
    except FAILURES:
        return None
    return own


def _remove_dropout(model: Any) -> None:
    """Set all dropout to 0: it would make every ratio noise, in train mode too."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout") and isinstance(module.attention_dropout, float):
            module.attention_dropout = 0.0


def _eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """All ids that end a completion: the tokenizer's and the generation config's."""
    found: set[int] = set()
    for holder in (tokenizer, getattr(model, "generation_config", None)):
        source = getattr(holder, "eos_token_id", None)
        found.update(source if isinstance(source, list) else [source] if source is not None else [])
    if not found:
        raise ConfigError("the tokenizer has no end-of-text token - at `model`")
    return tuple(sorted(found))


def frozen_copy(policy: Policy) -> Policy:
    """The reference: the policy as it is now, which is never trained.

    A policy with adapters is not copied: its reference is the same model with them switched off.
    """
    if policy.adapter is not None:
        return replace(policy, adapter_off=True)
    model = copy.deepcopy(policy.model)
    model.requires_grad_(requires_grad=False)
    return replace(policy, model=model, checkpointing=False)


def whole_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The model's state by name; tied weights are one tensor, as they are in the model."""
    seen: dict[int, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen[id(tensor)] = distributed.whole(tensor.detach())
        yield name, seen[id(tensor)]


def _merged(model: Any, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Weights as the model without adapters names them: W + scale · B A.

    `weights` must come in the model's order, where A and B follow their W.
    """
    base: dict[str, Tensor] = {}
    for name, tensor in weights:
        stem, _, part = name.partition(".base_layer.")
        layer, _, factor = name.partition(".lora_")
        if part == "weight":
            base[stem] = tensor
        elif part:
            yield f"{stem}.{part}", tensor
        elif factor.startswith("A."):
            base[f"{layer}.A"] = tensor
        elif factor.startswith("B."):
            change = low_rank(model.get_submodule(layer), base.pop(f"{layer}.A"), tensor)
            yield f"{layer}.weight", base.pop(layer) + change
        else:
            yield name, tensor


def low_rank(module: Any, a: Tensor, b: Tensor) -> Tensor:
    """The change that a peft adapter makes to its layer's weight: scale · B A."""
    change: Tensor = module.scaling[ADAPTER] * (b @ a)
    return change.T if module.fan_in_fan_out else change
