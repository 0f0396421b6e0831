"""Laws of sampling. Oracle: the model's own forward, one text at a time (support/models.py)."""

from __future__ import annotations

import dataclasses

import models
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_train.config import Lora
from grpo_train.engines.decoder import KINDS, Decoder
from grpo_train.engines.drawing import cut_logits, draw
from grpo_train.engines.native import WAYS, NativeEngine
from grpo_train.errors import EngineError
from grpo_train.model.lora import add_lora
from grpo_train.model.policy import Policy
from grpo_train.objective.packing import MicroBatch, batch_logprobs, pack
from grpo_train.rollouts import Rollouts, Sampling, join_rollouts, row_seeds, uniforms

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [20], [3, 4], [30] * 12, [41, 42, 43, 44]]
G = 4


def generate(policy: Policy, sampling: Sampling, *, max_rows: int = 64, run: int = 0) -> Rollouts:
    seeds = row_seeds(run, torch.arange(len(PROMPTS) * G))
    return NativeEngine(policy, max_rows).generate(PROMPTS, G, sampling, seeds)


def dense(policy: Policy, r: Rollouts) -> torch.Tensor:
    with torch.no_grad():
        pairs = enumerate(r.completion_ids())
        return torch.cat(
            [models.dense_logprobs(policy, r.prompt_ids[i // r.group_size], t) for i, t in pairs]
        )


@pytest.mark.parametrize("kind", models.CLASSES)
@pytest.mark.parametrize("max_rows", [3, 8, 64])
def test_the_engines_logprobs_are_the_models(kind: str, max_rows: int) -> None:
    policy = models.make_policy(kind)
    r = generate(policy, Sampling(20), max_rows=max_rows)
    assert len(set(r.length.tolist())) > 1  # some stop early: places are taken over
    torch.testing.assert_close(r.old_logprobs, dense(policy, r), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", models.CLASSES)
def test_they_still_are_after_updates(kind: str) -> None:
    policy = models.make_policy(kind)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.1)
    for _ in range(3):
        r = generate(policy, Sampling(12))
        torch.testing.assert_close(r.old_logprobs, dense(policy, r), rtol=0, atol=1e-5)
        for batch in pack(r, torch.ones(len(r)).bool(), 1000):
            batch_logprobs(policy, batch, temperature=1.0)[0].mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@pytest.mark.parametrize("kind", models.CLASSES)
def test_a_step_without_modules_is_the_models_own(kind: str) -> None:
    policy = models.make_policy(kind)
    assert (Decoder.of(policy, 8) is not None) == (kind in KINDS)
    policy.model.double()  # where both paths agree to more than a rounding of fp32
    with torch.no_grad():
        for parameter in policy.model.parameters():  # norms' weights begin as 1, biases as 0
            parameter.add_(0.1 * torch.randn_like(parameter))
    r = generate(policy, Sampling(20), max_rows=8)
    torch.testing.assert_close(r.old_logprobs, dense(policy, r).float(), rtol=0, atol=3e-6)


@pytest.mark.parametrize("targets", [[], ["q_proj", "down_proj"]])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_without_modules_has_the_adapter_merged(kind: str, targets: list[str]) -> None:
    pytest.importorskip("peft")
    policy = add_lora(models.make_policy(kind), Lora(rank=2, targets=targets), seed=0)
    assert Decoder.of(policy, 8) is not None
    policy.model.double()
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    r = generate(policy, Sampling(20), max_rows=8)
    torch.testing.assert_close(r.old_logprobs, dense(policy, r).float(), rtol=2e-6, atol=3e-6)


@pytest.mark.parametrize("sampling", [Sampling(20), Sampling(20, temperature=0.7, top_k=9)])
@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2"])
def test_all_ways_of_sampling_draw_the_same(kind: str, sampling: Sampling) -> None:
    policy = dataclasses.replace(models.make_policy(kind), eos_ids=(1, 7, 19, 30, 44))
    policy.model.double()  # so that the order of a sum decides about no token
    seeds = row_seeds(0, torch.arange(len(PROMPTS) * G))
    found = [
        NativeEngine(policy, 7, way=way).generate(PROMPTS, G, sampling, seeds)
        for way in WAYS
        if way != "step" or kind in KINDS
    ]
    assert len(set(found[0].length.tolist())) > 1
    for other in found[1:]:
        assert torch.equal(other.ids, found[0].ids)
        assert torch.equal(other.length, found[0].length)
        assert torch.equal(other.stopped, found[0].stopped)
        torch.testing.assert_close(other.old_logprobs, found[0].old_logprobs, rtol=0, atol=1e-5)
        torch.testing.assert_close(other.entropy, found[0].entropy, rtol=0, atol=1e-5)
        assert (other.support is None) == (found[0].support is None)
        if other.support is not None and found[0].support is not None:
            assert torch.equal(other.support.ids, found[0].support.ids)
            assert torch.equal(other.support.start, found[0].support.start)
    assert policy.ours  # the model's attention is what it was


def test_large_models_decode_through_their_own_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_train.engines.decoder.PACK_BYTES", 1000)
    assert Decoder.of(models.make_policy(), 8) is None


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(15, temperature=0.7),
        Sampling(15, top_k=3),
        Sampling(15, top_p=0.8, temperature=1.3),
        Sampling(15, top_k=10, top_p=0.9),
    ],
)
def test_the_trainer_sees_the_distribution_that_was_sampled(sampling: Sampling) -> None:
    policy = models.make_policy()
    r = generate(policy, sampling, max_rows=8)
    with torch.no_grad():
        for batch in pack(r, torch.ones(len(r)).bool(), 200):
            logp, entropy = batch_logprobs(
                policy, batch, temperature=sampling.temperature, support=r.support
            )
            torch.testing.assert_close(logp, r.old_logprobs[batch.token], rtol=0, atol=1e-5)
            torch.testing.assert_close(entropy, r.entropy[batch.token], rtol=0, atol=1e-4)


def test_a_completion_does_not_depend_on_its_batch() -> None:
    policy = models.make_policy()
    many, few = generate(policy, Sampling(20)), generate(policy, Sampling(20), max_rows=4)
    assert many.completion_ids() == few.completion_ids()
    alone = NativeEngine(policy).generate(
        PROMPTS[2:3], G, Sampling(20), row_seeds(0, torch.arange(2 * G, 3 * G))
    )
    assert alone.completion_ids() == many.completion_ids()[2 * G : 3 * G]


def test_same_seed_same_completions_another_seed_others() -> None:
    policy = models.make_policy()
    first = generate(policy, Sampling(10)).completion_ids()
    assert first == generate(policy, Sampling(10)).completion_ids()
    assert first != generate(policy, Sampling(10), run=1).completion_ids()


def test_every_end_token_ends_and_is_kept_and_nothing_follows() -> None:
    plain = models.make_policy()
    policy = Policy(plain.model, plain.tokenizer, (1, 7, 9), 0)
    r = generate(policy, Sampling(20))
    for ids, stopped in zip(r.completion_ids(), r.stopped.tolist(), strict=True):
        ends = [i for i, token in enumerate(ids) if token in policy.eos_ids]
        assert ends == ([len(ids) - 1] if stopped else [])
        assert stopped or len(ids) == 20
    assert {1, 7, 9} & set(r.ids.tolist())


def test_a_pad_token_that_is_also_the_end_token_still_ends() -> None:
    plain = models.make_policy()
    policy = Policy(plain.model, plain.tokenizer, (1,), 1)
    r = generate(policy, Sampling(20))
    assert r.completion_ids() == generate(plain, Sampling(20)).completion_ids()
    assert r.stopped.any()


def test_sampled_tokens_follow_the_distribution() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 12) * 1.5
    count = 40_000
    ids, logp, _ = draw(logits.expand(count, -1), uniforms(torch.tensor([3]), count)[0])
    share = torch.bincount(ids, minlength=12) / count
    p = logits.softmax(-1)[0]
    chi_square = float((count * (share - p).square() / p).sum())
    assert chi_square < 31.3  # 99.9% of χ² with 11 degrees of freedom; the seed is fixed
    torch.testing.assert_close(logp, p.log()[ids])


