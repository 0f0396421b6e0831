"""prompts → G completions each, with the logprobs that they were sampled with.

`NativeEngine` samples from the live weights: no second copy, no weight sync, and logprobs equal to
the trainer's. It drives the model's own forward through a cache of ours:

- a prompt is prefilled once and its keys and values are written to all rows of its group; its last
  token is not prefilled but fed as the row's first input, so every row is the same kind of row;
- all rows write at one shared column (`cursor`), prompts end there, and a row's positions count
  from its own `start`: so a write is one slice, whatever the prompt lengths;
- a finished row's place is taken by the last live row (one copy), and free places are refilled
  from the queue of groups, so the batch has no dead rows;
- the uniform number behind a token is a hash of (seed of the row, token index): a completion does
  not depend on the batch that it was sampled in, and a resumed run repeats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from transformers import Cache

from grpo_train import distributed
from grpo_train.errors import EngineError
from grpo_train.linear import packed
from grpo_train.logprob import Support
from grpo_train.policy import Policy


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `top_k` 0 and `top_p` 1 keep the whole vocabulary; temperature > 0."""

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    @property
    def cuts(self) -> bool:
        """Whether some tokens cannot be drawn."""
        return self.top_k > 0 or self.top_p < 1.0


@dataclass(frozen=True, slots=True)
class Rollouts:
    """B = P · G completions; those of a prompt are adjacent. Token tensors are flat, on the CPU.

    `old_logprobs` are of the distribution sampled from; `stopped` is False where the length limit
    cut the completion; an end-of-text token is part of the completion, and nothing follows it.
    """

    prompt_ids: list[list[int]]  # P
    group_size: int
    ids: Tensor  # [N] int64
    length: Tensor  # [B] int64
    old_logprobs: Tensor  # [N] fp32
    entropy: Tensor  # [N] fp32, nats
    stopped: Tensor  # [B] bool
    support: Support | None = None

    def __len__(self) -> int:
        return len(self.length)

    def completion_ids(self) -> list[list[int]]:
        """Token ids of every completion."""
        ids, end = self.ids.tolist(), self.length.cumsum(0).tolist()
        return [ids[a:b] for a, b in zip([0, *end], end, strict=False)]

    def pick(self, prompts: Sequence[int]) -> Rollouts:
        """The groups of some prompts, in that order."""
        g = self.group_size
        rows = torch.tensor([p * g + i for p in prompts for i in range(g)], dtype=torch.int64)
        start = self.length.cumsum(0) - self.length
        spans = [torch.arange(int(start[r]), int(start[r] + self.length[r])) for r in rows]
        token = torch.cat(spans) if spans else torch.zeros(0, dtype=torch.int64)
        return Rollouts(
            [self.prompt_ids[p] for p in prompts],
            g,
            self.ids[token],
            self.length[rows],
            self.old_logprobs[token],
            self.entropy[token],
            self.stopped[rows],
            None if self.support is None else self.support.pick(token),
        )

    def finish_reasons(self) -> list[str]:
        """`stop` or `length` of every completion."""
        return ["stop" if stopped else "length" for stopped in self.stopped.tolist()]


def join_rollouts(parts: Sequence[Rollouts]) -> Rollouts:
    """Groups of several batches, one after another."""
    supports = [part.support for part in parts if part.support is not None]
    return Rollouts(
        [ids for part in parts for ids in part.prompt_ids],
        parts[0].group_size,
        torch.cat([part.ids for part in parts]),
        torch.cat([part.length for part in parts]),
        torch.cat([part.old_logprobs for part in parts]),
        torch.cat([part.entropy for part in parts]),
        torch.cat([part.stopped for part in parts]),
        Support.join(supports) if supports else None,
    )


class Engine(Protocol):
    """Whatever samples completions from the policy."""

    @property
    def copies(self) -> bool:
        """Whether it has weights of its own, so that its logprobs are not quite the trainer's."""
        ...

    def generate(
        self, prompts: Sequence[list[int]], n: int, sampling: Sampling, seeds: Tensor
    ) -> Rollouts:
        """`n` completions of each prompt; `seeds` [P · n] int64, one a completion."""
        ...

    def sync(self) -> None:
        """Take over the policy's current weights; nothing to do where they are shared."""
        ...


