"""Bounds of the config's numbers, declared with their types: `steps: Count = 100`."""

from __future__ import annotations

import difflib
import math
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal


@dataclass(frozen=True, slots=True)
class Bound:
    """The range of a finite number: `least` and `most` belong to it, `above` and `below` do not.

    `or_zero` also allows a 0 that means "none"; `why` says what goes wrong outside.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    or_zero: bool = False
    why: str = ""

    def problem(self, value: float) -> str:
        """What is wrong with a number; "" if nothing is.

        >>> Bound(above=1, or_zero=True).problem(0.5)
        'Expected 0 or more than 1, got 0.5'
        """
        if not math.isfinite(value):
            return f"Expected a finite number, got {value}"
        if self.or_zero and value == 0:
            return ""
        if self.least <= value <= self.most and self.above < value < self.below:
            return ""
        why = f": {self.why}" if self.why else ""
        return f"Expected {self}, got {value}{why}"

    def __str__(self) -> str:
        said = {
            "at least": self.least,
            "more than": self.above,
            "at most": self.most,
            "less than": self.below,
        }
        parts = [f"{word} {end:g}" for word, end in said.items() if math.isfinite(end)]
        return ("0 or " if self.or_zero else "") + " and ".join(parts)


Finite = Annotated[float, Bound()]
Positive = Annotated[float, Bound(above=0)]
NotNegative = Annotated[float, Bound(least=0)]
Share = Annotated[float, Bound(least=0, most=1)]
PositiveShare = Annotated[float, Bound(above=0, most=1)]
Decay = Annotated[float, Bound(least=0, below=1)]  # of a running mean, per step
Count = Annotated[int, Bound(above=0)]
CountOrNone = Annotated[int, Bound(least=0)]  # 0 means none, or no limit
GroupSize = Annotated[
    int, Bound(least=2, why="an advantage compares a completion with the others of its group")
]
DualClip = Annotated[
    float, Bound(above=1, or_zero=True, why="it would cut the loss where the ratio is 1")
]
Window = Annotated[int, Bound(least=2, why="one batch has no spread to compare with")]
# The order of the prompts of an epoch is drawn from seed · 1,000,003 + epoch, in 64 bits.
Seed = Annotated[int, Bound(least=-(2**42), most=2**42)]


def bound_of(hint: Any) -> Bound:
    """The bound of a field's type, or of the numbers in it; without one, any finite number.

    >>> print(bound_of(dict[str, Annotated[float, Bound(above=0)]]))
    more than 0
    """
    found = [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Bound)]
    found += [bound_of(part) for part in typing.get_args(hint)]
    return next((bound for bound in found if str(bound)), Bound())


def choice_problem(kind: Any, value: Any) -> tuple[str, str] | None:
    """Problem and hint of a word, or of a word in a list, that a field's type does not take.

    >>> choice_problem(list[Literal["loss", "reward"]], ["loss", "rewrd"])
    ("Invalid enum value 'rewrd'", 'did you mean `reward`? there is loss, reward')
    """
    if typing.get_origin(kind) is list and isinstance(value, list):
        found = [choice_problem(typing.get_args(kind)[0], word) for word in value]
        return next((problem for problem in found if problem), None)
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    if not choices or not isinstance(value, str) or value in choices:
        return None
    near = difflib.get_close_matches(value, choices, n=1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return f"Invalid enum value {value!r}", f"{hint}there is {', '.join(choices)}"
