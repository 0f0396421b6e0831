"""Small random policies of several classes, for the trainer's tests: nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from grpo_train.config import Precision
from grpo_train.model.policy import Policy, wrap

CLASSES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt2", "mistral")
VOCAB, EOS = 61, 1


class FakeTokenizer:
    """As much of a tokenizer as the engine needs: the ids of two tokens."""

    eos_token_id = EOS
    pad_token_id = 0


def make_policy(
    kind: str = "llama",
    *,
    seed: int = 0,
    sharpness: float = 4.0,
    precision: Precision = "auto",
) -> Policy:
    """A random policy; `sharpness` scales its matrices, so that its distribution is not flat."""
    if kind == "gpt2":
        sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    else:
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 256,
        }
    if kind in ("gemma2", "gemma3_text", "mistral"):
        sizes["sliding_window"] = 6  # shorter than the tests' texts, so that it matters
    special = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": EOS}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **special))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(sharpness)
    return wrap(model, FakeTokenizer(), device="cpu", precision=precision)


def dense_logprobs(policy: Policy, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Oracle: the model's own forward over one text, no packing, no cache; with gradients."""
    logits = policy.model(torch.tensor([prompt + completion])).logits[0]
    logp = torch.log_softmax(logits[len(prompt) - 1 : -1].float(), -1)
    return logp.gather(1, torch.tensor(completion)[:, None])[:, 0]


def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What torch's flash attention of that name does on CUDA, from its description: run by run,
    causality and window aligned at the ends of queries and keys."""
    assert query.dtype == key.dtype == value.dtype
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert enable_gqa or query.shape[1] == key.shape[1]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    rep = query.shape[1] // key.shape[1]
    out = []
    for q0, q1, k0, k1 in zip(cu_seq_q, cu_seq_q[1:], cu_seq_k, cu_seq_k[1:], strict=False):
        q, k, v = query[q0:q1], key[k0:k1], value[k0:k1]
        assert len(q) <= max_q
        assert len(k) <= max_k
        k, v = (x.repeat_interleave(rep, dim=1) for x in (k, v))
        back = torch.arange(len(q))[:, None] + len(k) - len(q) - torch.arange(len(k))
        seen = back >= (-window_size[1] if window_size[1] >= 0 else -len(k))
        if window_size[0] >= 0:
            seen &= back <= window_size[0]
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        out.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(out)


def varlen_attn_2_11(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> torch.Tensor:
    """As torch 2.11 has it: fewer heads of keys are taken without a word."""
    told: dict[str, Any] = {"scale": scale, "window_size": window_size, "enable_gqa": True}
    return varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **told)


def varlen_attn_2_10(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    return_aux: Any = None,
) -> torch.Tensor:
    """As torch 2.10 has it."""
    told: dict[str, Any] = {"window_size": (-1, 0 if is_causal else -1), "enable_gqa": True}
    return varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **told)
