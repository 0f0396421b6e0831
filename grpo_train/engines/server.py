"""A vLLM server, on this machine or one that sees the same folder; weights go through that folder.

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs

Without that mode the server sends other logprobs than those it sampled with and takes no weights;
the self-test before the first step says so.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from grpo_train import distributed
from grpo_train.engines.collect import Completion, check_sampling, collect
from grpo_train.errors import EngineError
from grpo_train.model.policy import Policy
from grpo_train.rollouts import Done, Rollouts, Sampling

PARALLEL = 128  # requests at the same time, which the server batches
TIMEOUT_S = 1800  # for one completion, which may be long and wait behind many others


class ServerEngine:
    """Completions over HTTP from `url`; `folder` is where the server reads new weights."""

    copies = True

    def __init__(self, policy: Policy, url: str, folder: Path) -> None:
        self.policy, self.url, self.folder = policy, url.rstrip("/"), folder
        self.model: str = self._ask("/v1/models")["data"][0]["id"]
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
        check_sampling(sampling, "server")
        inputs = [ids for ids in prompts for _ in range(n)]

        def one(ids: list[int], seed: int) -> Completion:
            answer = self._ask("/v1/completions", self._request(ids, sampling, seed))
            choice = answer["choices"][0]
            logprobs = choice["logprobs"]["token_logprobs"]
            return Completion(choice["token_ids"], logprobs, choice["finish_reason"] == "stop")

        with ThreadPoolExecutor(PARALLEL) as pool:
            found: list[Completion] = []
            for completion in pool.map(one, inputs, seeds.tolist()):
                found.append(completion)
                if done is not None and len(found) % n == 0 and len(found) < len(inputs):
                    prompt = len(found) // n - 1
                    group = collect([prompts[prompt]], n, found[-n:], self.policy.eos_ids)
                    done([prompt], group)
        return collect(prompts, n, found, self.policy.eos_ids)

    def _request(self, ids: list[int], sampling: Sampling, seed: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": list(ids),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": seed & 0x7FFFFFFF,
            "logprobs": 0,
            "stop_token_ids": list(self.policy.eos_ids),
            "return_token_ids": True,
        }

    def sync(self) -> None:
        """Write the policy's weights to the shared folder and make the server load them."""
        self.policy.save(self.folder)
        if distributed.rank() == 0:
            weights = {"weights_path": str(self.folder.resolve())}
            self._ask("/collective_rpc", {"method": "reload_weights", "kwargs": weights})
            self._ask("/reset_prefix_cache", {})
        distributed.barrier()

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The server's response; EngineError with its message if it refuses."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:300]
            hint = "\nhint: start it with VLLM_SERVER_DEV_MODE=1" if error.code == 404 else ""
            raise EngineError(f"{self.url}{path}: {error.code}: {said}{hint}") from error
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"no server at {self.url}: {error} - at `engine.url`") from error
        return json.loads(text) if text else None
