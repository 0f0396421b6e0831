"""Laws of replayed steps, held without a GPU.

A replay runs the kernels of a step that was captured earlier: it sees what stands in tensors now,
in the memory of then, and nothing of what Python knows. `Stale` does the same to a step on a CPU.
"""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import models
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grpo_train.engines.decoder import KINDS
from grpo_train.engines.native import NativeEngine
from grpo_train.model.cuda_graphs import Extent, Replay, Replays, Step, rounded
from grpo_train.model.kv_cache import ForkedCache
from grpo_train.model.policy import Policy
from grpo_train.rollouts import Rollouts, Sampling, row_seeds

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [20], [3, 4], [30] * 12, [41, 42, 43, 44]]
G = 4
ENOUGH = 100  # tokens, so that rows come, go and pass a boundary between extents


def generate(policy: Policy, sampling: Sampling, *, max_rows: int, fixed: bool) -> Rollouts:
    seeds = row_seeds(0, torch.arange(len(PROMPTS) * G))
    return NativeEngine(policy, max_rows, fixed).generate(PROMPTS, G, sampling, seeds)


def state(thing: Any) -> dict[str, Any]:
    """What Python knows of an object, tensors aside."""
    kinds = (int, bool, list, Extent)
    found = {name: value for name, value in vars(thing).items() if type(value) in kinds}
    return {name: copy.deepcopy(value) for name, value in found.items() if not tensors(value)}


def tensors(value: Any) -> list[Tensor]:
    """A tensor, or those of the cache's pairs."""
    if type(value) is Tensor:
        return [value]
    return [x for part in value for x in tensors(part)] if type(value) in (list, tuple) else []


def addresses(things: tuple[Any, ...]) -> list[int]:
    """Where an object's tensors are."""
    return [x.data_ptr() for thing in things for v in vars(thing).values() for x in tensors(v)]


class Stale(Replays):
    """Replays as CUDA would: Python's state is that of the capture, and is left as it was."""

    replayed = 0

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.on = True

    def capture(self, step: Step, extent: Extent) -> Replay:
        run = step.__self__  # type: ignore[attr-defined]
        things = (run, run.cache)
        known, where = [state(thing) for thing in things], addresses(things)
        out = torch.empty(0, dtype=torch.float64)

        def replay() -> None:
            assert addresses(things) == where, "a tensor that a graph reads has moved"
            now = [state(thing) for thing in things]
            for thing, old in zip(things, known, strict=True):
                vars(thing).update(copy.deepcopy(old))
            found = step(extent)
            if found is not None:
                out.set_(found)  # type: ignore[call-overload]
            for thing, new in zip(things, now, strict=True):
                vars(thing).update(new)
            Stale.replayed += 1

        return replay, out if run.sampling.cuts else None


