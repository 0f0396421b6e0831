"""transformers' continuous batching, over the live weights with its own paged attention.

Every call makes a new manager: a persistent one would go on with prompts' keys and values from the
weights before the update (an error of 2.3–5.0 nats). Draws depend on which requests happen to share
a batch, so a run with this engine does not repeat bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from grpo_train import distributed
from grpo_train.engines.collect import Completion, check_sampling, collect
from grpo_train.errors import EngineError
from grpo_train.model.policy import Policy
from grpo_train.rollouts import Done, Rollouts, Sampling

MAX_TOKENS = 8192  # tokens of one forward pass


@dataclass(frozen=True, slots=True)
class BatchingEngine:
    """`generate_batch` of the policy's own model; at most `max_rows` completions at a time."""

    policy: Policy
    max_rows: int
    copies: ClassVar[bool] = False

    def generate(
        self,
        prompts: Sequence[list[int]],
        n: int,
        sampling: Sampling,
        seeds: Tensor,
        done: Done | None = None,
    ) -> Rollouts:
        """`n` completions of each prompt; `seeds` [P · n] seed the batch as a whole."""
        from transformers import ContinuousBatchingConfig, GenerationConfig

        check_sampling(sampling, "transformers")
        make: Any = GenerationConfig  # untyped
        settings = make(
            do_sample=True,
            temperature=sampling.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=list(self.policy.eos_ids),
            pad_token_id=self.policy.pad_id,
        )
        rows = min(self.max_rows, len(prompts) * n)
        longest = max(map(len, prompts)) + sampling.max_tokens
        page = 256 if self.policy.device.type == "cuda" else 32
        batching = ContinuousBatchingConfig(
            return_logprobs=True,
            page_size=page,
            num_blocks=rows * -(-longest // page),  # left to itself it takes all memory
            max_batch_tokens=max(MAX_TOKENS, longest),
            max_requests_per_batch=self.max_rows,
            seed=int(seeds[0]) & 0x7FFFFFFF if len(seeds) else 0,
        )
        inputs = [list(ids) for ids in prompts for _ in range(n)]
        with distributed.gathered(self.policy.model), _plain_attention(self.policy):
            outputs: dict[str, Any] = self.policy.model.generate_batch(inputs, settings, batching)
        if len(outputs) != len(inputs):
            raise EngineError(f"{len(inputs)} completions were asked for, {len(outputs)} came")
        order = sorted(outputs, key=lambda name: int(name.rpartition("_")[2]))
        found = [
            Completion(
                list(outputs[name].generated_tokens),
                list(outputs[name].logprobs),
                len(outputs[name].generated_tokens) < sampling.max_tokens
                or outputs[name].generated_tokens[-1] in self.policy.eos_ids,
            )
            for name in order
        ]
        return collect(prompts, n, found, self.policy.eos_ids)

    def sync(self) -> None:
        """Nothing to do: the weights are the trainer's own, and no cache outlives a call."""


@contextlib.contextmanager
def _plain_attention(policy: Policy) -> Iterator[None]:
    """Within, the model's own attention, which has a paged form; ours has none."""
    with policy.attention(ours=False), torch.no_grad():
        policy.model.eval()
        yield
