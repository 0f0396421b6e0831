"""Counts and simple changes of text; regular expressions that run in linear time."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from typing import Any

from grpo_rewards.columns import Span
from grpo_rewards.limits import MAX_PATTERN_CHARS, MAX_REPETITION_UNITS

_FLAGS = {"i": "case_sensitive", "s": "dot_nl", "m": "one_line"}


@functools.lru_cache(maxsize=512)
def compile_pattern(pattern: str, flags: str = "") -> Any:
    """A compiled RE2 pattern. Flags: i ignores case, s lets `.` match newlines, m lets ^ and $
    match at lines. ValueError where the pattern is none.

    >>> compile_pattern("b+").search("abbc").span()
    (1, 3)
    """
    import re2

    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"a pattern of over {MAX_PATTERN_CHARS:,} characters")
    unknown = set(flags) - set(_FLAGS)
    if unknown:
        raise ValueError(f"unknown flag `{min(unknown)}`; there are i, s and m")
    options = re2.Options()
    options.log_errors = False
    inline = f"(?{''.join(sorted(set(flags)))})" if flags else ""
    try:
        return re2.compile(inline + pattern, options)
    except (re2.error, UnicodeError) as error:
        raise ValueError(f"not a pattern: {error}") from None


def check_pattern(pattern: str, flags: str = "") -> str | None:
    """What is wrong with a pattern, or None."""
    try:
        compile_pattern(pattern, flags)
    except ValueError as error:
        return str(error)
    return None


def matches(text: str, pattern: tuple[str, str]) -> bool:
    """Whether a pattern is found in a text."""
    try:
        return compile_pattern(*pattern).search(text) is not None
    except UnicodeError:  # a lone surrogate is no character of any pattern
        return False


def length(text: str) -> int:
    """Characters."""
    return len(text)


def words(text: str) -> int:
    """Words: runs between white space; Chinese, Japanese and Thai count by letters."""
    return len(units(text))


def count(text: str, needle: str) -> int:
    """How often a text occurs, without overlap; an empty one never does."""
    return text.count(needle) if needle else 0


def contains(text: str, needle: str) -> bool:
    """Whether a text occurs."""
    return needle in text


def starts_with(text: str, start: str) -> bool:
    return text.startswith(start)


def ends_with(text: str, end: str) -> bool:
    return text.endswith(end)


def strip(text: str) -> str:
    """The text without white space at its ends, its place kept."""
    start = len(text) - len(text.lstrip())
    return Span.cut(text, start, max(len(text.rstrip()), start))


def lower(text: str) -> str:
    return text.lower()


def strip_commas(text: str) -> str:
    """The text without commas: `1,234` → `1234`."""
    return text.replace(",", "")


def units(text: str) -> list[str]:
    """The words of a text; scripts without spaces fall into letters.

    >>> units("so 我们 go")
    ['so', '我', '们', 'go']
    """
    found: list[str] = []
    word: list[str] = []
    for char in text:
        alone = _stands_alone(char)
        if (alone or char.isspace()) and word:
            found.append("".join(word))
            word = []
        if alone:
            found.append(char)
        elif not char.isspace():
            word.append(char)
    return [*found, "".join(word)] if word else found


@functools.lru_cache(maxsize=4096)
def _stands_alone(char: str) -> bool:
    if char.isascii():
        return False
    name = unicodedata.name(char, "")
    return name.startswith(("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"))


def repetition(text: str, *, n: int = 3) -> float | None:
    """The share of n-grams of words that occurred before, in [0, 1]; None below n words.

    >>> repetition("a b c a b c a b c", n=3)
    0.5714285714285714
    """
    return _repeated(units(text[:MAX_REPETITION_UNITS]), int(n))


def repetition_ids(ids: Sequence[Any], *, n: int = 3) -> float | None:
    """The same over token ids."""
    return _repeated(list(ids)[:MAX_REPETITION_UNITS], int(n))


def _repeated(items: Sequence[Any], n: int) -> float | None:
    total = len(items) - n + 1
    if n < 1 or total < 1:
        return None
    distinct = len({tuple(items[i : i + n]) for i in range(total)})
    return 1 - distinct / total


def overlong(n_tokens: float, max_len: float, cache: float) -> float:
    """DAPO's soft punishment of length (arXiv 2503.14476, Eq. 13), in [-1, 0].

    0 up to max_len - cache, then falling to -1 at max_len.

    >>> [overlong(n, 100, 20) for n in (80, 90, 100, 200)]
    [0.0, -0.5, -1.0, -1.0]
    """
    if n_tokens <= max_len - cache:
        return 0.0
    if n_tokens >= max_len:
        return -1.0
    return (max_len - cache - n_tokens) / cache
