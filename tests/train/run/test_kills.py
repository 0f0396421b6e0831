"""A run that is killed is the run uncut, and what it leaves always loads."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import killed_run
import pytest
import tiny_run
from safetensors.torch import load_file

from grpo_train.config import Config
from grpo_train.model.policy import load_policy
from grpo_train.run.checkpoint import list_checkpoints, read_progress
from grpo_train.session import resume, start
from grpo_train.train import train

REUSE = {"updates_per_rollout": 2, "loss": {"kl_coef": 0.05}}


def finished(folder: Path) -> tuple[list[dict[str, Any]], bytes, dict[str, Any]]:
    """What a run leaves, less what depends on the clock."""
    from grpo_train.run.record import Record

    rows = [
        {k: v for k, v in row.items() if "seconds" not in k and k != "tokens_per_s"}
        for row in Record(folder).read()
    ]
    weights = load_file(folder / "model" / "model.safetensors")
    return rows, (folder / "samples.jsonl").read_bytes(), weights


def same_runs(a: Path, b: Path) -> None:
    rows, samples, weights = finished(a)
    other_rows, other_samples, other_weights = finished(b)
    assert rows == other_rows
    assert samples == other_samples
    assert all(weights[name].equal(other_weights[name]) for name in weights)


def whole(folder: Path, **changes: Any) -> tuple[Path, Config]:
    """The run uncut, and the config of one to cut, which differs in nothing but its folder."""
    session = start(tiny_run.make_config(folder / "whole", **changes))
    train(session)
    return session.record.folder, tiny_run.make_config(folder / "cut", **changes)


def cut_run(tmp_path: Path, signals: list[int], steps: int, **changes: Any) -> None:
    uncut, config = whole(tmp_path, steps=steps, save={"every": 3}, **changes)
    run, rng = Path(config.runs) / config.name, random.Random(0)
    for number in signals:
        process = killed_run.spawn(config, tmp_path)
        lines = rng.randint(2, max(2, steps // len(signals) - 1))
        code = killed_run.cut(process, run, lines, number, rng.uniform(0, 0.1))
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    train(resume(run))
    same_runs(uncut, run)


@pytest.mark.parametrize("changes", [{}, REUSE], ids=["on-policy", "reuse"])
def test_a_killed_and_a_stopped_run_are_the_run_uncut(tmp_path: Path, changes: Any) -> None:
    cut_run(tmp_path, [signal.SIGKILL, signal.SIGTERM], 12, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, REUSE], ids=["on-policy", "reuse"])
def test_forty_steps_in_five_runs_are_forty_steps(tmp_path: Path, changes: Any) -> None:
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT]
    cut_run(tmp_path, signals, 40, **changes)


def survive(tmp_path: Path, kills: int) -> None:
    """After every kill, all that is called a checkpoint loads, and no step is lost again."""
    config = tiny_run.make_config(
        tmp_path, steps=10_000, save={"every": 1, "keep": 2}, eval={"limit": 1}
    )
    run, rng, newest = Path(config.runs) / config.name, random.Random(1), 0
    for _ in range(kills):
        killed_run.kill_at_random(config, tmp_path, run, rng)
        found = list_checkpoints(run / "checkpoints")
        steps = [read_progress(path).step for path in found]
        assert steps[-1:] >= [newest] or not newest
        newest = max([newest, *steps])
    assert newest > 0
    for path in list_checkpoints(run / "checkpoints"):
        assert load_policy(str(path / "model"), device="cpu").model
    assert resume(run).step == newest


def test_random_kills_never_leave_a_checkpoint_that_does_not_load(tmp_path: Path) -> None:
    survive(tmp_path, 5)


@pytest.mark.slow
def test_a_hundred_random_kills_never_leave_a_checkpoint_that_does_not_load(tmp_path: Path) -> None:
    survive(tmp_path, 100)
