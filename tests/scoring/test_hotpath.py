"""Batched scoring does no work twice, and scores alike whoever asks and whatever stands beside."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

import grpo_rewards as gr
from grpo_rewards.rules.math import equality

RULES = """
input completion: chat
input gold: text
score correct = math.equal(extract.boxed(completion), gold)
score form = format.tags(completion, "think", "answer")
reward = correct + form
"""
HOSTILE = [
    r"9^{9^{9^9}}",
    r"9^{9^{9^9}}!",
    r"\frac{9^{9^{9^9}}}{9^{9^{9^9}}}",
    r"\sqrt{" * 5000 + "2" + "}" * 5000,
    "(" * 10**5 + "1" + ")" * 10**5,
    "{" * 10**6,
    "x" * 10**6,
    "9" * 10**6,
    "-" * 10**5 + "1",
    "+".join(rf"\sin({i} x)" for i in range(500)),
    r"\int_0^1 x^x \, dx",
    r"\sum_{n=1}^{10^{9}} \frac{1}{n^n}",
    r"(x+y+z)^{99999}",
    "1,000" * 10**5,
    r"\left" * 10**5,
    "\ud800\x00\U0001f600" * 1000,
]


def _honest(count: int, seed: int = 0) -> dict[str, list[Any]]:
    rng = random.Random(seed)
    numbers = [(rng.randrange(500), rng.randrange(3)) for _ in range(count)]
    texts = [
        rf"<think>{a} is half of {2 * a}</think><answer>\boxed{{{a + off}}}</answer>"
        for a, off in numbers
    ]
    return {"completion": texts, "gold": [str(a) for a, _ in numbers]}


def test_a_gold_is_read_once_for_its_whole_group(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = equality._gold_text
    monkeypatch.setattr(equality, "_gold_text", lambda gold: read.append(gold) or original(gold))
    golds = [f"{i}91827" for i in range(20)]
    with gr.loads(RULES, workers=0) as scorer:
        texts = [rf"\boxed{{{i}}}" for i in range(160)]
        scorer(completion=texts, gold=[golds[i // 8] for i in range(160)])
        scorer(completion=texts, gold=[golds[i // 8] for i in range(160)])
    assert sorted(read) == sorted(golds)


def test_equal_answers_to_equal_golds_are_compared_once() -> None:
    with gr.loads(RULES, workers=0) as scorer:
        scores = scorer(
            completion=[r"\boxed{7}", r"so \boxed{7}", r"\boxed{8}"] * 50, gold=["7"] * 150
        )
        (stats,) = [s for n, s in scores.ops.items() if scorer.graph[n].title == "math.equal"]
    assert (stats.rows, stats.hits) == (150, 148)


@given(st.permutations(range(24)))
def test_rows_score_alike_in_any_order_and_company(order: list[int]) -> None:
    batch = _honest(24)
    whole = SCORER(**batch).reward
    mixed = SCORER(**{name: [values[i] for i in order] for name, values in batch.items()}).reward
    assert np.array_equal(mixed, whole[order])


SCORER = gr.loads(RULES, workers=0)


def test_sixteen_hostile_rows_change_no_score_of_the_others() -> None:
    honest = _honest(496)
    mixed = {name: list(values) for name, values in honest.items()}
    places = [31 * i for i in range(16)]
    for place, body in zip(places, HOSTILE, strict=True):
        mixed["completion"].insert(place, rf"<think>?</think><answer>\boxed{{{body}}}</answer>")
        mixed["gold"].insert(place, r"\sqrt{2} x^2")
    others = np.setdiff1d(np.arange(512), places)
    with gr.loads(RULES) as scorer:
        alone = scorer(**honest)
        first, second = scorer(**mixed), scorer(**mixed)
    assert np.array_equal(alone.reward, first.reward[others])
    assert np.array_equal(first.reward, second.reward, equal_nan=True)
    assert not (first["correct"][places] == 1).any()
    kills = sum(stats.kills for stats in first.ops.values())
    assert kills <= 1  # each costs a deadline: together less than two


def test_threads_and_tasks_get_the_scores_that_a_loop_gets() -> None:
    batches = [_honest(40, seed) for seed in range(12)]
    with gr.loads(RULES) as scorer:
        expected = [scorer(**batch).to_columns() for batch in batches]
    with gr.loads(RULES) as scorer:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda batch: scorer(**batch).to_columns(), batches))
        assert found == expected

    async def together(scorer: gr.Scorer) -> list[Any]:
        jobs = (asyncio.to_thread(scorer, **batch) for batch in batches)
        return [scores.to_columns() for scores in await asyncio.gather(*jobs)]

    async def directly(scorer: gr.Scorer) -> list[Any]:
        return [scorer(**batch).to_columns() for batch in batches]

    with gr.loads(RULES) as scorer:
        assert asyncio.run(together(scorer)) == expected
        assert asyncio.run(directly(scorer)) == expected


def test_slow_checks_work_from_many_threads_at_once() -> None:
    batch = {"completion": [r"\boxed{\sin^2 a + \cos^2 a}", r"\boxed{2}"], "gold": ["1", "1"]}
    with gr.loads(RULES) as scorer:
        expected = scorer(**batch).reward.tolist()
        barrier = threading.Barrier(4)

        def run(_: int) -> list[float]:
            barrier.wait()
            return scorer(**batch).reward.tolist()

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(run, range(4))) == [expected] * 4


DATA = ROOT.parent / "shared" / "data" / "gsm8k" / "train.jsonl"


@pytest.mark.skipif(not DATA.exists(), reason="the data is not here")
def test_real_solutions_are_judged_as_trl_judges_them() -> None:
    rewards = pytest.importorskip("trl.rewards")
    with DATA.open(encoding="utf-8") as file:
        rows = [json.loads(next(file))["answer"].rpartition("\n#### ") for _ in range(60)]
    texts, golds = [], []
    for thought, _, gold in rows:
        for off in (0, 1):
            answer = int(gold.replace(",", "")) + off
            texts.append(f"<think>{thought}</think><answer>\\boxed{{{answer}}}</answer>")
            golds.append(gold)
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    theirs = rewards.accuracy_reward(chats, [f"${gold}$" for gold in golds])
    scores = SCORER(completion=texts, gold=golds)
    assert scores["correct"].astype(float).tolist() == theirs
    assert scores["form"].tolist() == rewards.think_format_reward(chats)
