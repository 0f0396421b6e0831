"""A run small enough for a test: a tiny policy without a warm start to speak of, a few steps."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from grpo_train.config import Config, build_config
from grpo_train.demo import TinyConfig, demo_config, make_tiny

SMALL = TinyConfig(hidden=32, layers=2, held_out=8, train=40, warm_steps=3, warm_batch=4)

# Pays for what an untrained policy does now and then, so that there is a signal from the start.
RULESET = """ruleset tiny "Short completions with a digit are right"

input completion: chat
input gold: text from "gold"

score short = text.length(completion) < 60
score correct = text.length(completion) < 30

reward in 0..1 = 0.5 * short + 0.5 * correct
"""


@functools.cache
def _start() -> Path:
    """Made once a process; tests copy it."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-run-"))
    make_tiny(SMALL, folder, 0)
    (folder / "tiny.reward").write_text(RULESET)
    return folder


def make_config(folder: Path, **changes: Any) -> Config:
    """A config of 4 steps in `folder`; `changes` are put over it, tables key by key."""
    where = folder / "run"
    if not where.exists():
        shutil.copytree(_start(), where)
    tree: dict[str, Any] = msgspec.to_builtins(demo_config(where, 0, 4))
    tree["reward"] = {"ruleset": str(where / "tiny.reward")}
    tree |= {"prompts_per_step": 4, "threads": 1, "token_budget": 400}
    tree["sampling"] |= {"group_size": 4, "max_tokens": 16}
    tree["eval"] |= {"samples": 2}
    tree["optim"] |= {"lr": 1e-3}
    for key, value in changes.items():
        tree[key] = tree[key] | value if isinstance(value, dict) else value
    return build_config(tree)
