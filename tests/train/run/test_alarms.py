"""Alarms go off for their cause, once, with the rows that show it; a sound run sets none off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny_run
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_train.config import build_config
from grpo_train.demo import TinyConfig, demo_config, make_tiny
from grpo_train.run.alarms import CAUSES, evidence, raised
from grpo_train.scoring import Scored
from grpo_train.session import resume, start
from grpo_train.train import train

CONFIG = build_config(
    {"name": "x", "model": "m", "data": {"train": "t"}, "reward": {"ruleset": "r"}}
)
SOUND = {"length": 50.0, "truncated": 0.0, "entropy": 0.5, "signal": 0.8, "spread/correct": 0.4}


def history(steps: int, seed: int = 0, **curves: Any) -> list[dict[str, Any]]:
    """A sound run's metrics with noise; a curve is a function of the step in 0..1."""
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(1, steps + 1):
        row = {"step": step, "reward": 0.5, "score/correct": 0.5} | SOUND
        row |= {name.replace("__", "/"): curve(step / steps) for name, curve in curves.items()}
        for name in ("reward", "score/correct"):
            row[name] += rng.normal(0, 0.02)
        rows.append(row)
    return rows


def alarms(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """(name, step) of every alarm of a run."""
    found = [raised(rows[:end], CONFIG) for end in range(len(rows) + 1)]
    return [(alarm.name, alarm.step) for step in found for alarm in step]


CURVES = {
    "hacking": {"reward": lambda t: 0.5 + 0.4 * t, "score__correct": lambda t: 0.5 - 0.3 * t},
    "saturated": {"spread__correct": lambda t: 0.4 * (t < 0.5)},
    "entropy": {"entropy": lambda t: 0.5 * (1 - t) ** 8},
    "length": {"length": lambda t: 50 + 200 * t},
    "signal": {"signal": lambda t: 0.8 * (1 - t) ** 6},
    "mismatch": {"mismatch__gap": lambda t: 0.2 * (t > 0.5)},
}


@pytest.mark.parametrize("name", CURVES)
def test_an_alarm_is_raised_once_for_its_cause_and_no_other(name: str) -> None:
    found = alarms(history(80, **CURVES[name]))
    assert [alarm for alarm, _ in found] == [name]


def test_every_alarm_is_tested_and_on_the_page() -> None:
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    assert set(CURVES) == set(CAUSES)
    assert all(f"| `{name}` |" in page for name in CAUSES)


def test_a_policy_that_is_right_may_be_sure() -> None:
    curves = CURVES["entropy"] | {"score__correct": lambda t: min(0.95, 0.5 + 3 * t)}
    assert alarms(history(80, **curves)) == []


def test_completions_cut_by_the_limit_are_a_blow_up() -> None:
    found = alarms(history(60, truncated=lambda t: 0.1 + 0.8 * t))
    assert [name for name, _ in found] == ["length"]


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0, 0.4), st.floats(0, 0.4))
def test_a_sound_run_is_left_alone(seed: int, more: float, better: float) -> None:
    grows = {"reward": lambda t: 0.5 + more * t, "score__correct": lambda t: 0.5 + better * t}
    assert alarms(history(60, seed, **grows)) == []
    # Nor is a run that only gets worse: that is a bad run and no hack.
    falls = {"reward": lambda t: 0.5 - more * t, "score__correct": lambda t: 0.5 - better * t}
    assert alarms(history(60, seed, **falls)) == []


def test_nulls_and_evaluations_between_the_steps_change_nothing() -> None:
    rows = history(80, **CURVES["hacking"])
    mixed = [r for row in rows for r in (row, {"step": row["step"], "eval/pass_at_1": 0.1})]
    assert alarms(mixed) == alarms(rows)
    nothing = [row | {"score/correct": None, "reward": None} for row in rows]
    assert alarms(nothing) == []


def test_the_rows_shown_are_wrong_and_well_paid() -> None:
    reward = np.array([0.1, 0.9, 1.0, 0.8, np.nan, 0.2])
    right = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    scored = Scored(reward, {"correct": right}, {}, ["x"] * 6)
    assert evidence("hacking", scored, [1] * 6, "correct")[:3] == [1, 3, 0]
    assert evidence("length", scored, [1, 9, 2, 3, 4, 8], "correct") == [1, 5, 4, 3]


def run(folder: Path, ruleset: Path, seed: int, steps: int) -> tuple[Any, list[Any]]:
    """GRPO on the tiny policy with a ruleset; the alarms."""
    tree = msgspec.to_builtins(demo_config(folder, seed, steps))
    tree |= {"name": ruleset.stem, "prompts_per_step": 8, "threads": 1}
    tree["reward"] = {"ruleset": str(ruleset)}
    tree["data"]["eval"] = ""
    tree["optim"]["lr"] = 3e-4
    tree["alarms"]["stop"] = ["hacking"]
    found: list[Any] = []
    session = start(build_config(tree))
    return (session, train(session, on_alarm=found.append)), found


def planted(folder: Path, seed: int, steps: int) -> None:
    """A ruleset that pays more for English than for answers; a policy right in German."""
    mix = (0.08, 0.6, 0.32, 0.0)
    sizes = TinyConfig(
        hidden=64, layers=2, largest=5, warm_steps=120, held_out=8, train=300, mix=mix
    )
    make_tiny(sizes, folder, seed)
    weak = ROOT / "tests" / "weak" / "english_first.reward"
    (session, result), found = run(folder, weak, seed, 60)
    assert result.stopped == "alarm hacking"
    assert result.steps < 60
    alarm = found[-1]
    lines = (session.record.folder / "samples.jsonl").read_text().splitlines()
    shown = [json.loads(line) for line in lines[alarm.rows[0] - 1 : alarm.rows[1]]]
    assert all(row["alarm"] == "hacking" and not row["scores"]["correct"] for row in shown)
    assert all(row["reward"] > 0.5 for row in shown)
    sound = ROOT / "rulesets" / "arithmetic.reward"
    (_, result), found = run(folder, sound, seed, steps)
    assert (result.stopped, [a.name for a in found if a.name == "hacking"]) == ("", [])


def test_a_planted_hack_is_seen_and_a_sound_ruleset_is_not(tmp_path: Path) -> None:
    planted(tmp_path / "seed-0", 0, 25)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_hack_is_seen_within_sixty_steps(tmp_path: Path, seed: int) -> None:
    planted(tmp_path / f"seed-{seed}", seed, 60)


def test_a_resumed_run_raises_the_alarms_of_the_run_uncut(tmp_path: Path) -> None:
    """All of them with rows, at the same lines."""
    sensitive = {"window": 2, "length": 0.1, "signal": 1.0}
    changes = {"alarms": sensitive, "steps": 8, "save": {"every": 2}}
    whole = start(tiny_run.make_config(tmp_path / "whole", **changes))
    train(whole)
    cut = start(tiny_run.make_config(tmp_path / "cut", **changes))
    ticks: list[int] = []

    def die(step: int, _: dict[str, float]) -> None:
        ticks.append(step)
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cut, die)
    train(resume(cut.record.folder))
    assert whole.record.read("alarms.jsonl")
    for name in ("alarms.jsonl", "samples.jsonl"):
        assert cut.record.read(name) == whole.record.read(name)
    shutil.rmtree(tmp_path / "cut")
