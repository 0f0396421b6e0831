"""`grpo-rewards fuzz`: shipped rulesets keep the laws, planted holes are found and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT
from typer.testing import CliRunner

import grpo_rewards as gr
from grpo_rewards.audit import laws
from grpo_rewards.cli.main import app
from grpo_rewards.testing.fuzz import fuzz

SHIPPED = sorted((ROOT / "rulesets").glob("*.reward"))
PAYING = ["appending_never_pays", "second_answer_never_pays"]

#: The holes that the laws of paying can see; those of the other weak rulesets pay a wrong answer,
#: which `attack` finds.
HOLES = {
    "english_first": "appending_never_pays",
    "language_alone": "appending_never_pays",
    "trailing_garbage": "appending_never_pays",
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_rulesets_keep_the_laws(path: Path) -> None:
    with gr.load(path) as scorer:
        results = fuzz(scorer, examples=8, skip=["spawns_the_same"])
    broken = [str(result.failure) for result in results if result.failure]
    assert not broken
    assert [result.law for result in results] == list(laws.LAWS)
    assert results[-1].outcome == "skipped"


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_rulesets_keep_the_laws_in_500_examples(path: Path) -> None:
    with gr.load(path) as scorer:
        results = fuzz(scorer, examples=500, seed=1)
    assert not [str(result.failure) for result in results if result.failure]


@pytest.mark.parametrize("name", HOLES)
def test_a_planted_hole_is_found_and_explained(name: str) -> None:
    with gr.load(ROOT / "tests" / "weak" / f"{name}.reward") as scorer:
        results = {result.law: result for result in fuzz(scorer, examples=100, only=PAYING)}
    found = results[HOLES[name]]
    assert found.outcome == "broken"
    assert found.failure is not None
    assert "raises the reward" in found.failure.message
    assert found.explanation


def test_a_failure_is_shrunk() -> None:
    scorer = gr.loads("input completion: chat\nreward = text.length(completion)", workers=0)
    scorer.graph.ranges["reward"] = gr.Interval(0, 3)
    (found,) = fuzz(scorer, examples=200, only=["in_range"])
    assert found.failure is not None
    assert len(found.failure.completion) == 4
    assert len(found.failure.rows) == 1


def test_the_same_seed_finds_the_same() -> None:
    with gr.load(ROOT / "tests" / "weak" / "language_alone.reward") as scorer:
        one, two = (fuzz(scorer, examples=60, seed=5, only=PAYING[:1])[0] for _ in range(2))
    assert str(one.failure) == str(two.failure)
    assert (one.examples, one.applied) == (two.examples, two.applied)


def test_a_law_that_says_nothing_is_silent() -> None:
    scorer = gr.loads("input completion: chat\nreward = text.length(completion)", workers=0)
    assert [r.outcome for r in fuzz(scorer, examples=5, only=PAYING)] == ["silent", "silent"]


def test_data_is_where_examples_start_from() -> None:
    scorer = gr.loads(
        'input completion: chat\nreward = 1 if completion == "open sesame" else 0', workers=0
    )
    scorer.graph.ranges["reward"] = gr.Interval(0, 0)
    rows = [{"completion": "open sesame"}]
    assert fuzz(scorer, examples=100, only=["in_range"])[0].outcome == "holds"
    assert fuzz(scorer, rows, examples=100, only=["in_range"])[0].outcome == "broken"


def test_an_unknown_law_is_named() -> None:
    with pytest.raises(gr.BatchError, match="no law `nope`"):
        fuzz(gr.loads("input completion: chat\nreward = 1"), only=["nope"])


# The command

WEAK = str(ROOT / "tests" / "weak" / "english_first.reward")
R1 = str(ROOT / "rulesets" / "r1_zero.reward")


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ([R1, "--examples", "5", "--law", "in_range"], 0),
        ([WEAK, "--examples", "60", "--law", "appending_never_pays"], 1),
        ([WEAK, "--examples", "5", "--skip", "appending_never_pays"], 0),
        ([R1, "--law", "nope"], 2),
        ([R1, "--skip", "nope"], 2),
        ([R1, "--examples", "0"], 2),
        ([], 2),
        (["missing.reward"], 1),
    ],
    ids=["holds", "broken", "skipped", "law", "skip", "examples", "nothing", "missing"],
)  # fmt: skip
def test_exit_codes(args: list[str], code: int) -> None:
    result = CliRunner().invoke(app, ["fuzz", *args])
    shown = 1 if isinstance(result.exception, gr.RewardError) else result.exit_code
    assert shown == code, result.output


def test_a_failing_law_shows_the_completion_and_its_tree() -> None:
    args = ["fuzz", WEAK, "--examples", "60", "--law", "appending_never_pays"]
    shown = CliRunner().invoke(app, args).output
    assert "appending_never_pays" in shown and "broken" in shown
    assert "text behind it raises the reward from 0.2 to 1" in shown
    assert "completion: " in shown
    assert "language.share en = 1" in shown


def test_json_is_one_object_a_file(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"completion": "<answer>7</answer>", "gold": "7"}) + "\n")
    args = ["fuzz", WEAK, "--examples", "60", "--law", "appending_never_pays", "--json"]
    result = CliRunner().invoke(app, [*args, "--data", str(data)])
    (found,) = json.loads(result.output)["laws"]
    assert found["outcome"] == "broken"
    assert len(found["rows"]) == 2
