"""Numbers in text."""

from __future__ import annotations

from fractions import Fraction

from grpo_rewards.rules.decimals import exact


def number(text: str) -> Fraction | None:
    """The number that a text is, exactly; None where it is none.

    >>> print(number("1,234.50"))
    2469/2
    """
    return exact(text)
