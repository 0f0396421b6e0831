"""docs/auditing.md: its data is what its script makes, its rulesets do what it says."""

from __future__ import annotations

import json
import runpy

import pytest
from conftest import ROOT

import grpo_rewards as gr
from grpo_rewards.audit.examine import attack, calibrate
from grpo_rewards.audit.test_blocks import run_tests
from grpo_rewards.scoring.scores import as_floats
from grpo_rewards.syntax.formatter import format_text

FOLDER = ROOT / "examples" / "auditing"
ROWS = [json.loads(line) for line in (FOLDER / "completions.jsonl").read_text("utf-8").splitlines()]


def test_the_completions_are_what_the_script_makes() -> None:
    assert runpy.run_path(str(FOLDER / "make.py"))["rows"](seed=2) == ROWS
    assert len(ROWS) == 40


@pytest.mark.parametrize("name", ["strict", "lenient", "settled"])
def test_only_the_lenient_ruleset_breaks_its_own_ceiling(name: str) -> None:
    path = FOLDER / f"{name}.reward"
    text = path.read_text("utf-8")
    assert format_text(text) == text
    with gr.load(path) as scorer:
        assert all(result.passed for result in run_tests(scorer))
        breaches = attack(scorer, ROWS[:2]).breaches
    assert {breach.family for breach in breaches} == ({"hedge"} if name == "lenient" else set())


def test_the_settled_ruleset_agrees_with_the_labels_best() -> None:
    agreement = {}
    for name in ("strict", "lenient", "settled"):
        with gr.load(FOLDER / f"{name}.reward", workers=0) as scorer:
            columns = {key: [row[key] for row in ROWS] for key in ("completion", "gold")}
            reward = as_floats(scorer(**columns).columns["reward"])
        found = calibrate(reward, [row["right"] for row in ROWS])
        agreement[name] = found.best.agreement
    assert agreement["lenient"] < agreement["strict"] < agreement["settled"]


REAL = FOLDER / "real"


@pytest.mark.parametrize(("name", "wrong"), [("anywhere", 11), ("concluded", 2)])
def test_on_real_completions_the_conclusion_agrees_with_the_labels(name: str, wrong: int) -> None:
    text = (REAL / "completions.jsonl").read_text("utf-8")
    assert "<answer>" not in text, "as the page says"
    rows = [json.loads(line) for line in text.splitlines()]
    path = REAL / f"{name}.reward"
    assert format_text(path.read_text("utf-8")) == path.read_text("utf-8")
    with gr.load(path, workers=0) as scorer:
        assert all(result.passed for result in run_tests(scorer))
        scores = scorer(**{key: [row[key] for row in rows] for key in ("completion", "gold")})
        assert bool(attack(scorer, rows[:2]).breaches) == (name == "anywhere")
    paid = as_floats(scores.columns["reward"]) == 1
    assert sum(paid != [row["right"] for row in rows]) == wrong
