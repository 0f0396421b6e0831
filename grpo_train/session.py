"""Setting a run up, saving it and resuming it; all is loaded and checked before the first step."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from grpo_train import distributed
from grpo_train.config import Config, Optim, config_notes, load_config
from grpo_train.config_text import dump_config, flat_config
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
    State,
    list_checkpoints,
    read_buffer,
    read_state,
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

#: Fields, or starts of their names, that may change in a resumed run: it stays the same up to
#: rounding. So may `steps`, where the learning rate does not depend on it.
FREE = (
    *("name", "runs", "save.", "eval.", "alarms.", "log."),
    *("device", "threads", "shard_size", "token_budget", "checkpointing", "offload"),
)
DIFF_LINES = 20  # shown of a ruleset that has changed


@dataclass(frozen=True, slots=True)
class Drawn:
    """The last rollout batch as it was scored, from which an alarm shows rows."""

    prompts: Prompts
    scored: Scored
    advantage: list[float]
    length: list[int]


@dataclass(slots=True)
class Progress:
    """Where a run stands: all that changes from step to step but weights and moments."""

    sampler: Sampler  # the prompts to come
    step: int = 0  # updates done
    saved: int = -1  # step of the newest checkpoint
    rollouts: int = 0  # calls of `generate`: each has seeds of its own
    batch: Batch | None = None
    used: int = 0  # updates made from `batch`
    history: list[dict[str, Any]] = field(default_factory=list)  # `metrics.jsonl` so far
    drawn: Drawn | None = None  # what the last batch was made of


@dataclass(frozen=True, slots=True)
class Session:
    """A run that is set up: what stays the same while it trains, and its progress."""

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
    progress: Progress
    mismatch: str  # correction for the engine: `loss.mismatch`, decided
    notes: list[str]  # of the checks before the first step

    def log(self, metrics: dict[str, float]) -> None:
        """Record the metrics of the step that was just made."""
        row = self.record.metrics(self.progress.step, metrics)
        self.progress.history.append(row)

    def alarm(self, alarm: Alarm) -> Alarm:
        """Record an alarm with the rows that show it; the alarm with their place in the log."""
        drawn = self.progress.drawn
        if drawn is None:  # the first update after a resume in the middle of a batch
            return replace(alarm, rows=self.record.alarm(alarm.name, alarm.step, alarm.text, 0))
        rows = evidence(alarm.name, drawn.scored, drawn.length, self.config.eval.score)
        self.record.samples(
            alarm.step,
            drawn.prompts,
            drawn.scored,
            drawn.advantage,
            rows=rows,
            alarm=alarm.name,
        )
        place = self.record.alarm(alarm.name, alarm.step, alarm.text, len(rows))
        return replace(alarm, rows=place)


def sampling(config: Config) -> Sampling:
    """How completions are drawn in training."""
    s = config.sampling
    return Sampling(s.max_tokens, s.temperature, s.top_k, s.top_p)


def open_session(config: Config, folder: Path | None = None) -> Session:
    """A session with everything loaded and checked; nothing is written.

    `folder` is that of a run to be resumed; None takes the config's.
    """
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
        progress=Progress(Sampler(len(prompts), seed=config.seed)),
        mismatch=mismatch,
        notes=notes,
    )


def export(session: Session) -> None:
    """Write the run's result: `model/`, which any tool loads, `adapter/` if any, and a report."""
    session.policy.save(session.record.folder / "model")
    if session.policy.adapter is not None:
        save_weights(session.policy, session.record.folder / "adapter")
    session.record.close()
    if distributed.rank() == 0:
        with contextlib.suppress(ConfigError):  # no package draws charts here; `show` says so
            session.record.report()


def evaluate_session(session: Session) -> Evaluation | None:
    """Held-out accuracy now, which is also recorded; None without held-out prompts."""
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
        moment=Moment(session.progress.step, config.steps),
    )
    session.log(result.metrics())
    return result


def evaluate_run(folder: Path, *, samples: int, limit: int, model: str = "") -> Evaluation:
    """Held-out accuracy of a run's result, or of another model on the same prompts."""
    config = load_config(folder / "config.toml")
    if not config.data.eval:
        raise ConfigError(f"{folder}: the run has no held-out prompts - at `data.eval`")
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
    """The policy that a run left, or that of its last checkpoint."""
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
    """A note on prompts that can never get a reward; raises where a column is missing."""
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
    """A new run, whose folder is made."""
    Record(Path(config.runs) / config.name).check_free()
    session = open_session(config)
    session.record.create(config, session.scorer)
    distributed.barrier()
    return session


