"""Laws of scoring while others are still being sampled: only the time may tell."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

import models
import numpy as np
import pytest
import tiny_run
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grpo_train.engines.native import NativeEngine
from grpo_train.rollouts import Done, Rollouts, Sampling, row_seeds
from grpo_train.scoring import Ahead, Scored
from grpo_train.session import start
from grpo_train.train import train_step

PROMPTS = [[5, 6, 7, 8], [20], [3, 4], [30] * 6, [41, 42]]
G = 3


def rollouts(max_rows: int, done: Done | None = None) -> Rollouts:
    """Some stop early: every fourth token is an end."""
    policy = dataclasses.replace(models.make_policy(), eos_ids=tuple(range(1, 61, 4)))
    engine = NativeEngine(policy, max_rows)
    return engine.generate(PROMPTS, G, Sampling(30), row_seeds(0, torch.arange(15)), done)


def length_score(prompts: list[int], r: Rollouts) -> Scored:
    """Of a row: its prompt and its length, so that a mix-up shows."""
    of = np.repeat(np.array(prompts, dtype=np.float64), r.group_size)
    size = r.length.numpy().astype(np.float64)
    texts = [str(ids) for ids in r.completion_ids()]
    return Scored(1000 * of + size, {"size": size}, {"size": ["ok"] * len(texts)}, texts)


@pytest.mark.parametrize("max_rows", [2, 6, 64])
def test_the_engine_tells_of_each_group_once_and_as_it_will_be(max_rows: int) -> None:
    told: dict[int, Rollouts] = {}

    def done(prompts: list[int], found: Rollouts) -> None:
        for i, p in enumerate(prompts):
            assert p not in told
            told[p] = found.pick([i])

    whole = rollouts(max_rows, done)
    assert 0 < len(told) < len(PROMPTS)  # the last to end come with the rest
    for p, group in told.items():
        expected = whole.pick([p])
        assert group.prompt_ids == expected.prompt_ids
        for name in ("ids", "length", "old_logprobs", "entropy", "stopped"):
            assert torch.equal(getattr(group, name), getattr(expected, name))


@settings(max_examples=30)
@given(st.lists(st.sets(st.integers(0, 4)), max_size=6), st.integers(0, 2**16))
def test_scores_do_not_depend_on_when_groups_are_scored(waves: list[set[int]], seed: int) -> None:
    whole = rollouts(64)
    with Ahead(length_score) as ahead:
        told: set[int] = set()
        for wave in waves:
            prompts = sorted(wave - told, key=lambda p: hash((p, seed)))
            told |= wave
            if prompts:
                ahead.take(prompts, whole.pick(prompts))
        found = ahead.finish(whole)
    expected = length_score(list(range(len(PROMPTS))), whole)
    assert np.array_equal(found.reward, expected.reward)
    assert found.texts == expected.texts


def test_a_slow_scorer_gets_much_at_once_and_overlaps() -> None:
    whole, go, calls = rollouts(64), threading.Event(), []

    def slow(prompts: list[int], r: Rollouts) -> Scored:
        calls.append(list(prompts))
        assert go.wait(30)
        return length_score(prompts, r)

    with Ahead(slow) as ahead:
        for p in range(4):
            ahead.take([p], whole.pick([p]))  # does not wait
        go.set()
        ahead.finish(whole)
    assert calls == [[0], [1, 2, 3, 4]]


def test_a_scorers_error_is_raised_where_scores_are_asked_for() -> None:
    whole = rollouts(64)

    def broken(prompts: list[int], _: Rollouts) -> Scored:
        raise RuntimeError(f"no reward for {prompts}")

    with pytest.raises(RuntimeError, match="no reward"), Ahead(broken) as ahead:
        ahead.take([0], whole.pick([0]))
        ahead.finish(whole)


class Silent(NativeEngine):
    """Tells nobody of a group that is complete."""

    def generate(
        self,
        prompts: Sequence[list[int]],
        n: int,
        sampling: Sampling,
        seeds: Tensor,
        done: Done | None = None,
    ) -> Rollouts:
        """Without `done`."""
        return super().generate(prompts, n, sampling, seeds)


def test_a_run_is_the_same_with_and_without(tmp_path: Path) -> None:
    found = []
    for name, engine in (("ahead", NativeEngine), ("after", Silent)):
        session = start(tiny_run.make_config(tmp_path, name=name, sampling={"max_rows": 6}))
        session = dataclasses.replace(session, engine=engine(session.policy, 6))
        metrics = [train_step(session) for _ in range(3)]
        found.append([(m["reward"], m["loss"], m["grad_norm"]) for m in metrics])
    assert found[0] == found[1]
