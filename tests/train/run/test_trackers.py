"""Metrics arrive where they are sent, through the real libraries where they are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_run

from grpo_train.errors import ConfigError
from grpo_train.run import trackers
from grpo_train.session import Session, resume, start
from grpo_train.train import train


def run(tmp_path: Path, name: str) -> Session:
    """Three steps, a death, and the rest: the same tracker's run goes on."""
    changes: dict[str, Any] = {"log": {"to": [name]}, "save": {"every": 2}}
    session = start(tiny_run.make_config(tmp_path, **changes))

    def die(step: int, _: dict[str, float]) -> None:
        if step == 3:
            session.record.close()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(session, die)
    again = resume(session.record.folder)
    train(again)
    return again


def test_tensorboard_has_every_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    session = run(tmp_path, "tensorboard")
    events = EventAccumulator(str(session.record.folder / "tensorboard")).Reload()
    rewards = [(row["step"], row["reward"]) for row in session.progress.history if "reward" in row]
    found = [(event.step, event.value) for event in events.Scalars("reward")]
    assert [step for step, _ in found] == [step for step, _ in rewards]
    assert [value for _, value in found] == pytest.approx([value for _, value in rewards])


def test_wandb_has_the_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    session = run(tmp_path, "wandb")
    assert list((session.record.folder / "wandb").glob("offline-run-*/*.wandb"))


def test_trackio_has_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    run(tmp_path, "trackio")
    assert [path for path in (tmp_path / "trackio").rglob("*") if "grpo-rewards" in path.name]


def test_a_library_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object) -> trackers.Tracker:
        raise ImportError("No module named 'wandb'")

    monkeypatch.setitem(trackers.TRACKERS, "wandb", absent)
    with pytest.raises(ConfigError, match="pip install wandb"):
        start(tiny_run.make_config(tmp_path, log={"to": ["wandb"]}))
