"""Checkpoints: saved atomically, restored exactly.

A checkpoint is a folder `step-000123`: `model/` in Hugging Face's layout, `optimizer.safetensors`,
`state.json`, a buffer if a rollout batch is half used, the texts of config and ruleset, and
`manifest.json`, which is written last and lists every file with its size and digest. A checkpoint
is written under another name (`.new-…`), flushed to the disk and then renamed; one that is deleted
is renamed first (`.old-…`). So a folder named `step-…` is whole, even after a power cut. No old
checkpoint is deleted before the new one is on the disk under its name, and `recover` gives its name
to a whole folder whose process died in between: there is never a moment without a checkpoint.

No random state is saved because there is none: the random numbers of a completion are a hash of
(run, step, prompt, row), the order of prompts is one of (run, epoch).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from grpo_train import distributed
from grpo_train.errors import CheckpointError
from grpo_train.model.lora import load_adapter, save_adapter
from grpo_train.model.policy import Policy, load_policy, whole_weights

MANIFEST = "manifest.json"
HIDDEN = ".???-step-*"  # `.new-…`: being written; `.old-…`: being deleted


@dataclass(frozen=True, slots=True)
class State:
    """The numbers of a checkpoint, in `state.json`: where the run stood, and with what data."""

    step: int  # updates done
    position: int  # of the prompt sampler
    rollouts: int  # rollout batches made
    ruleset_hash: str
    data_hash: str  # of the prompts and their columns, in order


def save_checkpoint(
    folder: Path,
    state: State,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    buffer: dict[str, Tensor] | None,
    *,
    files: Mapping[str, str] | None = None,
    keep: int = 0,
) -> Path:
    """Write `folder/step-…` and return its path; only the last `keep` stay, 0 = all.

    `files` are further texts by name.
    """
    target = folder / f"step-{state.step:06d}"
    draft = folder / f".new-{target.name}"
    recover(folder)
    if distributed.rank() == 0:
        for left in folder.glob(
            HIDDEN
        ):  # left by a process that was killed; `recover` has saved any that matter
            shutil.rmtree(left)
        draft.mkdir(parents=True)
    save_weights(policy, draft / "model")
    moments = _optimizer_tensors(policy, optimizer)
    if distributed.rank() == 0:
        save_file(moments, draft / "optimizer.safetensors")
        _finish(draft, target, state, buffer, dict(files or {}), keep)
    distributed.barrier()
    return target


def _finish(
    draft: Path,
    target: Path,
    state: State,
    buffer: dict[str, Tensor] | None,
    files: dict[str, str],
    keep: int,
) -> None:
    """Write all that is not sharded, then the manifest, then give the folder its name."""
    folder = target.parent
    if buffer is not None:
        save_file(buffer, draft / "buffer.safetensors")
    texts = {"state.json": json.dumps(asdict(state), indent=1)} | files
    for name, text in texts.items():
        (draft / name).write_text(text, encoding="utf-8")
    _write_manifest(draft)
    gone = [_take_name(target)] if target.exists() else []
    draft.rename(target)
    flush(folder)
    flush(folder.parent)
    gone += map(_take_name, list_checkpoints(folder)[:-keep] if keep else [])
    for old in gone:
        shutil.rmtree(old)


def _take_name(checkpoint: Path) -> Path:
    """Rename a checkpoint that will be deleted: a half-deleted one must not look whole."""
    return checkpoint.rename(checkpoint.with_name(f".old-{checkpoint.name}"))


def recover(folder: Path) -> None:
    """Give the newest whole checkpoint its name, if a process died while renaming it.

    `.new-…` is preferred to the `.old-…` of the same step, which it was about to replace.
    """
    if distributed.rank() == 0:
        newest = max(map(_step, list_checkpoints(folder)), default=-1)
        for path in sorted(folder.glob(HIDDEN), key=lambda path: (-_step(path), path.name)):
            target = path.with_name(path.name[len(".new-") :])
            if _step(path) > newest and not target.exists() and _is_whole(path):
                path.rename(target)
                flush(folder)
                break
    distributed.barrier()


def _step(checkpoint: Path) -> int:
    """The number in `step-000123`, also with a prefix."""
    return int(checkpoint.name.rpartition("-")[2])


def _is_whole(checkpoint: Path) -> bool:
    try:
        _check_manifest(checkpoint)
    except CheckpointError:
        return False
    return True


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = (path for path in folder.glob("step-*") if (path / MANIFEST).exists())
    return sorted(found, key=_step)


def read_state(checkpoint: Path) -> State:
    """The state in a checkpoint, after a check of every file in its manifest."""
    _check_manifest(checkpoint)
    try:
        return msgspec.json.decode((checkpoint / "state.json").read_bytes(), type=State)
    except msgspec.ValidationError as error:
        raise CheckpointError(
            f"{checkpoint}/state.json is of another version of grpo-train: {error}"
        ) from error


def save_weights(policy: Policy, folder: Path) -> None:
    """Save the weights that train: a Hugging Face directory, or an adapter in peft's format."""
    if policy.adapter is None:
        policy.save(folder)
    else:
        save_adapter(policy, folder, dict(whole_weights(policy.model)))


