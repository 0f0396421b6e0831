"""Laws of advantages. Oracle: tests/support/oracle_rl.py, row by row in float64."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction

import oracle_rl
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from grpo_train.config import Advantage, AdvantageMethod
from grpo_train.errors import ConfigError
from grpo_train.objective.advantage import (
    METHODS,
    Groups,
    centered,
    gdpo,
    group_advantages,
    grpo,
    has_signal,
    maxrl,
    opo,
    overlong,
    pass_at_k,
    rloo,
)


def by_reward(method: AdvantageMethod) -> Callable[[Tensor], Tensor]:
    """A method that reads nothing but rewards, as a function of them."""
    return lambda reward: METHODS[method](Groups(reward, torch.ones_like(reward), {}))


#: Those that read more than rewards have laws of their own below.
SIMPLE: dict[str, Callable[[Tensor], Tensor]] = {
    name: by_reward(name) for name in METHODS if name not in ("opo", "pass_at_k", "gdpo")
}
METHOD = st.sampled_from(sorted(SIMPLE))
REWARD = st.integers(-400, 400).map(lambda n: n / 100)
POSITIVE = st.integers(0, 400).map(lambda n: n / 100)


def groups(reward: st.SearchStrategy[float] = REWARD) -> st.SearchStrategy[list[list[float]]]:
    """P groups of equal size, some rewards null."""
    row = st.one_of(reward, reward, reward, st.just(math.nan))

    def batch(size: int) -> st.SearchStrategy[list[list[float]]]:
        return st.lists(st.lists(row, min_size=size, max_size=size), min_size=1, max_size=4)

    return st.integers(1, 6).flatmap(batch)


def double(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@given(METHOD, groups(POSITIVE))
def test_every_method_is_its_formula(method: str, rows: list[list[float]]) -> None:
    close(SIMPLE[method](double(rows)), double(oracle_rl.advantages(rows, method)))


@given(METHOD, st.sampled_from([0.1, 0.7, 1e6, 1 / 3, -5.3]), st.integers(2, 64))
def test_ties_are_exactly_zero_even_in_fp32(method: str, value: float, size: int) -> None:
    reward = torch.full((3, size), value, dtype=torch.float32)
    assert torch.equal(SIMPLE[method](reward), torch.zeros(3, size))


@given(METHOD, REWARD)
def test_a_singleton_teaches_nothing(method: str, value: float) -> None:
    alone = double([[value, math.nan, math.nan], [math.nan] * 3])
    assert not SIMPLE[method](alone).any()


@given(METHOD, groups())
def test_null_rewards_are_left_out_not_zero(method: str, rows: list[list[float]]) -> None:
    out = SIMPLE[method](double(rows))
    assert not out.isnan().any()
    assert not out[double(rows).isnan()].any()
    first = [value for value in rows[0] if not math.isnan(value)]
    assume(method not in ("batch_std", "reinforce") and len(first) > 1)
    close(out[0][~double(rows)[0].isnan()], SIMPLE[method](double([first]))[0])


@given(METHOD, groups())
def test_groups_sum_to_zero(method: str, rows: list[list[float]]) -> None:
    assume(method != "maxrl")  # its scale explodes near a zero mean; the sum is zero relative to it
    close(SIMPLE[method](double(rows)).sum(-1), torch.zeros(len(rows), dtype=torch.float64), 1e-7)


@given(METHOD, groups(), st.lists(REWARD, min_size=4, max_size=4))
def test_shifting_a_group_changes_nothing(
    method: str, rows: list[list[float]], shift: list[float]
) -> None:
    assume(method not in ("maxrl", "batch_std"))  # they read the level itself
    reward = double(rows)
    moved = reward + double([shift])[0, : len(rows), None]
    close(SIMPLE[method](moved), SIMPLE[method](reward), 1e-6)


@given(groups(), st.floats(0.01, 1e4))
def test_with_a_std_scale_is_free_without_one_linear(rows: list[list[float]], k: float) -> None:
    reward = double(rows)
    for method in ("grpo", "batch_std", "reinforce"):
        close(SIMPLE[method](k * reward), SIMPLE[method](reward), 1e-6)
    for method in ("dr_grpo", "rloo"):
        close(SIMPLE[method](k * reward), k * SIMPLE[method](reward), 1e-6)


@given(METHOD, groups())
def test_negating_rewards_negates_advantages(method: str, rows: list[list[float]]) -> None:
    assume(method != "maxrl")
    close(SIMPLE[method](-double(rows)), -SIMPLE[method](double(rows)))


@given(METHOD, groups(POSITIVE), st.randoms())
def test_order_of_rows_does_not_matter(method: str, rows: list[list[float]], rng) -> None:  # type: ignore[no-untyped-def]
    reward = double(rows)
    index = list(range(reward.shape[1]))
    rng.shuffle(index)
    close(SIMPLE[method](reward[:, index]), SIMPLE[method](reward)[:, index])


@given(groups())
def test_groups_do_not_touch_each_other(rows: list[list[float]]) -> None:
    for method in ("grpo", "dr_grpo", "rloo", "maxrl"):
        together = SIMPLE[method](double(rows))
        apart = torch.cat([SIMPLE[method](double([row])) for row in rows])
        assert torch.equal(together, apart)


def test_groups_go_by_position_so_equal_prompts_do_not_merge() -> None:
    reward = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert group_advantages(reward, 2)[2:].tolist() == [0.0, 0.0]


@given(groups())
def test_group_z_scores_have_unit_std_and_the_known_bound(rows: list[list[float]]) -> None:
    for reward, out in zip(double(rows), grpo(double(rows)), strict=True):
        present = out[~reward.isnan()]
        n = len(present)
        if n > 1 and present.any():
            assert math.isclose(float(present.std()), 1.0, rel_tol=1e-6)
            assert float(present.abs().max()) <= (n - 1) / math.sqrt(n) + 1e-9


@given(st.integers(1, 15), st.integers(2, 16))
def test_binary_rewards_have_a_closed_form(right: int, size: int) -> None:
    assume(right < size)
    p = right / size
    out = grpo(double([[1.0] * right + [0.0] * (size - right)]), ddof=0)[0]
    assert math.isclose(float(out[0]), math.sqrt((1 - p) / p), rel_tol=1e-9)
    assert math.isclose(float(out[-1]), -math.sqrt(p / (1 - p)), rel_tol=1e-9)


@given(METHOD, groups(POSITIVE))
def test_a_better_reward_never_has_a_lower_advantage(method: str, rows: list[list[float]]) -> None:
    for reward, out in zip(double(rows), SIMPLE[method](double(rows)), strict=True):
        present = ~reward.isnan()
        order = torch.argsort(reward[present])
        assert (out[present][order].diff() >= -1e-9).all()


@given(groups())
def test_rloo_leaves_one_out(rows: list[list[float]]) -> None:
    out = rloo(double(rows))
    for i, row in enumerate(rows):
        present = [r for r in row if not math.isnan(r)]
        if len(present) > 1:
            for j, r in enumerate(row):
                if not math.isnan(r):
                    others = (math.fsum(present) - r) / (len(present) - 1)
                    assert math.isclose(float(out[i, j]), r - others, abs_tol=1e-9)


def test_one_loser_among_winners_does_not_explode() -> None:
    out = grpo(torch.tensor([[1.0] * 7 + [1.0 - 1e-6]]))
    assert float(out.abs().max()) <= 1.001 * 7 / math.sqrt(8)


@given(st.lists(REWARD, min_size=2, max_size=6), st.integers(1, 5))
def test_pass_at_k_is_its_enumeration(row: list[float], k: int) -> None:
    assume(k < len(row) and max(row) > min(row))
    close(pass_at_k(double([row]), k=k), double([oracle_rl.pass_at_k(row, k)]))


@given(groups())
def test_pass_at_1_is_rloo(rows: list[list[float]]) -> None:
    close(pass_at_k(double(rows), k=1), rloo(double(rows)))


@given(groups(), st.floats(0.01, 1e3))
def test_gdpo_does_not_care_for_a_rewards_scale(rows: list[list[float]], k: float) -> None:
    reward = double(rows).nan_to_num()
    other = reward.flip(-1)
    close(gdpo([k * reward, other]), gdpo([reward, other]), 1e-6)


@given(groups())
def test_opo_with_equal_lengths_is_centered(rows: list[list[float]]) -> None:
    reward = double(rows)
    close(opo(reward, torch.full_like(reward, 7.0)), centered(reward))


@given(st.integers(0, 300), st.integers(1, 100))
def test_overlong_is_monotone_and_bounded(length: int, cache: int) -> None:
    here, longer = overlong(torch.tensor([length, length + 1]), limit=120, cache=cache).tolist()
    assert -1 <= longer <= here <= 0
    assert here - longer <= 1 / cache + 1e-6


@given(groups())
def test_signal_is_a_difference(rows: list[list[float]]) -> None:
    for row, found in zip(rows, has_signal(double(rows)).tolist(), strict=True):
        present = {r for r in row if not math.isnan(r)}
        assert found == (len(present) > 1)


EVERY: dict[str, Callable[[Tensor], Tensor]] = SIMPLE | {
    "opo": lambda reward: opo(reward, 1 + torch.arange(reward.shape[1]).expand_as(reward)),
    "pass_at_k": lambda reward: pass_at_k(reward, k=2),
    "gdpo": lambda reward: gdpo([reward, reward], [0.5, 0.7]),
    "gdpo, cancelling": lambda reward: gdpo([reward, -reward, reward], [0.1, 0.1, 0.3]),
}
WEIGHT = st.integers(1, 999).map(lambda n: n / 1000)  # what people write


def shuffled_sums(terms: list[float], size: int, rng: random.Random) -> list[float]:
    """The same terms added in `size` orders, some of them in halves."""
    found = []
    for _ in range(size):
        order = rng.sample(terms, len(terms))
        cut = rng.randrange(len(order) + 1)
        found.append(sum(order[:cut]) + sum(order[cut:]))
    return found


@pytest.mark.parametrize("method", EVERY)
def test_rewards_that_differ_by_rounding_tie(method: str) -> None:
    weighed = [0.1 * a + 0.2 * b + 0.3 * c for a, b, c in [(1, 1, 0), (0, 0, 1), (0, 0, 1)]]
    assert len(set(weighed)) == 2
    assert EVERY[method](double([weighed])).tolist() == [[0.0] * 3]


@given(
    st.sampled_from(sorted(EVERY)), st.lists(WEIGHT, min_size=1, max_size=9), st.integers(2, 32),
    st.sampled_from([1e-6, 1.0, 1e6]), st.randoms(use_true_random=False),
)  # fmt: skip
def test_rewards_equal_in_exact_arithmetic_get_exactly_zero(
    method: str, weights: list[float], size: int, unit: float, rng: random.Random
) -> None:
    terms = [unit * w for w in weights]
    rows = double([shuffled_sums(terms, size, rng) for _ in range(3)])
    assert not has_signal(rows).any()
    assert not EVERY[method](rows).any()


@given(st.lists(WEIGHT, min_size=2, max_size=6), st.integers(2, 16), st.randoms())
def test_terms_that_cancel_tie(weights: list[float], size: int, rng: random.Random) -> None:
    """The exact sum is 0, so that the values are rounding errors and nothing else."""
    rest = -float(sum(Fraction(str(w)) for w in weights))
    rows = double([shuffled_sums([*weights, rest], size, rng)])
    assert not has_signal(rows).any()
    for method in EVERY.values():
        assert not method(rows).any()


@given(
    st.sampled_from([m for m in SIMPLE if m != "maxrl"]), st.lists(WEIGHT, min_size=1, max_size=5),
    st.lists(st.integers(0, 3), min_size=2, max_size=8), st.sampled_from([1e-6, 1e-3, 1.0]),
    st.sampled_from([1e-6, 1.0, 1e6]), st.randoms(use_true_random=False),
)  # fmt: skip
def test_a_true_gap_stays_one(
    method: str, weights: list[float], marks: list[int], gap: float, unit: float, rng: random.Random
) -> None:
    """From a millionth of the rewards' size on; the oracle sees the sums without their errors."""
    assume(len(set(marks)) > 1)
    base = max(sum(weights), 1.0)
    noisy = [unit * (sum(rng.sample(weights, len(weights))) + base * gap * m) for m in marks]
    exact = [unit * (math.fsum(weights) + base * gap * m) for m in marks]
    out, expected = SIMPLE[method](double([noisy])), double(oracle_rl.advantages([exact], method))
    assert has_signal(double([noisy])).all()
    # Sums are off by 1e-15 of their size, which is 1e-9 of the smallest gap.
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
    clear = expected.abs() > 1e-6 * float(expected.abs().max())
    assert torch.equal(out.sign()[clear], expected.sign()[clear])


