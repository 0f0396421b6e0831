"""Alarms: what goes wrong in training, seen in its metrics, with the rows that show it.

An alarm is a pure function of the metrics so far, so a resumed run raises the same alarms as one
that was never stopped. It is raised at the first step of its cause, and again only after the cause
was gone for a window. A window is `alarms.window` rollout batches; "rises" and "falls" are
differences of two windows' means beyond `SIGMAS` standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from grpo_train.config import AlarmName, Config
from grpo_train.scoring import Scored

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]
# Standard errors of a rise or fall. A window is compared with all earlier ones, and chance alone
# would often pass two standard errors.
SIGMAS = 4.0
LEAST_FALL = 0.05  # in accuracy: a smaller one is no hack, however certain it is
MASTERED = 0.9  # accuracy from which low entropy is no alarm: a policy that is right may be sure
SHOWN = 4  # number of rows that are shown as evidence


@dataclass(frozen=True, slots=True)
class Alarm:
    """What was seen at a step; `rows` are its lines in `samples.jsonl`, counted from 1."""

    name: str
    step: int
    text: str
    rows: tuple[int, int] | None = None

    def __str__(self) -> str:
        shown = f"; see samples.jsonl:{self.rows[0]}-{self.rows[1]}" if self.rows else ""
        return f"alarm {self.name} at step {self.step}: {self.text}{shown}"


def raised(history: Sequence[Row], config: Config) -> list[Alarm]:
    """Alarms that the last line of metrics sets off; none on a step without new rollouts."""
    rows = [row for row in history if "reward" in row]
    if not history or not rows or history[-1] is not rows[-1]:
        return []
    found = []
    for name, cause in CAUSES.items():
        text = cause(rows, config)
        if text and not _known(name, rows, config):
            found.append(Alarm(name, rows[-1]["step"], text))
    return found


def _known(name: AlarmName, rows: list[Row], config: Config) -> bool:
    """Whether the cause was there in the last window already."""
    window = config.alarms.window
    ends = range(max(1, len(rows) - window), len(rows))
    return any(CAUSES[name](rows[:end], config) for end in ends)


# -- causes: the metrics so far → what is wrong, or "" ---------------------------------------------


def _hacking(rows: list[Row], config: Config) -> str:
    """The reward rises while the score of accuracy falls."""
    score, w = f"score/{config.eval.score}", config.alarms.window
    reward, right = _series(rows, "reward"), _series(rows, score)
    if len(right) != len(reward) or len(right) < 2 * w:
        return ""
    means = np.convolve(right, np.ones(w) / w, mode="valid")[:-w]
    start = int(means.argmax())  # the best window that does not overlap the last
    before, now = slice(start, start + w), slice(len(right) - w, len(right))
    fall = means[start] - right[now].mean()
    if fall < LEAST_FALL or not _rises(-right[before], -right[now]):
        return ""
    if not _rises(reward[before], reward[now]):
        return ""
    return (
        f"since step {rows[start + w - 1]['step']} the reward rose from "
        f"{reward[before].mean():.3g} to {reward[now].mean():.3g} while `{config.eval.score}` fell "
        f"from {means[start]:.3g} to {right[now].mean():.3g}: the reward pays for something else"
    )


def _rises(before: Floats, now: Floats) -> bool:
    error = math.sqrt((before.var(ddof=1) + now.var(ddof=1)) / len(now))
    return bool(now.mean() - before.mean() > SIGMAS * error)


def _saturated(rows: list[Row], config: Config) -> str:
    """A score that used to vary is the same in every row, so it no longer teaches anything."""
    w = config.alarms.window
    for name in rows[-1]:
        spread = _series(rows, name) if name.startswith("spread/") else np.zeros(0)
        if len(spread) > w and not spread[-w:].any() and spread[:-w].any():
            score = name.removeprefix("spread/")
            value = rows[-1].get(f"score/{score}")
            return f"`{score}` was {value:.3g} in every row of {w} batches: it teaches nothing"
    return ""


def _entropy(rows: list[Row], config: Config) -> str:
    """The policy no longer explores, although its accuracy is below `MASTERED`."""
    entropy, w = _series(rows, "entropy"), config.alarms.window
    if len(entropy) < 2 * w:
        return ""
    first, last = entropy[:w].mean(), entropy[-w:].mean()
    if last >= config.alarms.entropy or last >= first / 2:
        return ""
    right = _series(rows[-w:], f"score/{config.eval.score}")
    if len(right) and right.mean() >= MASTERED:
        return ""
    return f"it fell from {first:.3g} to {last:.3g} nats a token: completions are all but the same"


def _length(rows: list[Row], config: Config) -> str:
    """Completions have become much longer, or many are cut at the length limit."""
    length, w = _series(rows, "length"), config.alarms.window
    if len(length) < 2 * w:
        return ""
    first, last = length[:w].mean(), length[-w:].mean()
    if last > config.alarms.length * first:
        return f"completions grew from {first:.0f} to {last:.0f} tokens"
    cut, before = _series(rows, "truncated")[-w:].mean(), _series(rows, "truncated")[:w].mean()
    if cut > config.alarms.truncated and cut > 2 * before:
        return f"the length limit cuts {cut:.0%} of completions, {before:.0%} at first"
    return ""


def _signal(rows: list[Row], config: Config) -> str:
    """In nearly all groups the rewards are equal: all completions are right, or all are wrong."""
    share, w = _series(rows, "signal"), config.alarms.window
    if len(share) < w or share[-w:].mean() >= config.alarms.signal:
        return ""
    return (
        f"{share[-w:].mean():.0%} of groups have unequal rewards: prompts are too easy or too hard"
    )


def _mismatch(rows: list[Row], config: Config) -> str:
    """The engine does not sample from the weights that train."""
    gap = _series(rows[-1:], "mismatch/gap")
    if not len(gap) or gap[-1] <= config.alarms.mismatch:
        return ""
    return f"engine and trainer differ by {gap[-1]:.3g} nats a token on average"


CAUSES: dict[AlarmName, Callable[[list[Row], Config], str]] = {
    "hacking": _hacking,
    "saturated": _saturated,
    "entropy": _entropy,
    "length": _length,
    "signal": _signal,
    "mismatch": _mismatch,
}


def _series(rows: Sequence[Row], name: str) -> Floats:
    """The values of a metric, from the rows that have it."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return np.array(values, dtype=np.float64)


# -- evidence --------------------------------------------------------------------------------------


def evidence(name: str, scored: Scored, length: Sequence[int], score: str) -> list[int]:
    """Indices of the rows that show an alarm's cause best, `SHOWN` at most."""
    reward = np.nan_to_num(scored.reward, nan=-np.inf)
    right = np.nan_to_num(scored.scores.get(score, np.zeros(len(reward))))
    order: dict[str, Floats] = {
        "hacking": right * 1e6 - reward,  # wrong, and well paid
        "diverged": -np.abs(reward),
        "length": -np.array(length, dtype=np.float64),
        "entropy": np.array(length, dtype=np.float64),
    }
    key = order.get(name, np.zeros(len(reward)))
    return [int(i) for i in np.argsort(key, kind="stable")[:SHOWN]]
