"""Laws of the objective. Oracle: tests/support/oracle_rl.py, float64, one completion at a time."""

from __future__ import annotations

import math

import oracle_rl
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from grpo_train.config import Aggregation, KLEstimator
from grpo_train.objective.loss import (
    LOSSES,
    Clip,
    Tokens,
    kl_estimate,
    kl_loss,
    kl_penalty,
    mismatch_weight,
    off_policy_mask,
    row_mean,
    row_sum,
    row_weights,
    top_entropy_mask,
)

KIND = st.sampled_from(sorted(LOSSES))
HOW = st.sampled_from(["token", "sequence", "constant", "prompt"])
LOGP = st.integers(-800, -1).map(lambda n: n / 100)
STEP = st.integers(-120, 120).map(lambda n: n / 100)
ADVANTAGE = st.integers(-30, 30).map(lambda n: n / 10)
CLIP = Clip(low=0.2, high=0.28, cap=1.5)
Row = tuple[list[float], list[float], float]


@st.composite
def rows(draw: st.DrawFn, *, on_policy: bool = False, size: int = 4) -> list[Row]:
    """(logprobs, old logprobs, advantage) of 1 … `size` completions."""
    found = []
    for _ in range(draw(st.integers(1, size))):
        logp = draw(st.lists(LOGP, min_size=1, max_size=5))
        move = [0.0] * len(logp) if on_policy else [draw(STEP) for _ in logp]
        found.append((logp, [a - d for a, d in zip(logp, move, strict=True)], draw(ADVANTAGE)))
    return found


def flat(batch: list[Row]) -> Tokens:
    """A batch as flat float64 tensors; logprobs ask for a gradient."""
    logp = torch.tensor([x for a, _, _ in batch for x in a], dtype=torch.float64)
    return Tokens(
        logp.requires_grad_(),
        torch.tensor([x for _, b, _ in batch for x in b], dtype=torch.float64),
        torch.tensor([v for a, _, v in batch for _ in a], dtype=torch.float64),
        torch.tensor([i for i, (a, _, _) in enumerate(batch) for _ in a]),
        len(batch),
    )


def gradient(loss: Tensor, tokens: Tokens) -> Tensor:
    """d loss / d logprobs; zero where the loss is a constant."""
    if not loss.requires_grad:
        return torch.zeros_like(tokens.logprobs)
    (grad,) = torch.autograd.grad(loss.sum(), tokens.logprobs)
    return grad


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# -- token losses ----------------------------------------------------------------------------------


@given(KIND, rows(), st.sampled_from([0.0, 3.0]))
def test_every_loss_is_its_formula(kind: str, batch: list[Row], dual: float) -> None:
    clip = Clip(low=0.2, high=0.28, dual=dual if kind in ("ppo", "gspo") else 0.0, cap=1.5)
    expected = [
        x
        for logp, old, advantage in batch
        for x in oracle_rl.token_loss(
            kind, logp, old, advantage, low=0.2, high=0.28, dual=clip.dual, cap=1.5
        )
    ]
    close(LOSSES[kind](flat(batch), clip).detach(), torch.tensor(expected, dtype=torch.float64))


@given(KIND, rows(on_policy=True))
def test_on_policy_every_gradient_is_reinforce(kind: str, batch: list[Row]) -> None:
    tokens = flat(batch)
    grad = gradient(LOSSES[kind](tokens, CLIP), tokens)
    if kind in ("gspo", "gmpo"):  # a sequence's gradient is spread evenly over its tokens
        grad = row_mean(grad, tokens.row, tokens.rows)[tokens.row]
    close(grad, -tokens.advantage)


@given(KIND, rows(on_policy=True))
def test_detached_logprobs_serve_as_old_ones(kind: str, batch: list[Row]) -> None:
    tokens = flat(batch)
    t = tokens
    own = Tokens(t.logprobs, t.logprobs.detach(), t.advantage, t.row, t.rows)
    stored = gradient(LOSSES[kind](tokens, CLIP), tokens)
    close(gradient(LOSSES[kind](own, CLIP), own), stored)


