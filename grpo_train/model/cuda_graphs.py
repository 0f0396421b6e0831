"""A decoding step on CUDA as one launch.

A step is hundreds of kernels of a few microseconds: launching them one by one costs more than they
do. So a step is a function of an extent (how much of each buffer it reads) and of tensors that stay
where they are. The first step of an extent is run, the second is captured, and all later ones are
replayed. Graphs live as long as one batch of rollouts, like the copies of the weights that they
read. They share their memory, because only one runs at a time and its result is read at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Replay = tuple[Callable[[], None], Tensor | None]  # runs a step again, and where its result is
LEAST = 64  # smallest number of tokens in a rounded extent: shorter ones cost no less


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
    """How much of the buffers a step reads; all numbers are upper bounds."""

    rows: int
    columns: int  # tokens of a row
    prompts: int
    reach: int  # tokens of a prompt
    group: int  # rows of a prompt

    def rounded(self, room: Extent) -> Extent:
        """The smallest of a few fixed extents that holds this one, `room` at most."""
        return Extent(
            rounded(self.rows, room.rows),
            rounded(self.columns, room.columns, LEAST),
            rounded(self.prompts, room.prompts),
            rounded(self.reach, room.reach, LEAST),
            rounded(self.group, room.group),
        )


Step = Callable[[Extent], Tensor | None]


class Replays:
    """Captured steps by their extents; on a CPU steps are simply run.

    The step itself is not kept: it would hold a batch's buffers until garbage is collected.
    """

    def __init__(self, device: torch.device) -> None:
        self.on = device.type == "cuda"
        self.met: set[Extent] = set()
        self.known: dict[Extent, Replay] = {}
        self.pool = torch.cuda.graph_pool_handle() if self.on else None

    def run(self, step: Step, extent: Extent) -> Tensor | None:
        """The step's result, which is in the same memory at every call of an extent."""
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
            # `thread_local` lets other threads go on meanwhile, such as the one that scores.
            with torch.cuda.graph(graph, self.pool, capture_error_mode="thread_local"):
                out = step(extent)
        finally:
            torch.cuda.set_stream(stream)  # a failed capture does not restore it
        return graph.replay, out
