"""A checkpoint is whole or it is not there."""

from __future__ import annotations

import functools
import itertools
import shutil
from pathlib import Path

import killed_fs
import models
import pytest
import torch

from grpo_train.errors import CheckpointError
from grpo_train.model.policy import Policy
from grpo_train.run import checkpoint
from grpo_train.run.checkpoint import State, list_checkpoints, read_state, save_checkpoint


class _Bare(models.FakeTokenizer):
    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


@functools.cache
def trained() -> tuple[Policy, torch.optim.Optimizer]:
    """After one update."""
    plain = models.make_policy()
    policy = Policy(plain.model, _Bare(), plain.eos_ids, plain.pad_id)
    optimizer = torch.optim.AdamW(policy.model.parameters(), fused=True)
    sum(p.square().sum() for p in policy.model.parameters()).backward()
    optimizer.step()
    return policy, optimizer


def make(
    step: int, folder: Path, *, position: int = 3, keep: int = 0
) -> tuple[Path, Policy, torch.optim.Optimizer]:
    policy, optimizer = trained()
    progress = State(step, position, 4, "r", "d")
    return save_checkpoint(folder, progress, policy, optimizer, None, keep=keep), policy, optimizer


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path, policy, optimizer = make(7, tmp_path)
    assert read_state(path) == State(7, 3, 4, "r", "d")
    again = torch.optim.AdamW(policy.model.parameters(), fused=True)
    checkpoint.restore_optimizer(path, policy, again)
    for parameter in policy.model.parameters():
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(again.state[parameter][key], value)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        make(step, tmp_path, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000002", "step-000010"]


def test_a_save_that_dies_anywhere_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """For every kill point of a save and of the recovery after it, of a new step and of the same
    step again: the newest or the one before is found, whole, and saving goes on from there."""
    for keep, new in ((1, True), (1, False), (2, True), (2, False)):
        before = tmp_path / f"before-{keep}-{new}"
        old = [make(step, before / "run", keep=keep)[0] for step in (1, 2, 3)][-1]
        wanted = [read_state(old), State(3 + new, 7, 4, "r", "d")]
        for at in itertools.count():
            folder = shutil.copytree(before, tmp_path / "cut") / "run"
            finished = killed_fs.dies(at, lambda: make(3 + new, folder, position=7, keep=keep))  # noqa: B023
            for again in itertools.count():
                if killed_fs.dies(again, lambda: checkpoint.recover(folder)):  # noqa: B023
                    break
            found = list_checkpoints(folder)
            assert read_state(found[-1]) in (wanted[1:] if finished else wanted), (at, again)
            make(5, folder, keep=keep)
            names = sorted(path.name for path in folder.iterdir())
            assert names[-1] == "step-000005" and len(names) == keep, names
            shutil.rmtree(tmp_path / "cut")
            if finished:
                break
        assert at > 15


def test_a_draft_that_is_not_whole_is_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    path, _, _ = make(1, tmp_path)
    draft = path.rename(tmp_path / ".new-step-000001")
    (draft / "state.json").unlink()
    checkpoint.recover(tmp_path)
    assert list_checkpoints(tmp_path) == []


@pytest.mark.parametrize("name", ["state.json", "optimizer.safetensors", "model/model.safetensors"])
def test_damage_is_found_and_named(tmp_path: Path, name: str) -> None:
    path, _, _ = make(1, tmp_path)
    broken = tmp_path / "broken" / path.name
    shutil.copytree(path, broken)
    data = bytearray((broken / name).read_bytes())
    data[len(data) // 2] ^= 1
    (broken / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=name):
        read_state(broken)
    (broken / name).unlink()
    with pytest.raises(CheckpointError, match="lacks"):
        read_state(broken)


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    path, _, _ = make(1, tmp_path)
    (path / checkpoint.MANIFEST).unlink()
    assert list_checkpoints(tmp_path) == []
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        read_state(path)
