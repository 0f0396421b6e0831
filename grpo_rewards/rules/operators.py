"""The operators and the functions of numbers: their kernels, ranges and entries.

Kernels are strict in null and never give NaN or infinity: a result is absent where an argument is,
and where arithmetic has no finite value the result is null with status UNDEFINED. Source of the
semantics: docs/reward-language.md, "Null and error".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from grpo_rewards.columns import Column, Status
from grpo_rewards.rules.nulls import strict
from grpo_rewards.rules.rule import ColumnKernel, RangeRule, Rule, rule
from grpo_rewards.types import EVERYTHING, UNIT, Interval

Array = npt.NDArray[Any]
Options = Mapping[str, Any]
Ranges = Sequence[Interval]


# Kernels


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


def logical_not(column: Column) -> Column:
    """Kleene's not: null stays null, an error an error."""
    return Column(~column.values.astype(bool) & column.present, column.present, column.status)


def piecewise_linear(at: Column, *points: Column) -> Column:
    """Linear between the points (x0, y0, x1, y1, …), constant outside them."""
    xs = np.array([column.values[0] for column in points[0::2]], float)
    ys = np.array([column.values[0] for column in points[1::2]], float)
    return numeric(lambda values: np.interp(values, xs, ys))(at)


# Ranges


def _compared(op: str) -> RangeRule:
    """The range of a comparison: one value where the ranges already decide it."""

    def by_range(args: Ranges, _options: Options) -> Interval:
        left, right = args
        below, above = left.hi < right.lo, left.lo > right.hi
        at_most, at_least = left.hi <= right.lo, left.lo >= right.hi
        always, never = {
            "<": (below, at_least),
            "<=": (at_most, above),
            ">": (above, at_most),
            ">=": (at_least, below),
            "==": (False, below or above),
            "!=": (below or above, False),
        }[op]
        return Interval(int(always), int(always)) if always or never else UNIT

    return by_range


def _monotone(function: Any, domain: Interval = EVERYTHING) -> RangeRule:
    """The range of a rising function on a domain; outside of it the result is null."""

    def by_range(args: Ranges, _options: Options) -> Interval:
        lo, hi = max(args[0].lo, domain.lo), min(args[0].hi, domain.hi)
        if lo > hi:  # nowhere defined: every value is null
            return Interval(0, 0)
        return Interval(_at(function, lo), _at(function, hi))

    return by_range


def _at(function: Any, end: float) -> float:
    try:
        return float(function(end))
    except OverflowError:
        return math.inf if end > 0 else -math.inf
    except ValueError:  # log(0)
        return -math.inf


def _abs(args: Ranges, _options: Options) -> Interval:
    lo, hi = args[0].lo, args[0].hi
    return Interval(0.0 if lo <= 0 <= hi else min(abs(lo), abs(hi)), max(abs(lo), abs(hi)))


def _clamp(args: Ranges, _options: Options) -> Interval:
    value, lo, hi = args
    return Interval(
        max(min(value.lo, hi.lo), lo.lo),
        max(min(value.hi, hi.hi), lo.hi),
    )


def _schedule(args: Ranges, _options: Options) -> Interval:
    values = args[2::2]
    return Interval(min(v.lo for v in values), max(v.hi for v in values))


def _each(function: Any) -> RangeRule:
    return lambda args, _options: Interval(
        function(arg.lo for arg in args), function(arg.hi for arg in args)
    )


def _numeric(signature: str, function: Any, doc: str, by_range: RangeRule, **more: Any) -> Rule:
    return rule(signature, ColumnKernel(numeric(function)), doc, range=by_range, cost=0, **more)


def _compare(op: str, function: Any, doc: str) -> Rule:
    kernel = ColumnKernel(truth(function))
    kind = "any" if op in ("==", "!=") else "num"
    signature = f"{op}(left: {kind}, right: {kind}) -> bool"
    commutes = op in ("==", "!=")
    return rule(signature, kernel, doc, range=_compared(op), cost=0, commutes=commutes)


