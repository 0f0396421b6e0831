"""One column of a batch: a value a row, whether it is there, and why it is what it is.

A row of a column is in one of three states:

    value   present; `status` is OK, or says what the value rests on (`False` because MISSING)
    null    absent: the question does not apply (no gold to compare with, nothing to judge)
    error   absent: the work was cut short (TIMEOUT, TOO_LARGE, FAILED)

The blame rule decides between them: gold or verifier at fault → null; completion at fault → 0 or
False, with the status beside it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Status(enum.IntEnum):
    """Why a value is what it is. From TIMEOUT on, an absent value is an error, before it a null."""

    OK = 0
    MISSING = 1  # nothing there: a null input, no answer found, no letters to judge
    UNPARSED = 2  # there, but it cannot be read as what the rule needs
    UNDEFINED = 3  # arithmetic without a value: division by zero, an empty mean
    TIMEOUT = 16  # the wall clock struck
    TOO_LARGE = 17  # a counted bound of limits.py was reached
    FAILED = 18  # the worker that held the row died (memory)

    @property
    def is_error(self) -> bool:
        return self >= Status.TIMEOUT

    @property
    def label(self) -> str:
        """`ok`, `missing`, …: as it is written into files."""
        return self.name.lower()


class Span(str):
    """Text that knows where it was cut from: a `str` with the offset of its start.

    Rules that extract return spans, so that `explain` can show the place and rules can stay plain
    functions of strings. Offsets count from the start of the outermost text, so a cut of a cut
    still points into the completion.

    >>> boxed = Span.cut("so \\\\boxed{42}.", 10, 12)
    >>> boxed, boxed.start, Span.cut(boxed, 1, 2).start
    ('42', 10, 11)
    """

    __slots__ = ("start",)
    start: int

    @classmethod
    def cut(cls, text: str, start: int, end: int) -> Span:
        """`text[start:end]` with its place; 0 ≤ start ≤ end ≤ len(text)."""
        span = cls(text[start:end])
        span.start = start + getattr(text, "start", 0)
        return span

    @property
    def end(self) -> int:
        return self.start + len(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_span, (str(self), self.start)


def _rebuild_span(text: str, start: int) -> Span:
    span = Span(text)
    span.start = start
    return span


class Outcome(NamedTuple):
    """What a row kernel may return instead of a plain value, to say why.

    `Outcome(False, Status.MISSING)` is a value with its reason. A bare `Status` stands for
    `Outcome(None, status)`: null, or an error from TIMEOUT on. A bare None is null and MISSING.
    """

    value: Any
    status: Status


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """`values` [B] (float64, bool or object), `present` [B] bool, `status` [B] uint8.

    Where `present` is False the value is a filler (0, False or None) that nobody may read.
    """

    values: npt.NDArray[Any]
    present: npt.NDArray[np.bool_]
    status: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_error(self) -> npt.NDArray[np.bool_]:
        """Rows whose work was cut short."""
        return ~self.present & (self.status >= Status.TIMEOUT)

    @property
    def is_null(self) -> npt.NDArray[np.bool_]:
        """Rows where the question does not apply."""
        return ~self.present & (self.status < Status.TIMEOUT)

    @staticmethod
    def of(values: npt.NDArray[Any]) -> Column:
        """A column in which every value is there."""
        size = len(values)
        return Column(values, np.ones(size, bool), np.zeros(size, np.uint8))

    @staticmethod
    def from_rows(rows: Iterable[Any], dtype: npt.DTypeLike) -> Column:
        """From plain values, None, statuses and outcomes; `dtype` is float64, bool or object."""
        found = list(rows)
        size = len(found)
        values = np.zeros(size, dtype) if dtype is not object else np.full(size, None, object)
        present = np.zeros(size, bool)
        status = np.zeros(size, np.uint8)
        for i, row in enumerate(found):
            if row.__class__ is str:  # what batches are made of
                values[i] = row
                present[i] = True
                continue
            value, why = as_outcome(row)
            status[i] = why
            if value is not None:
                values[i] = value
                present[i] = True
        return Column(values, present, status)

    def take(self, rows: npt.NDArray[np.intp]) -> Column:
        """The given rows, in the given order."""
        return Column(self.values[rows], self.present[rows], self.status[rows])

    def row(self, i: int) -> Any:
        """The value of one row, None where there is none."""
        return self.values[i] if self.present[i] else None


def as_outcome(row: Any) -> Outcome:
    """The one reading of what a row kernel returned."""
    if isinstance(row, Outcome):
        return row
    if row is True or row is False:  # the commonest verdicts, made once
        return _TRUE if row else _FALSE
    if isinstance(row, Status):
        return Outcome(None, row)
    if row is None:
        return Outcome(None, Status.MISSING)
    return Outcome(row, Status.OK)


_TRUE, _FALSE = Outcome(True, Status.OK), Outcome(False, Status.OK)
