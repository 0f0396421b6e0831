"""Atomic save and exact restore: weights, optimizer, position of the data, buffered rollouts.

A checkpoint is a folder `step-000123`: `model/` in Hugging Face's layout, `optimizer.safetensors`,
`state.json`, a buffer where a rollout batch is half used, and `manifest.json`, which is written
last and names every file with its size and digest. All of it is written under another name,
flushed, then renamed: a folder with that name is whole, whenever the power goes.

No state of a random generator is saved because there is none: every completion's numbers are a hash
of (run, step, prompt, row), and the order of prompts of (run, epoch).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from grpo_train.errors import CheckpointError
from grpo_train.policy import Policy

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: what `state.json` holds."""

    step: int  # updates done
    position: int  # of the prompt sampler
    rollouts: int  # rollout batches made
    config_hash: str
    ruleset_hash: str


def save_checkpoint(
    folder: Path,
    progress: Progress,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    buffer: dict[str, Tensor] | None,
    *,
    keep: int = 0,
) -> Path:
    """Write `folder/step-…`, drop all but the last `keep` (0 = none dropped), return its path."""
    target = folder / f"step-{progress.step:06d}"
    if (target / MANIFEST).exists():
        return target
    draft = folder / f".{target.name}.{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    policy.save(draft / "model")
    save_file(_optimizer_tensors(policy, optimizer), draft / "optimizer.safetensors")
    if buffer is not None:
        save_file(buffer, draft / "buffer.safetensors")
    (draft / "state.json").write_text(json.dumps(asdict(progress), indent=1))
    _write_manifest(draft)
    shutil.rmtree(target, ignore_errors=True)  # an older try without a manifest
    draft.rename(target)
    _flush(folder)
    for old in list_checkpoints(folder)[: -keep or None] if keep else []:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = (path for path in folder.glob("step-*") if (path / MANIFEST).exists())
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def read_progress(checkpoint: Path) -> Progress:
    """Where the checkpoint stands, after checking every file of its manifest."""
    _check_manifest(checkpoint)
    return Progress(**json.loads((checkpoint / "state.json").read_text()))


def restore_optimizer(checkpoint: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Put the saved moments back; every trained parameter must have its own."""
    saved = load_file(checkpoint / "optimizer.safetensors")
    for name, parameter in _trained(policy):
        if not any(key.startswith(f"{name}/") for key in saved):
            if saved:
                raise CheckpointError(f"{checkpoint}/optimizer.safetensors lacks `{name}`")
            continue  # saved before the first update
        state: dict[str, Any] = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            tensor = saved[f"{name}/{key}"]
            # A step counter stays where the optimizer makes it.
            state[key] = (
                tensor.to(parameter.device) if key != "step" or _fused(optimizer) else tensor
            )
        optimizer.state[parameter] = state


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
    return {
        f"{name}/{key}": value.contiguous()
        for name, parameter in _trained(policy)
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _write_manifest(draft: Path) -> None:
    """Flush every file, then name them all."""
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    entries = {str(path.relative_to(draft)): [path.stat().st_size, _digest(path)] for path in files}
    (draft / MANIFEST).write_text(json.dumps(entries, indent=1))
    for path in [*files, draft / MANIFEST, draft / "model", draft]:
        _flush(path)


def _flush(path: Path) -> None:
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
