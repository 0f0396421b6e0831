"""Counts and simple changes of text; regular expressions that run in linear time."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_rewards.columns import Span
from grpo_rewards.limits import MAX_PATTERN_CHARS, MAX_REPETITION_CHARS, MAX_REPETITION_UNITS
from grpo_rewards.rules.language.scripts import COUNTED_UNIT
from grpo_rewards.rules.rule import COUNT, RowKernel, Rule, rule
from grpo_rewards.types import UNIT, Interval

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
        reason = error.args[0] if error.args else error
        shown = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason
        raise ValueError(f"not a pattern: {shown}") from None


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
    """Words and numbers; Chinese, Japanese, Thai and their like count by letters.

    >>> words("We have 2 words."), words("我们有")
    (4, 3)
    """
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
    """The words of a text without punctuation; scripts without spaces fall into letters.

    >>> units("So, 我们 go!")
    ['So', '我', '们', 'go']
    """
    return COUNTED_UNIT.findall(text)


def repetition(text: str, *, n: int = 3) -> float | None:
    """The share of n-grams of words that occurred before, in [0, 1]; None below n words.

    Case and punctuation do not tell words apart. A text without n words is judged by characters,
    so that `!!!!!!!!` is no way out.

    >>> repetition("a b c a b c a b c", n=3)
    0.5714285714285714
    """
    head = text[:MAX_REPETITION_CHARS].lower()
    found = units(head)
    if len(found) < n:
        found = [char for char in head if not char.isspace()]
    return _repeated(found, int(n))


def repetition_ids(ids: Sequence[Any], *, n: int = 3) -> float | None:
    """The same over token ids."""
    return _repeated(list(ids[:MAX_REPETITION_UNITS]), int(n))


def _repeated(items: Sequence[Any], n: int) -> float | None:
    total = len(items) - n + 1
    if n < 1 or total < 1:
        return None
    distinct = len(set(zip(*(items[i:] for i in range(n)), strict=False)))
    return 1 - distinct / total


def outside(text: str, *spans: str | None) -> str:
    """What is left of a text without some spans of it; what was not cut from the text is ignored.

    >>> text = "a <b>c</b> d"
    >>> outside(text, Span.cut(text, 2, 10))
    'a  d'
    """
    origin = getattr(text, "start", 0)
    places = sorted(
        (max(span.start - origin, 0), max(span.end - origin, 0))
        for span in spans
        if isinstance(span, Span)
    )
    parts, kept = [], 0
    for start, end in places:
        parts.append(text[kept : max(start, kept)])
        kept = max(kept, end)
    return "".join((*parts, text[kept:]))


def overlong(n_tokens: float, max_len: float, cache: float) -> float:
    """DAPO's soft punishment of length (arXiv 2503.14476, Eq. 13), in [-1, 0].

    0 up to max_len - cache, then falling to -1 at max_len. Without a cache it is a step.

    >>> [overlong(n, 100, 20) for n in (80, 90, 100, 200)]
    [0.0, -0.5, -1.0, -1.0]
    """
    if n_tokens > max_len or (n_tokens == max_len and cache > 0):
        return -1.0
    if cache <= 0 or n_tokens <= max_len - cache:
        return 0.0
    return max((max_len - cache - n_tokens) / cache, -1.0)


def cosine_length(
    n_tokens: float,
    correct: bool | float,
    max_len: float,
    *,
    correct_short: float = 1.0,
    correct_long: float = 0.5,
    wrong_short: float = -1.0,
    wrong_long: float = -0.5,
    exceed: float = -1.0,
) -> float | None:
    """The cosine length reward (arXiv 2502.03373, 3.1), between the least and greatest option.

    A correct completion earns more when it is short, a wrong one loses less when it is long, and
    one that reaches `max_len` gets `exceed`. None where `max_len` is not positive.

    >>> [round(cosine_length(n, True, 100), 3) for n in (0, 50, 99, 100)]
    [1.0, 0.75, 0.5, -1.0]
    """
    if not max_len > 0:
        return None
    if n_tokens >= max_len:
        return exceed
    short, long = (correct_short, correct_long) if correct else (wrong_short, wrong_long)
    done = max(n_tokens, 0) / max_len
    value = long + 0.5 * (short - long) * (1 + math.cos(done * math.pi))
    return min(max(value, min(short, long)), max(short, long))


def _check_ngrams(_args: Any, options: Mapping[str, Any]) -> str | None:
    n = options["n"]
    return None if n >= 1 and n == int(n) else "n is the length of an n-gram, a whole number from 1"


def _cosine(_ranges: Sequence[Interval], options: Mapping[str, Any]) -> Interval:
    return Interval(min(options.values()), max(options.values()))


RULES: tuple[Rule, ...] = (
    rule("text.length(text: text) -> num", RowKernel(length), "Characters.", range=COUNT,
         example='text.length("four")'),
    rule("text.words(text: text) -> num", RowKernel(words),
         "Words; scripts without spaces count by letters.", range=COUNT,
         example='text.words("two words")'),
    rule("text.count(text: text, needle: text) -> num", RowKernel(count),
         "How often a text occurs, without overlap.", range=COUNT,
         example='text.count("banana", "an")'),
    rule("text.contains(text: text, needle: text) -> bool", RowKernel(contains),
         "Whether a text occurs.", example='text.contains("banana", "nan")'),
    rule("text.starts_with(text: text, start: text) -> bool", RowKernel(starts_with),
         "Whether a text begins so.", example='text.starts_with("banana", "ban")'),
    rule("text.ends_with(text: text, end: text) -> bool", RowKernel(ends_with),
         "Whether a text ends so.", example='text.ends_with("banana", "na")'),
    rule("text.strip(text: text) -> text", RowKernel(strip),
         "The text without white space at its ends."),
    rule("text.lower(text: text) -> text", RowKernel(lower), "The text in lower case."),
    rule("text.strip_commas(text: text) -> text", RowKernel(strip_commas),
         "The text without commas."),
    rule("text.repetition(text: text, *, n: num = 3) -> num?", RowKernel(repetition),
         "The share of n-grams of words that occurred before; null below n words.", range=UNIT,
         validate=_check_ngrams, example='text.repetition("a b c a b c", n=3)'),
    rule("text.repetition_ids(ids: list[num], *, n: num = 3) -> num?",
         RowKernel(repetition_ids),
         "The share of n-grams of tokens that occurred before; null below n tokens.", range=UNIT,
         validate=_check_ngrams),
    rule(
        "text.overlong(n_tokens: num, max_len: num, cache: num) -> num",
        RowKernel(overlong),
        "DAPO's soft punishment of length: 0, then falling to -1 over the last `cache` tokens.",
        range=Interval(-1, 0), cost=0, example="text.overlong(95, 100, 10)",
    ),
    rule("text.outside(text: text, spans: text?...) -> text", RowKernel(outside),
         "What is left of a text without some spans of it.",
         example='text.outside("a b", extract.first_number("a b"))'),
    rule(
        "text.cosine_length(n_tokens: num, correct: num, max_len: num, *, correct_short: num = 1,"
        " correct_long: num = 0.5, wrong_short: num = -1, wrong_long: num = -0.5,"
        " exceed: num = -1) -> num?",
        RowKernel(cosine_length),
        "The cosine length reward: right is better short, wrong is better long.",
        range=_cosine, cost=0, example="text.cosine_length(50, 1, 100)",
    ),
    rule("matches(text: text, pattern: pattern) -> bool", RowKernel(matches),
         'Whether a pattern is found in a text: `x matches re"…"`.'),
)  # fmt: skip
