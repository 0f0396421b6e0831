"""Keys and values of completions that are being decoded, a prompt's once for its group.

`ForkedCache` is both a transformers cache and an attention layout. Rows of one prompt read its keys
through one product, so a long prompt costs a group no more memory and hardly more time than one
row. A row's own tokens stand in a line of a buffer, token t in column t whatever the other rows do.
So rows may start and end at any step, and a live row takes the line of one that has finished.

A model whose attention is not ours (`shared` False) gets whole keys, the prompt's and the row's,
and a 4-D mask: slower, but every decoder takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from grpo_train.model.cuda_graphs import Extent, rounded
from grpo_train.model.tree_attention import Rules, TreeLayout, cut, hiding

Pairs = list[tuple[Tensor, Tensor]]  # keys and values of each layer


class ForkedCache(Cache):
    """Keys and values of prompts [slots, kv, width, D] and rows [rows, kv, columns, D], by layer.

    Lines are in use from the front: `live` rows and `used` slots. Memory is taken at the first
    write, when shapes are known. `dtype` is that of keys and values, `room` the largest extent.
    A step reads as much as `extent` says: what is in use, or somewhat more if it is `fixed`, so
    that only a few extents occur. What it reads beyond is masked, what it writes there is never
    read.
    """

    def __init__(
        self,
        room: Extent,
        device: torch.device,
        dtype: torch.dtype,
        *,
        shared: bool,
        fixed: bool = False,
    ) -> None:
        super().__init__(layers=[])
        self.room, self.device, self.dtype = room, device, dtype
        self.shared, self.fixed = shared, fixed
        rows, slots = room.rows, room.prompts
        self.prompts: Pairs = []
        self.own: Pairs = []
        self.live = self.used = 0
        self.slot = [0] * rows  # the prompt of each row
        self.prompt_length = [0] * slots
        self.length = torch.zeros(
            rows, dtype=torch.int64, device=device
        )  # tokens of each row's prompt
        self.count = torch.zeros(
            rows, dtype=torch.int64, device=device
        )  # tokens of each row after its prompt
        self.alive = torch.zeros(rows, dtype=torch.int64, device=device)  # 1: the row is in use
        self.place = torch.arange(rows, device=device)
        self.layer = 0  # the layer that has written last
        self.prefill: tuple[TreeLayout, slice] | None = None
        self.reach = 0  # tokens of the longest prompt in use
        self.group = 0  # rows of the prompt that has the most
        self.extent = Extent(0, 0, 0, 0, 0)
        self.even = False  # whether all rows have the same lengths, so that no key is masked
        self.straight = False  # whether row i is at place i of the grid, so that nothing moves
        self.grid = torch.zeros(
            slots * room.group, dtype=torch.int64, device=device
        )  # the rows, by prompt
        self.back = torch.zeros(
            rows, dtype=torch.int64, device=device
        )  # the place of each row in the grid
        self.masks: dict[int, Tensor | None] = {}  # biases of this step, by window

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by the model's layers: write the new states; all states that they may see."""
        self.layer = layer_idx
        new = (key_states.to(self.dtype), value_states.to(self.dtype))
        while len(self.own) <= layer_idx:
            room = self.room
            k, v = (x.new_zeros(room.prompts, x.shape[1], room.reach, x.shape[3]) for x in new)
            self.prompts.append((k, v))
            k, v = (_buffer(x, room) for x in new)
            self.own.append((k, v))
        if self.prefill is not None:
            layout, slots = self.prefill
            for buffer, x in zip(self.prompts[layer_idx], new, strict=True):
                found = cut(x[0].transpose(0, 1), layout.prompt)
                buffer[slots, :, : found.shape[2]] = found
            return new
        rows, columns = self.extent.rows, self.extent.columns
        place, count = self.place[:rows], self.count[:rows]
        for buffer, x in zip(self.own[layer_idx], new, strict=True):
            buffer[place, :, count] = x[:, :, 0]
        keys, values = (buffer[:rows, :, :columns] for buffer in self.own[layer_idx])
        return (keys, values) if self.shared else self._whole(keys, values)

    def _whole(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values with a copy of the prompt before each row's own."""
        slot = torch.tensor(self.slot[: self.live], device=self.device)
        pk, pv = (x[slot, :, : self.reach] for x in self.prompts[self.layer])
        return torch.cat([pk, keys], dim=2), torch.cat([pv, values], dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of keys before the new one; positions do not depend on it, they are passed too."""
        return 0 if self.prefill is not None else self.extent.reach + self.extent.columns - 1

    # -- between steps -----------------------------------------------------------------------------

    def take_slot(self, length: int) -> int:
        """The slot of one more prompt."""
        self.prompt_length[self.used] = length
        self.used += 1
        return self.used - 1

    def take_rows(self, slot: int, count: int) -> slice:
        """The places of some more rows of a prompt."""
        at = slice(self.live, self.live + count)
        self.slot[at] = [slot] * count
        self.length[at] = self.prompt_length[slot]
        self.count[at] = 0
        self.alive[at] = 1
        self.live = at.stop
        return at

    def close(self, finished: Sequence[int]) -> tuple[list[int], list[int]]:
        """Drop rows that have finished, and prompts without rows; (from, to) of rows that moved."""
        left, gone = self.live - len(finished), set(finished)
        target = [i for i in finished if i < left]
        source = [i for i in range(left, self.live) if i not in gone]
        columns = self.extent.columns
        for buffer in (x for pair in self.own for x in pair if source):
            buffer[target, :, :columns] = buffer[source, :, :columns]
        for a, b in zip(source, target, strict=True):
            self.slot[b] = self.slot[a]
        for tensor in (self.length, self.count):
            tensor[target] = tensor[source]
        for tensor in (self.length, self.count, self.alive):
            tensor[left : self.live] = 0
        self.live = left
        self._close_slots()
        return source, target

    def _close_slots(self) -> None:
        """Move the last prompts into the slots of those that no row needs any more."""
        needed = set(self.slot[: self.live])
        empty = [s for s in range(self.used) if s not in needed]
        left = self.used - len(empty)
        target = [s for s in empty if s < left]
        source = [s for s in range(left, self.used) if s in needed]
        for buffer in (x for pair in self.prompts for x in pair if source):
            buffer[target] = buffer[source]
        where = dict(zip(source, target, strict=True))
        for a, b in where.items():
            self.prompt_length[b] = self.prompt_length[a]
        self.slot[: self.live] = [where.get(s, s) for s in self.slot[: self.live]]
        self.used = left

    def arrange(self) -> None:
        """Compute the grid of rows by prompt, which holds until rows come or go."""
        slots, used = self.slot[: self.live], range(self.used)
        members: list[list[int]] = [[] for _ in used]
        for row, slot in enumerate(slots):
            members[slot].append(row)
        self.group = max(map(len, members), default=0)
        group = rounded(self.group, self.room.group) if self.fixed else self.group
        grid = [row for m in members for row in m + [0] * (group - len(m))]
        where = {row: s * group + i for s in used for i, row in enumerate(members[s])}
        order = [where[row] for row in range(self.live)]
        self.straight = grid == list(range(self.live))
        if self.fixed or not self.straight:
            for tensor, places in ((self.grid, grid), (self.back, order)):
                tensor.copy_(torch.tensor(places + [0] * (len(tensor) - len(places))))
        self.reach = max(self.prompt_length[: self.used], default=0)
        counts = self.count[: self.live]
        alike = bool((counts == counts[:1]).all())
        self.even = alike and set(self.prompt_length[: self.used]) == {self.reach}

    def begin(self, columns: int) -> Extent:
        """Begin a step whose oldest row has `columns` tokens; how much of the buffers it reads."""
        self.masks = {}
        self.extent = Extent(self.live, columns, self.used, self.reach, self.group)
        if self.fixed:
            self.extent = self.extent.rounded(self.room)
        return self.extent

    def positions(self) -> Tensor:
        """Positions [rows, 1] of a step's tokens."""
        return (self.length + self.count)[: self.extent.rows, None]

    def end(self) -> None:
        """End a step: every live row has one more token."""
        rows = self.extent.rows
        self.count[:rows] += self.alive[:rows]

    # -- attention ---------------------------------------------------------------------------------

    def bias(self, window: int, dtype: torch.dtype) -> Tensor | None:
        """What is added to scores [rows, 1, 1, reach + columns]; None where every key is seen.

        In prefill it is [1, 1, T, T], of one prompt.
        """
        if self.prefill is not None:
            at = torch.arange(int(self.prefill[0].length), device=self.device)
            return hiding(Rules(1.0, window=window).near(at[:, None], at)[None, None], dtype)
        if window not in self.masks:
            everything = self.even and not window and not self.fixed
            self.masks[window] = None if everything else hiding(self._visible(window), dtype)
        return self.masks[window]

    def _visible(self, window: int) -> Tensor:
        rules = Rules(1.0, window=window)
        rows = self.extent.rows
        length, count = self.length[:rows, None], self.count[:rows, None]
        far = torch.arange(self.extent.reach, device=self.device)
        near = torch.arange(self.extent.columns, device=self.device)
        seen = [(far < length) & rules.near(length + count, far), rules.near(count, near)]
        return torch.cat(seen, dim=1)[:, None, None]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
        """One token a row: query [R, H, 1, D], key and value the rows' own → [R, 1, H, D]."""
        if self.prefill is not None:
            return self.prefill[0].attend(query, key, value, rules)
        (rows, heads, _, dim), kv = query.shape, key.shape[1]
        q = query.to(value.dtype).reshape(rows, kv, -1, dim)
        prompts, reach = self.extent.prompts, self.extent.reach
        pk, pv = (x[:prompts, :, :reach] for x in self.prompts[self.layer])
        far = self._by_row(wide(self._by_prompt(q), pk.mT))
        scores = torch.cat([far, wide(q, key.mT)], dim=-1).mul_(rules.scale)
        weights = rules.weights(scores, self.bias(rules.window, q.dtype)).to(q.dtype)
        far = self._by_row(wide(self._by_prompt(weights[..., :reach]), pv))
        out = far + wide(weights[..., reach:], value)
        return out.to(q.dtype).reshape(rows, 1, heads, dim)

    def _by_prompt(self, x: Tensor) -> Tensor:
        """[R, kv, rep, n] → [prompts, kv, G · rep, n]: a group's rows side by side."""
        prompts, group = self.extent.prompts, self.extent.group
        if self.fixed or not self.straight:
            x = x.index_select(0, self.grid[: prompts * group])
        x = x.view(prompts, group, *x.shape[1:])
        return x.transpose(1, 2).flatten(2, 3)

    def _by_row(self, x: Tensor) -> Tensor:
        """The inverse of `_by_prompt`."""
        rows, group = self.extent.rows, self.extent.group
        x = x.view(*x.shape[:2], group, -1, x.shape[3]).transpose(1, 2).flatten(0, 1)
        return x.index_select(0, self.back[:rows]) if self.fixed or not self.straight else x


def _buffer(x: Tensor, room: Extent) -> Tensor:
    """Zeros [rows, kv, columns, D] for states such as `x`.

    On a CPU they are laid out column by column: those in use lie together, which reads twice as
    fast.
    """
    (_, kv, _, dim), rows, columns = x.shape, room.rows, room.columns
    if x.is_cuda:
        return x.new_zeros(rows, kv, columns, dim)
    return x.new_zeros(columns, rows, kv, dim).permute(1, 2, 0, 3)


def wide(a: Tensor, b: Tensor) -> Tensor:
    """[…, n, k] @ […, k, m] in fp32, as flash attention sums it, where bf16 comes in on CUDA."""
    if not a.is_cuda or a.dtype not in (torch.bfloat16, torch.float16):
        return a @ b
    out = torch.bmm(a.flatten(0, -3), b.flatten(0, -3), out_dtype=torch.float32)
    return out.view(*a.shape[:-1], b.shape[-1])