@given(groups(), st.floats(-2, 0))
def test_maxrl_is_zero_where_the_mean_is_not_above_zero(
    rows: list[list[float]], mean: float
) -> None:
    reward = double(rows)
    lowered = reward - reward.nanmean(-1, keepdim=True) + mean
    assert not maxrl(lowered).any()


@given(groups(POSITIVE))
def test_maxrl_is_bounded_by_the_group(rows: list[list[float]]) -> None:
    assert float(maxrl(double(rows)).abs().max()) <= max(1, len(rows[0]) - 1) + 1e-9


def test_an_unknown_method_is_no_method() -> None:
    with pytest.raises(KeyError):
        group_advantages(torch.zeros(2), 2, "grop")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_called_alike(method: AdvantageMethod) -> None:
    """Two rewards of a group, whatever else a method may read, say which row was better."""
    better, worse, *tied = group_advantages(double([[2.0, 1.0, 1.0, 1.0]])[0], 2, method).tolist()
    assert better > 0 > worse and tied == [0.0, 0.0]


def test_gdpo_reads_the_scores_that_the_config_weighs() -> None:
    a, b = double([[0.0, 1.0, 2.0]]), double([[5.0, 1.0, 0.0]])
    chosen = Advantage(method="gdpo", scores={"b": 0.5})
    read = METHODS["gdpo"](Groups(a, torch.ones_like(a), {"a": a, "b": b}, chosen))
    close(read, gdpo([b], [0.5]))
    both = METHODS["gdpo"](Groups(a, torch.ones_like(a), {"a": a, "b": b}))
    close(both, gdpo([a, b]))
    with pytest.raises(ConfigError, match=r"no score `c` - at `advantage.scores`"):
        METHODS["gdpo"](Groups(a, a, {"a": a}, Advantage(scores={"c": 1.0})))
