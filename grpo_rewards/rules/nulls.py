"""Which rows of a column have a value, and why the others have none.

A result is absent where an argument is; an error wins over a null, the leftmost over the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from grpo_rewards.columns import Column
from grpo_rewards.types import Type


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