def restore_weights(checkpoint: Path, policy: Policy) -> None:
    """The inverse of `save_weights`, in place."""
    if policy.adapter is None:
        saved = load_policy(str(checkpoint / "model"), device="cpu").model.state_dict()
    else:
        saved = load_adapter(checkpoint / "model")
    own = policy.model.state_dict()
    unknown = sorted(saved.keys() - own.keys())
    parts = {name: distributed.shard_like(t, own[name]) for name, t in saved.items() if name in own}
    policy.model.load_state_dict(parts, strict=policy.adapter is None)
    if unknown:
        raise CheckpointError(f"{checkpoint}/model: no layer for `{unknown[0]}`")


def restore_optimizer(checkpoint: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter its saved moments; one that was never updated has none."""
    saved: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(checkpoint / "optimizer.safetensors").items():
        name, _, part = key.rpartition("/")
        saved.setdefault(name, {})[part] = tensor
    trained = dict(_trained(policy))
    if unknown := sorted(saved.keys() - trained.keys()):
        raise CheckpointError(f"{checkpoint}/optimizer.safetensors: no parameter `{unknown[0]}`")
    for name, moments in saved.items():
        parameter = trained[name]
        optimizer.state[parameter] = {
            part: _place(part, tensor, parameter, optimizer) for part, tensor in moments.items()
        }


def _place(part: str, tensor: Tensor, parameter: Tensor, optimizer: torch.optim.Optimizer) -> Any:
    """A part of the optimizer's state, of the type and on the device that it expects."""
    if tensor.dtype == torch.int64 and not tensor.ndim:
        return int(tensor)  # bitsandbytes counts steps in Python
    if part == "step" and not _fused(optimizer):
        return tensor
    if tensor.shape != parameter.shape:
        return tensor.to(parameter.device)
    return distributed.shard_like(tensor, parameter)


def read_buffer(checkpoint: Path) -> dict[str, Tensor] | None:
    """The half-used rollout batch, if there was one."""
    path = checkpoint / "buffer.safetensors"
    return load_file(path) if path.exists() else None


def _trained(policy: Policy) -> list[tuple[str, Tensor]]:
    return [(n, p) for n, p in policy.model.named_parameters() if p.requires_grad]


def _fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.defaults.get("fused"))


def _optimizer_tensors(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments by `parameter/part`, as safetensors holds them."""
    # Cloned: bitsandbytes shares a table between parameters, which safetensors refuses.
    return {
        f"{name}/{key}": distributed.whole(torch.as_tensor(value)).detach().clone().contiguous()
        for name, parameter in _trained(policy)
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, (Tensor, int))
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _write_manifest(draft: Path) -> None:
    """Flush every file, then list them: a folder with a manifest has all the others."""
    inside = sorted(draft.rglob("*"))
    files = [path for path in inside if path.is_file()]
    for path in inside:
        flush(path)
    entries = {str(path.relative_to(draft)): [path.stat().st_size, _digest(path)] for path in files}
    (draft / MANIFEST).write_text(json.dumps(entries, indent=1))
    flush(draft / MANIFEST)
    flush(draft)


def flush(path: Path) -> None:
    """Force a file or folder to the disk, so that a rename cannot overtake its data."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_manifest(checkpoint: Path) -> None:
    try:
        entries = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint} is not a whole checkpoint: {MANIFEST}: {error}"
        ) from error
    for name, (size, digest) in entries.items():
        path = checkpoint / name
        if not path.exists():
            raise CheckpointError(f"{checkpoint} lacks {name}")
        if path.stat().st_size != size or _digest(path) != digest:
            raise CheckpointError(f"{checkpoint}/{name} is not what was saved")
