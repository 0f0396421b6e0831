"""A run that is set up: everything loaded and checked before the first step, saved and resumed."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from grpo_train import distributed
from grpo_train.config import Config, Optim, config_notes, dump_config, flat_config, load_config
from grpo_train.data import HUB, Prompts, Sampler, load_prompts
from grpo_train.engines.choose import open_engine
from grpo_train.engines.native import NativeEngine
from grpo_train.errors import CheckpointError, ConfigError, DataError
from grpo_train.model.lora import add_lora
from grpo_train.model.policy import Policy, frozen_copy, load_policy
from grpo_train.objective.packing import Layout
from grpo_train.objective.update import Batch, Updater
from grpo_train.rollouts import Engine, Sampling
from grpo_train.run.alarms import Alarm, evidence
from grpo_train.run.checkpoint import (
    Progress,
    list_checkpoints,
    read_buffer,
    read_progress,
    recover,
    restore_optimizer,
    restore_weights,
    save_checkpoint,
    save_weights,
)
from grpo_train.run.evaluate import Evaluation, evaluate
from grpo_train.run.preflight import choose_checkpointing, memory_advice, memory_plan, self_test
from grpo_train.run.record import Record
from grpo_train.scoring import Moment, Scored, load_scorer, without_reward

#: Fields that a resumed run may change and still be the same run up to rounding; `steps` too, where
#: the learning rate does not depend on it.
FREE = (
    *("name", "runs", "save.", "eval.", "alarms.", "log."),
    *("device", "threads", "shard_size", "token_budget", "checkpointing", "offload"),
)
DIFF_LINES = 20  # of a changed ruleset


@dataclass(frozen=True, slots=True)
class Drawn:
    """A rollout batch as it was scored: what an alarm shows of it."""

    prompts: Prompts
    scored: Scored
    advantage: list[float]
    length: list[int]


@dataclass(slots=True)
class Session:
    """A run that is set up: what does not change, and where it stands."""

    config: Config
    policy: Policy
    reference: Policy | None
    engine: Engine
    scorer: Any
    prompts: Prompts
    data_hash: str  # of the prompts
    held_out: Prompts | None
    updater: Updater
    record: Record
    sampler: Sampler
    step: int = 0  # updates done
    saved: int = -1  # step of the newest checkpoint
    rollouts: int = 0  # calls of `generate`: each has seeds of its own
    batch: Batch | None = None
    used: int = 0  # updates made from `batch`
    mismatch: str = "off"  # correction for the engine: `loss.mismatch`, decided
    notes: list[str] = field(default_factory=list)  # of the checks before the first step
    history: list[dict[str, Any]] = field(default_factory=list)  # `metrics.jsonl` so far
    drawn: Drawn | None = None  # what the last batch was made of

    def log(self, metrics: dict[str, float]) -> None:
        """Metrics of the step that was just made."""
        self.history.append(self.record.metrics(self.step, metrics))

    def alarm(self, alarm: Alarm) -> Alarm:
        """On record, with the rows that show it."""
        d = self.drawn
        if d is None:  # the first update after a resume in the middle of a batch
            return replace(alarm, rows=self.record.alarm(alarm.name, alarm.step, alarm.text, 0))
        rows = evidence(alarm.name, d.scored, d.length, self.config.eval.score)
        self.record.samples(
            alarm.step, d.prompts, d.scored, d.advantage, rows=rows, alarm=alarm.name
        )
        place = self.record.alarm(alarm.name, alarm.step, alarm.text, len(rows))
        return replace(alarm, rows=place)


def sampling(config: Config) -> Sampling:
    """How training completions are drawn."""
    s = config.sampling
    return Sampling(s.max_tokens, s.temperature, s.top_k, s.top_p)


def open_session(config: Config, folder: Path | None = None) -> Session:
    """Everything loaded and checked, before the first step. `folder` None makes no run folder."""
    if config.threads:
        torch.set_num_threads(config.threads)
    device = distributed.join_processes(config.device)
    scorer = load_scorer(config.reward)
    policy = _policy(config, device)
    prompts = load_prompts(config.data.train, config.data, policy)
    held_out = None
    if config.data.eval:
        held_out = load_prompts(config.data.eval, config.data, policy, limit=config.eval.limit)
    notes = _check_rewards(scorer, prompts)
    longest = max(map(len, prompts.ids))
    policy = choose_checkpointing(config, policy, longest)
    where = folder or Path(config.runs) / config.name
    engine = open_engine(config, policy, where, longest)
    mismatch = config.loss.mismatch
    if mismatch == "auto":
        mismatch = "truncate" if engine.copies else "off"
    checked = self_test(policy, engine, prompts.ids, sampling(config))
    plan = memory_plan(config, policy, longest)
    notes += [*config_notes(config), str(checked), memory_advice(plan, policy)]
    if prompts.skipped:
        notes.append(f"{prompts.skipped} prompts are longer than `data.max_prompt_tokens`")
    reference = frozen_copy(policy) if config.loss.kl_coef else None
    distributed.shard(policy.model, config.shard_size)
    return Session(
        config=config,
        policy=policy,
        reference=reference,
        engine=checked.engine,
        scorer=scorer,
        prompts=prompts,
        data_hash=prompts.digest(),
        held_out=held_out,
        updater=_updater(config, policy, layout=checked.layout),
        record=Record(where),
        sampler=Sampler(len(prompts), seed=config.seed),
        notes=notes,
        mismatch=mismatch,
    )


def export(session: Session) -> None:
    """The run's result: `model/`, which any tool loads, and its adapter where it has one."""
    session.policy.save(session.record.folder / "model")
    if session.policy.adapter is not None:
        save_weights(session.policy, session.record.folder / "adapter")
    session.record.close()
    if distributed.rank() == 0:
        with contextlib.suppress(ConfigError):  # nothing that draws is installed: `show` says so
            session.record.report()


