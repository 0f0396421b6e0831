"""The engine of a config."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from grpo_train.config import Config
from grpo_train.engines.continuous_batching import BatchingEngine
from grpo_train.engines.native import NativeEngine
from grpo_train.engines.server import ServerEngine
from grpo_train.engines.vllm import VllmEngine
from grpo_train.model.policy import Policy
from grpo_train.rollouts import Engine


def open_engine(config: Config, policy: Policy, folder: Path, longest_prompt: int) -> Engine:
    """What `engine.kind` names; `folder` is the run's."""
    kind, rows = config.engine.kind, config.sampling.max_rows
    if kind == "auto":
        fast = policy.device.type == "cuda" and importlib.util.find_spec("vllm") is not None
        kind = "vllm" if fast else "native"
    if kind == "transformers":
        return BatchingEngine(policy, rows)
    if kind == "server":
        handed = Path(config.engine.folder) if config.engine.folder else folder / "engine"
        return ServerEngine(policy, config.engine.url, handed)
    if kind == "vllm":
        length = longest_prompt + config.sampling.max_tokens
        return VllmEngine(policy, config.model, config.engine, max_rows=rows, max_length=length)
    return NativeEngine(policy, rows)
