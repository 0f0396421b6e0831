"""Laws of packing. Oracle: the model's own forward, one text at a time (support/models.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import models
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grpo_train.model.policy import Policy
from grpo_train.objective.packing import Layout, batch_logprobs, pack
from grpo_train.rollouts import Rollouts

TOKEN = st.integers(2, models.VOCAB - 1)
LAYOUTS: tuple[Layout, ...] = ("varlen", "flat", "plain")


@pytest.fixture(autouse=True, scope="module")
def flash_attention() -> Iterator[None]:
    """Torch has it on CUDA only: an independent one in its place, the rest is ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.attention.varlen.varlen_attn", models.varlen_attn)
        yield


@st.composite
def rollouts(draw: st.DrawFn) -> Rollouts:
    """Made-up completions of up to 9 tokens."""
    group_size = draw(st.integers(1, 4))
    prompts = draw(st.lists(st.lists(TOKEN, min_size=1, max_size=8), min_size=1, max_size=4))
    total = group_size * len(prompts)
    texts = [draw(st.lists(TOKEN, min_size=1, max_size=9)) for _ in range(total)]
    return make(prompts, texts, group_size)


def make(prompts: list[list[int]], texts: list[list[int]], group_size: int) -> Rollouts:
    n = sum(map(len, texts))
    return Rollouts(
        prompts,
        group_size,
        torch.tensor([i for text in texts for i in text]),
        torch.tensor([len(text) for text in texts]),
        torch.zeros(n),
        torch.zeros(n),
        torch.ones(len(texts)).bool(),
    )


EXAMPLE = make(
    [[5, 6, 7, 8, 9], [20], [3, 4]],
    [[9, 8, 7], [5], [6, 7, 8, 9, 10, 11, 12, 1], [30, 31], [4, 4, 4, 4], [2, 1]],
    2,
)


def packed(policy: Policy, r: Rollouts, budget: int, layout: Layout) -> Tensor:
    """Logprobs [N] through packing, with gradients."""
    found = torch.zeros(len(r.ids))
    for batch in pack(r, torch.ones(len(r)).bool(), budget, layout):
        logp, _ = batch_logprobs(policy, batch, temperature=1.0)
        found = found.index_put((batch.token,), logp)
    return found


def gradients(policy: Policy, loss: Tensor) -> dict[str, Tensor]:
    policy.model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", models.CLASSES)
@pytest.mark.parametrize("budget", [12, 40, 1000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_packing_has_the_logprobs_and_gradients_of_separate_texts(
    kind: str, budget: int, layout: Layout
) -> None:
    policy = models.make_policy(kind)
    if layout == "varlen" and kind == "gemma2":
        with pytest.raises(NotImplementedError, match="soft cap"):
            packed(policy, EXAMPLE, budget, layout)
        return
    weight = torch.linspace(-1, 1, len(EXAMPLE.ids))
    ours = packed(policy, EXAMPLE, budget, layout)
    pairs = enumerate(EXAMPLE.completion_ids())
    dense = torch.cat(
        [models.dense_logprobs(policy, EXAMPLE.prompt_ids[i // 2], text) for i, text in pairs]
    )
    torch.testing.assert_close(ours, dense, rtol=1e-5, atol=1e-5)
    expected = gradients(policy, (dense * weight).sum())
    for name, grad in gradients(policy, (ours * weight).sum()).items():
        scale = float(expected[name].abs().max())
        assert float((grad - expected[name]).abs().max()) <= 1e-4 * scale + 1e-7, name


@settings(max_examples=25)
@given(rollouts(), st.integers(10, 100))
def test_any_budget_and_layout_gives_the_same_logprobs(r: Rollouts, budget: int) -> None:
    policy = models.make_policy()
    with torch.no_grad():
        whole = packed(policy, r, 10_000, "plain")
        for layout in LAYOUTS:
            found = packed(policy, r, budget, layout)
            torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)


@given(rollouts(), st.integers(1, 100), st.randoms())
def test_every_kept_token_is_trained_once_and_no_other(r: Rollouts, budget: int, rng) -> None:  # type: ignore[no-untyped-def]
    keep = torch.tensor([rng.random() < 0.7 for _ in range(len(r))])
    row = torch.repeat_interleave(torch.arange(len(r)), r.length)
    wanted = torch.nonzero(keep[row]).flatten()
    layout: Layout = rng.choice(LAYOUTS)
    batches = pack(r, keep, budget, layout)
    token = torch.cat([b.token for b in batches]) if batches else wanted[:0]
    assert torch.equal(token.sort().values, wanted)
    for batch in batches:
        assert torch.equal(batch.target, r.ids[batch.token])
        assert torch.equal(batch.row, row[batch.token])
        whole = 2 + max(len(p) for p in r.prompt_ids) + 9  # one completion may exceed the budget
        assert batch.ids.numel() <= max(budget, whole)


@settings(max_examples=25)
@given(rollouts(), st.integers(0, 2**31))
def test_no_completion_sees_another(r: Rollouts, seed: int) -> None:
    """Other tokens in one completion change no logprob of the others of its group."""
    policy = models.make_policy()
    layout = LAYOUTS[seed % 2]
    generator = torch.Generator().manual_seed(seed)
    start = r.length.cumsum(0) - r.length
    changed = int(torch.randint(len(r), (1,), generator=generator))
    ids = r.ids.clone()
    span = slice(int(start[changed]), int(start[changed] + r.length[changed]))
    ids[span] = torch.randint(2, models.VOCAB, (int(r.length[changed]),), generator=generator)
    with torch.no_grad():
        before = packed(policy, r, 10_000, layout)
        after = packed(policy, dataclasses.replace(r, ids=ids), 10_000, layout)
    others = torch.ones(len(ids)).bool()
    others[span] = False
    torch.testing.assert_close(after[others], before[others], rtol=1e-5, atol=1e-5)


def test_the_last_token_is_predicted_but_not_fed() -> None:
    (batch,) = pack(make([[5, 6]], [[7, 8, 1]], 1), torch.ones(1).bool(), 100)
    assert batch.ids.tolist() == [[5, 6, 7, 8]]
    assert batch.source.tolist() == [1, 2, 3]
    assert batch.positions.tolist() == [[0, 1, 2, 3]]


def test_a_group_shares_its_prompt() -> None:
    r = make([[5] * 20], [[7, 8], [9, 9]], 2)
    (batch,) = pack(r, torch.ones(2).bool(), 100)
    assert batch.ids.numel() == 20 + 1 + 1


def test_nothing_to_keep_is_no_batch() -> None:
    assert pack(EXAMPLE, torch.zeros(6).bool(), 100) == []
