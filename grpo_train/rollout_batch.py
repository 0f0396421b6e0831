"""prompts → completions → reward → advantage: the batch that the next updates learn from."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from grpo_train.config import Config
from grpo_train.data import Prompts
from grpo_train.objective import loss as losses
from grpo_train.objective.advantage import METHODS, Groups, centered, has_signal, overlong
from grpo_train.objective.update import Batch
from grpo_train.rollouts import Rollouts, join_rollouts, row_seeds
from grpo_train.run.preflight import COPY_TOLERANCE
from grpo_train.scoring import Moment, Scored, sample_and_score
from grpo_train.session import Drawn, Session, sampling

#: The largest rounding error of a token's logprob, in nats, by the dtype of matrix products.
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.1}


def make_batch(session: Session) -> tuple[Batch, dict[str, float]]:
    """A rollout batch, ready for its updates, and its metrics.

    prompts [P] → completions [B = P·G] → reward [B] → advantage [B], with the logprobs [N] of the
    completions' tokens under the policy that sampled them and under the reference.
    """
    config, progress = session.config, session.progress
    began = time.perf_counter()
    prompts, rollouts, scored, spent = sample_batch(session)
    reward = torch.from_numpy(scored.reward.copy())
    if config.advantage.overlong_tokens:
        limit = config.sampling.max_tokens
        reward += overlong(rollouts.length, limit=limit, cache=config.advantage.overlong_tokens)
    valid = ~torch.isnan(reward)
    # Whether rewards tie is asked before the KL is taken off: after it, none are quite the same.
    signal = has_signal(reward.view(-1, rollouts.group_size))

    ref = None
    if session.reference is not None:
        ref = session.updater.logprobs(session.reference, rollouts, valid)
    kl_in_reward = ref is not None and config.loss.kl_in == "reward"
    if ref is not None and kl_in_reward:
        row = torch.repeat_interleave(torch.arange(len(rollouts)), rollouts.length)
        penalty = losses.kl_penalty(rollouts.old_logprobs, ref, row, len(rollouts))
        reward -= config.loss.kl_coef * penalty
    advantage = _advantages(reward, rollouts, scored, config)
    if kl_in_reward:
        teaches = signal.repeat_interleave(rollouts.group_size)
        advantage = torch.where(teaches, advantage, _kl_alone(reward, rollouts, session))
    if config.loss.mask_truncated:
        valid &= rollouts.stopped

    # The engine's own logprobs are those of sampling, unless it is not quite the trainer.
    old, weight = rollouts.old_logprobs, torch.ones(len(rollouts.ids))
    mismatch: dict[str, float] = {}
    if session.mismatch != "off":
        old, entropy = session.updater.measure(session.policy, rollouts, valid, with_entropy=True)
        rollouts = replace(rollouts, entropy=entropy)
        weight = _mismatch(old, rollouts, config, session.mismatch)
        mismatch = _mismatch_metrics(old, weight, rollouts, valid)
    if config.loss.top_entropy < 1:
        weight = weight * losses.top_entropy_mask(rollouts.entropy, config.loss.top_entropy)

    progress.drawn = Drawn(prompts, scored, advantage.tolist(), rollouts.length.tolist())
    session.record.samples(progress.step + 1, prompts, scored, progress.drawn.advantage)
    metrics = _batch_metrics(reward, signal, rollouts, scored) | spent | mismatch
    metrics["tokens_per_s"] = len(rollouts.ids) / (time.perf_counter() - began)
    return Batch(rollouts, advantage.float(), valid, old, weight, ref), metrics


def sample_batch(session: Session) -> tuple[Prompts, Rollouts, Scored, dict[str, float]]:
    """A rollout batch; groups without signal are replaced `config.resample` times at most."""
    config = session.config
    prompts, rollouts, scored, spent = _sample_once(session, config.prompts_per_step)
    for _ in range(config.resample):
        signal = has_signal(torch.from_numpy(scored.reward).view(len(prompts), -1)).tolist()
        dead = signal.count(False)
        if not dead:
            break
        alive = [p for p, good in enumerate(signal) if good]
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
    """The next `count` prompts with their completions and scores."""
    config, progress = session.config, session.progress
    prompts = session.prompts.pick(progress.sampler.take(count))
    group_size = config.sampling.group_size
    seeds = row_seeds(config.seed, progress.rollouts, torch.arange(count * group_size))
    progress.rollouts += 1
    rollouts, scored, spent = sample_and_score(
        session.engine,
        session.scorer,
        session.policy,
        prompts,
        sampling(config),
        seeds,
        Moment(progress.step, config.steps),
    )
    return prompts, rollouts, scored, spent


def _advantages(reward: Tensor, rollouts: Rollouts, scored: Scored, config: Config) -> Tensor:
    """[B] float64, by the method of the config."""
    grouped = reward.view(-1, rollouts.group_size)
    scores = {n: torch.from_numpy(s.copy()).view_as(grouped) for n, s in scored.scores.items()}
    groups = Groups(grouped, rollouts.length.view_as(grouped), scores, config.advantage)
    return METHODS[config.advantage.method](groups).view(-1)


def _kl_alone(reward: Tensor, rollouts: Rollouts, session: Session) -> Tensor:
    """Advantages [B] float64 of groups whose rewards differ by their KL only: r − mean.

    That holds for every method: divided by its own spread, the KL would be as loud there as a right
    answer; undivided it keeps its weight. A difference that the rounding of logprobs explains is 0;
    the errors of a completion's tokens add up like the steps of a random walk, hence the root.
    """
    bound = ROUNDING.get(session.policy.compute, ROUNDING[torch.float32])
    if session.engine.copies:
        bound = max(bound, COPY_TOLERANCE)
    noise = session.config.loss.kl_coef * bound * math.sqrt(int(rollouts.length.max()))
    return centered(reward.view(-1, rollouts.group_size), noise=noise).view(-1)


def _mismatch(old: Tensor, rollouts: Rollouts, config: Config, how: str) -> Tensor:
    """Weights [N] that correct for an engine whose logprobs are not the trainer's."""
    c = config.loss
    row = torch.repeat_interleave(torch.arange(len(rollouts)), rollouts.length)
    return losses.mismatch_weight(
        old,
        rollouts.old_logprobs,
        row,
        len(rollouts),
        level=c.mismatch_level,
        how="mask" if how == "mask" else "truncate",
        low=c.mismatch_low,
        high=c.mismatch_high,
    )


