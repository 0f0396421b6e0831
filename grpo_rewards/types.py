"""The types, ranges and levels that `check` infers before a row is scored."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Type:
    """What the values of a column are. `item` is the element type of a list, else None.

    >>> str(Type("list", item=NUM)), str(Type("text", nullable=True))
    ('list[num]', 'text?')
    """

    kind: str
    item: Type | None = None
    nullable: bool = False

    def __str__(self) -> str:
        inner = f"list[{self.item}]" if self.kind == "list" else self.kind
        return inner + ("?" if self.nullable else "")

    @property
    def or_null(self) -> Type:
        return replace(self, nullable=True)

    @property
    def required(self) -> Type:
        return replace(self, nullable=False)

    @property
    def is_numeric(self) -> bool:
        """num, or bool, which counts as 0 and 1: the language's only coercion of values."""
        return self.kind in ("num", "bool")

    @property
    def is_text(self) -> bool:
        """text, or chat, which as text is its last assistant message."""
        return self.kind in ("text", "chat")

    def accepts(self, other: Type) -> bool:
        """Whether a value of the other type may stand where this one is asked for."""
        if self.kind == "any" or other.kind == "null":
            return True
        if self.kind == "list" and other.kind == "list":
            return self.item is None or other.item is None or self.item.accepts(other.item)
        return (
            self.kind == other.kind
            or (self.kind == "num" and other.kind == "bool")
            or (self.kind == "text" and other.kind == "chat")
        )


NUM = Type("num")
BOOL = Type("bool")
TEXT = Type("text")
CHAT = Type("chat")
NULL = Type("null", nullable=True)
ANY = Type("any")
PATTERN = Type("pattern")
FORMAT = Type("format")

#: Types that a ruleset may declare for an input.
INPUT_KINDS = ("num", "bool", "text", "chat", "json", "list")


@dataclass(frozen=True, slots=True)
class Interval:
    """The values a number can take, both ends included; the default is every finite number.

    >>> Interval(0, 1) + Interval(0, 0.3), Interval(-1, 2) * Interval(-3, 1)
    (0..1.3, -6..3)
    """

    lo: float = -math.inf
    hi: float = math.inf

    def __repr__(self) -> str:
        return f"{show_number(self.lo)}..{show_number(self.hi)}"

    @property
    def is_point(self) -> bool:
        """Whether there is only one value."""
        return self.lo == self.hi

    @property
    def is_bounded(self) -> bool:
        return math.isfinite(self.lo) and math.isfinite(self.hi)

    def __contains__(self, value: float) -> bool:
        return self.lo <= value <= self.hi

    def covers(self, other: Interval, *, slack: float = 1e-9) -> bool:
        """Whether the other lies inside, up to rounding of its ends."""
        room = slack * max(1.0, *(abs(end) for end in (self.lo, self.hi) if math.isfinite(end)), 0)
        return self.lo - room <= other.lo and other.hi <= self.hi + room

    def union(self, other: Interval) -> Interval:
        return Interval(min(self.lo, other.lo), max(self.hi, other.hi))

    def __neg__(self) -> Interval:
        return Interval(-self.hi, -self.lo)

    def __add__(self, other: Interval) -> Interval:
        return Interval(_finite(self.lo + other.lo, -1), _finite(self.hi + other.hi, 1))

    def __sub__(self, other: Interval) -> Interval:
        return self + -other

    def __mul__(self, other: Interval) -> Interval:
        ends = [_times(a, b) for a in (self.lo, self.hi) for b in (other.lo, other.hi)]
        return Interval(min(ends), max(ends))

    def __truediv__(self, other: Interval) -> Interval:
        if 0 in other:  # division by zero is null; what is left can be arbitrarily large
            return Interval(0, 0) if self == Interval(0, 0) else EVERYTHING
        return self * Interval(1 / other.hi, 1 / other.lo)

    def __pow__(self, other: Interval) -> Interval:
        if other.lo != other.hi:
            return EVERYTHING if self.lo < 0 else Interval(0, math.inf)
        power = other.lo
        whole = power == int(power) if math.isfinite(power) else False
        if power < 0:
            return EVERYTHING if self.lo < 0 else Interval(0, math.inf)
        ends = [_power(end, power) for end in (self.lo, self.hi)]
        if whole and int(power) % 2 == 0 and 0 in self:
            return Interval(0.0 if power else 1.0, max(ends))
        if self.lo < 0 and not whole:  # a root of a negative number is null
            return Interval(0, max(0.0, ends[1]))
        return Interval(min(ends), max(ends))


def _finite(end: float, sign: int) -> float:
    """inf - inf has no value; as an end of an interval it is the far end."""
    return sign * math.inf if math.isnan(end) else end


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def _power(base: float, power: float) -> float:
    if base < 0 and power != int(power):
        return 0.0
    try:
        return float(base**power)
    except OverflowError:
        return math.inf if base > 0 or power % 2 == 0 else -math.inf


def show_number(value: float) -> str:
    """A number as a ruleset writes it: no `.0`, no binary dust."""
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return repr(float(f"{value:.12g}"))


EVERYTHING = Interval()
NOTHING = Interval(math.inf, -math.inf)  # no number at all; in a union it adds none
UNIT = Interval(0, 1)


def union(intervals: Iterable[Interval]) -> Interval:
    """The smallest interval that holds all of at least one."""
    first, *rest = intervals
    for interval in rest:
        first = first.union(interval)
    return first


class Level(enum.IntEnum):
    """How much of a dataset a value depends on."""

    CONST = 0
    PROMPT = 1
    ROW = 2
    GROUP = 3
    DATASET = 4

    @property
    def label(self) -> str:
        return self.name.lower()
