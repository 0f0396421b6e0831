"""One decoding step of the transformer block that most models share, without its modules.

With one token a row, a model's own modules spend more time between the products than in them.
Llama, Mistral, Qwen 2 and Qwen 3 have one block in common (norm, attention with rotary positions,
norm, gated MLP). It is written out here over copies of the weights that suit a step: matrices that
read the same input are joined into one, in oneDNN's layout on a CPU, in bf16 on CUDA. The copies
live as long as one batch of rollouts, in which weights do not change, with adapters merged in.
Other models, and those that are sharded or too large to be copied, decode through their own
forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from grpo_train.model.kv_cache import ForkedCache
from grpo_train.model.onednn import PACK_BYTES, Frozen
from grpo_train.model.policy import ADAPTER, Policy, low_rank
from grpo_train.model.tree_attention import Rules

KINDS = ("llama", "mistral", "qwen2", "qwen3")  # `config.model_type` of models with this block


@dataclass(frozen=True, slots=True)
class Norm:
    """x / rms(x) · w, in fp32 (Zhang & Sennrich 2019)."""

    weight: Tensor  # of the last dimension, or of the last two
    eps: float

    @staticmethod
    def of(module: Any) -> Norm:
        """The norm of a model's own module."""
        return Norm(module.weight, module.variance_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        return rms_norm(x, x.shape[-1:], eps=self.eps) * self.weight


@dataclass(frozen=True, slots=True)
class Block:
    """One layer: copies of its weights, and how it attends."""

    before: Norm
    qkv: Frozen  # h → queries, keys, values
    head_norm: Norm | None  # Qwen 3 norms every head of queries and keys
    out: Frozen
    between: Norm
    gate_up: Frozen
    down: Frozen
    act: Any
    heads: tuple[int, int]  # of queries, of keys
    rules: Rules

    @staticmethod
    def of(layer: Any, config: Any, rows: int, dtype: torch.dtype) -> Block:
        """Copies of a layer's weights, for `rows` tokens a step."""
        attn, mlp = layer.self_attn, layer.mlp

        def frozen(*modules: Any) -> Frozen:
            return Frozen.of([_merged(module) for module in modules], rows, dtype)

        whole = (
            config.model_type == "mistral"
        )  # in Mistral all layers slide; elsewhere each says so itself
        window = config.sliding_window if whole else getattr(attn, "sliding_window", None)
        return Block(
            Norm.of(layer.input_layernorm),
            frozen(attn.q_proj, attn.k_proj, attn.v_proj),
            _head_norm(attn, config) if hasattr(attn, "q_norm") else None,
            frozen(attn.o_proj),
            Norm.of(layer.post_attention_layernorm),
            frozen(mlp.gate_proj, mlp.up_proj),
            frozen(mlp.down_proj),
            mlp.act_fn,
            (config.num_attention_heads, config.num_key_value_heads),
            Rules(attn.scaling, window=window or 0),
        )

    def step(self, x: Tensor, turn: tuple[Tensor, Tensor], cache: ForkedCache, at: int) -> Tensor:
        """x [R, h] → [R, h], as layer `at` of the cache; `turn` are the rotation's cos and sin."""
        queries, keys = self.heads
        states = self.qkv(self.before(x)).view(len(x), queries + 2 * keys, -1)
        mixed, value = torch.split_with_sizes(states, [queries + keys, keys], dim=1)
        if self.head_norm is not None:
            mixed = self.head_norm(mixed)
        mixed = _rotate(mixed.to(x.dtype), turn).to(cache.dtype)
        query, key = torch.split_with_sizes(mixed, [queries, keys], dim=1)
        known = cache.update(key.unsqueeze(2), value.unsqueeze(2), at)
        seen = cache.attend(query.unsqueeze(2), *known, self.rules)
        x = self.out(seen.reshape(len(x), -1), add=x)
        gate, up = self.gate_up(self.between(x)).chunk(2, dim=1)
        return self.down(self.act(gate) * up, add=x)


@dataclass(frozen=True, slots=True)
class Decoder:
    """All layers of a model, for one token a row."""

    embedding: Tensor  # [V, h]
    rotary: Any
    blocks: list[Block]
    norm: Norm
    dtype: torch.dtype  # of the output; norms and sums have the dtype of the weights

    @staticmethod
    def of(policy: Policy, rows: int) -> Decoder | None:
        """A decoder over copies of the policy's weights; None where only its own forward works."""
        if not copied_bytes(policy):
            return None
        config, trunk = policy.model.config, policy.model.base_model
        blocks = [Block.of(layer, config, rows, policy.compute) for layer in trunk.layers]
        embedding, norm = trunk.embed_tokens.weight, Norm.of(trunk.norm)
        return Decoder(embedding, trunk.rotary_emb, blocks, norm, policy.compute)

    def step(self, ids: Tensor, positions: Tensor, cache: ForkedCache) -> Tensor:
        """Last hidden states [R, h] of tokens `ids` [R] at `positions` [R, 1]."""
        x = self.embedding[ids]
        cos, sin = (part.transpose(0, 1) for part in self.rotary(x, positions.T))
        half = cos.shape[-1] // 2
        turn = (cos, torch.cat([-sin[..., :half], sin[..., half:]], dim=-1))
        for at, block in enumerate(self.blocks):
            x = block.step(x, turn, cache, at)
        return self.norm(x).to(self.dtype)


def copied_bytes(policy: Policy) -> int:
    """Size of a decoder's copies in bytes; 0 where the policy has no decoder."""
    if policy.model.config.model_type not in KINDS or policy.own is None:
        return 0
    bases = [_base(m) for layer in policy.model.base_model.layers for m in _linear(layer)]
    if any(base is None for base in bases):
        return 0
    size = sum(base.weight.numel() for base in bases if base) * policy.compute.itemsize
    # On a GPU launches cost more time than the copies are worth in memory; the plan counts them.
    return size if size <= PACK_BYTES or policy.device.type == "cuda" else 0


def _linear(layer: Any) -> list[Any]:
    """The seven linear modules of a layer."""
    attn, mlp = layer.self_attn, layer.mlp
    mixers = [attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj]
    return [*mixers, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def _base(module: Any) -> nn.Linear | None:
    """The linear layer, without its adapter; None for other modules and for sharded weights."""
    base = getattr(module, "base_layer", module)
    whole = isinstance(base, nn.Linear) and type(base.weight) is nn.Parameter
    return base if whole else None


def _merged(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer, its adapter merged in."""
    base = _base(module)
    assert base is not None  # `copied_bytes` has checked it
    if base is module:
        return base.weight, base.bias
    factors = (module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight)
    return base.weight + low_rank(module, *factors), base.bias


def _head_norm(attn: Any, config: Any) -> Norm:
    """The norms of queries and keys as one, with a weight for each head."""
    counts = (config.num_attention_heads, config.num_key_value_heads)
    parts = zip((attn.q_norm, attn.k_norm), counts, strict=True)
    weight = torch.cat([norm.weight.expand(count, -1) for norm, count in parts])
    return Norm(weight, attn.q_norm.variance_epsilon)


def _rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions (Su et al. 2021) of [R, heads, D]; the sine's first half comes negated."""
    cos, sin = turn
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
