"""Where the answer stands in a completion. Linear scans, the last occurrence by default."""

from __future__ import annotations

import re

from grpo_rewards.columns import Span
from grpo_rewards.limits import MAX_ANSWER_CHARS, MAX_ANSWER_TAIL_CHARS
from grpo_rewards.rules.text import compile_pattern

_NUMBER = re.compile(r"[-+−]?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?%?")
_SAYS = re.compile(r"(?i)\banswer(?:\s+is|\s*:)\s*:?\s*([^\n]*)")


def tail(text: str) -> Span:
    """The end of a text, where answers stand; the last `MAX_ANSWER_TAIL_CHARS` characters."""
    return Span.cut(text, max(0, len(text) - MAX_ANSWER_TAIL_CHARS), len(text))


def strip_thoughts(text: str) -> Span | None:
    """The text after the last `</think>`; None where a thought is open and never closed.

    >>> strip_thoughts("<think>3?</think> 4"), strip_thoughts("<think>3?")
    (' 4', None)
    """
    close = text.rfind("</think>")
    start = close + len("</think>") if close >= 0 else 0
    return None if text.find("<think>", start) >= 0 else Span.cut(text, start, len(text))


def boxed(text: str, *, which: str = "last") -> Span | None:
    r"""The content of the last (or first) `\boxed{…}` or `\fbox{…}` with balanced braces.

    >>> boxed(r"\boxed{1} so \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    text = tail(text)
    starts = [found.end() for found in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)]
    for start in starts if which == "first" else reversed(starts):
        end = _closing(text, start)
        if end is not None:
            return Span.cut(text, start, end)
    return None


def _closing(text: str, start: int) -> int | None:
    """Where the brace that opened before `start` closes; bounded by an answer's length."""
    depth = 1
    for i in range(start, min(len(text), start + MAX_ANSWER_CHARS)):
        if text[i] == "{" and text[i - 1] != "\\":
            depth += 1
        elif text[i] == "}" and text[i - 1] != "\\":
            depth -= 1
            if depth == 0:
                return i
    return None


def tag(text: str, name: str, *, which: str = "last") -> Span | None:
    """The content of the last (or first) `<name>…</name>`, trimmed.

    >>> tag("<answer> 4 </answer>", "answer")
    '4'
    """
    opening, closing = f"<{name}>", f"</{name}>"
    if which == "first":
        start = text.find(opening)
        end = text.find(closing, start) if start >= 0 else -1
    else:
        end = text.rfind(closing)
        start = text.rfind(opening, 0, end) if end >= 0 else -1
    if start < 0 or end < 0:
        return None
    return _trimmed(text, start + len(opening), end)


def after(text: str, marker: str, *, which: str = "last") -> Span | None:
    """The rest of the line after the last (or first) marker, trimmed; None where it is empty.

    >>> after("a #### 3\\n#### 4 ", "####")
    '4'
    """
    at = text.find(marker) if which == "first" else text.rfind(marker)
    if at < 0 or not marker:
        return None
    start = at + len(marker)
    end = text.find("\n", start)
    return _trimmed(text, start, end if end >= 0 else len(text)) or None


def last_number(text: str) -> Span | None:
    """The last number of a text, as it is written.

    >>> last_number("from 3 to 1,234.5 apples")
    '1,234.5'
    """
    text = tail(text)
    found = None
    for found in _NUMBER.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    return None if found is None else Span.cut(text, found.start(), _unpunctuated(text, found))


def first_number(text: str) -> Span | None:
    """The first number of a text, as it is written."""
    found = _NUMBER.search(text)
    return None if found is None else Span.cut(text, found.start(), _unpunctuated(text, found))


def _unpunctuated(text: str, found: re.Match[str]) -> int:
    """The end of a number without a comma that belongs to the sentence."""
    end = found.end()
    while end > found.start() and text[end - 1] == ",":
        end -= 1
    return end


def fence(text: str, *, language: str = "", which: str = "last") -> Span | None:
    """The content of the last (or first) fenced code block, of one language if named."""
    blocks: list[Span] = []
    opened: tuple[int, str] | None = None
    for line in re.finditer(r"(?m)^[ \t]*```([^\n`]*)$\n?", text):
        if opened is None:
            opened = (line.end(), line[1].strip())
            continue
        start, tongue = opened
        if not language or tongue == language:
            blocks.append(Span.cut(text, start, max(line.start() - 1, start)))
        opened = None
    return (blocks[0] if which == "first" else blocks[-1]) if blocks else None


def regex(
    text: str, pattern: tuple[str, str], *, which: str = "last", group: int = 0
) -> Span | None:
    """The last (or first) find of an RE2 pattern, or one of its groups; linear time.

    >>> regex("x=1, x=2", (r"x=(\\d)", ""), group=1)
    '2'
    """
    compiled = compile_pattern(*pattern)
    found = None
    try:
        for found in compiled.finditer(text):
            if which == "first":
                break
    except UnicodeError:  # a lone surrogate is no character of any pattern
        return None
    if found is None or not 0 <= int(group) <= compiled.groups:
        return None
    start, end = found.span(int(group))
    return Span.cut(text, start, end) if start >= 0 else None


def answer(text: str) -> Span | None:
    r"""The final answer by the usual habits, in this order: the last `\boxed{}`, `<answer>`,
    `####`, "the answer is …", the last number. Thoughts do not count.

    >>> answer(r"<think>\boxed{3}</think>So the answer is 4.")
    '4'
    """
    spoken = strip_thoughts(text)
    if spoken is None:
        return None
    spoken = tail(spoken)
    for find in (boxed, lambda t: tag(t, "answer"), lambda t: after(t, "####"), _said):
        found: Span | None = find(spoken)
        if found is not None:
            return boxed(found) or found
    return last_number(spoken)


def _said(text: str) -> Span | None:
    found = None
    for found in _SAYS.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    if found is None:
        return None
    span = _trimmed(text, found.start(1), found.end(1))
    while span and span[-1] in ".*":
        span = Span.cut(span, 0, len(span) - 1)
    return span or None


def _trimmed(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    left = len(part) - len(part.lstrip())
    return Span.cut(text, start + left, start + max(len(part.rstrip()), left))
