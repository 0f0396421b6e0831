"""The trainer's imports point one way too: a module imports only what stands above it."""

from __future__ import annotations

import ast
from pathlib import Path

from conftest import ROOT

TRAINER = [
    "errors",
    "config",
    "linear",
    "distributed",
    "attention",
    "varlen",
    "graphs",
    "cache",
    "logprob",
    "advantage",
    "loss",
    "policy",
    "decoder",
    "lora",
    "data",
    "rollout",
    "native",
    "pack",
    "engines",
    "update",
    "state",
    "preflight",
    "score",
    "alarms",
    "evaluate",
    "trackers",
    "report",
    "record",
    "session",
    "batch",
    "signals",
    "train",
    "tiny",
    "cli",
]


def _imported(path: Path) -> set[str]:
    """Modules of the trainer that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "grpo_train":
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("grpo_train."):
            found.add((node.module or "").split(".")[1])
    return found


def test_trainer_imports_point_upward_only() -> None:
    order = {name: i for i, name in enumerate(TRAINER)}
    for path in sorted((ROOT / "grpo_train").rglob("*.py")):
        module = path.relative_to(ROOT / "grpo_train").with_suffix("").parts[0]
        if module == "__init__":
            continue
        assert module in order, f"{path}: say where `{module}` stands in the house"
        for name in _imported(path):
            assert order[name] < order[module] or name == module, f"{path} imports {name}"


def test_the_loop_stays_the_loop() -> None:
    """A run's reader starts in train.py: it must fit a screen or two."""
    assert len((ROOT / "grpo_train" / "train.py").read_text("utf-8").splitlines()) <= 150
