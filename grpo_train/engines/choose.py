"""The engines by name, and the one that a config chooses."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from grpo_train.config import Config, EngineKind
from grpo_train.engines.continuous_batching import BatchingEngine
from grpo_train.engines.native import NativeEngine
from grpo_train.engines.server import ServerEngine
from grpo_train.engines.vllm import VllmEngine
from grpo_train.model.policy import Policy
from grpo_train.rollouts import Engine


def _vllm(config: Config, policy: Policy, folder: Path, longest_prompt: int) -> Engine:
    length = longest_prompt + config.sampling.max_tokens
    rows = config.sampling.max_rows
    return VllmEngine(policy, config.model, config.engine, max_rows=rows, max_length=length)


def _server(config: Config, policy: Policy, folder: Path, longest_prompt: int) -> Engine:
    handed = Path(config.engine.folder) if config.engine.folder else folder / "engine"
    return ServerEngine(policy, config.engine.url, handed)


#: A new engine is one entry here and its name in `config.EngineKind`.
ENGINES: dict[EngineKind, Callable[[Config, Policy, Path, int], Engine]] = {
    "native": lambda config, policy, *_: NativeEngine(policy, config.sampling.max_rows),
    "transformers": lambda config, policy, *_: BatchingEngine(policy, config.sampling.max_rows),
    "vllm": _vllm,
    "server": _server,
}


def open_engine(config: Config, policy: Policy, folder: Path, longest_prompt: int) -> Engine:
    """The engine that `engine.kind` names; `folder` is the run's."""
    kind = config.engine.kind
    if kind == "auto":
        fast = policy.device.type == "cuda" and importlib.util.find_spec("vllm") is not None
        kind = "vllm" if fast else "native"
    return ENGINES[kind](config, policy, folder, longest_prompt)
