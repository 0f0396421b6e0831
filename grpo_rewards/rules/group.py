"""Values that need the whole group: the completions of one prompt compared with each other.

A kernel takes `values` [B] float64, `present` [B] bool and `groups` [B] int64 (any numbers; rows of
one group need not be adjacent) and gives values and present. Rows that are absent do not count.
What describes a group is given to each of its rows, also to absent ones; what describes a row only
to present ones. Groups do not see each other (but for `fraction_zero_std`, which is about all of
them), and the order of rows does not matter, except to `argmax`.

    mean min max      as the values       group   no present row: absent
    std               0..                 group   fewer than two present rows: absent
    fraction          0..1                group   no present row: absent
    argmax            0..G-1              group   no present row: absent
    rank              0..1                row     fewer than two present rows: absent
    zscore            +-sqrt(G - 1)       row     fewer than two present rows: absent
    length_relative   -0.5..0.5           row
    fraction_zero_std 0..1                all     no group with two present rows: absent
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from grpo_rewards.columns import Column, Status
from grpo_rewards.rules.nulls import strict
from grpo_rewards.rules.rule import COUNT, GroupKernel, Rule, as_argument, rule
from grpo_rewards.types import UNIT, Interval

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]
Result = tuple[Floats, Bools]

_SAME = 1e-12  # values closer than this, relative to their size, are the same reward


def _numbered(groups: Ids) -> tuple[npt.NDArray[np.intp], int]:
    """Groups as 0, 1, …, and how many there are."""
    ids, number = np.unique(groups, return_inverse=True)
    return number.reshape(-1), len(ids)


def _sums(values: Floats, present: Bools, number: npt.NDArray[np.intp], count: int) -> Floats:
    """Sums by group over the present rows."""
    return np.bincount(number[present], values[present], count).astype(np.float64)


def _counts(present: Bools, number: npt.NDArray[np.intp], count: int) -> Floats:
    return np.bincount(number[present], minlength=count).astype(np.float64)


def _spread(by_group: Floats, valid: Bools, number: npt.NDArray[np.intp]) -> Result:
    """A value for each group → a value for each row; 0 where there is none."""
    return np.where(valid, by_group, 0.0)[number], valid[number]


def mean(values: Floats, present: Bools, groups: Ids) -> Result:
    """The mean of each group.

    >>> mean(np.array([1.0, 0.0, 5.0]), np.ones(3, bool), np.array([7, 7, 8]))[0]
    array([0.5, 0.5, 5. ])
    """
    number, count = _numbered(groups)
    size = _counts(present, number, count)
    means = _sums(values, present, number, count) / np.maximum(size, 1)
    low, high = _extremes(values, present, number, count)
    return _spread(np.clip(means, low, high), size > 0, number)  # rounding stays inside


def _extremes(
    values: Floats, present: Bools, number: npt.NDArray[np.intp], count: int
) -> tuple[Floats, Floats]:
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, number[present], values[present])
    np.maximum.at(high, number[present], values[present])
    return low, high


def min(values: Floats, present: Bools, groups: Ids) -> Result:
    """The least value of each group."""
    number, count = _numbered(groups)
    low, _ = _extremes(values, present, number, count)
    return _spread(low, _counts(present, number, count) > 0, number)


def max(values: Floats, present: Bools, groups: Ids) -> Result:
    """The greatest value of each group."""
    number, count = _numbered(groups)
    _, high = _extremes(values, present, number, count)
    return _spread(high, _counts(present, number, count) > 0, number)


def std(values: Floats, present: Bools, groups: Ids, *, ddof: int = 0) -> Result:
    """The standard deviation of each group; exactly 0 where all values are the same.

    `ddof=1` is what torch.std and most GRPO trainers use.
    """
    number, count = _numbered(groups)
    deviations, size = _std(values, present, number, count, ddof)
    return _spread(deviations, size > 1, number)


def _std(
    values: Floats, present: Bools, number: npt.NDArray[np.intp], count: int, ddof: int
) -> tuple[Floats, Floats]:
    size = _counts(present, number, count)
    low, high = _extremes(values, present, number, count)
    centre = _sums(values, present, number, count) / np.maximum(size, 1)
    squares = _sums((values - centre[number]) ** 2, present, number, count)
    same = ~(high - low > _SAME * np.maximum(np.abs(high), np.abs(low)))
    return np.where(same, 0.0, np.sqrt(squares / np.maximum(size - ddof, 1))), size


def zscore(values: Floats, present: Bools, groups: Ids, *, ddof: int = 0) -> Result:
    """How many standard deviations above the mean of its group; 0 where all are the same.

    GRPO's advantage (arXiv 2402.03300, 4.1.2).
    """
    number, count = _numbered(groups)
    deviations, size = _std(values, present, number, count, ddof)
    centre = _sums(values, present, number, count) / np.maximum(size, 1)
    flat = deviations[number] == 0
    scores = np.where(flat, 0.0, values - centre[number]) / np.where(flat, 1.0, deviations[number])
    valid = present & (size[number] > 1)
    return np.where(valid, scores, 0.0), valid


def rank(values: Floats, present: Bools, groups: Ids) -> Result:
    """The share of the others in the group that a row beats, ties counting half.

    >>> rank(np.array([3.0, 1.0, 1.0]), np.ones(3, bool), np.zeros(3, np.int64))[0]
    array([1.  , 0.25, 0.25])
    """
    number, count = _numbered(groups)
    size = _counts(present, number, count)
    rows = np.flatnonzero(present)
    rows = rows[np.lexsort((values[rows], number[rows]))]
    ranks = np.zeros(len(values))
    if len(rows):
        keys = np.stack((number[rows].astype(np.float64), values[rows]))
        new = np.concatenate(([True], (keys[:, 1:] != keys[:, :-1]).any(axis=0)))
        tie = np.cumsum(new) - 1
        place = np.arange(len(rows)) - np.searchsorted(number[rows], number[rows])
        middle = np.bincount(tie, place) / np.bincount(tie)
        ranks[rows] = middle[tie]
    valid = present & (size[number] > 1)
    return np.where(valid, ranks / np.maximum(size[number] - 1, 1), 0.0), valid


def argmax(values: Floats, present: Bools, groups: Ids) -> Result:
    """Which row of the group has the greatest value: 0 for its first row; the first of equals."""
    number, count = _numbered(groups)
    _, high = _extremes(values, present, number, count)
    place = np.zeros(len(values))
    order = np.argsort(number, kind="stable")
    place[order] = np.arange(len(values)) - np.searchsorted(number[order], number[order])
    best = np.full(count, np.inf)
    top = present & (values == high[number])
    np.minimum.at(best, number[top], place[top])
    return _spread(best, np.isfinite(best), number)


def fraction(values: Floats, present: Bools, groups: Ids) -> Result:
    """The share of the group that is not 0: its pass rate, where the values are true or false."""
    return mean((values != 0).astype(np.float64), present, groups)


def fraction_zero_std(values: Floats, present: Bools, groups: Ids) -> Result:
    """The share of groups whose values are all the same, and that teach GRPO nothing.

    One number for all rows. Groups with fewer than two values do not count. DAPO (arXiv
    2503.14476, 3.2) drops such groups.
    """
    number, count = _numbered(groups)
    deviations, size = _std(values, present, number, count, 0)
    counted = size > 1
    share = float(np.mean(deviations[counted] == 0)) if counted.any() else 0.0
    return np.full(len(values), share), np.full(len(values), bool(counted.any()))


def length_relative(n_tokens: Floats, correct: Floats, present: Bools, groups: Ids) -> Result:
    """Kimi k1.5's length reward (arXiv 2501.12599, 2.3.3), in [-0.5, 0.5].

    0.5 for the shortest of the group down to -0.5 for the longest; a wrong one never gains by it.
    0 where all are of one length.

    >>> lengths, correct = np.array([100.0, 300.0, 100.0]), np.array([1.0, 1.0, 0.0])
    >>> length_relative(lengths, correct, np.ones(3, bool), np.zeros(3, np.int64))[0]
    array([ 0.5, -0.5,  0. ])
    """
    number, count = _numbered(groups)
    low, high = _extremes(n_tokens, present, number, count)
    varied = high > low
    span = np.where(varied, high, 1.0)[number] - np.where(varied, low, 0.0)[number]
    least = np.where(varied, low, 0.0)[number]
    reward = np.clip(0.5 - (n_tokens - least) / span, -0.5, 0.5)
    reward = np.where(correct != 0, reward, np.minimum(reward, 0.0))
    return np.where(present & varied[number], reward, 0.0), present.copy()


def _grouped(function: Callable[..., Result]) -> GroupKernel:
    """A group kernel from a function of arrays; no value of a group is UNDEFINED."""

    def kernel(*args: Any, **options: Any) -> Column:
        *columns, groups = args
        present, status = strict(tuple(columns))
        floats = [column.values.astype(np.float64, copy=False) for column in columns]
        ints = {name: int(value) for name, value in options.items()}
        values, has = function(*floats, present, groups, **ints)
        undefined = np.where(status != 0, status, Status.UNDEFINED)
        return Column(np.where(has, values, 0.0), has, np.where(has, 0, undefined).astype(np.uint8))

    return GroupKernel(kernel)


RULES: tuple[Rule, ...] = (
    rule("group.mean(values: num) -> num", _grouped(mean),
         "The mean of the group; rows without a value do not count.", range=as_argument),
    rule("group.min(values: num) -> num", _grouped(min), "The least of the group.",
         range=as_argument),
    rule("group.max(values: num) -> num", _grouped(max), "The greatest of the group.",
         range=as_argument),
    rule("group.std(values: num, *, ddof: num = 0) -> num", _grouped(std),
         "The standard deviation of the group; null below two values.", range=COUNT),
    rule("group.zscore(values: num, *, ddof: num = 0) -> num", _grouped(zscore),
         "How many standard deviations above the group's mean; 0 where all are alike."),
    rule("group.rank(values: num) -> num", _grouped(rank),
         "The place in the group, from 0 for the least to 1 for the greatest.", range=UNIT),
    rule("group.argmax(values: num) -> num", _grouped(argmax),
         "Which row of the group has the greatest value, from 0; the first of equals.",
         range=COUNT),
    rule("group.fraction(values: num) -> num", _grouped(fraction),
         "The share of the group that is not 0: its pass rate.", range=UNIT),
    rule("group.length_relative(n_tokens: num, correct: num) -> num",
         _grouped(length_relative),
         "Kimi k1.5's length reward: 0.5 for the shortest of the group to -0.5 for the longest;"
         " a wrong one never gains by it.", range=Interval(-0.5, 0.5)),
)  # fmt: skip