def evaluate_session(session: Session) -> Evaluation | None:
    """Held-out accuracy now, on record; None without held-out prompts."""
    if session.held_out is None:
        return None
    config = session.config
    result, _ = evaluate(
        session.engine,
        session.policy,
        session.scorer,
        session.held_out,
        Sampling(config.sampling.max_tokens, config.eval.temperature),
        samples=config.eval.samples,
        score=config.eval.score,
        seed=config.seed,
        moment=Moment(session.step, config.steps),
    )
    session.log(result.metrics())
    return result


def evaluate_run(folder: Path, *, samples: int, limit: int, model: str = "") -> Evaluation:
    """Held-out accuracy of a run's result, or of another model on the same prompts."""
    config = load_config(folder / "config.toml")
    if not config.data.eval:
        raise ConfigError(f"{folder}: no held-out prompts - at `data.eval`")
    policy = _load(config, model, config.device) if model else _result(folder, config)
    prompts = load_prompts(config.data.eval, config.data, policy, limit=limit)
    sampled = Sampling(config.sampling.max_tokens, config.eval.temperature)
    engine = NativeEngine(policy, config.sampling.max_rows)
    result, _ = evaluate(
        self_test(policy, engine, prompts.ids, sampled).engine,
        policy,
        load_scorer(config.reward),
        prompts,
        sampled,
        samples=samples,
        score=config.eval.score,
        seed=config.seed,
        moment=Moment(config.steps, config.steps),
    )
    return result


def _result(folder: Path, config: Config) -> Policy:
    """What a run left, or has reached so far."""
    if (folder / "model").is_dir():
        return _load(config, str(folder / "model"), config.device)
    found = list_checkpoints(folder / "checkpoints")
    if not found:
        raise CheckpointError(f"{folder} has neither a result nor a checkpoint")
    policy = _policy(config, config.device)
    restore_weights(found[-1], policy)
    return policy


def _load(config: Config, model: str, device: str) -> Policy:
    return load_policy(model, device=device, precision=config.precision)


def _policy(config: Config, device: str) -> Policy:
    policy = _load(config, config.model, device)
    return add_lora(policy, config.lora, config.seed) if config.lora.rank else policy


def _check_rewards(scorer: Any, prompts: Prompts) -> list[str]:
    """Columns that are missing raise; prompts that can never be rewarded are counted."""
    bad = without_reward(scorer, prompts)
    if len(bad) == len(prompts):
        raise DataError("every reward would be null: is a gold missing? - at `data.map`")
    if not bad:
        return []
    row = prompts.rows[bad[0]]
    return [f"{len(bad)} of {len(prompts)} prompts have no reward (null), the first: {row}"[:300]]


def _updater(config: Config, policy: Policy, *, layout: Layout) -> Updater:
    o, s = config.optim, config.sampling
    return Updater(
        policy,
        _optimizer(o, policy),
        config.loss,
        o,
        s.temperature,
        config.token_budget,
        s.max_tokens,
        layout,
        config.offload,
    )


def _optimizer(o: Optim, policy: Policy) -> torch.optim.Optimizer:
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    settings: Any = {"lr": o.lr, "betas": (o.beta1, o.beta2), "eps": o.eps}
    settings["weight_decay"] = o.weight_decay
    if o.kind == "adamw":
        return torch.optim.AdamW(trained, **settings, fused=True)
    if distributed.size() > 1:
        raise ConfigError("`adamw_8bit` cannot be sharded - at `optim.kind`")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(f"{error}: pip install bitsandbytes - at `optim.kind`") from error
    found: torch.optim.Optimizer = AdamW8bit(trained, **settings)
    return found


def start(config: Config) -> Session:
    """A new run, its folder made."""
    Record(Path(config.runs) / config.name).check_free()
    session = open_session(config)
    session.record.create(config, session.scorer)
    distributed.barrier()
    return session