@settings(max_examples=100)
@given(
    st.integers(1, 300),
    st.integers(0, 2**32),
    st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 1 - 2**-53]),
    st.integers(0, 290),
)
def test_a_draw_inverts_the_distribution_and_never_takes_a_cut_token(
    vocab: int, seed: int, uniform: float, cut: int
) -> None:
    logits = torch.randn(1, vocab, generator=torch.Generator().manual_seed(seed)) * 3
    if 0 < cut < vocab:
        logits[0, torch.randperm(vocab)[:cut]] = -torch.inf
    ids, logp, entropy = draw(logits, torch.tensor([uniform], dtype=torch.float64))
    p = logits.double().softmax(-1)[0]
    end = p.cumsum(0)
    token = int(ids)
    assert p[token] > 0
    assert float(end[token] - p[token]) - 1e-6 <= uniform <= float(end[token]) + 1e-6
    assert abs(float(logp) - float(p[token].log())) < 1e-5
    assert abs(float(entropy) + float(torch.special.xlogy(p, p).sum())) < 1e-4


@settings(max_examples=50)
@given(st.lists(st.integers(-(2**60), 2**60), min_size=1, max_size=4), st.integers(1, 50))
def test_uniforms_are_in_range_and_prefix_stable(seeds: list[int], count: int) -> None:
    found = uniforms(torch.tensor(seeds), count)
    assert ((found >= 0) & (found < 1)).all()
    assert torch.equal(found, uniforms(torch.tensor(seeds), count + 7)[:, :count])


