"""A checkpoint is whole or it is not there."""

from __future__ import annotations

import shutil
from pathlib import Path

import models
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_train.errors import CheckpointError
from grpo_train.model.policy import Policy
from grpo_train.run import checkpoint
from grpo_train.run.checkpoint import Progress, list_checkpoints, read_progress, save_checkpoint


class _Bare(models.FakeTokenizer):
    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


def make(step: int, folder: Path, *, keep: int = 0) -> tuple[Path, Policy, torch.optim.Optimizer]:
    plain = models.make_policy()
    policy = Policy(plain.model, _Bare(), plain.eos_ids, plain.pad_id)
    optimizer = torch.optim.AdamW(policy.model.parameters(), fused=True)
    sum(p.square().sum() for p in policy.model.parameters()).backward()
    optimizer.step()
    progress = Progress(step, 3, 4, "r", "d")
    return save_checkpoint(folder, progress, policy, optimizer, None, keep=keep), policy, optimizer


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path, policy, optimizer = make(7, tmp_path)
    assert read_progress(path) == Progress(7, 3, 4, "r", "d")
    again = torch.optim.AdamW(policy.model.parameters(), fused=True)
    checkpoint.restore_optimizer(path, policy, again)
    for parameter in policy.model.parameters():
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(again.state[parameter][key], value)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        make(step, tmp_path, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000002", "step-000010"]


@settings(max_examples=10)
@given(st.integers(0, 30))
def test_a_save_that_dies_anywhere_leaves_the_last_one(moment: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(1, folder)
        real, calls = checkpoint._flush, []

        def die(path: Path) -> None:
            calls.append(path)
            if len(calls) > moment:
                raise KeyboardInterrupt
            real(path)

        checkpoint._flush = die
        try:
            make(2, folder)
        except KeyboardInterrupt:
            pass
        finally:
            checkpoint._flush = real
        found = list_checkpoints(folder)
        assert found
        assert [read_progress(path).step for path in found] in ([1], [1, 2])
        make(2, folder)  # and saving again works
        assert read_progress(list_checkpoints(folder)[-1]).step == 2


@pytest.mark.parametrize("name", ["state.json", "optimizer.safetensors", "model/model.safetensors"])
def test_damage_is_found_and_named(tmp_path: Path, name: str) -> None:
    path, _, _ = make(1, tmp_path)
    broken = tmp_path / "broken" / path.name
    shutil.copytree(path, broken)
    data = bytearray((broken / name).read_bytes())
    data[len(data) // 2] ^= 1
    (broken / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=name):
        read_progress(broken)
    (broken / name).unlink()
    with pytest.raises(CheckpointError, match="lacks"):
        read_progress(broken)


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    path, _, _ = make(1, tmp_path)
    (path / checkpoint.MANIFEST).unlink()
    assert list_checkpoints(tmp_path) == []
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        read_progress(path)
