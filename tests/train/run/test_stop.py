"""A stop is one checkpoint, whenever it comes and whichever process it comes to."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import processes
import pytest
import tiny_run
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_train import distributed, session, train
from grpo_train.config import build_config
from grpo_train.config_text import dump_config
from grpo_train.run.alarms import Alarm
from grpo_train.run.checkpoint import list_checkpoints, read_state
from grpo_train.run.signals import Stop
from grpo_train.session import Session


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A run that is never trained: the loop's parts are replaced."""
    folder = tmp_path_factory.mktemp("stop")
    return session.start(tiny_run.make_config(folder, alarms={"stop": ["hacking"]}))


def looped(
    opened: Session, moment: int, alarm_at: int, steps: int, **every: int
) -> tuple[list[int], train.Result, int]:
    """The loop with parts that only count; SIGTERM in the `moment`-th of them. Steps that were
    saved, the result, and how many parts there were."""
    parts, saved = 0, []

    def part(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            nonlocal parts
            found = real(*args, **options)
            parts += 1
            if parts == moment:
                os.kill(os.getpid(), signal.SIGTERM)
            return found

        return counted

    def step(run: Session) -> dict[str, float]:
        run.progress.step += 1
        return {}

    def alarms(*_: object) -> list[Alarm]:
        return [Alarm("hacking", run.progress.step, "")] if run.progress.step == alarm_at else []

    config = msgspec.to_builtins(opened.config) | {"steps": steps}
    config["save"]["every"], config["eval"]["every"] = every["save"], every["evaluate"]
    run = dataclasses.replace(
        opened, config=build_config(config), progress=dataclasses.replace(opened.progress)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_step", part(step))
        patch.setattr(train, "evaluate_session", part(lambda run: None))
        patch.setattr(train, "export", lambda run: None)
        patch.setattr(train, "raised", part(alarms))
        patch.setattr(Session, "alarm", lambda run, alarm: alarm)
        patch.setattr(Session, "log", part(lambda run, metrics: None))
        patch.setattr(distributed, "gather", part(lambda value: [value]))
        keep = part(lambda folder, state, *_, **__: saved.append(state.step))
        patch.setattr(session, "save_checkpoint", keep)
        result = train.train(run)
    return saved, result, parts


@settings(max_examples=200)
@given(st.integers(0, 40), st.integers(0, 7), st.integers(1, 6), st.integers(0, 4), st.data())
def test_a_stop_is_one_checkpoint(
    opened: Session, moment: int, alarm_at: int, steps: int, save: int, data: st.DataObject
) -> None:
    evaluate = data.draw(st.integers(0, 3))
    saved, result, parts = looped(opened, moment, alarm_at, steps, save=save, evaluate=evaluate)
    due = [step for step in range(1, result.steps + 1) if save and step % save == 0]
    assert saved == sorted({*due, result.steps})
    if not result.stopped:
        assert result.steps == steps and not 0 < alarm_at <= steps
    if result.stopped == "alarm hacking":
        assert result.steps == alarm_at
    if 0 < moment <= parts and result.steps < steps:
        assert result.stopped


@given(st.lists(st.sampled_from(["", "SIGTERM", "alarm hacking"]), min_size=1), st.data())
def test_processes_agree_whatever_comes_while_they_do(wishes: list[str], data: Any) -> None:
    stops = [Stop(wish) for wish in wishes]

    def gather(value: str) -> list[str]:
        """A signal comes to some process once its wish is on the way."""
        data.draw(st.sampled_from(stops)).because("SIGINT")
        return wishes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "gather", gather)
        agreed = {(stop.agreed(), stop.reason) for stop in stops}
    assert len(agreed) == 1
    assert agreed.pop()[0] == any(wishes)


#: The part of the loop after which a process is told to stop, its step, and how all end then.
MOMENTS = {
    ("evaluate_session", 0): "SIGTERM after 0, saved [0]",
    ("agreed", 0): "SIGTERM after 1, saved [1]",
    ("raised", 1): "SIGTERM after 1, saved [1]",
    ("raised", 2): "SIGTERM after 2, saved [2]",
}


def test_a_signal_to_one_of_two_processes_stops_both_with_one_checkpoint(tmp_path: Path) -> None:
    changes = {"steps": 2, "save": {"every": 0}, "eval": {"limit": 2}}
    folders = [tmp_path / "-".join(map(str, moment)) for moment in MOMENTS]
    for folder in folders:
        config = tiny_run.make_config(folder, **changes)
        (folder / "config.toml").write_bytes(dump_config(config))
    processes.run(2, processes.stopped_runs, folders, list(MOMENTS))
    for folder, wanted in zip(folders, MOMENTS.values(), strict=True):
        assert [(folder / f"{rank}.txt").read_text() for rank in (0, 1)] == [wanted] * 2
        found = list_checkpoints(next(folder.rglob("checkpoints")))
        assert f"after {read_state(found[-1]).step}," in wanted
