"""Several processes, one run: `torchrun --nproc-per-node 8 --no-python grpo-train run CONFIG`.

Every process samples and scores its share of the prompts, in whole groups. The results are
gathered, so each process knows the whole batch, and advantages and token weights are the same as in
a run of one process. Then each computes the gradient of its
share of the rows, balanced by tokens, and the sum over processes is the step's gradient. Weights,
gradients and moments are sharded by FSDP2.

In a run of one process every function here does nothing, or returns its argument.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from grpo_train.errors import ConfigError

T = TypeVar("T")
TRUNK = "grpo_trunk"  # what `Policy.hidden` calls where weights are sharded


def join_processes(device: str) -> str:
    """Join the other processes that torchrun started; the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    cuda = device != "cpu" and torch.cuda.is_available()
    if not dist.is_initialized():
        # Whole batches are on the CPU, gradients on the GPU: each has a backend of its own.
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    if not cuda:
        return "cpu"
    local = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def leave_processes() -> None:
    """Leave the group together at a normal end: a process that leaves early aborts the others."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def size() -> int:
    """Processes of the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(count: int) -> range:
    """This process's part of `count` things in order."""
    return range(count * rank() // size(), count * (rank() + 1) // size())


def gather(value: T) -> list[T]:
    """The value of every process, in order of rank."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    dist.all_gather_object(found, value)
    return found


def barrier() -> None:
    """Wait for the others."""
    if size() > 1:
        dist.barrier()


def total(tensor: Tensor) -> Tensor:
    """Sum over processes, in place."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


def balanced(costs: Sequence[float]) -> list[int]:
    """Indices of this process's share of some work, so that all have about the same to do.

    The next most costly thing goes to the process with least. All processes agree on the answer.
    """
    load = [0.0] * size()
    mine = []
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = load.index(min(load))
        load[least] += costs[i]
        if least == rank():
            mine.append(i)
    return sorted(mine)


def my_rows(length: Tensor, keep: Tensor, group_size: int) -> Tensor:
    """Rows [B] of `keep` that this process computes: whole groups."""
    if size() == 1:
        return keep
    cost = (length * keep).view(-1, group_size).sum(1).tolist()
    mine = torch.zeros(len(cost), dtype=torch.bool)
    mine[balanced(cost)] = True
    return keep & mine.repeat_interleave(group_size)


def trunk(model: Any) -> Any:
    """The part of a model that makes hidden states: all but its output layer."""
    base = model.base_model
    return base if base is not model else getattr(model, "model", model)  # Llama 4 names another


def shard(model: Any, shard_size: int) -> None:
    """FSDP2 over all processes, or over `shard_size` of them with copies over the rest."""
    if size() == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    part = shard_size or size()
    if size() % part:
        raise ConfigError(f"{size()} processes do not split into {part} - at `shard_size`")
    kind = next(model.parameters()).device.type
    names = ("replicate", "shard")
    mesh = init_device_mesh(kind, (size() // part, part), mesh_dim_names=names)
    for module in list(model.modules()):
        if type(module).__name__ in (model._no_split_modules or ()):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    # Its hooks run around forward methods only, and the head is not part of ours.
    setattr(model, TRUNK, lambda **inputs: trunk(model)(**inputs))
    register_fsdp_forward_method(model, TRUNK)


@contextlib.contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Within, all weights are whole: processes may make different numbers of forward passes."""
    if size() == 1:
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not parts:
        yield
        return
    model.set_reshard_after_forward(False)
    with torch.no_grad():
        for module in parts:
            module.unshard()
    try:
        yield
    finally:
        for module in parts:
            module.reshard()
        model.set_reshard_after_forward(True)
        model.set_reshard_after_forward(False, recurse=False)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, on the CPU; every process must call. Others are unchanged."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full().cpu()


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a whole tensor, as the parameter is sharded."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    tensor = tensor.to(parameter.device)
    if not isinstance(parameter, DTensor) or tensor.ndim == 0:
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
