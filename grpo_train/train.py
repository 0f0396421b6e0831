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

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grpo_train import loss as losses
from grpo_train.advantage import METHODS, gdpo, has_signal, opo, overlong, pass_at_k
from grpo_train.config import Config, load_config
from grpo_train.data import Prompts, load_prompts
from grpo_train.errors import ConfigError, DivergenceError
from grpo_train.evaluate import Evaluation, evaluate
from grpo_train.policy import load_policy
from grpo_train.rollout import NativeEngine, Rollouts, Sampling, join_rollouts, row_seeds
from grpo_train.score import Scored, load_scorer, score
from grpo_train.session import Session, sampling, save
from grpo_train.state import list_checkpoints
from grpo_train.update import Batch, learning_rate

OnStep = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. `before` and `after` are None without held-out prompts."""

    folder: Path
    steps: int
    seconds: float
    before: Evaluation | None
    after: Evaluation | None
    stopped: bool  # by a signal, with a checkpoint


def train(session: Session, on_step: OnStep = lambda step, metrics: None) -> Result:
    """Run until `config.steps` or a signal; the policy ends up in `<run>/model`."""
    config, started = session.config, time.perf_counter()
    before = _evaluate(session) if session.step == 0 else None
    after: Evaluation | None = None
    with _stop_signals() as stop:
        while session.step < config.steps and not stop:
            metrics = train_step(session)
            session.record.metrics(session.step, metrics)
            on_step(session.step, metrics)
            if session.step == config.steps or _due(session.step, config.eval.every):
                after = _evaluate(session)
            if session.step == config.steps or _due(session.step, config.save.every):
                save(session)
    if stop:
        save(session)
    session.policy.save(session.record.folder / "model")
    session.record.report()
    seconds = time.perf_counter() - started
    return Result(session.record.folder, session.step, seconds, before, after, bool(stop))


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
        saved = list_checkpoints(session.record.checkpoints)
        kept = f"the last checkpoint is {saved[-1]}" if saved else "nothing was saved yet"
        raise DivergenceError(f"step {session.step + 1}: {error}; {kept}") from error
    session.engine.sync()
    session.step += 1
    session.used += 1
    return metrics | {"lr": rate, "seconds/update": time.perf_counter() - started}


def make_batch(session: Session) -> tuple[Batch, dict[str, float]]:
    """prompts → rollouts → scores → advantages."""
    config = session.config
    began = time.perf_counter()
    prompts, rollouts, scored, spent = sample_batch(session)
    reward = torch.from_numpy(scored.reward.copy())
    if config.advantage.overlong_tokens:
        limit = config.sampling.max_tokens
        reward += overlong(rollouts.length, limit=limit, cache=config.advantage.overlong_tokens)
    advantage = _advantages(reward, rollouts, scored, config)
    valid = ~torch.isnan(reward)
    if config.loss.mask_truncated:
        valid &= rollouts.stopped
    old, weight = rollouts.old_logprobs, torch.ones(len(rollouts.ids))
    if config.loss.mismatch != "off":
        old = session.updater.logprobs(session.policy, rollouts, valid)
        weight = _mismatch(old, rollouts, config)
    if config.loss.top_entropy < 1:
        weight = weight * losses.top_entropy_mask(rollouts.entropy, config.loss.top_entropy)
    ref = None
    if session.reference is not None:
        ref = session.updater.logprobs(session.reference, rollouts, valid)
    session.record.samples(session.step + 1, prompts, scored, advantage.tolist())
    metrics = _batch_metrics(reward, rollouts, scored) | spent
    metrics["tokens_per_s"] = len(rollouts.ids) / (time.perf_counter() - began)
    return Batch(rollouts, advantage.float(), valid, old, weight, ref), metrics


def sample_batch(session: Session) -> tuple[Prompts, Rollouts, Scored, dict[str, float]]:
    """A rollout batch; groups without signal are replaced `config.resample` times at most."""
    config = session.config
    prompts, rollouts, scored, spent = _sample_once(session, config.prompts_per_step)
    for _ in range(config.resample):
        signal_ = has_signal(torch.from_numpy(scored.reward).view(len(prompts), -1)).tolist()
        dead = signal_.count(False)
        if not dead:
            break
        alive = [p for p, good in enumerate(signal_) if good]
        new_prompts, new_rollouts, new_scored, more = _sample_once(session, dead)
        g = config.sampling.group_size
        rows = [p * g + i for p in alive for i in range(g)]
        scored = Scored.join([scored.take(rows), new_scored])
        prompts = Prompts.join([prompts.pick(alive), new_prompts])
        rollouts = join_rollouts([rollouts.pick(alive), new_rollouts])
        spent = {name: value + more[name] for name, value in spent.items()}
    return prompts, rollouts, scored, spent


def _sample_once(
    session: Session, count: int
) -> tuple[Prompts, Rollouts, Scored, dict[str, float]]:
    config = session.config
    prompts = session.prompts.pick(session.sampler.take(count))
    group_size = config.sampling.group_size
    seeds = row_seeds(config.seed, session.rollouts, torch.arange(count * group_size))
    session.rollouts += 1
    start = time.perf_counter()
    rollouts = session.engine.generate(prompts.ids, group_size, sampling(config), seeds)
    middle = time.perf_counter()
    scored = score(session.scorer, prompts, rollouts, session.policy, session.step)
    end = time.perf_counter()
    return (
        prompts,
        rollouts,
        scored,
        {"seconds/generate": middle - start, "seconds/score": end - middle},
    )


def _advantages(reward: Tensor, rollouts: Rollouts, scored: Scored, config: Config) -> Tensor:
    """[B] float64."""
    grouped, method = reward.view(-1, rollouts.group_size), config.advantage.method
    if method == "opo":
        return opo(grouped, rollouts.length.view_as(grouped)).view(-1)
    if method == "pass_at_k":
        return pass_at_k(grouped, k=config.advantage.k).view(-1)
    if method == "gdpo":
        weights = config.advantage.scores or dict.fromkeys(scored.scores, 1.0)
        unknown = ", ".join(f"`{name}`" for name in weights if name not in scored.scores)
        if unknown:
            raise ConfigError(f"the ruleset has no score {unknown} - at `advantage.scores`")
        columns = [torch.from_numpy(scored.scores[n].copy()).view_as(grouped) for n in weights]
        return gdpo(columns, list(weights.values())).view(-1)
    return METHODS[method](grouped).view(-1)


def _mismatch(old: Tensor, rollouts: Rollouts, config: Config) -> Tensor:
    c = config.loss
    row = torch.repeat_interleave(torch.arange(len(rollouts)), rollouts.length)
    return losses.mismatch_weight(
        old,
        rollouts.old_logprobs,
        row,
        len(rollouts),
        level=c.mismatch_level,
        how="mask" if c.mismatch == "mask" else "truncate",
        low=c.mismatch_low,
        high=c.mismatch_high,
    )


def _part(used: int, config: Config) -> Tensor:
    """Which rows [B] the next update takes: its share of the prompts, whole groups."""
    size = config.prompts_per_step // config.updates_per_rollout * config.sampling.group_size
    index = torch.arange(config.prompts_per_step * config.sampling.group_size)
    return index // size == used % config.updates_per_rollout


def _batch_metrics(reward: Tensor, rollouts: Rollouts, scored: Scored) -> dict[str, float]:
    """What a rollout batch looks like, before the update."""
    present = reward[~torch.isnan(reward)].numpy()
    groups = reward.view(-1, rollouts.group_size)
    found = {
        "reward": float(np.mean(present)) if len(present) else float("nan"),
        "reward_std": float(np.std(present)) if len(present) else float("nan"),
        "null": float(torch.isnan(reward).double().mean()),
        "signal": float(has_signal(groups).double().mean()),
        "length": float(rollouts.length.double().mean()),
        "truncated": float((~rollouts.stopped).double().mean()),
        "entropy": float(rollouts.entropy.double().mean()),
        "tokens": float(len(rollouts.ids)),
    }
    return found | {f"score/{name}": value for name, value in scored.means().items()}


def _evaluate(session: Session) -> Evaluation | None:
    """Held-out accuracy now, on record."""
    config = session.config
    if session.held_out is None:
        return None
    result, _ = evaluate(
        session.engine,
        session.policy,
        session.scorer,
        session.held_out,
        Sampling(config.sampling.max_tokens, config.eval.temperature),
        samples=config.eval.samples,
        score=config.eval.score,
        seed=config.seed,
        step=session.step,
    )
    session.record.metrics(session.step, result.metrics())
    return result


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def evaluate_run(folder: Path, *, samples: int, limit: int, model: str = "") -> Evaluation:
    """Held-out accuracy of a run's result, or of another model on the same prompts."""
    config = load_config(folder / "config.toml")
    if not config.data.eval:
        raise ConfigError(f"{folder}: no held-out prompts - at `data.eval`")
    policy = load_policy(model or str(folder / "model"), device=config.device)
    result, _ = evaluate(
        NativeEngine(policy, config.sampling.max_rows),
        policy,
        load_scorer(config.reward),
        load_prompts(config.data.eval, config.data, policy, limit=limit),
        Sampling(config.sampling.max_tokens, config.eval.temperature),
        samples=samples,
        score=config.eval.score,
        seed=config.seed,
    )
    return result


@dataclass(slots=True)
class _Stop:
    """True once a signal came."""

    signals: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.signals)


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """SIGINT and SIGTERM ask for a checkpoint after the current step; a second one is as usual."""
    stop = _Stop()
    previous: dict[int, Any] = {}

    def note(number: int, _: object) -> None:
        stop.signals.append(number)
        signal.signal(number, previous[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: the caller stops the run some other way
        pass
    try:
        yield stop
    finally:
        for received, handler in previous.items():
            signal.signal(received, handler)