def resume(folder: Path, overrides: Sequence[str] = (), *, force: bool = False) -> Session:
    """The run of a folder as its last whole checkpoint left it; without any, it starts again.

    `overrides` (`key=value`) change the run's config. A change that makes another run of it, in
    config, ruleset or prompts, is refused and shown, unless `force` is set.
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
    state = read_state(last)
    if not force:
        same_run(last, state, config, load_scorer(config.reward))
    session = open_session(config, folder)
    if not force and state.data_hash != session.data_hash:
        raise CheckpointError(
            f"the prompts of `{config.data.train}` are not those of the checkpoint\n"
            "hint: --force goes on with what is there now"
        )
    restore(session, last, state)
    session.record.restart(config, state.step)
    session.progress.history = session.record.read()
    return session


def _check_first(folder: Path) -> None:
    """Refuse to start a run again whose checkpoints are lost."""
    reached = Record(folder).reached()
    # As the run had it, without the overrides of this resume.
    every = load_config(folder / "config.toml").save.every
    remains = [*(folder / "checkpoints").glob("[!.]*"), *(folder / "checkpoints").glob(".old-*")]
    if remains or 0 < every < reached:
        raise CheckpointError(
            f"{folder} has logs up to step {reached} and no whole checkpoint to go on from\n"
            "hint: bring its checkpoints/ back; --force starts again and puts the logs aside"
        )


def _start_again(config: Config, folder: Path) -> Session:
    """The run from step 0; logs of the first try are kept under other names."""
    session = open_session(config, folder)
    kept = session.record.put_aside()
    session.record.restart(config, -1)
    logs = f"; the logs of its first try are now {', '.join(kept)}" if kept else ""
    session.notes.append(f"no checkpoint yet: the run starts again{logs}")
    return session


def restore(session: Session, checkpoint: Path, state: State) -> None:
    """Set a session to where a checkpoint stands, in place."""
    progress = session.progress
    restore_weights(checkpoint, session.policy)
    restore_optimizer(checkpoint, session.policy, session.updater.optimizer)
    progress.step = progress.saved = state.step
    progress.rollouts = state.rollouts
    progress.sampler.position = state.position
    tensors = read_buffer(checkpoint)
    if tensors is not None:
        progress.batch, progress.used = Batch.of_tensors(tensors)
    session.engine.sync()


def same_run(checkpoint: Path, state: State, config: Config, scorer: Any) -> None:
    """Refuse a config or ruleset that would silently change the run, and show the difference."""
    before = load_config(checkpoint / "config.toml")
    if lines := changes(before, config):
        raise CheckpointError(
            "the config has changed since the checkpoint:\n  "
            + "\n  ".join(lines)
            + "\nhint: --force goes on anyway"
        )
    if state.ruleset_hash != scorer.hash:
        old = (checkpoint / "ruleset.reward").read_text(encoding="utf-8").splitlines()
        new = str(scorer).splitlines()
        lines = list(difflib.unified_diff(old, new, "then", "now", n=0, lineterm=""))
        raise CheckpointError(
            f"the ruleset `{config.reward.ruleset}` has changed since the checkpoint:\n  "
            + "\n  ".join(lines[:DIFF_LINES])
            + "\nhint: --force goes on anyway"
        )


def changes(old: Config, new: Config) -> list[str]:
    """Fields whose change makes another run: `optim.lr: 0.0001 then, 0.001 now`."""
    then, now = flat_config(old), flat_config(new)
    constant = old.optim.schedule == new.optim.schedule == "constant"
    free = FREE + (("steps",) if constant else ())
    return [
        f"{name}: {then.get(name)!r} then, {now.get(name)!r} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name) and not name.startswith(free)
    ]


def save(session: Session) -> Path:
    """Write a checkpoint of a session between two updates; its path."""
    config, progress = session.config, session.progress
    state = State(
        progress.step,
        progress.sampler.position,
        progress.rollouts,
        session.scorer.hash,
        session.data_hash,
    )
    half_used = progress.used < config.updates_per_rollout * config.epochs_per_rollout
    buffer = progress.batch.tensors(progress.used) if progress.batch and half_used else None
    session.record.flush()
    path = save_checkpoint(
        session.record.checkpoints,
        state,
        session.policy,
        session.updater.optimizer,
        buffer,
        files={"config.toml": dump_config(config).decode(), "ruleset.reward": str(session.scorer)},
        keep=config.save.keep,
    )
    progress.saved = progress.step
    return path


def check_ready(config: Config) -> None:
    """Refuse what is missing in the config or on the disk, before a model is loaded."""
    wanted = {
        "name": config.name,
        "model": config.model,
        "data.train": config.data.train,
        "reward.ruleset": config.reward.ruleset,
    }
    if empty := [name for name, value in wanted.items() if not value]:
        names = ", ".join(f"`{name}`" for name in empty)
        raise ConfigError(
            f"{names} must be set\nhint: fill in the file, or give {empty[0]}=… after it"
        )
    if not Path(config.reward.ruleset).is_file():
        raise ConfigError(f"`{config.reward.ruleset}` is no file - at `reward.ruleset`")
    for name, path in (("data.train", config.data.train), ("data.eval", config.data.eval)):
        if path and not path.startswith(HUB) and not Path(path).exists():
            raise ConfigError(f"`{path}` does not exist - at `{name}`")
