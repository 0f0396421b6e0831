"""A run that is set up: everything loaded and checked before the first step, saved and resumed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from grpo_train.config import Config, dump_config, load_config
from grpo_train.data import Prompts, Sampler, load_prompts
from grpo_train.errors import CheckpointError, ConfigError
from grpo_train.pack import Layout
from grpo_train.policy import Policy, frozen_copy, load_policy
from grpo_train.preflight import memory_advice, memory_plan, self_test
from grpo_train.record import Record
from grpo_train.rollout import Engine, NativeEngine, Sampling
from grpo_train.score import load_scorer
from grpo_train.state import (
    Progress,
    list_checkpoints,
    read_buffer,
    read_progress,
    restore_optimizer,
    save_checkpoint,
)
from grpo_train.update import Batch, Updater


@dataclass(slots=True)
class Session:
    """A run that is set up: what does not change, and where it stands."""

    config: Config
    policy: Policy
    reference: Policy | None
    engine: Engine
    scorer: Any
    prompts: Prompts
    held_out: Prompts | None
    updater: Updater
    record: Record
    sampler: Sampler
    step: int = 0  # updates done
    rollouts: int = 0  # calls of `generate`: each has seeds of its own
    batch: Batch | None = None
    used: int = 0  # updates made from `batch`
    notes: list[str] = field(default_factory=list)  # of the checks before the first step


def sampling(config: Config) -> Sampling:
    """How training completions are drawn."""
    s = config.sampling
    return Sampling(s.max_tokens, s.temperature, s.top_k, s.top_p)


def open_session(config: Config, folder: Path | None = None) -> Session:
    """Everything loaded and checked, before the first step. `folder` None makes no run folder."""
    if config.threads:
        torch.set_num_threads(config.threads)
    scorer = load_scorer(config.reward)
    policy = load_policy(config.model, device=config.device, checkpointing=config.checkpointing)
    prompts = load_prompts(config.data.train, config.data, policy)
    held_out = None
    if config.data.eval:
        held_out = load_prompts(config.data.eval, config.data, policy, limit=config.eval.limit)
    engine = NativeEngine(policy, config.sampling.max_rows)
    checked = self_test(policy, engine, prompts.ids, sampling(config))
    plan = memory_plan(config, policy, max(map(len, prompts.ids)))
    notes = [str(checked), memory_advice(plan, policy)]
    if prompts.skipped:
        notes.append(f"{prompts.skipped} prompts are longer than `data.max_prompt_tokens`")
    return Session(
        config=config,
        policy=policy,
        reference=frozen_copy(policy) if config.loss.kl_coef else None,
        engine=engine,
        scorer=scorer,
        prompts=prompts,
        held_out=held_out,
        updater=_updater(config, policy, layout=checked.layout),
        record=Record(folder or Path(config.runs) / config.name),
        sampler=Sampler(len(prompts), seed=config.seed),
        notes=notes,
    )


def _updater(config: Config, policy: Policy, *, layout: Layout) -> Updater:
    o = config.optim
    optimizer = torch.optim.AdamW(
        [p for p in policy.model.parameters() if p.requires_grad],
        lr=o.lr,
        betas=(o.beta1, o.beta2),
        eps=o.eps,
        weight_decay=o.weight_decay,
        fused=True,
    )
    s = config.sampling
    return Updater(
        policy, optimizer, config.loss, o, s.temperature, config.token_budget, s.max_tokens, layout
    )


def start(config: Config) -> Session:
    """A new run, its folder made."""
    session = open_session(config)
    session.record.create(config, session.scorer)
    return session


def resume(folder: Path, *, force: bool = False) -> Session:
    """A run as its last whole checkpoint left it; `force` accepts another ruleset or config."""
    config = load_config(folder / "config.toml")
    found = list_checkpoints(folder / "checkpoints")
    if not found:
        raise CheckpointError(f"{folder} has no whole checkpoint")
    progress = read_progress(found[-1])
    session = open_session(config, folder)
    session.reference = frozen_copy(session.policy) if config.loss.kl_coef else None
    saved = load_policy(str(found[-1] / "model"), device=config.device)
    session.policy.model.load_state_dict(saved.model.state_dict())
    restore_optimizer(found[-1], session.policy, session.updater.optimizer)
    if not force:
        _same_run(session, progress)
    session.step, session.rollouts = progress.step, progress.rollouts
    session.sampler.position = progress.position
    tensors = read_buffer(found[-1])
    if tensors is not None:
        session.batch, session.used = Batch.of_tensors(tensors)
    session.record.truncate(progress.step)
    return session


def _same_run(session: Session, progress: Progress) -> None:
    """Refuse what would silently change the run."""
    if progress.ruleset_hash != session.scorer.hash:
        raise CheckpointError(
            f"the ruleset `{session.config.reward.ruleset}` has changed since the checkpoint: "
            f"{progress.ruleset_hash[:12]} then, {session.scorer.hash[:12]} now\n"
            f"hint: {session.record.folder}/ruleset.reward is what it was; --force goes on anyway"
        )
    if progress.config_hash != _config_hash(session.config):
        raise CheckpointError("config.toml has changed since the checkpoint\nhint: --force goes on")


def save(session: Session) -> Path:
    """A checkpoint of the session as it stands between two updates."""
    config = session.config
    updates = config.updates_per_rollout * config.epochs_per_rollout
    half_used = session.batch is not None and session.used < updates
    buffer = session.batch.tensors(session.used) if session.batch and half_used else None
    progress = Progress(
        session.step,
        session.sampler.position,
        session.rollouts,
        _config_hash(config),
        session.scorer.hash,
    )
    return save_checkpoint(
        session.record.checkpoints,
        progress,
        session.policy,
        session.updater.optimizer,
        buffer,
        keep=config.save.keep,
    )


def _config_hash(config: Config) -> str:
    return hashlib.blake2b(dump_config(config), digest_size=16).hexdigest()


def check_ready(config: Config) -> None:
    """What can be known before loading a model."""
    if not Path(config.data.train).exists():
        raise ConfigError(f"`{config.data.train}` does not exist - at `data.train`")
