"""A run that is killed is the run uncut, and what it leaves always loads."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import killed_fs
import killed_run
import pytest
import tiny_run
from safetensors.torch import load_file

from grpo_train import session as session_module
from grpo_train.config import Config
from grpo_train.errors import CheckpointError
from grpo_train.model.policy import load_policy
from grpo_train.run.checkpoint import list_checkpoints, read_state
from grpo_train.run.record import LOGS, Record
from grpo_train.session import Session, resume, save, start
from grpo_train.train import train, train_step

REUSE = {"updates_per_rollout": 2, "loss": {"kl_coef": 0.05}}


def finished(folder: Path) -> tuple[list[dict[str, Any]], bytes, dict[str, Any]]:
    """What a run leaves, less what depends on the clock."""
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
        steps = [read_state(path).step for path in found]
        assert steps[-1:] >= [newest] or not newest
        newest = max([newest, *steps])
    assert newest > 0
    for path in list_checkpoints(run / "checkpoints"):
        assert load_policy(str(path / "model"), device="cpu").model
    assert resume(run).progress.step == newest


def test_random_kills_never_leave_a_checkpoint_that_does_not_load(tmp_path: Path) -> None:
    survive(tmp_path, 5)


@pytest.mark.slow
def test_a_hundred_random_kills_never_leave_a_checkpoint_that_does_not_load(tmp_path: Path) -> None:
    survive(tmp_path, 100)


def lines(run: Path, last: int) -> set[str]:
    """Of all logs up to some step, those put aside too."""
    paths = [path for name in LOGS for path in run.glob(name.replace(".", "*."))]
    found = [line for path in paths for line in path.read_text().splitlines()]
    return {line for line in found if json.loads(line)["step"] <= last}


def logged(session: Session, steps: int, *, saves: bool) -> None:
    for _ in range(steps):
        session.log(train_step(session))
        if saves:
            save(session)


@pytest.mark.parametrize("keep", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", ["first", "next", "again"])
def test_a_save_that_dies_anywhere_loses_no_line_and_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, keep: int
) -> None:
    """A first save, one of a new step, one of the same step again; the resume after it dies too."""
    session = start(tiny_run.make_config(tmp_path, save={"every": 1, "keep": keep}))
    run = session.record.folder
    logged(session, 0 if what == "first" else keep + 1, saves=True)
    logged(session, 0 if what == "again" else 1, saves=False)
    before = shutil.copytree(run, tmp_path / "before")
    monkeypatch.setattr(  # what it loads does not depend on the checkpoint
        session_module,
        "open_session",
        lambda config, folder: dataclasses.replace(
            session,
            config=config,
            record=Record(folder),
            progress=dataclasses.replace(session.progress, step=0, saved=-1, history=[]),
            notes=[],
        ),
    )
    for at in itertools.count():
        finished = killed_fs.dies(at, lambda: save(session))
        killed_fs.dies(at % 9, lambda: resume(run))
        again = resume(run)
        least = session.progress.step if finished else session.progress.step - (what != "again")
        step = again.progress.step
        assert least <= step == again.progress.saved or (what, step) == ("first", 0)
        assert [row["step"] for row in again.progress.history] == list(range(1, step + 1))
        told = step or session.progress.step  # one that starts again puts all lines aside
        assert lines(run, told) >= lines(before, told)
        assert read_state(save(again)).step == step
        shutil.rmtree(run)
        shutil.copytree(before, run)
        if finished:
            break
    assert at > 15


@pytest.mark.parametrize("left", ["nothing", "a folder cut short", "half of a deleted one"])
def test_logs_whose_checkpoints_are_lost_are_not_dropped(tmp_path: Path, left: str) -> None:
    session = start(tiny_run.make_config(tmp_path, save={"every": 2}))
    run = session.record.folder
    train(session)
    path = list_checkpoints(run / "checkpoints")[-1]
    if left == "nothing":
        shutil.rmtree(path.parent)
    else:
        (path / "manifest.json").unlink()
        path.rename(path.with_name(path.name if "cut" in left else f".old-{path.name}"))
    before = {name: (run / name).read_bytes() for name in LOGS if (run / name).exists()}
    with pytest.raises(
        CheckpointError, match="logs up to step 4 and no whole checkpoint"
    ) as caught:
        resume(run, ["save.every=0"])
    assert "\nhint: " in str(caught.value)
    assert {name: (run / name).read_bytes() for name in before} == before
    again = resume(run, force=True)
    assert (again.progress.step, again.progress.history) == (0, [])
    assert "metrics.1.jsonl" in again.notes[-1]
    for name, content in before.items():
        assert (run / name.replace(".", ".1.")).read_bytes() == content


def stop_and_kill(tmp_path: Path, kills: int) -> list[str]:
    """SIGTERM at a random moment, mostly SIGKILL after it, often in the middle of the save: the
    newest checkpoint never gets older, and the logs tell every step up to it once. When it was
    killed."""
    config = tiny_run.make_config(
        tmp_path, steps=10_000, save={"every": 2, "keep": 1}, eval={"limit": 1}
    )
    run, rng, killed = Path(config.runs) / config.name, random.Random(2), []
    newest, told = 0, []
    for _ in range(kills):
        process = killed_run.spawn(config, tmp_path)
        killed.append(killed_run.stop_and_kill(process, run, rng))
        if not newest and not list((run / "checkpoints").glob("*/manifest.json")):
            continue
        session_module.recover(run / "checkpoints")
        found = list_checkpoints(run / "checkpoints")
        assert found and read_state(found[-1]).step >= newest
        newest = read_state(found[-1]).step
        rows = [row for row in Record(run).read() if "reward" in row and row["step"] <= newest]
        assert [row["step"] for row in rows] == list(range(1, newest + 1))
        assert rows[: len(told)] == told
        told = rows
    assert newest > 0
    assert resume(run).progress.step == newest
    return killed


def test_kills_around_a_stop_lose_nothing(tmp_path: Path) -> None:
    stop_and_kill(tmp_path, 5)


@pytest.mark.slow
def test_two_hundred_kills_around_a_stop_lose_nothing(tmp_path: Path) -> None:
    killed = stop_and_kill(tmp_path, 200)
    assert min(killed.count(when) for when in ("soon", "saving", "never")) >= 20