def test_seeds_of_different_rows_steps_and_runs_differ() -> None:
    every = [row_seeds(run, step, torch.arange(64)) for run in range(4) for step in range(16)]
    assert len(torch.cat(every).unique()) == 4 * 16 * 64
    u = uniforms(torch.cat(every), 8)
    assert abs(float(u.mean()) - 0.5) < 0.005
    assert float(torch.corrcoef(u.T).fill_diagonal_(0).abs().max()) < 0.06


@given(st.integers(0, 10_000), st.integers(0, 12), st.floats(0.05, 1.0))
def test_cuts_keep_the_likeliest_tokens_and_enough_mass(seed: int, k: int, p: float) -> None:
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(seed))
    kept = ~cut_logits(logits, Sampling(1, top_k=k, top_p=p)).isinf()
    for row, mask in zip(logits, kept, strict=True):
        assert mask[row.argmax()]
        assert not k or int(mask.sum()) <= k
        assert row[mask].min() >= (row[~mask].max() if (~mask).any() else -1e9)
        if not k or k >= 10:
            assert float(row.softmax(-1)[mask].sum()) >= p - 1e-5


def test_groups_can_be_picked_and_joined() -> None:
    policy = models.make_policy()
    r = generate(policy, Sampling(10, top_k=5))
    again = join_rollouts([r.pick([1, 0]), r.pick([2, 3, 4])])
    order = [1, 0, 2, 3, 4]
    texts = r.completion_ids()
    assert again.completion_ids() == [texts[p * G + i] for p in order for i in range(G)]
    assert again.prompt_ids == [PROMPTS[p] for p in order]
    for batch in pack(again, torch.ones(len(r)).bool(), 1000):
        with torch.no_grad():
            logp, _ = batch_logprobs(policy, batch, temperature=1.0, support=again.support)
        torch.testing.assert_close(logp, again.old_logprobs[batch.token], rtol=0, atol=1e-5)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(EngineError, match="without tokens"):
        NativeEngine(models.make_policy()).generate([[]], 1, Sampling(3), torch.tensor([0]))


def gradient(policy: Policy, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprobs of a batch, and the gradient of their mean."""
    policy.model.zero_grad()
    logp, _ = batch_logprobs(policy, batch, temperature=1.0)
    logp.mean().backward()  # type: ignore[no-untyped-call]
    found = [p.grad for p in policy.model.parameters() if p.grad is not None]
    assert {g.dtype for g in found} == {torch.float32}
    return logp.detach(), torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("own_step", [True, False])
@pytest.mark.parametrize("kind", models.CLASSES)
def test_bf16_over_fp32_weights_goes_all_the_way(
    kind: str, own_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = models.make_policy(kind, precision="bfloat16", sharpness=3.0)
    assert policy.model.dtype == torch.float32 and policy.compute == torch.bfloat16
    if not own_step:
        monkeypatch.setattr("grpo_train.engines.native.Decoder.of", lambda *_: None)
    r = generate(policy, Sampling(20), max_rows=8)
    (batch,), (twin,) = (pack(r, torch.ones(len(r)).bool(), 5000) for _ in range(2))
    logp, narrow = gradient(policy, batch)
    _, wide = gradient(dataclasses.replace(policy, mixed=False), twin)
    assert float((logp - r.old_logprobs[batch.token]).abs().max()) < 0.15
    assert float(torch.cosine_similarity(narrow, wide, dim=0)) > 0.98