def resume(folder: Path, overrides: Sequence[str] = (), *, force: bool = False) -> Session:
    """A run as its last whole checkpoint left it; one that never had a checkpoint starts again.

    `overrides` (`key=value`) go over the run's config. What would make it another run (config,
    ruleset, prompts) is refused with the difference, unless `force`.
    """
    config = load_config(folder / "config.toml", list(overrides))
    distributed.join_processes(config.device)  # the first one recovers, for all
    recover(folder / "checkpoints")
    found = list_checkpoints(folder / "checkpoints")
    if not found:
        if not force:
            _check_first(folder)
        return _start_again(config, folder)
    last = found[-1]
    progress = read_progress(last)
    if not force:
        same_run(last, progress, config, load_scorer(config.reward))
    session = open_session(config, folder)
    if not force and progress.data_hash != session.data_hash:
        raise CheckpointError(
            f"the prompts of `{config.data.train}` are not those of the checkpoint\n"
            "hint: --force goes on with what is there now"
        )
    restore(session, last, progress)
    session.record.restart(config, progress.step)
    session.history = session.record.read()
    return session


def _check_first(folder: Path) -> None:
    """A run that must have had a checkpoint does not start again as if it never had."""
    reached = Record(folder).reached()
    every = load_config(folder / "config.toml").save.every  # without what is said for this resume
    remains = [*(folder / "checkpoints").glob("[!.]*"), *(folder / "checkpoints").glob(".old-*")]
    if remains or 0 < every < reached:
        raise CheckpointError(
            f"{folder} has logs up to step {reached} and no whole checkpoint to go on from\n"
            "hint: bring its checkpoints/ back; --force starts again and puts the logs aside"
        )


def _start_again(config: Config, folder: Path) -> Session:
    """From step 0, with what the first try has logged kept under other names."""
    session = open_session(config, folder)
    kept = session.record.put_aside()
    session.record.restart(config, -1)
    logs = f"; the logs of its first try are now {', '.join(kept)}" if kept else ""
    session.notes.append(f"no checkpoint yet: the run starts again{logs}")
    return session


def restore(session: Session, checkpoint: Path, progress: Progress) -> None:
    """Put a session where a checkpoint stands."""
    restore_weights(checkpoint, session.policy)
    restore_optimizer(checkpoint, session.policy, session.updater.optimizer)
    session.step = session.saved = progress.step
    session.rollouts = progress.rollouts
    session.sampler.position = progress.position
    tensors = read_buffer(checkpoint)
    if tensors is not None:
        session.batch, session.used = Batch.of_tensors(tensors)
    session.engine.sync()


def same_run(checkpoint: Path, progress: Progress, config: Config, scorer: Any) -> None:
    """Refuse what would silently change the run, and show what it is."""
    before = load_config(checkpoint / "config.toml")
    if lines := changes(before, config):
        raise CheckpointError(
            "the config has changed since the checkpoint:\n  "
            + "\n  ".join(lines)
            + "\nhint: --force goes on anyway"
        )
    if progress.ruleset_hash != scorer.hash:
        old = (checkpoint / "ruleset.reward").read_text(encoding="utf-8").splitlines()
        new = str(scorer).splitlines()
        lines = list(difflib.unified_diff(old, new, "then", "now", n=0, lineterm=""))
        raise CheckpointError(
            f"the ruleset `{config.reward.ruleset}` has changed since the checkpoint:\n  "
            + "\n  ".join(lines[:DIFF_LINES])
            + "\nhint: --force goes on anyway"
        )


def changes(old: Config, new: Config) -> list[str]:
    """Fields that differ and make another run of it: `optim.lr: 0.0001 then, 0.001 now`."""
    then, now = flat_config(old), flat_config(new)
    constant = old.optim.schedule == new.optim.schedule == "constant"
    free = FREE + (("steps",) if constant else ())
    return [
        f"{name}: {then.get(name)!r} then, {now.get(name)!r} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name) and not name.startswith(free)
    ]


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
        session.scorer.hash,
        session.data_hash,
    )
    session.record.flush()
    path = save_checkpoint(
        session.record.checkpoints,
        progress,
        session.policy,
        session.updater.optimizer,
        buffer,
        files={"config.toml": dump_config(config).decode(), "ruleset.reward": str(session.scorer)},
        keep=config.save.keep,
    )
    session.saved = session.step
    return path


def check_ready(config: Config) -> None:
    """What can be known before loading a model."""
    wanted = {
        "name": config.name,
        "model": config.model,
        "data.train": config.data.train,
        "reward.ruleset": config.reward.ruleset,
    }
    if empty := [name for name, value in wanted.items() if not value]:
        names = ", ".join(f"`{name}`" for name in empty)
        raise ConfigError(
            f"nothing is said of {names}\nhint: fill in the file, or say {empty[0]}=…"
        )
    if not Path(config.reward.ruleset).is_file():
        raise ConfigError(f"`{config.reward.ruleset}` is no file - at `reward.ruleset`")
    for name, path in (("data.train", config.data.train), ("data.eval", config.data.eval)):
        if path and not path.startswith(HUB) and not Path(path).exists():
            raise ConfigError(f"`{path}` does not exist - at `{name}`")
