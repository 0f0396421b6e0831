"""Kernels of the operators: strict in null, never NaN or infinite.

A result is absent where an argument is; an error wins over a null, the leftmost over the others.
Where arithmetic has no finite value the result is null with status UNDEFINED. Source of the
semantics: docs/reward-language.md, "Null and error".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from grpo_rewards.columns import Column, Status
from grpo_rewards.types import Type

Array = npt.NDArray[Any]


def strict(columns: tuple[Column, ...]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint8]]:
    """Which rows have all their arguments [B] bool, and the status of those that have not."""
    present = columns[0].present.copy()
    for column in columns[1:]:
        present &= column.present
    status = np.zeros(len(present), np.uint8)
    for column in reversed(columns):  # the leftmost null is written last
        status = np.where(column.is_null, column.status, status)
    for column in reversed(columns):  # errors over nulls
        status = np.where(column.is_error, column.status, status)
    return present, status.astype(np.uint8)


def ready_rows(
    types: Sequence[Type], columns: Sequence[Column]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint8]]:
    """Which rows a kernel sees [B], and the status of those that it does not.

    A kernel takes the null of a nullable parameter itself; it never sees an error.
    """
    present, status = strict(tuple(columns))
    if any(type_.nullable for type_ in types):
        present = np.ones(len(present), bool)
        for type_, column in zip(types, columns, strict=True):
            present &= ~column.is_error & (column.present | type_.nullable)
    return present, status


def numeric(function: Callable[..., Array]) -> Callable[..., Column]:
    """A column kernel from a numpy function of float arrays; no finite value → UNDEFINED."""

    def kernel(*columns: Column, **options: Any) -> Column:
        present, status = strict(columns)
        with np.errstate(all="ignore"):
            values = function(*(_floats(column) for column in columns), **options)
        undefined = present & ~np.isfinite(values)
        status[undefined] = Status.UNDEFINED
        present &= ~undefined
        return Column(np.where(present, values, 0.0), present, status)

    return kernel


def truth(function: Callable[..., Array]) -> Callable[..., Column]:
    """A column kernel from a numpy function that compares arrays."""

    def kernel(*columns: Column) -> Column:
        present, status = strict(columns)
        arrays = (c.values if c.values.dtype == object else _floats(c) for c in columns)
        values = np.asarray(function(*arrays), bool) & present
        return Column(values, present, status)

    return kernel


def _floats(column: Column) -> npt.NDArray[np.float64]:
    return column.values.astype(np.float64, copy=False)


def power(base: Array, exponent: Array) -> Array:
    """base ** exponent; 0 ** negative and the root of a negative have no value."""
    return np.power(base, exponent)


def clamp(value: Array, lo: Array, hi: Array) -> Array:
    """value kept inside lo..hi; lo wins where they cross."""
    return np.maximum(np.minimum(value, hi), lo)


def minimum(*values: Array) -> Array:
    return np.asarray(np.minimum.reduce(values))


def maximum(*values: Array) -> Array:
    return np.asarray(np.maximum.reduce(values))


def within(value: Array, lo: Array, hi: Array) -> Array:
    return (value >= lo) & (value <= hi)


def one_of(value: Array, *choices: Array) -> Array:
    result = np.zeros(len(value), bool)
    for choice in choices:
        result |= np.asarray(value == choice, bool)
    return result


def is_null(column: Column) -> Column:
    """`x == null`: always true or false, except that an error stays an error."""
    error = column.is_error
    return Column(column.is_null, ~error, np.where(error, column.status, 0).astype(np.uint8))


def negate(column: Column) -> Column:
    """Kleene's not: null stays null, an error an error."""
    return Column(~column.values.astype(bool) & column.present, column.present, column.status)


def schedule(at: Column, *points: Column) -> Column:
    """Linear between the points (x0, y0, x1, y1, …), constant outside them."""
    xs = np.array([column.values[0] for column in points[0::2]], float)
    ys = np.array([column.values[0] for column in points[1::2]], float)
    return numeric(lambda values: np.interp(values, xs, ys))(at)
