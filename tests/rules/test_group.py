"""Group kernels: they compare within a group, see no other group, and ask for no order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_rewards.rules import group as g

Kernel = Callable[..., g.Result]
Rows = list[tuple[float, bool, int]]

#: All kernels of one column; the second number says what a row of them is about.
ABOUT_GROUP = [g.mean, g.min, g.max, g.std, g.fraction]
ABOUT_ROW = [g.rank, g.zscore]
rows = st.lists(
    st.tuples(st.floats(-3, 3).map(lambda v: round(v, 1)), st.booleans(), st.integers(-2, 2)),
    min_size=1,
    max_size=14,
)


def columns(data: Rows) -> tuple[Any, Any, Any]:
    values, present, groups = zip(*data, strict=True)
    return np.array(values, float), np.array(present), np.array(groups, np.int64)


def length_relative(values: Any, present: Any, groups: Any) -> g.Result:
    """The two-column kernel as one of one column: the sign says what is correct."""
    return g.length_relative(np.abs(values), (values > 0).astype(float), present, groups)


KERNELS = [*ABOUT_GROUP, *ABOUT_ROW, length_relative]


@pytest.mark.parametrize("kernel", KERNELS)
@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(kernel: Kernel, data: Rows, random: Any) -> None:
    values, present = kernel(*columns(data))
    order = random.sample(range(len(data)), len(data))
    shuffled, there = kernel(*columns([data[i] for i in order]))
    np.testing.assert_allclose(shuffled, values[order], atol=1e-12)
    np.testing.assert_array_equal(there, present[order])


@pytest.mark.parametrize("kernel", [*KERNELS, g.argmax])
@given(rows)
def test_groups_do_not_see_each_other(kernel: Kernel, data: Rows) -> None:
    values, present = kernel(*columns(data))
    for number in {row[2] for row in data}:
        places = [i for i, row in enumerate(data) if row[2] == number]
        alone, there = kernel(*columns([data[i] for i in places]))
        np.testing.assert_allclose(alone, values[places], atol=1e-12)
        np.testing.assert_array_equal(there, present[places])


@pytest.mark.parametrize("kernel", [*KERNELS, g.argmax, g.fraction_zero_std])
@given(rows)
def test_absent_rows_do_not_count(kernel: Kernel, data: Rows) -> None:
    values, present = kernel(*columns(data))
    other, there = kernel(*columns([(v if p else -v + 9, p, n) for v, p, n in data]))
    np.testing.assert_array_equal(there, present)
    np.testing.assert_allclose(other[present], values[present])
    assert np.isfinite(values).all()


@given(rows)
def test_they_are_what_numpy_says_of_each_group(data: Rows) -> None:
    values, present, groups = columns(data)
    for number in np.unique(groups):
        inside = groups == number
        own = values[inside & present]
        for kernel, function, least in (
            (g.mean, np.mean, 1), (g.min, np.min, 1), (g.max, np.max, 1), (g.std, np.std, 2),
        ):  # fmt: skip
            got, there = kernel(values, present, groups)
            assert (there[inside] == (len(own) >= least)).all()
            if len(own) >= least:
                np.testing.assert_allclose(got[inside], function(own), atol=1e-9)
        if len(own) > 1:
            got, _ = g.std(values, present, groups, ddof=1)
            np.testing.assert_allclose(got[inside], np.std(own, ddof=1), atol=1e-9)


@given(rows)
def test_values_stay_in_their_ranges(data: Rows) -> None:
    values, present, groups = columns(data)
    size = len(data)
    for kernel, low, high in (
        (g.rank, 0, 1), (g.fraction, 0, 1), (g.fraction_zero_std, 0, 1), (g.std, 0, 6),
        (g.argmax, 0, size - 1), (g.zscore, -math.sqrt(size), math.sqrt(size)),
        (length_relative, -0.5, 0.5),
    ):  # fmt: skip
        got, there = kernel(values, present, groups)
        assert (got[there] >= low - 1e-9).all() and (got[there] <= high + 1e-9).all()
    got, there = g.mean(values, present, groups)
    low, _ = g.min(values, present, groups)
    high, _ = g.max(values, present, groups)
    assert (low[there] <= got[there]).all() and (got[there] <= high[there]).all()


@given(rows)
def test_rank_is_the_share_of_the_others_that_are_beaten(data: Rows) -> None:
    values, present, groups = columns(data)
    got, there = g.rank(values, present, groups)
    for i in np.flatnonzero(there):
        others = [j for j in np.flatnonzero(present & (groups == groups[i])) if j != i]
        beaten = sum((values[j] < values[i]) + 0.5 * (values[j] == values[i]) for j in others)
        assert got[i] == pytest.approx(beaten / len(others))


@given(rows)
def test_argmax_points_to_the_first_greatest(data: Rows) -> None:
    values, present, groups = columns(data)
    got, there = g.argmax(values, present, groups)
    for number in np.unique(groups):
        inside = np.flatnonzero(groups == number)
        own = [i for i in inside if present[i]]
        assert there[inside].all() == bool(own)
        if own:
            best = inside[int(got[inside[0]])]
            assert present[best] and values[best] == max(values[own])
            assert best == min(i for i in own if values[i] == values[best])


@given(rows)
def test_zscores_have_mean_0_and_deviation_1_or_are_all_0(data: Rows) -> None:
    values, present, groups = columns(data)
    got, there = g.zscore(values, present, groups)
    for number in np.unique(groups):
        own = got[there & (groups == number)]
        if len(own):
            assert abs(own.mean()) < 1e-9
            assert np.std(own) == pytest.approx(1) or (own == 0).all()


def test_equal_rewards_have_no_spread_even_where_their_mean_is_rounded() -> None:
    values = np.full(7, 0.1) * 3
    groups = np.zeros(7, np.int64)
    present = np.ones(7, bool)
    assert (g.std(values, present, groups)[0] == 0).all()
    assert (g.zscore(values, present, groups)[0] == 0).all()
    assert g.fraction_zero_std(values, present, groups)[0][0] == 1


def test_the_share_of_groups_that_teach_nothing() -> None:
    values = np.array([1.0, 1.0, 0.0, 1.0, 5.0])
    groups = np.array([0, 0, 1, 1, 2])
    share, there = g.fraction_zero_std(values, np.ones(5, bool), groups)
    assert share.tolist() == [0.5] * 5 and there.all()
    assert not g.fraction_zero_std(values[4:], np.ones(1, bool), groups[4:])[1].any()


def test_kimis_length_reward() -> None:
    lengths = np.array([100.0, 200.0, 300.0, 300.0, 100.0, 50.0, 50.0])
    correct = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    groups = np.array([0, 0, 0, 0, 0, 1, 1])
    got, there = g.length_relative(lengths, correct, np.ones(7, bool), groups)
    assert got.tolist() == [0.5, 0.0, -0.5, -0.5, 0.0, 0.0, 0.0] and there.all()


def test_an_empty_batch_is_a_batch() -> None:
    empty = np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64)
    for kernel in (*KERNELS, g.argmax, g.fraction_zero_std):
        values, present = kernel(*empty)
        assert len(values) == len(present) == 0
