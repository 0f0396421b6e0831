"""Values over a whole dataset, for `check` statements: taken in batch by batch, in constant memory.

Rows without a value do not count, except to `missing`. Where nothing counts there is no value.

    count                 0..          rows that have a value
    missing               0..1         share of the rows that have none: null or error
    mean min max          as the values
    std                   0..          population's (ddof 0)
    fraction              0..1         share of the values that are not 0
    correlation           -1..1        Pearson's r over rows that have both values
    fraction_zero_std     0..1         share of the groups of two or more values that are all alike:
                                       groups that teach a policy nothing
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from grpo_rewards.columns import Column
from grpo_rewards.rules.group import fraction_zero_std
from grpo_rewards.rules.nulls import strict
from grpo_rewards.rules.rule import COUNT, DatasetKernel, Rule, as_argument, rule
from grpo_rewards.types import UNIT, Interval

Groups = npt.NDArray[np.int64] | None


@dataclass(slots=True)
class Count:
    """Rows, and how many of them have a value."""

    rows: int = 0
    present: int = 0

    def add(self, *columns: Column, groups: Groups) -> None:
        (column,) = columns
        self.rows += len(column)
        self.present += int(column.present.sum())

    def value(self) -> float | None:
        return float(self.present)


class Missing(Count):
    """The share of rows without a value."""

    def value(self) -> float | None:
        return 1 - self.present / self.rows if self.rows else None


@dataclass(slots=True)
class Moments:
    """Means and co-moments of some columns, over the rows that have all of them.

    Batches are joined by Chan's update (Chan, Golub, LeVeque 1979), so that a large mean costs no
    digits of the variance.
    """

    count: int = 0
    mean: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    products: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    low: float = np.inf
    high: float = -np.inf

    def add(self, *columns: Column, groups: Groups) -> None:
        present, _ = strict(columns)
        values = np.array([column.values[present].astype(np.float64) for column in columns])
        size = values.shape[1]
        if not size:
            return
        mean = values.mean(axis=1)
        centred = values - mean[:, None]
        products = centred @ centred.T
        if self.count:
            delta = mean - self.mean
            products += self.products + np.outer(delta, delta) * self.count * size / (
                self.count + size
            )
            mean = self.mean + delta * size / (self.count + size)
        self.count += size
        self.mean, self.products = mean, products
        self.low = min(self.low, float(values[0].min()))
        self.high = max(self.high, float(values[0].max()))

    def average(self) -> float | None:
        """The mean of the first column."""
        if not self.count:
            return None
        return min(max(float(self.mean[0]), self.low), self.high)  # rounding stays inside

    def spread(self) -> float | None:
        """The population's standard deviation of the first column."""
        if not self.count:
            return None
        if self.low == self.high:
            return 0.0
        return float(np.sqrt(self.products[0, 0] / self.count))


class Mean(Moments):
    def value(self) -> float | None:
        return self.average()


class Std(Moments):
    def value(self) -> float | None:
        return self.spread()


class Min(Moments):
    def value(self) -> float | None:
        return self.low if self.count else None


class Max(Moments):
    def value(self) -> float | None:
        return self.high if self.count else None


class Correlation(Moments):
    def value(self) -> float | None:
        if not self.count:
            return None
        spread = float(np.sqrt(self.products[0, 0]) * np.sqrt(self.products[1, 1]))
        if spread <= 1e-12 * max(1.0, float(np.abs(self.mean).max())) * self.count:
            return None  # one of them is constant
        return min(max(float(self.products[0, 1]) / spread, -1.0), 1.0)


@dataclass(slots=True)
class Fraction:
    """The share of values that are not 0."""

    count: int = 0
    hits: int = 0

    def add(self, *columns: Column, groups: Groups) -> None:
        (column,) = columns
        self.count += int(column.present.sum())
        self.hits += int(np.count_nonzero(column.values[column.present]))

    def value(self) -> float | None:
        return self.hits / self.count if self.count else None


@dataclass(slots=True)
class FractionZeroStd:
    """The share of groups whose values are all alike, among those of two or more values."""

    count: int = 0
    alike: float = 0.0

    def add(self, *columns: Column, groups: Groups) -> None:
        (column,) = columns
        assert groups is not None
        values = np.where(column.present, column.values, 0.0).astype(np.float64)
        sizes = np.bincount(groups[column.present]) if column.present.any() else np.zeros(1, int)
        count = int((sizes > 1).sum())
        if count:
            share, _ = fraction_zero_std(values, column.present, groups)
            self.count += count
            self.alike += float(share[0]) * count

    def value(self) -> float | None:
        return self.alike / self.count if self.count else None


def accumulator_state(accumulator: Any) -> dict[str, Any]:
    """What an accumulator of this module holds, as plain values; see `restore`."""
    found = {item.name: getattr(accumulator, item.name) for item in fields(accumulator)}
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items()}


def restore(accumulator: Any, state: dict[str, Any]) -> None:
    """Make an accumulator what another one was when it was `saved`, to the last bit."""
    for item in fields(accumulator):
        value = state[item.name]
        is_array = isinstance(getattr(accumulator, item.name), np.ndarray)
        setattr(accumulator, item.name, np.array(value, np.float64) if is_array else value)


RULES: tuple[Rule, ...] = (
    rule("dataset.count(values: num) -> num", DatasetKernel(Count),
         "How many rows of the dataset have a value.", range=COUNT),
    rule("dataset.missing(values: any) -> num", DatasetKernel(Missing),
         "The share of rows that have no value: null or error.", range=UNIT),
    rule("dataset.mean(values: num) -> num", DatasetKernel(Mean),
         "The mean over the dataset.", range=as_argument),
    rule("dataset.min(values: num) -> num", DatasetKernel(Min),
         "The least of the dataset.", range=as_argument),
    rule("dataset.max(values: num) -> num", DatasetKernel(Max),
         "The greatest of the dataset.", range=as_argument),
    rule("dataset.std(values: num) -> num", DatasetKernel(Std),
         "The standard deviation over the dataset.", range=COUNT),
    rule("dataset.fraction(values: num) -> num", DatasetKernel(Fraction),
         "The share of the dataset that is not 0.", range=UNIT),
    rule("dataset.correlation(left: num, right: num) -> num", DatasetKernel(Correlation),
         "Pearson's correlation of two columns; null where one is constant.",
         range=Interval(-1, 1)),
    rule("group.fraction_zero_std(values: num) -> num",
         DatasetKernel(FractionZeroStd, needs_groups=True),
         "The share of groups whose values are all alike, which teach nothing: for `check`.",
         range=UNIT),
)  # fmt: skip