# -- random numbers --------------------------------------------------------------------------------


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64 (wrapping), the same on every device."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def row_seeds(*parts: Tensor | int) -> Tensor:
    """One int64 seed out of several numbers (run, step, prompt, row), element by element."""
    out = torch.zeros((), dtype=torch.int64)
    for part in parts:
        out = _mix(out + torch.as_tensor(part, dtype=torch.int64) + -7046029254386353131)
    return out


def uniforms(seeds: Tensor, count: int) -> Tensor:
    """[rows, count] float64 in [0, 1): number t of a row depends on its seed and t only.

    >>> uniforms(torch.tensor([7]), 3)[0, :2].equal(uniforms(torch.tensor([7]), 2)[0])
    True
    """
    index = torch.arange(1, count + 1, device=seeds.device) * -7046029254386353131
    bits = _mix(_mix(seeds)[:, None] + index)
    return ((bits >> 11) & ((1 << 53) - 1)).to(torch.float64) / (1 << 53)


# -- sampling --------------------------------------------------------------------------------------


def cut_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """−inf outside the top-k and then the top-p tokens; the most likely token always stays."""
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, index = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
        before[..., 0] = 0
        drop = torch.zeros_like(logits, dtype=torch.bool)
        drop.scatter_(-1, index, before >= sampling.top_p)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One token a row by inverting the distribution function: ids, logprobs, entropy, all [R].

    `logits` [R, V] fp32 with temperature and cuts applied, `uniform` [R] float64. The cumulative
    sum is float64: in fp32 the tail of a large vocabulary would be lost.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    probs = logprobs.exp()
    cumulative = probs.cumsum(dim=-1, dtype=torch.float64)
    ids = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)
    ids = ids.clamp(max=logits.shape[-1] - 1)
    chosen = logprobs.gather(1, ids).squeeze(1)
    entropy = -(probs * logprobs.clamp(min=-1e4)).sum(dim=-1)
    return ids.squeeze(1), chosen, entropy


# -- the cache -------------------------------------------------------------------------------------


class ForkedCache(Cache):
    """Keys and values of all rows in one buffer a layer, [rows, heads, columns, dim].

    In prefill the columns before the cursor are written, a prompt's to all its rows at once; in
    decode one column is. Memory is taken at the first write, when shapes and dtype are known.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(layers=[])
        self.rows, self.columns = rows, columns
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self.start = torch.zeros(0, dtype=torch.int64)  # [live] first column of each row
        self.cursor = 0  # the next column
        self.left = 0  # the first column that any live row uses
        self.live = 0
        self.prefill_rows: Tensor | None = None  # [p, G] while prompts are written

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """What a model's layer calls: write the new states, return all that it may see."""
        while len(self.buffers) <= layer_idx:
            shape = (self.rows, key_states.shape[1], self.columns)
            keys = key_states.new_zeros((*shape, key_states.shape[3]))
            self.buffers.append((keys, value_states.new_zeros((*shape, value_states.shape[3]))))
        keys, values = self.buffers[layer_idx]
        if self.prefill_rows is not None:
            window = slice(self.cursor - key_states.shape[2], self.cursor)
            for buffer, new in ((keys, key_states), (values, value_states)):
                for fork in self.prefill_rows.T:  # one copy a member of the group
                    buffer[fork, :, window] = new
            return key_states, value_states
        keys[: self.live, :, self.cursor] = key_states[:, :, 0]
        values[: self.live, :, self.cursor] = value_states[:, :, 0]
        seen = slice(self.left, self.cursor + 1)
        return keys[: self.live, :, seen], values[: self.live, :, seen]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns in use; positions are always passed beside it."""
        return 0 if self.prefill_rows is not None else self.cursor - self.left

    def key_positions(self, positions: Tensor) -> Tensor:
        """Positions [R, K] of the keys that `update` returns."""
        if self.prefill_rows is not None:
            return positions
        columns = torch.arange(self.left, self.cursor + 1, device=positions.device)
        return columns[None, :] - self.start[: self.live, None]

    def move(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Copy rows into the places of finished ones."""
        used = slice(self.left, self.cursor)
        for keys, values in self.buffers:
            for a, b in zip(source, target, strict=True):
                keys[b, :, used] = keys[a, :, used]
                values[b, :, used] = values[a, :, used]

    def rewind(self, to: int) -> None:
        """Shift all columns left so that the window starts anew and ends at column `to` or less."""
        shift = self.cursor - to
        for keys, values in self.buffers:
            for buffer in (keys, values):
                buffer[: self.live, :, self.left - shift : to] = buffer[
                    : self.live, :, self.left : self.cursor
                ].clone()
        self.start -= shift
        self.left -= shift
        self.cursor = to