@given(KIND, rows())
def test_no_advantage_no_gradient(kind: str, batch: list[Row]) -> None:
    tokens = flat([(logp, old, 0.0) for logp, old, _ in batch])
    assert not gradient(LOSSES[kind](tokens, CLIP), tokens).any()


@given(rows())
def test_ppo_cuts_the_clipped_region_and_nothing_else(batch: list[Row]) -> None:
    tokens = flat(batch)
    grad = gradient(LOSSES["ppo"](tokens, CLIP), tokens)
    ratio, advantage = tokens.log_ratio.exp().detach(), tokens.advantage
    assume(((ratio - 1.28).abs() > 1e-6).all() and ((ratio - 0.8).abs() > 1e-6).all())
    clipped = ((advantage > 0) & (ratio > 1.28)) | ((advantage < 0) & (ratio < 0.8))
    close(grad, torch.where(clipped, 0.0, -ratio * advantage))


@given(rows())
def test_ppo_is_pessimistic(batch: list[Row]) -> None:
    tokens = flat(batch)
    loss = LOSSES["ppo"](tokens, CLIP)
    assert (loss >= -tokens.log_ratio.exp() * tokens.advantage - 1e-12).all()


@given(rows())
def test_a_boundless_clip_is_the_importance_sampled_gradient(batch: list[Row]) -> None:
    tokens = flat(batch)
    grad = gradient(LOSSES["ppo"](tokens, Clip(low=1e9, high=1e9)), tokens)
    close(grad, -tokens.log_ratio.exp().detach() * tokens.advantage)


@given(rows())
def test_the_dual_clip_bounds_the_loss(batch: list[Row]) -> None:
    tokens = flat(batch)
    loss = LOSSES["ppo"](tokens, Clip(dual=2.0))
    assert (
        loss <= torch.where(tokens.advantage < 0, -2 * tokens.advantage, math.inf) + 1e-12
    ).all()


@given(rows())
def test_cispo_keeps_every_token(batch: list[Row]) -> None:
    tokens = flat(batch)
    grad = gradient(LOSSES["cispo"](tokens, CLIP), tokens)
    assert ((grad != 0) == (tokens.advantage != 0)).all()
    assert (grad.abs() <= CLIP.cap * tokens.advantage.abs() + 1e-12).all()


@given(rows(size=1), st.integers(1, 4))
def test_gspos_ratio_is_free_of_length(batch: list[Row], times: int) -> None:
    (logp, old, advantage) = batch[0]
    longer = flat([(logp * times, old * times, advantage)])
    close(LOSSES["gspo"](longer, CLIP)[:1], LOSSES["gspo"](flat(batch), CLIP)[:1])


@given(rows())
def test_gspo_is_ppo_for_completions_of_one_token(batch: list[Row]) -> None:
    tokens = flat([(logp[:1], old[:1], advantage) for logp, old, advantage in batch])
    close(LOSSES["gspo"](tokens, CLIP), LOSSES["ppo"](tokens, CLIP))


@given(rows())
def test_sapo_and_gmpo_are_bounded(batch: list[Row]) -> None:
    tokens = flat(batch)
    size = tokens.advantage.abs()
    assert (LOSSES["sapo"](tokens, CLIP).abs() <= 4 * size + 1e-12).all()
    gain = LOSSES["gmpo"](tokens, CLIP).abs()[tokens.advantage > 0]
    assert (gain <= math.exp(CLIP.high) * size[tokens.advantage > 0] + 1e-12).all()


# -- aggregation -----------------------------------------------------------------------------------


@given(HOW, st.lists(st.lists(STEP, max_size=5), min_size=1, max_size=4), st.integers(1, 2))
def test_row_weights_are_the_papers_means(
    how: Aggregation, values: list[list[float]], group_size: int
) -> None:
    values = [row for row in values for _ in range(group_size)]
    assume(any(values))
    length = torch.tensor([len(row) for row in values])
    weight = row_weights(length, torch.ones_like(length).bool(), group_size, how, max_length=7)
    total = sum(float(w) * math.fsum(row) for w, row in zip(weight, values, strict=True))
    expected = oracle_rl.step_loss(values, how, group_size, 7)
    assert math.isclose(total, expected, rel_tol=1e-9, abs_tol=1e-12)