@pytest.mark.parametrize(("max_rows", "tokens"), [(3, ENOUGH), (8, ENOUGH), (64, ENOUGH), (7, 12)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_replayed_step_is_the_step(
    kind: str, max_rows: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = models.make_policy(kind)
    policy.model.double()  # so that the order of a sum decides about no token
    exact = generate(policy, Sampling(tokens), max_rows=max_rows, fixed=False)
    monkeypatch.setattr("grpo_train.engines.native.Replays", Stale)
    before = Stale.replayed
    found = generate(policy, Sampling(tokens), max_rows=max_rows, fixed=True)
    assert len(set(exact.length.tolist())) > 1
    assert Stale.replayed - before > tokens // 2
    assert torch.equal(found.ids, exact.ids)
    assert torch.equal(found.length, exact.length)
    torch.testing.assert_close(found.old_logprobs, exact.old_logprobs, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.entropy, exact.entropy, rtol=0, atol=1e-5)


def test_a_place_without_a_row_stays_empty() -> None:
    """Else it would write behind the end of its line one day."""
    room = Extent(rows=8, columns=4, prompts=1, reach=4, group=8)
    cache = ForkedCache(room, torch.device("cpu"), torch.float32, shared=True, fixed=True)
    cache.take_rows(cache.take_slot(3), 5)
    cache.arrange()
    assert cache.begin(1).rows == 6
    cache.end()
    assert cache.count.tolist() == [1] * 5 + [0] * 3


def test_so_it_is_where_tokens_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = models.make_policy()
    policy.model.double()
    sampling = Sampling(ENOUGH, temperature=0.7, top_k=9, top_p=0.8)
    exact = generate(policy, sampling, max_rows=8, fixed=False)
    monkeypatch.setattr("grpo_train.engines.native.Replays", Stale)
    found = generate(policy, sampling, max_rows=8, fixed=True)
    assert torch.equal(found.ids, exact.ids)
    assert found.support is not None
    assert exact.support is not None
    assert torch.equal(found.support.ids, exact.support.ids)
    assert torch.equal(found.support.start, exact.support.start)


def test_a_step_that_reads_what_python_knows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law above can fail: run anew such a step is what it should be, replayed it is not."""
    real = ForkedCache.positions
    monkeypatch.setattr(ForkedCache, "positions", lambda cache: real(cache) + cache.live % 2)
    policy = models.make_policy()
    policy.model.double()
    exact = generate(policy, Sampling(ENOUGH), max_rows=8, fixed=False)
    anew = generate(policy, Sampling(ENOUGH), max_rows=8, fixed=True)
    monkeypatch.setattr("grpo_train.engines.native.Replays", Stale)
    found = generate(policy, Sampling(ENOUGH), max_rows=8, fixed=True)
    assert torch.equal(anew.ids, exact.ids)
    assert len(found.ids) != len(exact.ids) or not torch.equal(found.ids, exact.ids)


@settings(max_examples=200)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 64))
def test_a_rounded_size_holds_what_is_there_and_not_twice_as_much(
    n: int, more: int, least: int
) -> None:
    most = n + more
    found = rounded(n, most, least)
    assert n <= found <= most
    assert found < 2 * max(n, least)
    assert rounded(found, most, least) == found
    assert rounded(n + 1, most + 1, least) >= found or found == most


def test_a_batch_meets_few_extents() -> None:
    room = Extent(512, 1024, 64, 256, 8)
    met = {Extent(r, 512, 64, 256, 8).rounded(room) for r in range(1, 513)}
    assert len(met) == 18
    assert len({Extent(512, c, 64, 256, 8).rounded(room) for c in range(1, 1025)}) == 9


class Refusing(Replays):
    """As on a card that cannot do it."""

    def capture(self, step: Step, extent: Extent) -> Replay:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


def test_a_capture_that_fails_leaves_the_step_as_it_is() -> None:
    calls: list[Extent] = []

    def step(extent: Extent) -> Tensor | None:
        calls.append(extent)
        return None

    extent = Extent(1, 1, 1, 1, 1)
    replays = Refusing(torch.device("cpu"))
    replays.on = True
    replays.run(step, extent)
    with pytest.warns(UserWarning, match="without CUDA graphs: operation not permitted"):
        replays.run(step, extent)
    replays.run(step, extent)
    assert calls == [extent] * 3


@pytest.mark.parametrize("fixed", [True, False])
def test_a_batchs_buffers_go_with_it(fixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when garbage is next collected: the update needs their memory."""
    made: list[weakref.ref[ForkedCache]] = []
    real = ForkedCache.__init__

    def noted(cache: ForkedCache, *args: Any, **rest: Any) -> None:
        made.append(weakref.ref(cache))
        real(cache, *args, **rest)

    monkeypatch.setattr(ForkedCache, "__init__", noted)
    policy = models.make_policy()
    gc.disable()
    try:
        generate(policy, Sampling(5), max_rows=8, fixed=fixed)
        assert [ref() for ref in made] == [None]
    finally:
        gc.enable()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_graphs_on_a_gpu_give_the_steps_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = models.make_policy()
    policy = Policy(policy.model.cuda().double(), policy.tokenizer, policy.eos_ids, policy.pad_id)
    captured = generate(policy, Sampling(ENOUGH), max_rows=8, fixed=True)
    monkeypatch.setattr(Replays, "run", lambda _, step, extent: step(extent))
    launched = generate(policy, Sampling(ENOUGH), max_rows=8, fixed=True)
    assert torch.equal(captured.ids, launched.ids)
    torch.testing.assert_close(captured.old_logprobs, launched.old_logprobs, rtol=0, atol=1e-6)
