"""The training loop: start reading here.

Where the defaults differ from the papers, term by term:

- advantage: GRPO's group z-score with ddof 1; groups whose rewards are all equal are exactly 0, and
  rows without a reward are left out (`advantage.py`);
- loss: the clipped surrogate with DAPO's higher upper clip, averaged over the *step's* tokens
  (DAPO), not per completion (GRPO): long completions are not discounted (`loss.py`);
- KL: none by default; with `loss.kl_coef` it is ρ·k3, whose gradient is that of the reverse KL;
- old logprobs are the engine's: it samples from the very weights that train, in the same
  precision, so there is no second forward pass and no mismatch to correct;
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
    stopped: str  # the signal or alarm that stopped it, with a checkpoint; "" = it is done


def train(
    session: Session,
    on_step: OnStep = lambda step, metrics: None,
    on_alarm: OnAlarm = lambda alarm: None,
) -> Result:
    """Run until `config.steps`, a signal or an alarm; the policy ends up in `<run>/model`."""
    config, progress, started = session.config, session.progress, time.perf_counter()
    with stop_signals() as stop:
        if progress.step == 0 and not progress.history:
            evaluate_session(session)
        while not stop.agreed() and progress.step < config.steps:
            metrics = train_step(session)
            session.log(metrics)
            on_step(progress.step, metrics)
            for alarm in raised(progress.history, config):
                on_alarm(session.alarm(alarm))
                if alarm.name in config.alarms.stop:
                    stop.because(f"alarm {alarm.name}")
            if progress.step == config.steps or _due(progress.step, config.eval.every):
                evaluate_session(session)
            if _due(progress.step, config.save.every):
                save(session)
        if progress.saved != progress.step:
            save(session)
    export(session)
    seconds = time.perf_counter() - started
    return Result(session.record.folder, progress.step, seconds, stop.reason)


def train_step(session: Session) -> dict[str, float]:
    """One step of GRPO; its metrics.

    `make_batch` samples and scores a rollout batch, where the last one is used up:
        prompts [P] → completions [B = P·G] → reward [B] → advantage A [B], relative to the group
    `update` makes one optimizer step from its share of the batch:
        logprobs now and at sampling [N tokens] → ratio ρ → loss −min(ρA, clip(ρ) A) → weights
    `sync` hands the new weights to an engine that has its own.
    """
    config, progress = session.config, session.progress
    metrics: dict[str, float] = {}
    updates = config.updates_per_rollout * config.epochs_per_rollout
    if progress.batch is None or progress.used == updates:
        progress.batch, metrics = make_batch(session)
        progress.used = 0
    started = time.perf_counter()
    part = _part(progress.used, config)
    rate = learning_rate(config.optim, progress.step, config.steps)
    try:
        metrics |= session.updater.update(progress.batch, part, rate)
    except DivergenceError as error:
        alarm = session.alarm(Alarm("diverged", progress.step + 1, str(error)))
        raise DivergenceError(
            f"{alarm}; the weights are those of step {progress.step}, saved with the batch in "
            f"{save(session)}"
        ) from error
    session.engine.sync()
    progress.step += 1
    progress.used += 1
    return metrics | {"lr": rate, "seconds/update": time.perf_counter() - started}


def _part(used: int, config: Config) -> Tensor:
    """Rows [B] bool of the next update: its share of the prompts, in whole groups."""
    size = config.prompts_per_step // config.updates_per_rollout * config.sampling.group_size
    index = torch.arange(config.prompts_per_step * config.sampling.group_size)
    return index // size == used % config.updates_per_rollout


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
