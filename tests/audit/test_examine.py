"""Attack finds planted holes and none in the shipped rulesets; diff and calibrate count right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

import grpo_rewards as gr
from grpo_rewards.audit.examine import attack, calibrate, diff
from grpo_rewards.rules.attack_families import FAMILIES, Target, layouts_for

WEAK = sorted((ROOT / "tests" / "weak").glob("*.reward"))
SHIPPED = sorted((ROOT / "rulesets").glob("*.reward"))


def rows_of(scorer: gr.Scorer) -> list[dict[str, object]]:
    return [dict(row) for test in scorer.tests for row in test.rows]


def test_there_are_five_weak_rulesets() -> None:
    assert len(WEAK) >= 5


@pytest.mark.parametrize("path", WEAK, ids=lambda path: path.stem)
def test_a_planted_hole_is_found(path) -> None:
    with gr.load(path) as scorer:
        report = attack(scorer, rows_of(scorer))
    assert report.breaches
    assert report.breaches[0].completion


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_rulesets_hold_what_they_declare(path) -> None:
    with gr.load(path) as scorer:
        assert scorer.graph.attacks, "declare a ceiling"
        report = attack(scorer, rows_of(scorer))
    assert not report.breaches, report.breaches


@given(st.sampled_from(sorted(FAMILIES)), st.integers(-999, 999), st.text(max_size=20))
def test_no_hack_is_the_bare_gold(family: str, gold: int, prompt: str) -> None:
    target = Target(str(gold), prompt, layouts_for(["A:"], ["think", "answer"]))
    texts = list(FAMILIES[family].draw(target))
    assert texts
    assert target.wrong != target.gold
    if prompt != str(gold):
        assert str(gold) not in texts


def test_the_docs_tell_what_each_family_draws() -> None:
    docs = (ROOT / "docs" / "auditing.md").read_text("utf-8")
    for family in FAMILIES.values():
        assert f"| `{family.name}` | {family.summary} |" in docs


def test_an_unknown_family_is_named() -> None:
    with gr.load(SHIPPED[0]) as scorer, pytest.raises(gr.BatchError, match="unknown attack `nope`"):
        attack(scorer, rows_of(scorer), families=["nope"])


def test_diff_counts_what_changed() -> None:
    head = "input a: num\nscore s = a\n"
    one, other = gr.loads(head + "reward = a"), gr.loads(head + "score t = 1\nreward = abs(a)")
    found = diff(one, other, [{"a": 1}, {"a": -3}, {"a": None}, {"a": -1}])
    changed = {change.name: (change.changed, change.only_in) for change in found.changes}
    assert changed == {"s": (0, ""), "t": (0, "B"), "reward": (2, "")}
    assert [row for row, _, _ in found.rows] == [1, 3]
    assert diff(one, one, [{"a": 1}]).rows == ()


labelled = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=30).filter(
    lambda pairs: len({label for _, label in pairs}) == 2
)


@given(labelled)
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[float, bool]]) -> None:
    found = calibrate(np.array([v for v, _ in pairs]), [label for _, label in pairs])
    right = [v for v, label in pairs if label]
    wrong = [v for v, label in pairs if not label]
    wins = sum((r > w) + 0.5 * (r == w) for r in right for w in wrong)
    assert math.isclose(found.auc, wins / len(right) / len(wrong))
    assert -1 <= found.kappa <= 1


@given(labelled)
def test_auc_turns_round_with_the_score(pairs: list[tuple[float, bool]]) -> None:
    values, labels = np.array([v for v, _ in pairs]), [label for _, label in pairs]
    there, back = calibrate(values, labels), calibrate(1 - values, labels)
    if len(np.unique(1 - values)) == len(np.unique(values)):
        assert math.isclose(there.auc, 1 - back.auc)


def test_a_perfect_score_agrees_and_nulls_are_left_out() -> None:
    found = calibrate(np.array([1.0, 0.0, np.nan]), [True, False, True])
    assert (found.auc, found.kappa, found.null, found.disagreements) == (1, 1, 1, ())
    with pytest.raises(gr.BatchError, match="all alike"):
        calibrate(np.array([1.0, 0.0]), [True, True])