def _mismatch_metrics(
    old: Tensor, weight: Tensor, rollouts: Rollouts, valid: Tensor
) -> dict[str, float]:
    """How far the engine's logprobs are from the trainer's, over the rows that count."""
    here = valid.repeat_interleave(rollouts.length)
    if not bool(here.any()):
        return {}
    apart = (rollouts.old_logprobs - old)[here]  # log of sampler / trainer, under the sampler
    return {
        "mismatch/gap": float(apart.abs().mean()),
        "mismatch/max": float(apart.abs().max()),
        "mismatch/kl": float(apart.mean()),
        "mismatch/weight": float(weight[here].mean()),
    }


def _batch_metrics(
    reward: Tensor, signal: Tensor, rollouts: Rollouts, scored: Scored
) -> dict[str, float]:
    """What is logged of a rollout batch before its first update."""
    present = reward[~torch.isnan(reward)].numpy()
    found = {
        "reward": float(np.mean(present)) if len(present) else float("nan"),
        "reward_std": float(np.std(present)) if len(present) else float("nan"),
        "null": float(torch.isnan(reward).double().mean()),
        "errors": scored.errors(),
        "signal": float(signal.double().mean()),
        "length": float(rollouts.length.double().mean()),
        "truncated": float((~rollouts.stopped).double().mean()),
        "entropy": float(rollouts.entropy.double().mean()),
        "tokens": float(len(rollouts.ids)),
    }
    found |= {f"score/{name}": value for name, value in scored.means().items()}
    return found | {f"spread/{name}": value for name, value in scored.spreads().items()}
