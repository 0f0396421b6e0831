"""What rules can point at in a completion: an entry of the catalog names one of these functions.

Each takes the arguments and the value that a rule had in one row, and gives the places to show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from grpo_rewards.columns import Span
from grpo_rewards.rules.language import detection

#: A place in a completion: start and end, by code points; its kind (`foreign`, `fail` or `answer`);
#: and what to say of it.
Mark = tuple[int, int, str, str]
Marker = Callable[[Sequence[Any], Any], list[Mark]]


def left_format(arguments: Sequence[Any], match: Any) -> list[Mark]:
    """Where a text leaves the format that it is matched with."""
    text = arguments[1]
    at = getattr(match, "at", None)
    if at is None or not isinstance(text, str):
        return []
    start = at.offset + getattr(text, "start", 0)
    wanted = ", ".join(at.expected[:4]) or "something else"
    return [(start, start + (at.offset < len(text)), "fail", f"wants {wanted}")]


def foreign_pieces(arguments: Sequence[Any], share: Any) -> list[Mark]:
    """The pieces of a text in other languages than the one asked for."""
    text, target = arguments[:2]
    if share is None or share >= 1 or not isinstance(text, str) or not isinstance(target, str):
        return []
    pieces = detection.spans(text, target)
    return [(piece.start, piece.end, "foreign", code) for piece, code in pieces]


def compared_answer(arguments: Sequence[Any], verdict: Any) -> list[Mark]:
    """The answer that was compared with the gold, where it was cut from the completion."""
    answer = arguments[0]
    if not isinstance(answer, Span):
        return []
    return [(answer.start, answer.end, "answer", "what was extracted")]
