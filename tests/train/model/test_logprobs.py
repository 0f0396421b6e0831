"""Laws of the head. Oracle: log_softmax over all logits at once, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grpo_train.model import logprobs
from grpo_train.model.logprobs import Head, Support, sampled_logprobs

SEED = st.integers(0, 10_000)


def case(seed: int, *, tokens: int = 7, vocab: int = 11, width: int = 5) -> tuple[Tensor, ...]:
    """hidden [N, h], weight [V, h], bias [V], target [N], float64 with gradients."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=g, dtype=torch.float64).requires_grad_()
    weight = torch.randn(vocab, width, generator=g, dtype=torch.float64).requires_grad_()
    bias = torch.randn(vocab, generator=g, dtype=torch.float64).requires_grad_()
    return hidden, weight, bias, torch.randint(vocab, (tokens,), generator=g)


def oracle(
    hidden: Tensor, head: Head, target: Tensor, temperature: float, kept: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The definition."""
    z = hidden @ head.weight.T + (0 if head.bias is None else head.bias)
    if head.softcap:
        z = head.softcap * torch.tanh(z / head.softcap)
    z = z * head.scale / temperature
    if kept is not None:
        z = z.masked_fill(~kept, -1e9)
    logp = torch.log_softmax(z, -1)
    return logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.fixture(params=["kept", "again"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways: logits kept for the backward pass, or made again; three tokens a chunk."""
    monkeypatch.setattr(logprobs, "KEEP_BYTES", 1 << 30 if request.param == "kept" else 0)
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", 3 * 4 * 11)


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_chunks_give_the_whole_heads_values_and_gradients(
    temperature: float, softcap: float, scale: float
) -> None:
    for seed in range(5):
        hidden, weight, bias, target = case(seed)
        head = Head(weight, bias, softcap, scale)
        mix = torch.randn(2, 7, dtype=torch.float64)
        ours = sampled_logprobs(hidden, target, head, temperature=temperature)
        truth = oracle(hidden, head, target, temperature)
        for a, b in zip(ours, truth, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        leaves = (hidden, weight, bias)
        grads = torch.autograd.grad((ours[0] * mix[0] + ours[1] * mix[1]).sum(), leaves)
        expected = torch.autograd.grad((truth[0] * mix[0] + truth[1] * mix[1]).sum(), leaves)
        for a, b in zip(grads, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@given(SEED)
def test_logprobs_and_entropy_stay_in_their_ranges(seed: int) -> None:
    hidden, weight, bias, target = case(seed)
    logp, entropy = sampled_logprobs(hidden * 10, target, Head(weight, bias))
    assert (logp <= 0).all()
    assert ((entropy >= -1e-12) & (entropy <= math.log(11) + 1e-12)).all()


@given(SEED, st.floats(-50, 50))
def test_shifting_all_logits_changes_nothing(seed: int, shift: float) -> None:
    hidden, weight, bias, target = case(seed)
    a = sampled_logprobs(hidden, target, Head(weight, bias))
    b = sampled_logprobs(hidden, target, Head(weight, bias + shift))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-8)


@given(SEED)
def test_gradient_over_the_vocabulary_sums_to_zero(seed: int) -> None:
    hidden, weight, bias, target = case(seed)
    logp, entropy = sampled_logprobs(hidden, target, Head(weight, bias))
    (grad,) = torch.autograd.grad((logp * torch.arange(1, 8) + entropy).sum(), bias)
    assert abs(float(grad.sum())) < 1e-9


@given(SEED)
def test_the_support_renormalises(seed: int) -> None:
    hidden, weight, bias, target = case(seed)
    g = torch.Generator().manual_seed(seed)
    kept = torch.rand(7, 11, generator=g) < 0.5
    kept[torch.arange(7), target] = True
    count = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1)])
    support = Support(kept.nonzero()[:, 1], count.cumsum(0))
    head = Head(weight, bias)
    ours = sampled_logprobs(hidden, target, head, support=support)
    truth = oracle(hidden, head, target, 1.0, kept)
    for a, b in zip(ours, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    (a,), (b,) = (torch.autograd.grad(x[0].sum(), hidden) for x in (ours, truth))
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    again = support.pick(torch.tensor([3, 0]))
    assert torch.equal(again.mask(0, 2, 11), kept[[3, 0]])


def test_bf16_hidden_states_are_read_in_fp32() -> None:
    hidden, weight, _, target = case(0)
    low = sampled_logprobs(hidden.bfloat16(), target, Head(weight.bfloat16().float(), None))
    truth = oracle(hidden.bfloat16().double(), Head(weight.bfloat16().double()), target, 1.0)
    assert low[0].dtype == torch.float32
    torch.testing.assert_close(low[0].double(), truth[0], rtol=1e-5, atol=1e-5)
