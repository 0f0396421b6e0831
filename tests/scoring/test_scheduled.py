"""Rulesets whose weights depend on where a run stands: commands say where, the trainer too."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import tiny_run
from typer.testing import CliRunner

import grpo_rewards as gr
import grpo_rewards.pandas
from grpo_rewards import testing
from grpo_rewards.audit.examine import attack
from grpo_rewards.cli.main import app
from grpo_rewards.testing.fuzz import fuzz
from grpo_train.rollout_batch import sample_batch
from grpo_train.session import start

LATE = """input completion: chat
input gold: text

let extra = text.contains(completion, "hmm")
let late = schedule({name}, 0 -> 0.0, {end} -> 1.0)

reward in 0..2 = math.equal(extract.boxed(completion), gold) + late * extra

test "right" {{
  completion: "\\boxed{{4}}"
  gold: "4"
  {name}: 0
  expect reward == 1
}}

attack [filler, copied_prompt] expect reward <= 0
"""
PROGRESS = LATE.format(name="progress", end=1)
STEP = LATE.format(name="step", end=200)
HALF = {"progress": "0.5", "step": "100"}
RULESETS = {"progress": PROGRESS, "step": STEP}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"completion": "\\boxed{4} hmm", "gold": "4", "ok": True},
        {"completion": "hmm", "gold": "4", "ok": False},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", RULESETS)
@pytest.mark.parametrize("command", ["score", "diff", "calibrate", "explain"])
def test_a_command_takes_the_moment_or_says_how(
    name: str, command: str, tmp_path: Path, data: Path
) -> None:
    (ruleset := tmp_path / "late.reward").write_text(RULESETS[name])
    words = {
        "score": [ruleset, data],
        "diff": [ruleset, ruleset, data],
        "calibrate": [ruleset, data, "--label", "ok"],
        "explain": [ruleset, data],
    }[command]
    run = CliRunner().invoke
    found = run(app, [command, *map(str, words)])
    assert found.exit_code
    assert f"--{name}" in str(found.exception)
    assert run(app, [command, *map(str, words), f"--{name}", HALF[name]]).exit_code == 0


@pytest.mark.parametrize("name", RULESETS)
def test_the_moment_decides_the_weight_in_files_and_frames(
    name: str, tmp_path: Path, data: Path
) -> None:
    (ruleset := tmp_path / "late.reward").write_text(RULESETS[name])
    out = tmp_path / "out.jsonl"
    words = ["score", ruleset, data, "-o", out, f"--{name}", HALF[name]]
    assert CliRunner().invoke(app, list(map(str, words))).exit_code == 0
    assert [json.loads(line)["reward"] for line in out.read_text().splitlines()] == [1.5, 0.5]
    given = {name: float(HALF[name])}
    frame = pd.read_json(data, lines=True)
    frame["gold"] = frame["gold"].astype(str)
    assert list(frame.grpo.score(ruleset, **given)["reward"]) == [1.5, 0.5]


@pytest.mark.parametrize("name", RULESETS)
def test_a_hack_that_pays_late_is_found(name: str) -> None:
    scorer = gr.loads(RULESETS[name].replace('"hmm"', '"what is asked for"'), workers=0)
    upper = RULESETS[name].replace('"hmm"', '"What is asked for"')
    weak = gr.loads(upper, workers=0)
    assert attack(scorer, [{"gold": "4"}]).breaches == ()
    (breach,) = attack(weak, [{"gold": "4"}]).breaches
    assert (breach.family, breach.reward) == ("copied_prompt", 1.0)


@pytest.mark.parametrize("name", RULESETS)
def test_a_hack_that_pays_early_is_found(name: str) -> None:
    early = RULESETS[name].replace('"hmm"', '"What is asked for"').replace("late *", "(1 - late) *")
    (breach,) = attack(gr.loads(early, workers=0), [{"gold": "4"}]).breaches
    assert (breach.family, breach.reward) == ("copied_prompt", 1.0)


@pytest.mark.parametrize("name", RULESETS)
def test_fuzz_and_the_laws_take_rows_without_a_moment(name: str) -> None:
    scorer = gr.loads(RULESETS[name], workers=0)
    assert testing.is_complete(scorer, {"completion": "\\boxed{4}", "gold": "4"})
    results = fuzz(scorer, examples=4, skip=["spawns_the_same"])
    assert {result.outcome for result in results} == {"holds", "skipped"}


def test_the_trainer_says_where_it_stands(tmp_path: Path) -> None:
    ruleset = tmp_path / "late.reward"
    ruleset.write_text(
        "input completion: chat\n"
        "score at = step + progress\n"
        "reward = at + text.length(completion) - text.length(completion)\n"
    )
    session = start(tiny_run.make_config(tmp_path, reward={"ruleset": str(ruleset)}, steps=8))
    for step, expected in ((0, 0.0), (2, 2.25), (8, 9.0)):
        session.progress.step = step
        _, _, scored, _ = sample_batch(session)
        assert set(scored.scores["at"]) == {expected}
