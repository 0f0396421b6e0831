"""The native engine: samples from the live weights, so its logprobs are the trainer's.

There is no weight sync. The engine drives the model's own forward through a cache of ours
(`model/kv_cache.py`):

- where the model has the block that most models share, a step is computed without its modules
  (`decoder.py`), over copies of the weights that live as long as the batch;
- a prompt is prefilled once for its group, many prompts in one row, and its last hidden state gives
  the group's first tokens;
- rows that have finished give their places to live ones and to groups that wait in a queue, so the
  batch has no dead rows;
- the uniform number behind a token is a hash of (seed of the row, token index): a completion does
  not depend on the batch that it was sampled in, and a resumed run repeats it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from grpo_train import distributed
from grpo_train.engines import drawing
from grpo_train.engines.decoder import Decoder
from grpo_train.engines.generate import generate
from grpo_train.errors import EngineError
from grpo_train.model.cuda_graphs import Extent, Replays
from grpo_train.model.kv_cache import ForkedCache
from grpo_train.model.logprobs import Support
from grpo_train.model.onednn import packed
from grpo_train.model.policy import Policy
from grpo_train.model.tree_attention import TreeLayout
from grpo_train.rollouts import Done, Rollouts, Sampling, uniforms

PREFILL_TOKENS = 16_384  # prompt tokens of one forward pass: bounds its activations


# From the fastest to what any model can do: a decoder of ours without modules; the model's forward
# with our attention; the same with its own attention and a mask; its own `generate` and cache.
Way = Literal["step", "ours", "masked", "own"]
WAYS: tuple[Way, ...] = ("step", "ours", "masked", "own")


@dataclass(frozen=True, slots=True)
class NativeEngine:
    """Samples from the policy's live weights; at most `max_rows` completions at a time."""

    policy: Policy
    max_rows: int = 256
    fixed: bool = False  # round the sizes of steps to a few, as on CUDA, where steps are replayed
    way: Way | None = None  # None: the best for the model's present attention, untested
    copies: ClassVar[bool] = False

    def generate(
        self,
        prompts: Sequence[list[int]],
        n: int,
        sampling: Sampling,
        seeds: Tensor,
        done: Done | None = None,
    ) -> Rollouts:
        """`n` completions of each prompt; `seeds` [P · n] int64, one a completion."""
        if any(not ids for ids in prompts):
            raise EngineError("a prompt without tokens cannot be continued")
        model, rows = self.policy.model, min(self.max_rows, len(prompts) * n)
        way = self.way or ("step" if self.policy.ours else "masked")
        attention = self.policy.attention(ours=way in ("step", "ours"))
        with distributed.gathered(model), torch.inference_mode(), attention:
            if way == "own":
                return generate(self.policy, prompts, n, sampling, seeds, self.max_rows)
            decoder = Decoder.of(self.policy, rows) if way == "step" else None
            run = _Run(self, decoder, prompts, n, sampling, seeds, done)
            with contextlib.nullcontext() if decoder else packed(model, rows, self.policy.compute):
                return run.finish()

    def sync(self) -> None:
        """Nothing to do: the weights are the trainer's own."""


