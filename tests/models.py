"""Small random policies of several classes, for the trainer's tests: nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from grpo_train.policy import Policy, wrap

CLASSES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt2", "mistral")
VOCAB, EOS = 61, 1


class FakeTokenizer:
    """As much of a tokenizer as the engine needs: the ids of two tokens."""

    eos_token_id = EOS
    pad_token_id = 0


def make_policy(kind: str = "llama", *, seed: int = 0, sharpness: float = 4.0) -> Policy:
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
    return wrap(model, FakeTokenizer(), device="cpu")


def dense_logprobs(policy: Policy, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Oracle: the model's own forward over one text, no packing, no cache; with gradients."""
    logits = policy.model(torch.tensor([prompt + completion])).logits[0]
    logp = torch.log_softmax(logits[len(prompt) - 1 : -1].float(), -1)
    return logp.gather(1, torch.tensor(completion)[:, None])[:, 0]
