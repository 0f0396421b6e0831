"""Keys and values of completions that are being decoded: a prompt's once for its group.

`ForkedCache` is a transformers cache and an attention layout in one. Rows of one prompt read its
keys through one product, so a long prompt costs its group no more memory and hardly more time than
one row. A row's own tokens stand in a buffer with a line a row: token t in column t, whatever the
others do, so rows start and end when they like, and a finished row's line is taken by a live one.

A model whose attention is not ours (`shared` False) is handed whole keys, prompt and own, and a
4-D mask: slower, but any decoder can do that.
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
    """Prompts [slots, kv, width, D] and rows [rows, kv, columns, D], a pair of each a layer.

    Lines are in use from the front: `live` rows and `used` slots. Memory is taken at the first
    write, when shapes are known. `dtype` is that of keys and values, `room` the most of everything.
    A step reads as much as `extent` says: exactly what is in use, or, where it is `fixed`, somewhat
    more, so that few extents occur; what it reads beyond is hidden, and what it writes there is
    never read.
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
        self.slot = [0] * rows  # of each row: its prompt
        self.prompt_length = [0] * slots
        self.length = torch.zeros(rows, dtype=torch.int64, device=device)  # of a row's prompt
        self.count = torch.zeros(rows, dtype=torch.int64, device=device)  # own tokens of each row
        self.alive = torch.zeros(rows, dtype=torch.int64, device=device)  # 1: the row is in use
        self.place = torch.arange(rows, device=device)
        self.layer = 0  # the last that has written
        self.prefill: tuple[TreeLayout, slice] | None = None
        self.reach = 0  # tokens of the longest prompt in use
        self.group = 0  # rows of the prompt that has most
        self.extent = Extent(0, 0, 0, 0, 0)
        self.even = False  # whether all rows are alike, so that nothing is hidden
        self.straight = False  # whether row i stands in the grid at i
        self.grid = torch.zeros(slots * room.group, dtype=torch.int64, device=device)  # its rows
        self.back = torch.zeros(rows, dtype=torch.int64, device=device)  # a row's place in it
        self.masks: dict[int, Tensor | None] = {}  # what hides keys in this step, by window

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """What a model's layer calls: write the new states, return all that it may see."""
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
        """A copy of the prompt before each row's own."""
        slot = torch.tensor(self.slot[: self.live], device=self.device)
        pk, pv = (x[slot, :, : self.reach] for x in self.prompts[self.layer])
        return torch.cat([pk, keys], dim=2), torch.cat([pv, values], dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Keys before the new one; positions are always passed beside it."""
        return 0 if self.prefill is not None else self.extent.reach + self.extent.columns - 1

    # -- between steps -----------------------------------------------------------------------------

    def take_slot(self, length: int) -> int:
        """A place for one more prompt."""
        self.prompt_length[self.used] = length
        self.used += 1
        return self.used - 1

    def take_rows(self, slot: int, count: int) -> slice:
        """Places for some more rows of a prompt."""
        at = slice(self.live, self.live + count)
        self.slot[at] = [slot] * count
        self.length[at] = self.prompt_length[slot]
        self.count[at] = 0
        self.alive[at] = 1
        self.live = at.stop
        return at

    def close(self, finished: Sequence[int]) -> tuple[list[int], list[int]]:
        """Give up rows and prompts without rows; (source, target): which rows went where."""
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
        """Move the last prompts into the places of those that no row needs any more."""
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
        """Where rows stand from now on, until some come or go."""
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
        """A step for whose oldest row `columns` are enough: how much of the buffers it reads."""
        self.masks = {}
        self.extent = Extent(self.live, columns, self.used, self.reach, self.group)
        if self.fixed:
            self.extent = self.extent.rounded(self.room)
        return self.extent

    def positions(self) -> Tensor:
        """[rows, 1] of the tokens of a step."""
        return (self.length + self.count)[: self.extent.rows, None]

    def end(self) -> None:
        """Every row has a token more."""
        rows = self.extent.rows
        self.count[:rows] += self.alive[:rows]

    # -- attention ---------------------------------------------------------------------------------

    def bias(self, window: int, dtype: torch.dtype) -> Tensor | None:
        """[rows, 1, 1, reach + columns] what hides keys from a row's token; None: it sees all.

        In prefill: [1, 1, T, T], of one prompt.
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
        """The inverse."""
        rows, group = self.extent.rows, self.extent.group
        x = x.view(*x.shape[:2], group, -1, x.shape[3]).transpose(1, 2).flatten(0, 1)
        return x.index_select(0, self.back[:rows]) if self.fixed or not self.straight else x


def _buffer(x: Tensor, room: Extent) -> Tensor:
    """Zeros [rows, kv, columns, D] for states such as `x`; on a CPU column by column: those in use
    lie together, and are read twice as fast."""
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
