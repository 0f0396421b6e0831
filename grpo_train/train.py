"""The loop, and nothing but the loop.

What differs from the papers, term by term:

- advantage: GRPO's group z-score with ddof 1; groups whose rewards are all equal are exactly 0, and
  rows without a reward are left out (`advantage.py`);
- loss: the clipped surrogate with DAPO's higher upper clip, averaged over the *step's* tokens
  (DAPO), not per completion (GRPO): long completions are not discounted (`loss.py`);
- KL: none by default; with `loss.kl_coef` it is ρ·k3, whose gradient is the reverse KL's;
- old logprobs are the sampler's own: the engine samples from the very weights that train, in the
  same precision, so there is no second forward pass and no mismatch to correct;
- an update without any signal is not made.

    grpo-train run experiments/arithmetic.toml steps=50 optim.lr=1e-4
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from grpo_train.config import Config
from grpo_train.errors import DivergenceError
from grpo_train.objective.update import learning_rate
from grpo_train.rollout_batch import make_batch
from grpo_train.run.alarms import Alarm, raised
from grpo_train.run.signals import stop_signals
from grpo_train.session import Session, evaluate_session, export, save

OnStep = Callable[[int, dict[str, float]], None]
OnAlarm = Callable[[Alarm], None]


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended."""

    folder: Path
    steps: int
    seconds: float
    stopped: str  # by what, with a checkpoint: a signal or an alarm; "" = it is done


def train(
    session: Session,
    on_step: OnStep = lambda step, metrics: None,
    on_alarm: OnAlarm = lambda alarm: None,
) -> Result:
    """Run until `config.steps`, a signal or an alarm; the policy ends up in `<run>/model`."""
    config, started = session.config, time.perf_counter()
    with stop_signals() as stop:
        if session.step == 0 and not session.history:
            evaluate_session(session)
        while not stop.agreed() and session.step < config.steps:
            metrics = train_step(session)
            session.log(metrics)
            on_step(session.step, metrics)
            for alarm in raised(session.history, config):
                on_alarm(session.alarm(alarm))
                if alarm.name in config.alarms.stop:
                    stop.because(f"alarm {alarm.name}")
            if session.step == config.steps or _due(session.step, config.eval.every):
                evaluate_session(session)
            if _due(session.step, config.save.every):
                save(session)
        if session.saved != session.step:
            save(session)
    export(session)
    seconds = time.perf_counter() - started
    return Result(session.record.folder, session.step, seconds, stop.reason)


def train_step(session: Session) -> dict[str, float]:
    """One update, from a new rollout batch or the rest of the last; its metrics."""
    config = session.config
    metrics: dict[str, float] = {}
    updates = config.updates_per_rollout * config.epochs_per_rollout
    if session.batch is None or session.used == updates:
        session.batch, metrics = make_batch(session)
        session.used = 0
    started = time.perf_counter()
    part = _part(session.used, config)
    rate = learning_rate(config.optim, session.step, config.steps)
    try:
        metrics |= session.updater.update(session.batch, part, rate)
    except DivergenceError as error:
        alarm = session.alarm(Alarm("diverged", session.step + 1, str(error)))
        raise DivergenceError(
            f"{alarm}; the weights are those of step {session.step}, saved with the batch in "
            f"{save(session)}"
        ) from error
    session.engine.sync()
    session.step += 1
    session.used += 1
    return metrics | {"lr": rate, "seconds/update": time.perf_counter() - started}


def _part(used: int, config: Config) -> Tensor:
    """Which rows [B] the next update takes: its share of the prompts, whole groups."""
    size = config.prompts_per_step // config.updates_per_rollout * config.sampling.group_size
    index = torch.arange(config.prompts_per_step * config.sampling.group_size)
    return index // size == used % config.updates_per_rollout


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
