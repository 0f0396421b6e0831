"""Tiny random models of as many causal classes of transformers as can be built by their configs."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB, EOS = 61, 1

# By every name that a class has for it; what its config does not know is left out.
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": EOS,
    "max_position_embeddings": 256,
    "n_positions": 256,
    "n_ctx": 256,
    "max_seq_len": 256,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "ffn_hidden_size": 48,
    "ffn_dim": 48,
    "word_embed_proj_dim": 32,
    "sliding_window": 6,
    "attention_chunk_size": 6,
    "layer_types": None,
    # Experts.
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    # Attention through a low rank.
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "qk_head_dim": 16,
    "v_head_dim": 8,
    # States.
    "state_size": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "time_step_rank": 4,
}
OTHERS: dict[str, dict[str, Any]] = {
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "llama4_text": {
        "intermediate_size_mlp": 48,
        "layer_types": ["chunked_attention", "full_attention"],
        "no_rope_layers": [1, 0],
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_ff_dim": 48},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1, "chunk_size": 8},
}


def config(kind: str) -> Any:
    known = AutoConfig.for_model(kind)
    fixed = [name for name in SIZES if isinstance(getattr(type(known), name, None), property)]
    sizes = {n: v for n, v in SIZES.items() if hasattr(known, n) and n not in fixed}
    if "kv_lora_rank" in sizes:  # all heads come out of it
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    return AutoConfig.for_model(kind, **sizes | OTHERS.get(kind, {}))


def build(kind: str, seed: int = 0, sharpness: float = 4.0) -> Any:
    """A random model in fp32, in no state to drop anything."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(kind)).float().eval()
    model(input_ids=torch.tensor([[5, 6, 7]]))  # a config's sizes may not fit each other
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(sharpness)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))  # sinks, norms, biases
    return model