# -- the native engine -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NativeEngine:
    """Samples from the policy's live weights; at most `max_rows` completions at a time."""

    policy: Policy
    max_rows: int = 256
    copies: ClassVar[bool] = False

    def generate(
        self, prompts: Sequence[list[int]], n: int, sampling: Sampling, seeds: Tensor
    ) -> Rollouts:
        """`n` completions of each prompt; `seeds` [P · n] int64, one a completion."""
        if any(not ids for ids in prompts):
            raise EngineError("a prompt without tokens cannot be continued")
        model, rows = self.policy.model, min(self.max_rows, len(prompts) * n)
        with distributed.gathered(model), torch.inference_mode(), packed(model, rows):
            return _Run(self.policy, prompts, n, sampling, seeds, self.max_rows).finish()

    def sync(self) -> None:
        """Nothing: the weights are the trainer's own."""


class _Run:
    """One call of `generate`: the state that lives as long as its rows do."""

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[list[int]],
        n: int,
        sampling: Sampling,
        seeds: Tensor,
        max_rows: int,
    ) -> None:
        self.policy, self.prompts, self.n, self.sampling = policy, prompts, n, sampling
        device, total, limit = policy.device, len(prompts) * n, sampling.max_tokens
        self.room = min(total, max_rows)
        self.head = policy.head.pack(self.room)
        self.longest = max(map(len, prompts), default=1) - 1  # columns that a prompt takes
        self.uniform = uniforms(seeds.to(device), limit)
        self.ids = torch.full((total, limit), policy.pad_id, device=device)
        self.logprobs = torch.zeros(total, limit, device=device)
        self.entropy = torch.zeros(total, limit, device=device)
        self.length = torch.zeros(total, dtype=torch.int64)
        self.stopped = torch.zeros(total, dtype=torch.bool)
        self.kept: dict[int, list[Tensor]] = {}
        self.eos = torch.tensor(policy.eos_ids, device=device)
        # Groups in halves where a whole one does not fit; each is prefilled once.
        size = min(n, self.room)
        self.queue = [
            (p, range(p * n + i, p * n + min(i + size, n)))
            for p in range(len(prompts))
            for i in range(0, n, size)
        ][::-1]
        self.cache = ForkedCache(self.room, self.longest + 2 * limit + 1)
        self.cache.cursor = self.longest
        self.cache.start = torch.zeros(self.room, dtype=torch.int64, device=device)
        self.row = torch.zeros(self.room, dtype=torch.int64, device=device)  # which completion
        self.count = torch.zeros(self.room, dtype=torch.int64, device=device)  # tokens it has
        self.next = torch.zeros(self.room, dtype=torch.int64, device=device)  # token to feed

    def finish(self) -> Rollouts:
        """Run until the queue and the rows are empty."""
        while self.queue or self.cache.live:
            if self.queue and self.room - self.cache.live >= len(self.queue[-1][1]):
                self._refill()
            self._decode()
        return self._rollouts()

    def _refill(self) -> None:
        """Take as many groups as fit, prefill their prompts together, fork them to their rows."""
        cache, taken = self.cache, []
        if not cache.live:
            cache.cursor = cache.left = self.longest
        while self.queue and self.room - cache.live >= len(self.queue[-1][1]):
            prompt, rows = self.queue.pop()
            places = range(cache.live, cache.live + len(rows))
            taken.append((self.prompts[prompt], places))
            at = slice(places.start, places.stop)
            self.row[at] = torch.tensor(list(rows), device=self.row.device)
            self.count[at] = 0
            self.next[at] = self.prompts[prompt][-1]
            cache.start[at] = cache.cursor - (len(self.prompts[prompt]) - 1)
            cache.live = places.stop
        for size in {len(places) for _, places in taken}:
            self._prefill([item for item in taken if len(item[1]) == size])
        cache.left = int(cache.start[: cache.live].min())

    def _prefill(self, items: list[tuple[list[int], range]]) -> None:
        """Keys and values of all but the last token of each prompt, left-padded to one width."""
        width = max(len(ids) for ids, _ in items) - 1
        if not width:
            return
        device = self.policy.device
        pad = self.policy.pad_id
        ids = torch.tensor([[pad] * (width + 1 - len(i)) + i[:-1] for i, _ in items], device=device)
        skip = torch.tensor([width + 1 - len(i) for i, _ in items], device=device)
        column = torch.arange(width, device=device)
        causal = column[None, :] <= column[:, None]  # [T, T]
        # A padded query sees itself, so that its softmax is not 0 / 0.
        real = column[None, :] >= skip[:, None]
        visible = causal & (real[:, None, :] | torch.eye(width, dtype=torch.bool, device=device))
        self.cache.prefill_rows = torch.tensor([list(places) for _, places in items], device=device)
        positions = (column[None, :] - skip[:, None]).clamp(min=0)
        self.policy.hidden(ids, positions, visible[:, None], self.cache)
        self.cache.prefill_rows = None

    def _decode(self) -> None:
        """One token for every live row."""
        cache, live = self.cache, self.cache.live
        if cache.cursor == cache.columns:
            cache.rewind(max(self.longest, cache.cursor - cache.left))
        positions = (cache.cursor - cache.start[:live])[:, None]
        column = torch.arange(cache.left, cache.cursor + 1, device=positions.device)
        visible = (column[None, :] >= cache.start[:live, None])[:, None, None, :]
        hidden = self.policy.hidden(self.next[:live, None], positions, visible, cache)
        cache.cursor += 1
        logits = self.head.logits(hidden[:, -1], self.sampling.temperature)
        if self.sampling.cuts:
            logits = cut_logits(logits, self.sampling)
        row, count = self.row[:live], self.count[:live]
        token, logprob, entropy = draw(logits, self.uniform[row, count])
        self.ids[row, count] = token
        self.logprobs[row, count] = logprob
        self.entropy[row, count] = entropy
        self.next[:live] = token
        self.count[:live] += 1
        if self.sampling.cuts:
            self._keep_support(row, logits)
        self._retire(token)

    def _keep_support(self, row: Tensor, logits: Tensor) -> None:
        """Remember which tokens could have been drawn."""
        for i, mask in zip(row.tolist(), ~logits.isinf(), strict=True):
            self.kept.setdefault(i, []).append(mask.nonzero().flatten().cpu())

    def _retire(self, token: Tensor) -> None:
        """Close finished rows and let the last live rows take their places."""
        cache = self.cache
        ended = torch.isin(token, self.eos)
        done = (ended | (self.count[: cache.live] >= self.sampling.max_tokens)).tolist()
        if not any(done):
            return
        finished = [i for i, is_done in enumerate(done) if is_done]
        at = torch.tensor(finished, device=token.device)
        rows = self.row[at].cpu()
        self.length[rows] = self.count[at].cpu()
        self.stopped[rows] = ended[at].cpu()
        left = cache.live - len(finished)
        target = [i for i in finished if i < left]
        source = [i for i in range(left, cache.live) if not done[i]]
        cache.move(source, target)
        for tensor in (self.row, self.count, self.next, cache.start):
            tensor[target] = tensor[source]
        cache.live = left
        if left:
            cache.left = int(cache.start[:left].min())

    def _rollouts(self) -> Rollouts:
        """Flat tensors, in the order of the prompts."""
        limit = self.sampling.max_tokens
        used = torch.arange(limit)[None, :] < self.length[:, None]
        return Rollouts(
            prompt_ids=[list(ids) for ids in self.prompts],
            group_size=self.n,
            ids=self.ids.cpu()[used],
            length=self.length,
            old_logprobs=self.logprobs.cpu()[used],
            entropy=self.entropy.cpu()[used],
            stopped=self.stopped,
            support=self._support() if self.sampling.cuts else None,
        )

    def _support(self) -> Support:
        """The tokens kept at every position, flat."""
        masks = [ids for i in range(len(self.length)) for ids in self.kept.get(i, [])]
        sizes = torch.tensor([0] + [len(ids) for ids in masks])
        return Support(torch.cat(masks) if masks else sizes[:0], sizes.cumsum(0))