@given(HOW, st.lists(st.integers(1, 9), min_size=4, max_size=4), st.integers(0, 3))
def test_a_row_that_is_not_valid_is_counted_nowhere(
    how: Aggregation, lengths: list[int], out: int
) -> None:
    valid = torch.ones(4).bool()
    valid[out] = False
    weight = row_weights(torch.tensor(lengths), valid, 2, how, max_length=9)
    zeroed = [n if i != out else 0 for i, n in enumerate(lengths)]
    close(weight, row_weights(torch.tensor(zeroed), torch.ones(4).bool(), 2, how, max_length=9))
    assert weight[out] == 0


@given(st.integers(1, 9))
def test_with_equal_lengths_all_means_coincide(length: int) -> None:
    n = torch.full((6,), length)
    every = [
        row_weights(n, torch.ones(6).bool(), 3, how, max_length=length)
        for how in ("token", "sequence", "constant", "prompt")
    ]
    for weight in every:
        close(weight, torch.full((6,), 1 / (6 * length), dtype=torch.float64))


def test_no_rows_weigh_nothing() -> None:
    weight = row_weights(torch.tensor([3, 4]), torch.zeros(2).bool(), 2, "token")
    assert weight.tolist() == [0.0, 0.0]


@given(rows())
def test_row_sums_are_sums_over_rows(batch: list[Row]) -> None:
    tokens = flat(batch)
    expected = torch.tensor([math.fsum(a) for a, _, _ in batch], dtype=torch.float64)
    close(row_sum(tokens.logprobs.detach(), tokens.row, tokens.rows), expected)


# -- KL: values and gradients by enumeration over a small vocabulary -------------------------------


