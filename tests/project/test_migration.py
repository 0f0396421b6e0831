"""What docs/migration.md says of TRL's reward functions holds against TRL itself."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from strategies import any_text

import grpo_rewards as gr

rewards = pytest.importorskip("trl.rewards")

LENGTHS = [0, 1, 40, 50, 60, 79, 80, 81, 95, 99, 100, 101, 150]


def chat(texts: list[str]) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def test_the_overlong_punishment_is_trls() -> None:
    theirs = rewards.get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    scorer = gr.compile(reward=gr.text.overlong(gr.n_tokens, 100, 20))
    ours = scorer(n_tokens=LENGTHS).reward
    assert list(ours) == pytest.approx(theirs(completion_ids=[[0] * n for n in LENGTHS]))


def test_the_cosine_reward_is_trls_below_its_length() -> None:
    pytest.importorskip("math_verify")
    lengths = [n for n in LENGTHS if n < 100]
    theirs = rewards.get_cosine_scaled_reward(max_len=100)
    for text, right in ((r"\boxed{4}", True), (r"\boxed{5}", False)):
        expected = theirs(
            chat([text] * len(lengths)), ["4"] * len(lengths), [[0] * n for n in lengths]
        )
        scorer = gr.compile(reward=gr.text.cosine_length(gr.n_tokens, right, 100))
        assert list(scorer(n_tokens=lengths).reward) == pytest.approx(expected)


HONEST = [
    (r"So it is \boxed{\frac{1}{3}}.", r"\frac{1}{3}"),
    (r"So it is \boxed{\frac{1}{2}}.", r"\frac{1}{3}"),
    (r"<think>hm</think> \boxed{x^2 + 1}", "$x^2+1$"),
    (r"\boxed{12}", "12"),
    (r"\boxed{12}", "13"),
]


def test_accuracy_agrees_with_trl_on_honest_answers() -> None:
    pytest.importorskip("math_verify")
    texts, golds = zip(*HONEST, strict=True)
    theirs = rewards.accuracy_reward(chat(list(texts)), list(golds))
    scorer = gr.compile(reward=gr.math.equal(gr.extract.answer(gr.completion), gr.gold))
    assert list(scorer(completion=chat(list(texts)), gold=list(golds)).reward) == theirs


THOUGHTS = [
    ("<think>a</think>b", True), ("<think>a</think>", True), ("a<think>b</think>", False),
    ("<think>a", False), ("<think>a<think>b</think>c", False), ("", False),
    ("<think>a</think>b<think>", False), ("<think>a</think><think>b</think>", False),
    ("<think>a <table> b</think>c", True), ("<think>a</think>b</think>", True),
]  # fmt: skip
PIECES = [
    "<think>",
    "</think>",
    "<think",
    "think>",
    "<",
    "</",
    "<table>",
    "a",
    "\n",
    "\r\n",
    "\u2028",
]


def thought_port() -> gr.Scorer:
    """The ruleset that docs/migration.md gives for `think_format_reward`."""
    text = (ROOT / "docs" / "migration.md").read_text("utf-8")
    (row,) = (line for line in text.splitlines() if line.startswith("| `think_format_reward`"))
    expression, declaration = re.findall(r"`([^`]+)`", row)[1:3]
    head = f"input completion: chat\n{declaration.replace(chr(92) + '|', '|')}\n"
    return gr.loads(f"{head}reward = {expression}", workers=0)


PORT = thought_port()


@pytest.mark.parametrize(("text", "fits"), THOUGHTS)
def test_the_thought_format_agrees_with_trl(text: str, fits: bool) -> None:
    assert PORT(completion=[text]).reward.tolist() == [fits]
    assert rewards.think_format_reward(chat([text])) == [fits]


@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), any_text)
def test_the_thought_format_agrees_with_trl_on_any_text(text: str, more: str) -> None:
    texts = [text, f"<think>{text}", f"<think>{text}</think>{more}", text + more, more]
    theirs = rewards.think_format_reward(chat(texts))
    assert PORT(completion=texts).reward.tolist() == theirs
