"""What a run of letters means: a product of letters and known names, or an ordinary word."""

from __future__ import annotations

from typing import Final

from grpo_rewards.rules.math import symbols

_NAMES: Final = sorted(
    set(symbols.FUNCTIONS) | symbols.GREEK | {"infinity", "infty", "inf", "oo", "deg", "mod"},
    key=len,
    reverse=True,
)
_BY_FIRST: Final[dict[str, list[str]]] = {}
for _name in _NAMES:
    _BY_FIRST.setdefault(_name[0], []).append(_name)


def split_word(word: str, *, call: bool = False, latex: bool = False) -> list[str] | None:
    """Letters and known names of a run of letters; None when it is an ordinary word.

    >>> split_word("Bsin", call=True), split_word("momega"), split_word("Evelyn")
    (['B', 'sin'], ['m', 'omega'], None)
    """
    if len(word) == 1:
        return [word]
    pieces: list[str] = []
    at = 0
    while at < len(word):
        last_name = ""
        for name in _BY_FIRST.get(word[at], ()):
            ends = at + len(name) == len(word)
            free = name not in symbols.CALL_ONLY or name in symbols.GREEK
            if word.startswith(name, at) and (free or (ends and call)):
                last_name = name
                break
        pieces.append(last_name or word[at])
        at += len(last_name) or 1
    longest = max(map(len, pieces))
    if longest == 1:
        return pieces if len(word) <= (6 if latex else 3) else None
    known = sum(len(piece) for piece in pieces if len(piece) > 1)
    return pieces if 2 * known >= len(word) or len(word) - known <= 2 else None