def enumerate_kl(how: KLEstimator, *, weighted: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Expected gradient of the KL loss term, and the gradients of both true KLs, per logit."""
    logits = torch.tensor([0.3, -1.2, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    ref = torch.log_softmax(torch.tensor([0.7, 0.2, -0.4, 0.0], dtype=torch.float64), 0)
    logp = torch.log_softmax(logits, 0)
    row = torch.arange(4)
    tokens = Tokens(logp, logp.detach(), torch.zeros(4, dtype=torch.float64), row, 4)
    loss = (logp.detach().exp() * kl_loss(tokens, ref, how, weighted=weighted)).sum()
    truth = {
        "reverse": (logp.exp() * (logp - ref)).sum(),
        "forward": (ref.exp() * (ref - logp)).sum(),
        "nothing": (0 * logp).sum(),
    }
    grads = {k: torch.autograd.grad(v, logits, retain_graph=True)[0] for k, v in truth.items()}
    return torch.autograd.grad(loss, logits, retain_graph=True)[0], grads


@pytest.mark.parametrize(
    ("how", "weighted", "kind"),
    [
        ("k1", False, "nothing"),
        ("k2", False, "reverse"),
        ("k3", False, "forward"),
        ("k1", True, "reverse"),
        ("k3", True, "reverse"),
    ],
)
def test_whose_gradient_a_kl_term_has(how: KLEstimator, weighted: bool, kind: str) -> None:
    grad, truth = enumerate_kl(how, weighted=weighted)
    close(grad, truth[kind], 1e-12)


def test_kl_taken_off_the_reward_has_the_reverse_kls_gradient() -> None:
    """REINFORCE over all two-token completions: −Σ π(y) A(y) ∇ log π(y) with A = −Σ k1."""
    logits = torch.tensor([0.3, -1.2, 0.9], dtype=torch.float64, requires_grad=True)
    ref = torch.log_softmax(torch.tensor([0.7, 0.2, -0.4], dtype=torch.float64), 0)
    logp = torch.log_softmax(logits, 0)
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    row = torch.arange(9).repeat_interleave(2)
    penalty = kl_penalty(logp[pairs.flatten()], ref[pairs.flatten()], row, 9)
    whole = logp[pairs].sum(dim=1)
    (grad,) = torch.autograd.grad((whole.detach().exp() * penalty * whole).sum(), logits)
    logp = torch.log_softmax(logits, 0)
    (truth,) = torch.autograd.grad(2 * (logp.exp() * (logp - ref)).sum(), logits)
    close(grad, truth, 1e-12)


@given(st.lists(LOGP, min_size=1, max_size=6), st.data())
def test_k2_and_k3_are_never_negative_and_zero_only_where_equal(
    logp: list[float], data: st.DataObject
) -> None:
    ref = [data.draw(LOGP) for _ in logp]
    a, b = torch.tensor(logp, dtype=torch.float64), torch.tensor(ref, dtype=torch.float64)
    for how in ("k2", "k3"):
        estimate = kl_estimate(a, b, how)
        assert (estimate >= 0).all()
        assert ((estimate == 0) == (a == b)).all()


def test_k1_and_k3_estimate_the_kl() -> None:
    p = torch.log_softmax(torch.tensor([0.3, -1.2, 0.9], dtype=torch.float64), 0)
    q = torch.log_softmax(torch.tensor([0.7, 0.2, -0.4], dtype=torch.float64), 0)
    truth = float((p.exp() * (p - q)).sum())
    for how in ("k1", "k3"):
        assert math.isclose(float((p.exp() * kl_estimate(p, q, how)).sum()), truth, rel_tol=1e-12)


# -- sampler mismatch and masks --------------------------------------------------------------------


@given(rows(on_policy=True), st.sampled_from(["token", "sequence", "geometric"]))
def test_an_engine_that_agrees_needs_no_correction(batch: list[Row], level: str) -> None:
    t = flat(batch)
    for how in ("truncate", "mask"):
        weight = mismatch_weight(
            t.old_logprobs,
            t.old_logprobs,
            t.row,
            t.rows,
            level=level,
            how=how,  # type: ignore[arg-type]
        )
        assert (weight == 1).all()


@given(rows())
def test_mismatch_levels_are_token_sum_and_mean(batch: list[Row]) -> None:
    t = flat(batch)
    a, b = t.logprobs.detach(), t.old_logprobs
    wide = {"high": math.inf}
    token = mismatch_weight(a, b, t.row, t.rows, **wide).log()
    whole = mismatch_weight(a, b, t.row, t.rows, level="sequence", **wide).log()
    mean = mismatch_weight(a, b, t.row, t.rows, level="geometric", **wide).log()
    close(whole, row_sum(token, t.row, t.rows)[t.row])
    close(mean, row_mean(token, t.row, t.rows)[t.row])


@given(rows())
def test_mismatch_is_bounded(batch: list[Row]) -> None:
    t = flat(batch)
    a, b = t.logprobs.detach(), t.old_logprobs
    assert (mismatch_weight(a, b, t.row, t.rows, high=1.5) <= 1.5).all()
    masked = mismatch_weight(a, b, t.row, t.rows, how="mask", low=0.5, high=1.5)
    assert ((masked == 0) | ((masked >= 0.5) & (masked <= 1.5))).all()


@given(rows(), st.integers(0, 100).map(lambda n: n / 100))
def test_only_unlikely_bad_rows_are_dropped(batch: list[Row], delta: float) -> None:
    tokens = flat(batch)
    kept = off_policy_mask(tokens, delta)
    for i, (logp, old, advantage) in enumerate(batch):
        drift = oracle_rl.mean([b - a for a, b in zip(logp, old, strict=True)])
        assume(abs(drift - delta) > 1e-9)
        assert (kept[tokens.row == i] == float(not (advantage < 0 and drift > delta))).all()


@given(st.lists(st.floats(0, 5), min_size=1, max_size=20, unique=True), st.floats(0.05, 1))
def test_the_entropy_mask_keeps_the_most_uncertain(values: list[float], share: float) -> None:
    mask = top_entropy_mask(torch.tensor(values, dtype=torch.float64), share)
    kept = [v for v, m in zip(values, mask.tolist(), strict=True) if m]
    assert len(kept) == max(1, round(share * len(values)))
    assert sorted(values, reverse=True)[: len(kept)] == sorted(kept, reverse=True)
