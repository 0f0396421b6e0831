"""An explanation tells what was scored: its values are the scores, its spans are in the text."""

from __future__ import annotations

from typing import Any

from conftest import ROOT
from hypothesis import given
from strategies import any_text, batches, sound_rulesets

import grpo_rewards as gr
from grpo_rewards.explain.marks import marked_text, marks, printable, remarks
from grpo_rewards.explain.row import Explanation, explain_row

R1 = gr.load(ROOT / "rulesets" / "r1_zero.reward", workers=0)


def _all(node: Explanation) -> list[Explanation]:
    return [node, *(n for child in node.children for n in _all(child))]


@given(sound_rulesets(), batches)
def test_an_explanation_ends_in_the_scores(
    ruleset: gr.Ruleset, batch: list[dict[str, Any]]
) -> None:
    scorer = gr.loads(str(ruleset), workers=0)
    scores = scorer(**{name: [value] for name, value in batch[0].items()})
    told = explain_row(scorer, batch[0])
    assert [node.label.split(":")[0] for node in told] == [*scores.names, "reward"]
    for node, column in zip(told, scores.columns.values(), strict=True):
        assert (node.value == "null") == (not column.present[0])


@given(any_text)
def test_any_completion_can_be_explained(text: str) -> None:
    told = explain_row(R1, {"completion": text, "gold": "4", "lang": "en"})
    assert told[-1].label.startswith("reward")
    assert told[-1].to_tree()


def test_spans_point_into_the_completion_and_unneeded_ops_say_so() -> None:
    text = "<think>Two and two are four.</think><answer>4</answer>"
    told = explain_row(R1, {"completion": text, "gold": "4", "lang": "en"})
    nodes = [node for root in told for node in _all(root)]
    (answer,) = {node.value for node in nodes if node.label == ".answer"}
    start = text.index("4</answer>")
    assert answer == f"'4' at {start}..{start + 1}"
    lazy = gr.loads("input p: bool\nreward = 1 if p else text.length(prompt)")
    told = explain_row(lazy, {"p": True, "prompt": "x"})
    assert any(node.skipped for node in _all(told[0]))


def test_what_is_marked_is_shown_and_nothing_that_a_terminal_would_obey() -> None:
    german = "Danach zählen wir zur Sicherheit alles noch einmal zusammen, und es stimmt."
    text = f"<think>We add the two numbers of books. {german}</think><answer>4</answer>"
    found = marks(R1, {"completion": text, "gold": "4", "lang": "en"})
    (foreign,) = [mark for mark in found if mark[2] == "foreign"]
    assert text[foreign[0] : foreign[1]] in german
    assert any("foreign: de" in line for line in remarks(text, found))
    assert marked_text(text, found).plain == text
    hostile = "<think>a\x1b[2J\x07\ud800</think>😀"
    found = marks(R1, {"completion": hostile, "gold": "4", "lang": "en"})
    assert [mark[2] for mark in found] == ["fail"]
    shown = marked_text(hostile, found).plain
    assert "\x1b" not in shown and "\x07" not in shown and "\\x1b[2J" in shown
    assert shown.encode()


@given(any_text)
def test_any_completion_can_be_marked(text: str) -> None:
    row = {"completion": text, "gold": "4", "lang": "en"}
    found = marks(R1, row)
    assert all(0 <= start <= end <= len(text) for start, end, _, _ in found)
    assert marked_text(text, found).plain == printable(text)
    assert len(remarks(text, found)) <= len(found)
