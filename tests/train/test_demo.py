"""The embedded default is what it says: a real tokenizer, a real task, nothing held out is seen."""

from __future__ import annotations

import random
from pathlib import Path

import tiny_run
from hypothesis import given
from hypothesis import strategies as st

import grpo_rewards as gr
from grpo_train.demo import (
    HABITS,
    Problem,
    TinyConfig,
    demo_config,
    draw_problem,
    make_model,
    make_problems,
    make_tokenizer,
    ruleset_path,
    write_completion,
)

TOKENIZER = make_tokenizer(TinyConfig(), 0)
SEED = st.integers(0, 2**32)


def problem(seed: int) -> Problem:
    return draw_problem(random.Random(seed), 12)


@given(st.text())
def test_the_tokenizer_is_lossless_on_any_text(text: str) -> None:
    clean = text.encode("utf-8", "replace").decode()
    assert TOKENIZER.decode(TOKENIZER(clean)["input_ids"]) == clean


@given(SEED, st.sampled_from(HABITS))
def test_the_tasks_own_text_is_short(seed: int, habit: str) -> None:
    text = write_completion(problem(seed), habit, random.Random(seed))
    assert len(TOKENIZER(text)["input_ids"]) <= 40
    assert len(TOKENIZER(problem(seed).prompt)["input_ids"]) <= 24


@given(SEED)
def test_results_are_natural_and_right(seed: int) -> None:
    p = problem(seed)
    assert p.gold == (p.a + p.b if p.sign == "+" else p.a - p.b) >= 0
    assert str(p.a) in p.prompt
    assert str(p.b) in p.prompt


def test_the_model_has_between_one_and_three_million_parameters() -> None:
    model = make_model(TinyConfig(), TOKENIZER, 0)
    assert 1e6 <= sum(p.numel() for p in model.parameters()) <= 3e6


def test_held_out_prompts_are_not_trained_on() -> None:
    train, held_out = make_problems(TinyConfig(), 0)
    assert not {p.prompt for p in train} & {p.prompt for p in held_out}
    assert len({p.prompt for p in held_out}) == len(held_out) == TinyConfig().held_out


def test_the_ruleset_ranks_the_habits() -> None:
    scorer = gr.load(ruleset_path())
    problems = [problem(seed) for seed in range(40)]
    reward = {}
    for habit in HABITS:
        texts = [write_completion(p, habit, random.Random(0)) for p in problems]
        scores = scorer(completion=texts, gold=[str(p.gold) for p in problems])
        reward[habit] = float(scores.reward.mean())
        if habit in ("thinks", "strays"):
            assert scores["correct"].all()
    scorer.close()
    assert reward["thinks"] > reward["strays"] > reward["guesses"] > reward["blurts"]


def test_the_start_is_an_ordinary_hugging_face_folder(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = tiny_run.make_config(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(config.model)
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    assert model.config.model_type == "llama"
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert demo_config(tmp_path / "run", 3).seed == 3
