"""A decoding step on CUDA as one launch.

A step is hundreds of kernels of a few microseconds: launching them one by one costs more than they
do. So a step is a function of an extent (how much of each buffer it reads) and of tensors that stay
where they are: the first of an extent is run, the second is captured, and from then on it is
replayed. Graphs live as long as one batch of rollouts, like the copies of the weights that they
read, and share their memory, because one runs at a time and what it gives back is read at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Replay = tuple[Callable[[], None], Tensor | None]  # run it again; what it then gives back
LEAST = 64  # tokens of a row or a prompt that a rounded extent reads


def rounded(n: int, most: int, least: int = 1) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24 …: a batch meets a few sizes, not hundreds.

    >>> [rounded(n, 500) for n in (1, 3, 5, 9, 200, 400)]
    [1, 3, 6, 12, 256, 500]
    """
    n = max(n, least)
    power = 1 << (n - 1).bit_length()
    return min(most, power * 3 // 4 if n <= power * 3 // 4 else power)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of the buffers a step reads."""

    rows: int
    columns: int  # tokens of a row
    prompts: int
    reach: int  # tokens of a prompt
    group: int  # rows of a prompt

    def rounded(self, room: Extent) -> Extent:
        """One of a few that hold it, `room` at most."""
        return Extent(
            rounded(self.rows, room.rows),
            rounded(self.columns, room.columns, LEAST),
            rounded(self.prompts, room.prompts),
            rounded(self.reach, room.reach, LEAST),
            rounded(self.group, room.group),
        )


Step = Callable[[Extent], Tensor | None]


class Replays:
    """Steps that have been captured, by their extents; on a CPU steps are just run.

    It does not keep the step: that would hold the buffers of a batch until garbage is collected.
    """

    def __init__(self, device: torch.device) -> None:
        self.on = device.type == "cuda"
        self.met: set[Extent] = set()
        self.known: dict[Extent, Replay] = {}
        self.pool = torch.cuda.graph_pool_handle() if self.on else None

    def run(self, step: Step, extent: Extent) -> Tensor | None:
        """What the step gives back; in the same memory at every call of an extent."""
        if self.on and extent in self.met and extent not in self.known:
            try:
                self.known[extent] = self.capture(step, extent)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                warnings.warn(f"decoding without CUDA graphs: {reason}", stacklevel=2)
                self.on = False
        self.met.add(extent)
        if extent not in self.known:
            return step(extent)
        replay, out = self.known[extent]
        replay()
        return out

    def capture(self, step: Step, extent: Extent) -> Replay:
        """Record the step's kernels without running them."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads may go on meanwhile: one of them scores.
            with torch.cuda.graph(graph, self.pool, capture_error_mode="thread_local"):
                out = step(extent)
        finally:
            torch.cuda.set_stream(stream)  # a capture that fails does not give it back
        return graph.replay, out
