"""Laws of an update and of the loop, on a policy small enough for a test."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import models
import msgspec
import pytest
import tiny_run
import torch
from conftest import ROOT
from torch import Tensor

from grpo_train import rollout_batch as batch_module
from grpo_train.config import Config, Loss, Optim
from grpo_train.engines.native import NativeEngine
from grpo_train.errors import CheckpointError, ConfigError, DivergenceError
from grpo_train.model.policy import Policy, load_policy, wrap
from grpo_train.objective import update as update_module
from grpo_train.objective.advantage import group_advantages
from grpo_train.objective.update import Batch, Updater
from grpo_train.rollout_batch import sample_batch
from grpo_train.rollouts import Sampling, row_seeds
from grpo_train.session import Session, evaluate_session, resume, save, start
from grpo_train.train import train, train_step

ALL = torch.ones(12).bool()


def weights(policy: Policy) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in policy.model.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def make_batch(policy: Policy, **changes: Any) -> Batch:
    """Three groups of four, advantages of both signs."""
    prompts, seeds = [[5, 6, 7], [20], [30] * 6], row_seeds(0, torch.arange(12))
    rollouts = NativeEngine(policy).generate(prompts, 4, Sampling(10), seeds)
    advantage = torch.linspace(-1, 1, 12)
    ones = torch.ones(len(rollouts.ids))
    fields: dict[str, Any] = {
        "rollouts": rollouts,
        "advantage": advantage,
        "valid": ALL,
        "old_logprobs": rollouts.old_logprobs,
        "token_weight": ones,
        "ref_logprobs": None,
    }
    return Batch(**(fields | changes))


def updater(policy: Policy, *, budget: int = 10_000, **loss: Any) -> Updater:
    optimizer = torch.optim.AdamW(policy.model.parameters(), weight_decay=0.1)
    optim = Optim(max_grad_norm=0.0)
    return Updater(policy, optimizer, Loss(**loss), optim, 1.0, budget, 10)


def gradient(policy: Policy, batch: Batch, **options: Any) -> Tensor:
    """The gradient of one update, flat. A learning rate of 0 leaves the weights."""
    updater(policy, **options).update(batch, ALL, 0.0)
    return torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])


# -- one update ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["token", "sequence", "constant", "prompt"])
@pytest.mark.parametrize("kind", ["ppo", "cispo", "sapo"])
def test_micro_batches_add_up_to_the_step(how: str, kind: str) -> None:
    policy = models.make_policy()
    batch = make_batch(policy)
    whole = gradient(policy, batch, aggregation=how, kind=kind)
    for budget in (1, 30, 60):
        parts = gradient(policy, batch, aggregation=how, kind=kind, budget=budget)
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_the_definition() -> None:
    policy = models.make_policy()
    batch = make_batch(policy)
    ours = gradient(policy, batch)
    policy.model.zero_grad()
    texts, prompts = batch.rollouts.completion_ids(), batch.rollouts.prompt_ids
    total = sum(map(len, texts))
    for i, (text, advantage) in enumerate(zip(texts, batch.advantage.tolist(), strict=True)):
        logp = models.dense_logprobs(policy, prompts[i // 4], text)
        (-(logp * advantage).sum() / total).backward()
    dense = torch.cat([p.grad.flatten() for p in policy.model.parameters()])
    torch.testing.assert_close(ours, dense, rtol=1e-3, atol=1e-6)


def test_running_out_of_memory_changes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = models.make_policy()
    batch = make_batch(policy)
    whole = gradient(policy, batch)
    real, failed = update_module.batch_logprobs, []

    def small_memory(policy: Policy, micro: Any, **rest: Any) -> Any:
        if micro.ids.numel() > 60:
            failed.append(micro.ids.numel())
            raise torch.OutOfMemoryError
        return real(policy, micro, **rest)

    monkeypatch.setattr(update_module, "batch_logprobs", small_memory)
    torch.testing.assert_close(gradient(policy, batch), whole, rtol=1e-4, atol=1e-6)
    assert failed


def test_rows_that_teach_nothing_are_counted_but_not_computed() -> None:
    policy = models.make_policy()
    advantage = torch.linspace(-1, 1, 12)
    advantage[4:8] = 0
    batch = make_batch(policy, advantage=advantage)
    skipped = gradient(policy, batch)
    computed = gradient(policy, batch, entropy_coef=1e-30)  # a term of no weight: all rows run
    torch.testing.assert_close(skipped, computed, rtol=1e-4, atol=1e-7)
    found = updater(policy).update(batch, ALL, 0.0)
    assert found["trained_tokens"] == float(batch.rollouts.length[advantage != 0].sum())


def test_recomputing_activations_changes_no_gradient() -> None:
    policy = models.make_policy()
    batch = make_batch(policy)
    whole = gradient(policy, batch)
    thrifty = wrap(policy.model, policy.tokenizer, device="cpu").with_checkpointing()
    torch.testing.assert_close(gradient(thrifty, batch), whole, rtol=1e-5, atol=1e-7)
    again = make_batch(thrifty)  # sampling is not disturbed either
    assert again.rollouts.completion_ids() == batch.rollouts.completion_ids()


def test_activations_in_the_hosts_memory_change_no_gradient() -> None:
    policy = models.make_policy()
    batch = make_batch(policy)
    whole = gradient(policy, batch)
    thrifty = dataclasses.replace(updater(policy), offload=True)
    thrifty.update(batch, ALL, 0.0)
    found = torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])
    assert found.equal(whole)


def test_null_rows_touch_nothing() -> None:
    policy = models.make_policy()
    valid = ALL.clone()
    valid[3] = False
    batch = make_batch(policy, valid=valid)
    advantage = batch.advantage.clone()
    advantage[3] = 9
    loud = make_batch(policy, valid=valid, advantage=advantage)
    assert torch.equal(gradient(policy, batch), gradient(policy, loud))


def test_an_update_without_signal_does_not_step() -> None:
    policy = models.make_policy()
    before = weights(policy)
    made = updater(policy)
    made.update(make_batch(policy), ALL, 1e-3)  # Adam has moments now, and there is weight decay
    moved = weights(policy)
    assert not same(before, moved)
    found = made.update(make_batch(policy, advantage=torch.zeros(12)), ALL, 1e-3)
    assert same(moved, weights(policy))
    assert found["grad_norm"] == 0


def test_the_first_update_on_a_batch_is_on_policy_the_second_is_not(tmp_path: Path) -> None:
    session = start(tiny_run.make_config(tmp_path, epochs_per_rollout=2))
    rows = [train_step(session) for _ in range(4)]
    apart = [abs(row["ratio"] - 1) + abs(row["kl_old"]) for row in rows]
    assert max(apart[0::2]) < 1e-5 < 1e-4 < min(apart[1::2])


def test_on_policy_the_ratio_is_one() -> None:
    policy = models.make_policy()
    found = updater(policy).update(make_batch(policy), ALL, 0.0)
    assert abs(found["ratio"] - 1) < 1e-5
    assert found["clip_frac"] == 0


def test_a_gradient_that_is_not_finite_stops_before_the_step() -> None:
    policy = models.make_policy()
    before = weights(policy)
    batch = make_batch(policy, advantage=torch.full((12,), 1e38))
    with pytest.raises(DivergenceError, match="not finite"):
        updater(policy).update(batch, ALL, 1e-3)
    assert same(before, weights(policy))


def test_a_batch_survives_its_tensors() -> None:
    policy = models.make_policy()
    batch = make_batch(policy)
    again, used = Batch.of_tensors(batch.tensors(3))
    assert used == 3
    assert again.rollouts.prompt_ids == batch.rollouts.prompt_ids
    assert torch.equal(gradient(policy, again), gradient(policy, batch))


# -- the loop --------------------------------------------------------------------------------------


def finish(config: Config) -> Session:
    session = start(config)
    train(session)
    return session


def untimed(session: Session) -> list[dict[str, Any]]:
    """The metrics that do not depend on the clock."""
    rows = session.record.read()
    return [
        {k: v for k, v in row.items() if "seconds" not in k and k != "tokens_per_s"} for row in rows
    ]


def test_a_run_leaves_everything_it_should(tmp_path: Path) -> None:
    session = finish(tiny_run.make_config(tmp_path))
    folder = session.record.folder
    for name in ("config.toml", "ruleset.reward", "run.json", "report.html", "samples.jsonl"):
        assert (folder / name).stat().st_size > 0
    rows = session.record.read()
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 4]
    assert {"reward", "score/correct", "length", "entropy", "grad_norm", "signal"} <= set(rows[1])
    assert "eval/pass_at_1" in rows[0]
    assert any(row.get("grad_norm", 0) > 0 for row in rows)
    saved = load_policy(str(folder / "model"), device="cpu")
    assert same(weights(session.policy), weights(saved))
    assert json.loads((folder / "run.json").read_text())["ruleset_hash"] == session.scorer.hash


def test_same_seed_same_run_another_seed_another(tmp_path: Path) -> None:
    runs = [finish(tiny_run.make_config(tmp_path / str(i), seed=i // 2)) for i in range(3)]
    assert untimed(runs[0]) == untimed(runs[1])
    assert same(weights(runs[0].policy), weights(runs[1].policy))
    assert not same(weights(runs[0].policy), weights(runs[2].policy))


REUSE = {"updates_per_rollout": 2, "epochs_per_rollout": 2, "loss": {"kl_coef": 0.05}}


@pytest.mark.parametrize("changes", [{}, REUSE], ids=["on-policy", "reuse"])
def test_a_run_cut_at_every_step_is_the_run_uncut(tmp_path: Path, changes: dict[str, Any]) -> None:
    cuts = {"save": {"every": 1, "keep": 0}} | changes
    whole = finish(tiny_run.make_config(tmp_path / "whole", **cuts))
    for cut in (1, 2, 3):
        session = start(tiny_run.make_config(tmp_path / f"cut-{cut}", **cuts))
        session = dataclasses.replace(
            session, config=msgspec.structs.replace(session.config, steps=4)
        )
        assert evaluate_session(session) is not None
        for _ in range(cut):
            session.log(train_step(session))
        save(session)
        train_step(session)  # lost work, as after a kill
        again = resume(session.record.folder)
        assert again.progress.step == cut
        train(again)
        assert untimed(again) == untimed(whole)
        assert same(weights(again.policy), weights(whole.policy))


@pytest.mark.filterwarnings("ignore")  # bitsandbytes', where it finds no GPU
def test_moments_in_eight_bits_are_resumed_exactly(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    changes = {"optim": {"kind": "adamw_8bit"}, "save": {"every": 2, "keep": 0}}
    whole = finish(tiny_run.make_config(tmp_path / "whole", **changes))
    cut = start(tiny_run.make_config(tmp_path / "cut", **changes))
    for _ in range(2):
        train_step(cut)
    save(cut)
    train_step(cut)
    again = resume(cut.record.folder)
    assert again.progress.step == 2
    train(again)
    assert same(weights(again.policy), weights(whole.policy))


def test_the_same_prompts_are_answered_anew_in_every_batch(tmp_path: Path) -> None:
    session = start(tiny_run.make_config(tmp_path))
    first = sample_batch(session)[1]
    session.progress.sampler.position = 0
    again = sample_batch(session)[1]
    assert first.prompt_ids == again.prompt_ids
    assert first.completion_ids() != again.completion_ids()


def test_a_signal_saves_and_stops(tmp_path: Path) -> None:
    session = start(tiny_run.make_config(tmp_path))

    def interrupt(step: int, _: dict[str, float]) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    result = train(session, interrupt)
    assert (result.stopped, result.steps) == ("SIGTERM", 2)
    again = resume(session.record.folder)
    assert train(again).steps == 4


def test_a_signal_during_the_first_evaluation_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finish(tiny_run.make_config(tmp_path / "whole"))
    session = start(tiny_run.make_config(tmp_path / "cut"))

    def interrupted(session: Session) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate_session(session)

    with monkeypatch.context() as patch:
        patch.setattr("grpo_train.train.evaluate_session", interrupted)
        assert (train(session).steps, session.progress.step) == (0, 0)
    again = resume(session.record.folder)
    train(again)
    assert untimed(again) == untimed(whole)
    assert same(weights(again.policy), weights(whole.policy))


def test_another_ruleset_is_refused_unless_told(tmp_path: Path) -> None:
    session = finish(tiny_run.make_config(tmp_path))
    ruleset = Path(session.config.reward.ruleset)
    ruleset.write_text(ruleset.read_text().replace("< 30", "< 31"))
    with pytest.raises(CheckpointError, match="has changed since"):
        resume(session.record.folder)
    assert resume(session.record.folder, force=True).progress.step == 4


def test_another_config_is_refused_with_the_difference(tmp_path: Path) -> None:
    session = finish(tiny_run.make_config(tmp_path))
    folder = session.record.folder
    with pytest.raises(CheckpointError) as caught:
        resume(folder, ["optim.lr=0.01", "sampling.group_size=8", "save.every=7"])
    assert "optim.lr: 0.001 then, 0.01 now" in str(caught.value)
    assert "sampling.group_size: 4 then, 8 now" in str(caught.value)
    assert "save.every" not in str(caught.value)
    assert resume(folder, ["optim.lr=0.01"], force=True).config.optim.lr == 0.01


def test_a_run_is_made_longer_where_the_rate_does_not_depend_on_it(tmp_path: Path) -> None:
    changes = {"optim": {"schedule": "constant"}}
    long = finish(tiny_run.make_config(tmp_path / "long", steps=6, **changes))
    short = finish(tiny_run.make_config(tmp_path / "short", steps=4, **changes))
    longer = resume(short.record.folder, ["steps=6"])
    train(longer)
    assert same(weights(longer.policy), weights(long.policy))
    linear = finish(tiny_run.make_config(tmp_path / "linear"))
    with pytest.raises(CheckpointError, match="steps: 4 then, 6 now"):
        resume(linear.record.folder, ["steps=6"])


def test_other_prompts_are_refused(tmp_path: Path) -> None:
    session = finish(tiny_run.make_config(tmp_path))
    data = Path(session.config.data.train)
    data.write_text("\n".join(reversed(data.read_text().splitlines())))
    with pytest.raises(CheckpointError, match="prompts of"):
        resume(session.record.folder)
    assert resume(session.record.folder, force=True).progress.step == 4


def test_a_run_without_a_checkpoint_starts_again(tmp_path: Path) -> None:
    whole = finish(tiny_run.make_config(tmp_path / "whole"))
    session = start(tiny_run.make_config(tmp_path / "cut"))
    evaluate_session(session)
    session.log(train_step(session))
    again = resume(session.record.folder)
    assert again.progress.step == 0
    train(again)
    assert untimed(again) == untimed(whole)


def test_a_run_that_diverges_is_saved_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = start(tiny_run.make_config(tmp_path))
    session.log(train_step(session))
    before = weights(session.policy)

    def diverge(*_: object) -> None:
        raise DivergenceError("the gradient is not finite")

    monkeypatch.setattr(Updater, "update", diverge)
    with pytest.raises(DivergenceError, match=r"samples.jsonl:\d+-\d+; the weights .*step-000001"):
        train(session)
    assert same(before, weights(session.policy))
    assert session.record.read("alarms.jsonl")[-1]["alarm"] == "diverged"
    monkeypatch.undo()
    assert train(resume(session.record.folder)).steps == 4


def test_every_metric_is_explained_on_the_page(tmp_path: Path) -> None:
    session = finish(tiny_run.make_config(tmp_path, loss={"kl_coef": 0.1, "mismatch": "truncate"}))
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    named = set(re.findall(r"`([\w/<>…]+)`", page[page.index("## What is logged") :]))
    for name in {name for row in session.progress.history for name in row} - {"step"}:
        family = re.sub(r"^(score|spread|eval/score)/\w+", r"\1/<name>", name)
        family = re.sub(r"pass_at_(?!1\b)\d+", "pass_at_<k>", family)
        assert {family, re.sub("/.*", "/…", name)} & named, name


def test_a_folder_with_a_run_is_not_written_over(tmp_path: Path) -> None:
    config = tiny_run.make_config(tmp_path)
    finish(config)
    with pytest.raises(ConfigError, match="holds a run already"):
        start(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"kind": "gspo", "aggregation": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}},
        {"loss": {"kind": "cispo", "entropy_coef": 0.01, "top_entropy": 0.5}},
        {"loss": {"mismatch": "mask", "mask_truncated": True, "off_policy_delta": 0.5}},
        {"advantage": {"method": "opo", "overlong_tokens": 4}, "resample": 2},
        {"advantage": {"method": "pass_at_k", "k": 2}, "loss": {"kl_coef": 0.1, "kl_in": "reward"}},
        {"advantage": {"method": "gdpo", "scores": {"short": 1.0, "correct": 2.0}}},
        {"sampling": {"top_p": 0.9, "max_rows": 6}, "resample": 1, "checkpointing": "on"},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_every_setting_trains(tmp_path: Path, changes: dict[str, Any]) -> None:
    session = finish(tiny_run.make_config(tmp_path, steps=2, **changes))
    assert session.progress.step == 2
    assert all(torch.isfinite(p).all() for p in session.policy.model.parameters())


def test_gdpo_names_the_scores_that_the_ruleset_has(tmp_path: Path) -> None:
    changes = {"method": "gdpo", "scores": {"shrt": 1.0}}
    session = start(tiny_run.make_config(tmp_path, advantage=changes))
    with pytest.raises(ConfigError, match="no score `shrt`"):
        train_step(session)


def test_at_the_start_the_kl_is_zero(tmp_path: Path) -> None:
    session = start(tiny_run.make_config(tmp_path, loss={"kl_coef": 0.1}))
    assert abs(train_step(session)["kl"]) < 1e-9


def test_kl_in_the_reward_is_taken_off_before_groups_are_compared(tmp_path: Path) -> None:
    session = start(tiny_run.make_config(tmp_path, loss={"kl_coef": 0.1, "kl_in": "reward"}))
    assert session.reference is not None
    with torch.no_grad():
        for p in session.reference.model.parameters():
            p.mul_(1.1)
    batch, _ = batch_module.make_batch(session)
    assert batch.ref_logprobs is not None
    assert session.progress.drawn is not None
    gap = torch.split(batch.old_logprobs - batch.ref_logprobs, batch.rollouts.length.tolist())
    reward = torch.from_numpy(session.progress.drawn.scored.reward)
    less = (reward - 0.1 * torch.stack([g.double().sum() for g in gap])).view(-1, 4)
    ties = [len(set(group)) == 1 for group in reward.view(-1, 4).tolist()]
    assert 0 < sum(ties) < len(ties)
    for group, tied, found in zip(less, ties, batch.advantage.view(-1, 4), strict=True):
        # Where the rewards tie, the KL keeps its weight: its spread is no measure of anything.
        expected = group - group.mean() if tied else group_advantages(group, 4)
        torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-4)
    assert train_step(session)["grad_norm"] > 0


@pytest.mark.parametrize("method", ["grpo", "rloo", "batch_std", "reinforce", "maxrl", "pass_at_k"])
def test_the_rounding_of_the_kl_is_no_signal(tmp_path: Path, method: str) -> None:
    """Policy and reference are equal, their logprobs are so but for rounding."""
    loss, advantage = {"kl_coef": 0.1, "kl_in": "reward"}, {"method": method}
    config = tiny_run.make_config(tmp_path, loss=loss, advantage=advantage)
    ruleset = Path(config.reward.ruleset)
    ruleset.write_text(
        "input completion: chat\nscore correct = text.length(completion) >= 0\n"
        "reward = 0.7 * correct"
    )
    session = start(config)
    batch, metrics = batch_module.make_batch(session)
    assert batch.ref_logprobs is not None
    assert not torch.equal(batch.ref_logprobs, batch.rollouts.old_logprobs)
    assert not batch.advantage.any()
    assert metrics["signal"] == 0


def test_rewards_that_differ_by_rounding_are_no_signal(tmp_path: Path) -> None:
    """Not in advantages, not in `signal`, not in what is drawn anew, not in `spread`."""
    config = tiny_run.make_config(tmp_path, resample=1)
    Path(config.reward.ruleset).write_text(
        "input completion: chat\nlet short = text.length(completion) < 40\n"
        "score correct = 0.1 * short + 0.2 * short + 0.3 * (not short)\n"
        "reward = 0.1 * short + 0.2 * short - 0.3 * short"
    )
    session = start(config)
    batch, metrics = batch_module.make_batch(session)
    assert session.progress.drawn is not None
    assert len(set(session.progress.drawn.scored.reward.tolist())) == 2
    assert not batch.advantage.any()
    assert metrics["signal"] == metrics["spread/correct"] == 0
    assert session.progress.rollouts == 2  # all groups were drawn again


def test_masters_stay_fp32_and_in_their_place_through_a_step(tmp_path: Path) -> None:
    session = start(tiny_run.make_config(tmp_path))
    before = [(p.data_ptr(), p.dtype) for p in session.policy.model.parameters()]
    train_step(session)
    assert before == [(p.data_ptr(), p.dtype) for p in session.policy.model.parameters()]
    assert {dtype for _, dtype in before} == {torch.float32}
