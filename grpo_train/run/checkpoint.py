"""Atomic save and exact restore: weights, optimizer, position of the data, buffered rollouts.

A checkpoint is a folder `step-000123`: `model/` in Hugging Face's layout, `optimizer.safetensors`,
`state.json`, a buffer where a rollout batch is half used, the texts of config and ruleset, and
`manifest.json`, which is written last and names every file with its size and digest. All of it is
written under another name (`.new-…`), flushed, then renamed, and a checkpoint that is to go is
renamed (`.old-…`) before it is deleted: a folder with that name is whole, whenever the power goes.
Nothing goes before the new one is on the disk under its name, and `recover` gives its name back to
a whole folder that lost its process on the way: there is no moment without a checkpoint.

No state of a random generator is saved because there is none: every completion's numbers are a hash
of (run, step, prompt, row), and the order of prompts of (run, epoch).
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
HIDDEN = ".???-step-*"  # drafts and what is being deleted


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: what `state.json` holds."""

    step: int  # updates done
    position: int  # of the prompt sampler
    rollouts: int  # rollout batches made
    ruleset_hash: str
    data_hash: str  # of the prompts and their columns, in order


def save_checkpoint(
    folder: Path,
    progress: Progress,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    buffer: dict[str, Tensor] | None,
    *,
    files: Mapping[str, str] | None = None,
    keep: int = 0,
) -> Path:
    """Write `folder/step-…`, drop all but the last `keep` (0 = none dropped), return its path.

    `files`: further texts by name.
    """
    target = folder / f"step-{progress.step:06d}"
    draft = folder / f".new-{target.name}"
    recover(folder)
    if distributed.rank() == 0:
        for left in folder.glob(HIDDEN):  # of a process that was killed; newer ones are whole
            shutil.rmtree(left)
        draft.mkdir(parents=True)
    save_weights(policy, draft / "model")
    moments = _optimizer_tensors(policy, optimizer)
    if distributed.rank() == 0:
        save_file(moments, draft / "optimizer.safetensors")
        _finish(draft, target, progress, buffer, dict(files or {}), keep)
    distributed.barrier()
    return target


def _finish(
    draft: Path,
    target: Path,
    progress: Progress,
    buffer: dict[str, Tensor] | None,
    files: dict[str, str],
    keep: int,
) -> None:
    """All but the tensors that may be sharded, then the manifest, then the name."""
    folder = target.parent
    if buffer is not None:
        save_file(buffer, draft / "buffer.safetensors")
    texts = {"state.json": json.dumps(asdict(progress), indent=1)} | files
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
    """Before it is deleted: a folder half deleted must not look like a checkpoint."""
    return checkpoint.rename(checkpoint.with_name(f".old-{checkpoint.name}"))


def recover(folder: Path) -> None:
    """Name the newest whole checkpoint again where a process died while it was being named.

    `.new-…` goes before `.old-…` of the same step, which it was about to replace.
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
    """Of `step-000123`, also under another name."""
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


def read_progress(checkpoint: Path) -> Progress:
    """Where the checkpoint stands, after checking every file of its manifest."""
    _check_manifest(checkpoint)
    try:
        return msgspec.json.decode((checkpoint / "state.json").read_bytes(), type=Progress)
    except msgspec.ValidationError as error:
        raise CheckpointError(
            f"{checkpoint}/state.json is of another version of grpo-train: {error}"
        ) from error


def save_weights(policy: Policy, folder: Path) -> None:
    """What trains: a Hugging Face directory, or an adapter in peft's format."""
    if policy.adapter is None:
        policy.save(folder)
    else:
        save_adapter(policy, folder, dict(whole_weights(policy.model)))


def restore_weights(checkpoint: Path, policy: Policy) -> None:
    """The inverse, in place."""
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
    """Put the saved moments back, each to its parameter; one that never moved has none."""
    saved: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(checkpoint / "optimizer.safetensors").items():
        name, _, part = key.rpartition("/")
        saved.setdefault(name, {})[part] = tensor
    trained = dict(_trained(policy))
    if unknown := sorted(saved.keys() - trained.keys()):
        raise CheckpointError(f"{checkpoint}/optimizer.safetensors: no parameter `{unknown[0]}`")
    for name, state in saved.items():
        parameter = trained[name]
        optimizer.state[parameter] = {
            part: _place(part, tensor, parameter, optimizer) for part, tensor in state.items()
        }


def _place(part: str, tensor: Tensor, parameter: Tensor, optimizer: torch.optim.Optimizer) -> Any:
    """A piece of state where, and as what, the optimizer keeps it."""
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
    """Moments by parameter name, flat."""
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
    """Flush every file, then name them all: a folder that has a manifest has the rest."""
    inside = sorted(draft.rglob("*"))
    files = [path for path in inside if path.is_file()]
    for path in inside:
        flush(path)
    entries = {str(path.relative_to(draft)): [path.stat().st_size, _digest(path)] for path in files}
    (draft / MANIFEST).write_text(json.dumps(entries, indent=1))
    flush(draft / MANIFEST)
    flush(draft)


def flush(path: Path) -> None:
    """To the disk itself: a rename must not overtake the data."""
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
