"""rollouts → reward and scores, by the ruleset: the place where training calls `grpo_rewards`.

The results are plain columns, so that groups can be dropped and joined without the scorer.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

import grpo_rewards as gr
from grpo_train import distributed
from grpo_train.config import Reward
from grpo_train.data import Prompts
from grpo_train.errors import ConfigError
from grpo_train.model.policy import Policy
from grpo_train.objective.advantage import has_signal
from grpo_train.rollouts import Engine, Rollouts, Sampling, join_rollouts

Floats = npt.NDArray[np.float64]
ALLOW = "if you trust it, set reward.allow_extern = true"
ERRORS = frozenset({"timeout", "too_large", "failed"})  # statuses of a score that was cut short


@dataclass(frozen=True, slots=True)
class Moment:
    """The step of a run, for rulesets whose weights change as it goes on."""

    step: int = 0
    steps: int = 1  # of the whole run

    def columns(self) -> dict[str, float]:
        """`step`, and `progress` in [0, 1]."""
        return {"step": float(self.step), "progress": min(1.0, self.step / max(1, self.steps))}


@dataclass(frozen=True, slots=True)
class Scored:
    """`reward` [B] and every score [B] as float64, NaN where null; `status` where not ok."""

    reward: Floats
    scores: dict[str, Floats]
    status: dict[str, list[str]]
    texts: list[str]

    def means(self) -> dict[str, float]:
        """Mean of every score over the rows that have one; NaN where none has."""
        return {name: _mean(column) for name, column in self.scores.items()}

    def spreads(self) -> dict[str, float]:
        """Standard deviation of every score over the rows that have one; a 0 teaches nothing."""
        return {name: _spread(column) for name, column in self.scores.items()}

    def errors(self) -> float:
        """Share of rows with a score that a limit or a deadline cut short."""
        rows = zip(*self.status.values(), strict=True)
        return sum(not ERRORS.isdisjoint(row) for row in rows) / max(1, len(self.texts))

    def take(self, rows: Sequence[int]) -> Scored:
        """Some rows, in that order."""
        at = np.array(rows, dtype=np.intp)
        return Scored(
            self.reward[at],
            {name: column[at] for name, column in self.scores.items()},
            {name: [column[i] for i in rows] for name, column in self.status.items()},
            [self.texts[i] for i in rows],
        )

    @staticmethod
    def join(parts: Sequence[Scored]) -> Scored:
        """One after another."""
        first = parts[0]
        return Scored(
            np.concatenate([part.reward for part in parts]),
            {name: np.concatenate([part.scores[name] for part in parts]) for name in first.scores},
            {name: [s for part in parts for s in part.status[name]] for name in first.status},
            [text for part in parts for text in part.texts],
        )


def _mean(column: Floats) -> float:
    present = column[~np.isnan(column)]
    return float(present.mean()) if len(present) else math.nan


def _spread(column: Floats) -> float:
    present = column[~np.isnan(column)]
    # Rounding would make the standard deviation of equal numbers more than 0.
    unequal = len(present) and bool(has_signal(torch.from_numpy(present)[None]))
    return float(present.std()) if unequal else 0.0


def find_beside(ruleset: str) -> None:
    """Let `extern` find modules beside a ruleset, as `grpo-rewards score --allow-extern` does."""
    folder = str(Path(ruleset).resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)


def load_scorer(reward: Reward) -> Any:
    """The scorer of the compiled ruleset; its mistakes become a ConfigError with the findings."""
    if reward.allow_extern:
        find_beside(reward.ruleset)
    try:
        return gr.load(reward.ruleset, params=dict(reward.params), allow_extern=reward.allow_extern)
    except gr.RulesetError as error:
        # The finding's hint is for the caller of `gr.load`; here the config says what is allowed.
        found = [replace(f, hint=ALLOW) if f.code == "T80" else f for f in error.findings]
        told = gr.RulesetError(error.source, found)
        raise ConfigError(f"{told}\n- at `reward.ruleset`") from error
    except (gr.RewardError, OSError) as error:
        raise ConfigError(f"{error}\n- at `reward.ruleset`") from error


def without_reward(scorer: Any, prompts: Prompts) -> list[int]:
    """Indices of prompts whose reward is null whatever is answered: no gold, or none to read.

    An empty completion tells. Raises ConfigError where a column that the ruleset reads is missing.
    """
    size = len(prompts)
    known = {
        "completion": [""] * size,
        "completion_ids": [[]] * size,
        "n_tokens": [0.0] * size,
        "truncated": [False] * size,
        **Moment().columns(),
    }
    scores = _run(scorer, prompts.columns(1) | known, np.arange(size))
    return [int(i) for i in np.flatnonzero(np.isnan(np.asarray(scores.reward, dtype=np.float64)))]


def score(
    scorer: Any, prompts: Prompts, rollouts: Rollouts, policy: Policy, moment: Moment
) -> Scored:
    """Scores of completions.

    The ruleset also reads the prompts' columns and what the trainer knows: tokens, their number,
    whether the completion was cut, and the step.
    """
    texts = [prompts.prefix + policy.decode(ids) for ids in rollouts.completion_ids()]
    known: dict[str, Any] = {
        "completion": texts,
        "completion_ids": rollouts.completion_ids(),
        "n_tokens": [float(n) for n in rollouts.length.tolist()],
        "truncated": [not stopped for stopped in rollouts.stopped.tolist()],
        **moment.columns(),
    }
    columns = prompts.columns(rollouts.group_size) | known
    group = np.repeat(np.arange(len(prompts)), rollouts.group_size)
    scores = _run(scorer, columns, group)
    return Scored(
        np.asarray(scores.reward, dtype=np.float64),
        {name: np.asarray(scores[name], dtype=np.float64) for name in scores.names},
        {name: list(scores.status[name]) for name in scores.names},
        texts,
    )


def sample_and_score(
    engine: Engine,
    scorer: Any,
    policy: Policy,
    prompts: Prompts,
    sampling: Sampling,
    seeds: torch.Tensor,
    moment: Moment,
) -> tuple[Rollouts, Scored, dict[str, float]]:
    """Completions of all prompts, their scores, and the seconds spent on each of the two.

    `seeds` [P · G] say how many completions a prompt gets. Each process takes its share of them.
    """
    n, mine = len(seeds) // len(prompts), distributed.share(len(prompts))
    start = time.perf_counter()
    own = prompts.pick(mine)
    rows = slice(mine.start * n, mine.stop * n)

    def run(prompts: list[int], rollouts: Rollouts) -> Scored:
        return score(scorer, own.pick(prompts), rollouts, policy, moment)

    with Ahead(run) as ahead:
        rollouts = engine.generate(own.ids, n, sampling, seeds[rows], ahead.take)
        middle = time.perf_counter()
        scored = ahead.finish(rollouts)
    spent = {"seconds/generate": middle - start, "seconds/score": time.perf_counter() - middle}
    if distributed.size() > 1:
        parts = distributed.gather((rollouts, scored))
        rollouts = join_rollouts([part for part, _ in parts])
        scored = Scored.join([part for _, part in parts])
    return rollouts, scored, spent


class Ahead:
    """Scores groups in a thread while others are still being sampled.

    Groups that end while the scorer is busy are scored together next, so a fast scorer is called
    often with few groups, a slow one seldom with many. A group's scores do not depend on that.
    """

    def __init__(self, score: Callable[[list[int], Rollouts], Scored]) -> None:
        self.score = score
        self.waiting: list[tuple[list[int], Rollouts]] = []
        self.parts: list[tuple[list[int], Future[Scored]]] = []
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="score")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown(cancel_futures=True)

    def take(self, prompts: list[int], rollouts: Rollouts) -> None:
        """Accept groups that are complete, and score them if the scorer is free."""
        self.waiting.append((prompts, rollouts))
        if all(found.done() for _, found in self.parts):
            batch, self.waiting = self.waiting, []
            many = [p for prompts, _ in batch for p in prompts]
            whole = join_rollouts([rollouts for _, rollouts in batch])
            self.parts.append((many, self.thread.submit(self.score, many, whole)))

    def finish(self, rollouts: Rollouts) -> Scored:
        """All scores, in the order of the prompts; groups that still wait are scored here."""
        known = [p for prompts, _ in self.parts for p in prompts]
        left = sorted(set(range(len(rollouts.prompt_ids))) - set(known))
        parts = [found.result() for _, found in self.parts]
        if left or not parts:
            parts.append(self.score(left, rollouts.pick(left)))
        n, at = rollouts.group_size, {p: i for i, p in enumerate([*known, *left])}
        order = range(len(rollouts.prompt_ids))
        return Scored.join(parts).take([at[p] * n + i for p in order for i in range(n)])


def _run(scorer: Any, columns: dict[str, Any], group: npt.NDArray[np.intp]) -> Any:
    try:
        return scorer(**columns, group=group)
    except gr.BatchError as error:
        raise ConfigError(f"{error}\n- at `data.map`, which names the ruleset's columns") from error
    except gr.RuleError as error:  # an `extern` of the user's
        raise ConfigError(f"{error}\n- at `reward.ruleset`") from error
