"""The tutorial's training command runs, on a start that is small enough for a test."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import tiny_run
from commands import call
from conftest import ROOT


def test_the_tutorials_training_command_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    lines = [line for line in page.splitlines() if line.startswith("$ grpo-train run ")]
    assert len(lines) == 1
    small = tiny_run.make_config(tmp_path)
    monkeypatch.chdir(ROOT)
    changes = [
        f"model={small.model}", f"data.train={small.data.train}", f"data.eval={small.data.eval}",
        f"runs={tmp_path}", "steps=1", "prompts_per_step=2", "sampling.max_tokens=8",
        "eval.limit=2", "eval.samples=1",
    ]  # fmt: skip
    code, out, _ = call(capsys, monkeypatch, *shlex.split(lines[0])[2:], *changes, "--json")
    assert code == 0
    last = json.loads(out.splitlines()[-1])
    assert last["steps"] == 1
    ruleset = (Path(last["run"]) / "ruleset.reward").read_text("utf-8")
    assert "form_weight" in ruleset