class _Run:
    """The state of one call of `generate`."""

    def __init__(
        self,
        engine: NativeEngine,
        decoder: Decoder | None,
        prompts: Sequence[list[int]],
        n: int,
        sampling: Sampling,
        seeds: Tensor,
        done: Done | None,
    ) -> None:
        policy = engine.policy
        self.policy, self.decoder = policy, decoder
        self.prompts, self.n, self.sampling, self.done = prompts, n, sampling, done
        device, total, limit = policy.device, len(prompts) * n, sampling.max_tokens
        self.room = min(total, engine.max_rows)
        self.head = policy.head.pack(self.room, policy.compute)
        self.uniform = pad(uniforms(seeds.to(device), limit), (0, 0, 0, 1))
        self.ids = torch.full((total + 1, limit), policy.pad_id, device=device)
        self.logprobs = torch.zeros(total + 1, limit, device=device)
        self.entropy = torch.zeros(total + 1, limit, device=device)
        self.length = torch.zeros(total, dtype=torch.int64)
        self.stopped = torch.zeros(total, dtype=torch.bool)
        self.left = [n] * len(prompts)  # completions of each prompt that are not finished
        self.kept: dict[int, list[Tensor]] = {}
        self.eos = torch.tensor(policy.eos_ids, device=device)
        # Groups, or parts of a group that is larger than the batch; the next one is last.
        size = min(n, self.room)
        self.queue = [
            (p, range(p * n + i, p * n + min(i + size, n)))
            for p in range(len(prompts))
            for i in range(0, n, size)
        ][::-1]
        # Twice as many prompts as fit with whole groups: a group's last rows hold its prompt.
        slots = min(len(self.queue), 2 * -(-self.room // max(size, 1)))
        width = max(map(len, prompts), default=1)
        most = Extent(self.room, limit, slots, width, size)
        fixed = decoder is not None and (engine.fixed or device.type == "cuda")
        self.cache = ForkedCache(most, device, policy.held, shared=policy.ours, fixed=fixed)
        # The completion of each row; a place without a row writes to an extra line at the end.
        self.row = torch.full((self.room,), total, device=device)
        self.next = torch.zeros(self.room, dtype=torch.int64, device=device)  # token to feed
        self.steps = 0
        self.joined = [0] * self.room  # the step of each row's first token
        self.replays = Replays(device) if fixed else None

    def finish(self) -> Rollouts:
        """Decode until no group waits and no row is live; all rollouts."""
        while self.queue or self.cache.live:
            if self._fits():
                self._refill()
            if self.cache.live:
                self._decode()
        return self._rollouts(range(len(self.prompts)))

    def _fits(self) -> bool:
        """Whether the next group fits into the batch."""
        live, used, room = self.cache.live, self.cache.used, self.cache.room
        free = room.rows - live
        return bool(self.queue) and free >= len(self.queue[-1][1]) and used < room.prompts

    def _refill(self) -> None:
        """Take the groups that fit, prefill their prompts together, and draw their first tokens."""
        while self._fits():
            taken: list[tuple[int, range]] = []
            tokens, first = 0, self.cache.live
            while self._fits() and (not taken or tokens < PREFILL_TOKENS):
                prompt, rows = self.queue.pop()
                slot = self.cache.take_slot(len(self.prompts[prompt]))
                at = self.cache.take_rows(slot, len(rows))
                self.row[at] = torch.tensor(rows, device=self.row.device)
                self.joined[at] = [self.steps] * len(rows)
                taken.append((prompt, rows))
                tokens += len(self.prompts[prompt])
            hidden = self._prefill([prompt for prompt, _ in taken])
            group = torch.tensor([len(rows) for _, rows in taken], device=hidden.device)
            at = slice(first, self.cache.live)
            logits = self._sample(hidden.repeat_interleave(group, dim=0), at)
            self._keep_support(at, logits)
        self._retire()

    def _prefill(self, prompts: list[int]) -> Tensor:
        """Cache the prompts of the last slots; the hidden state [K, h] at the end of each."""
        cache, policy = self.cache, self.policy
        if not cache.shared and len(prompts) > 1:  # only our attention keeps prompts in a row apart
            used, found = cache.used, []
            for i, prompt in enumerate(prompts):
                cache.used = used - len(prompts) + i + 1
                found.append(self._prefill([prompt]))
            return torch.cat(found)
        texts = [self.prompts[p] for p in prompts]
        ends = torch.tensor([len(ids) for ids in texts]).cumsum(0).tolist()
        spans = [range(end - len(ids), end) for end, ids in zip(ends, texts, strict=True)]
        layout = TreeLayout.of(spans, [[] for _ in spans]).to(policy.device)
        ids = torch.tensor([[i for ids in texts for i in ids]], device=policy.device)
        positions = torch.cat([torch.arange(len(i)) for i in texts])[None].to(policy.device)
        cache.prefill = (layout, slice(cache.used - len(prompts), cache.used))
        hidden = policy.hidden(ids, positions, cache=cache)
        cache.prefill = None
        return hidden[0, [end - 1 for end in ends]]

    def _decode(self) -> None:
        """Decode one token for every live row."""
        self.steps += 1
        live = self.cache.live
        extent = self.cache.begin(self.steps - min(self.joined[:live]))
        logits = self.replays.run(self._step, extent) if self.replays else self._step(extent)
        self._keep_support(slice(0, live), logits)
        self._retire()

    def _step(self, extent: Extent) -> Tensor | None:
        """The part of a step that CUDA replays: it may depend only on the extent and on tensors."""
        cache, rows = self.cache, extent.rows
        positions = cache.positions()
        if self.decoder is not None:
            hidden = self.decoder.step(self.next[:rows], positions, cache)
        else:
            hidden = self.policy.hidden(self.next[:rows, None], positions, cache=cache)[:, -1]
        cache.end()
        return self._sample(hidden, slice(0, rows))

    def _sample(self, hidden: Tensor, at: slice) -> Tensor | None:
        """Draw the next token of the rows at some places; their logits if some tokens are cut."""
        logits = self.head.logits(hidden, self.sampling.temperature)
        if self.sampling.cuts:
            logits = drawing.cut_logits(logits, self.sampling)
        row, count = self.row[at], self.cache.count[at]
        token, logprob, entropy = drawing.draw(logits, self.uniform[row, count])
        self.ids[row, count] = token
        self.logprobs[row, count] = logprob
        self.entropy[row, count] = entropy
        self.next[at] = token
        return logits if self.sampling.cuts else None

    def _keep_support(self, at: slice, logits: Tensor | None) -> None:
        """Remember which tokens could have been drawn; `logits` None means all."""
        if logits is not None:
            rows = self.row[at].tolist()
            mask = ~logits[: len(rows)].isinf()
            ids = mask.nonzero()[:, 1].cpu()
            for i, kept in zip(rows, torch.split(ids, mask.sum(dim=1).tolist()), strict=True):
                self.kept.setdefault(i, []).append(kept)

    def _retire(self) -> None:
        """Close rows that have finished, and move others into their places."""
        cache = self.cache
        ended = (self.next[: cache.live, None] == self.eos).any(dim=1).tolist()
        last = (
            self.steps - self.sampling.max_tokens + 1
        )  # rows that joined by then are at the limit now
        finished = [i for i, end in enumerate(ended) if end or self.joined[i] <= last]
        if finished:
            rows = self.row[finished].tolist()
            self.length[rows] = cache.count[finished].cpu() + 1
            self.stopped[rows] = torch.tensor([ended[i] for i in finished])
            source, target = cache.close(finished)
            for tensor in (self.row, self.next):
                tensor[target] = tensor[source]
            self.row[cache.live :] = len(self.length)
            for a, b in zip(source, target, strict=True):
                self.joined[b] = self.joined[a]
            self._tell(rows)
        if finished or self.joined[cache.live - 1] == self.steps:  # some rows are new
            cache.arrange()

    def _tell(self, finished: list[int]) -> None:
        """Report groups that are complete while others are not."""
        for row in finished:
            self.left[row // self.n] -= 1
        if self.done is not None and (self.queue or self.cache.live):
            prompts = [p for p in sorted({row // self.n for row in finished}) if not self.left[p]]
            if prompts:
                self.done(prompts, self._rollouts(prompts))

    def _rollouts(self, prompts: Sequence[int]) -> Rollouts:
        """The rollouts of some prompts, in that order, as flat tensors."""
        rows = [p * self.n + i for p in prompts for i in range(self.n)]
        length = self.length[rows]
        used = torch.arange(self.sampling.max_tokens)[None, :] < length[:, None]
        tokens = (self.ids, self.logprobs, self.entropy)
        ids, logprobs, entropy = (tensor[rows].cpu()[used] for tensor in tokens)
        return Rollouts(
            [list(self.prompts[p]) for p in prompts],
            self.n,
            ids,
            length,
            logprobs,
            entropy,
            self.stopped[rows],
            self._support(rows),
        )

    def _support(self, rows: list[int]) -> Support | None:
        """The tokens that could have been drawn for some rows; None where none was cut."""
        if not self.sampling.cuts:
            return None
        return Support.of([kept for row in rows for kept in self.kept.get(row, [])])