RULES: tuple[Rule, ...] = (
    _numeric(
        "+(left: num, right: num) -> num", np.add, "Sum.",
        lambda r, _: r[0] + r[1], commutes=True,
    ),
    _numeric(
        "-(left: num, right: num) -> num", np.subtract, "Difference.", lambda r, _: r[0] - r[1]
    ),
    _numeric(
        "*(left: num, right: num) -> num", np.multiply, "Product; `0 * null` is null.",
        lambda r, _: r[0] * r[1], commutes=True,
    ),
    _numeric(
        "/(left: num, right: num) -> num", np.divide, "Quotient; division by 0 is null.",
        lambda r, _: r[0] / r[1],
    ),
    _numeric(
        "**(base: num, exponent: num) -> num", np.power,
        "Power; null where it is no finite real number.", lambda r, _: r[0] ** r[1],
    ),
    _numeric("neg(value: num) -> num", np.negative, "The number with its sign changed.",
             lambda r, _: -r[0]),
    _compare("==", np.equal, "Whether two values are the same; `x == null` tests for null."),
    _compare("!=", np.not_equal, "Whether two values differ; `x != null` tests for a value."),
    _compare("<", np.less, "Less than."),
    _compare("<=", np.less_equal, "Less than or equal."),
    _compare(">", np.greater, "Greater than."),
    _compare(">=", np.greater_equal, "Greater than or equal."),
    rule(
        "not(value: bool) -> bool", ColumnKernel(logical_not), "Kleene's not: null stays null.",
        range=lambda r, _: Interval(1, 1) - r[0], cost=0,
    ),
    rule("is_null(value: any?) -> bool", ColumnKernel(is_null),
         "Whether a value is null; an error stays an error.", cost=0),
    rule("within(value: num, lo: num, hi: num) -> bool", ColumnKernel(truth(within)),
         "Whether a number lies between two others: `x in lo..hi`.", cost=0),
    rule("in(value: any, choices: any...) -> bool", ColumnKernel(truth(one_of)),
         "Whether a value is one of several: `x in [a, b]`.", cost=0),
    rule("schedule(at: num, points: num...) -> num", ColumnKernel(piecewise_linear),
         "Linear between points, constant outside: `schedule(step, 0 -> 0.0, 200 -> 1.0)`.",
         range=_schedule, cost=0, example="schedule(step, 0 -> 0.0, 200 -> 1.0)"),
    _numeric("abs(value: num) -> num", np.abs, "Size of a number, without its sign.", _abs,
             example="abs(2 - 5)"),
    _numeric("min(values: num...) -> num", minimum, "The least of several numbers.", _each(min),
             example="min(1, 2, 3)"),
    _numeric("max(values: num...) -> num", maximum, "The greatest of several numbers.",
             _each(max), example="max(1, 2, 3)"),
    _numeric("clamp(value: num, lo: num, hi: num) -> num", clamp,
             "The number, kept inside lo..hi.", _clamp, example="clamp(7, 0, 1)"),
    _numeric("round(value: num) -> num", np.rint, "The nearest whole number, halves to even.",
             _monotone(round), example="round(2.6)"),
    _numeric("floor(value: num) -> num", np.floor, "The next whole number below.",
             _monotone(math.floor), example="floor(2.6)"),
    _numeric("sqrt(value: num) -> num", np.sqrt, "Square root; null below 0.",
             _monotone(math.sqrt, Interval(0)), example="sqrt(9)"),
    _numeric("exp(value: num) -> num", np.exp, "e to this power.", _monotone(math.exp),
             example="exp(0)"),
    _numeric("log(value: num) -> num", np.log, "Natural logarithm; null at 0 and below.",
             _monotone(math.log, Interval(0)), example="log(1)"),
)  # fmt: skip
