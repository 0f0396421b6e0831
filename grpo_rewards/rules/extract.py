"""Where the answer stands in a completion. Linear scans from the end, the last one counts.

The places, in the order in which `answer` trusts them: a box, `<answer>…</answer>`, `#### …`,
"the answer is …", mathematics between dollars, the last number. Thoughts never count.
"""

from __future__ import annotations

import re
from typing import Final

from grpo_rewards.columns import Span
from grpo_rewards.limits import MAX_ANSWER_TAIL_CHARS, MAX_BOXES
from grpo_rewards.rules.announcements import said, tail, unmarked
from grpo_rewards.rules.math.hedges import changed
from grpo_rewards.rules.rule import RowKernel, Rule, rule
from grpo_rewards.rules.text import compile_pattern

_BOX: Final = re.compile(r"\\(?:boxed|fbox|framebox|box|beginboxed)\s*\{|\\boxed\s+(?=[\w\\])")
_NUMBER: Final = re.compile(
    r"(?<![A-Za-z0-9_^.])(?<!\^\{)[-+−]?\s?(?:\\?[$€£])?"
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:(?:\\,|\{,\}|\u00a0|\u202f)\d{3})+(?!\d)"
    r"|\d+|(?=\.\d))"
    r"(?:\.\d+|,\d{1,2}(?![\d,]))?(?:[eE][-+]?\d{1,4})?(?:\s?/\s?\d+)?(?:\s?\\?%)?"
)
_DOLLAR: Final = re.compile(r"(?<!\\)\$\$?")


def strip_thoughts(text: str) -> Span | None:
    """The text after the last `</think>`; None where a thought is open and never closed.

    >>> strip_thoughts("<think>3?</think> 4"), strip_thoughts("<think>3?")
    (' 4', None)
    """
    close = text.rfind("</think>")
    start = close + len("</think>") if close >= 0 else 0
    return None if text.find("<think>", start) >= 0 else Span.cut(text, start, len(text))


def boxed(text: str, *, which: str = "last") -> Span | None:
    r"""The content of the last (or first) `\boxed{…}` or `\fbox{…}`; the innermost of nested ones.

    >>> boxed(r"\boxed{1} so \boxed{\frac{1}{2}}"), boxed(r"\boxed{1} so \boxed{2}", which="first")
    ('\\frac{1}{2}', '1')
    """
    found = _first_box(text) if which == "first" else _last_box(text)
    return None if found is None else _content(text, found)


def last_box(text: str) -> Span | None:
    r"""The content of the last box; empty where it never closes, None where there is no box.

    >>> last_box(r"\boxed{1} no, \boxed{2"), last_box("1")
    ('', None)
    """
    opened = _last_box(text)
    if opened is None:
        return None
    content = _content(text, opened)
    return Span.cut(text, opened.end(), opened.end()) if content is None else content


def _content(text: str, opened: re.Match[str]) -> Span | None:
    end = _closing(text, opened)
    if end is None:
        return None
    content = Span.cut(text, opened.end(), end)
    return boxed(content) or content if "\\" in content and _BOX.search(content) else content


def _first_box(text: str) -> re.Match[str] | None:
    return _BOX.search(text)


def _last_box(text: str) -> re.Match[str] | None:
    """The last opening of a box: `\\boxed` wherever it stands, its rarer names near the end."""
    if "box" not in text:
        return None
    at = text.rfind("\\boxed")
    found = _BOX.match(text, at) if at >= 0 else None
    start = max(found.end() if found else 0, len(text) - MAX_ANSWER_TAIL_CHARS)
    if text.find("box{", start) < 0 and text.find("boxed{", start) < 0 and (found or at < 0):
        return found
    for found in _BOX.finditer(text, start):  # noqa: B007 - the last one is wanted
        pass
    return found


def boxes(text: str) -> list[tuple[Span, str]]:
    r"""The last boxes, in order, each with the text between it and the one before.

    >>> boxes(r"\boxed{1} and \boxed{2}")
    [('1', ''), ('2', ' and ')]
    """
    text = tail(text)
    out: list[tuple[Span, str]] = []
    last_end = -1
    for found in list(_BOX.finditer(text))[-MAX_BOXES:]:
        end = _closing(text, found)
        if end is None or found.start() < last_end:
            continue
        gap = text[last_end + 1 : found.start()] if last_end >= 0 else ""
        out.append((Span.cut(text, found.end(), end), gap))
        last_end = end
    return out


_BRACE: Final = re.compile(r"\\?[{}]|\\\\")


def _closing(text: str, found: re.Match[str]) -> int | None:
    """Where the box that opened closes, within an answer's length; None where it never does: what
    a completion was cut off in is no answer."""
    start = found.end()
    if text[start - 1] != "{":  # `\boxed 5`
        ends = re.compile(r"\\[A-Za-z]+|\w+").match(text, start)
        return ends.end() if ends else None
    depth = 1
    plain_end = text.find("}", start)
    if plain_end >= 0 and text.find("{", start, plain_end) < 0 and text[plain_end - 1] != "\\":
        return plain_end
    for brace in _BRACE.finditer(text, start, min(len(text), start + MAX_ANSWER_TAIL_CHARS)):
        if brace[0] == "{":
            depth += 1
        elif brace[0] == "}":
            depth -= 1
            if depth == 0:
                return brace.start()
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
    """The last number of a text, as it is written; digits inside words and exponents are none.

    >>> last_number("from 3 to 1,234.5 apples"), last_number("AZ2A")
    ('1,234.5', None)
    """
    text = tail(text)
    found = None
    for found in _NUMBER.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    if found is not None and text[found.end() : found.end() + 1].isalpha():
        return _number_before(text)
    return _number_span(text, found)


def _number_before(text: str) -> Span | None:
    """The last number that no letter touches; a unit may (`5cm`)."""
    kept = None
    for found in _NUMBER.finditer(text):
        word = re.compile(r"[A-Za-z]+").match(text, found.end())
        if word is None or word[0].lower() in _TOUCHING:
            kept = found
    return _number_span(text, kept)


_TOUCHING: Final = frozenset("cm mm km m kg g mg l ml ft s h hr hrs mph am pm x k th".split())


def _number_span(text: str, found: re.Match[str] | None) -> Span | None:
    if found is None:
        return None
    start = found.start()
    if text[start] in "+-−" and text[:start].rstrip()[-1:].isalnum() and text[start - 1] != " ":
        start += 1  # `10-3`: the minus belongs to the difference
    while text[start] in " +":
        start += 1
    return Span.cut(text, start, found.end())


def first_number(text: str) -> Span | None:
    """The first number of a text, as it is written.

    >>> first_number("from 3 to 4")
    '3'
    """
    return _number_span(text, _NUMBER.search(text))


def fence(text: str, *, language: str = "", which: str = "last") -> Span | None:
    """The content of the last (or first) fenced code block, of one language if named.

    >>> fence("```py\\nx = 1\\n```", language="py")
    'x = 1'
    """
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
    if not blocks:
        return None
    return blocks[0] if which == "first" else blocks[-1]


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
        for found in compiled.finditer(text):  # noqa: B007 - the last one is wanted
            if which == "first":
                break
    except UnicodeError:  # a lone surrogate is no character of any pattern
        return None
    if found is None or not 0 <= int(group) <= compiled.groups:
        return None
    start, end = found.span(int(group))
    return Span.cut(text, start, end) if start >= 0 else None


def marked_answer(text: str) -> Span | None:
    r"""The answer by an explicit mark: a box, `<answer>`, `####`, "the answer is". No thoughts.

    Empty where the last box is empty or never closes: that is no answer, and hides all others.

    >>> [marked_answer(text) for text in ("6 or 7? #### 6", "6 or 7?", r"\boxed{6} or \boxed{7")]
    ['6', None, '']
    """
    spoken = tag(text, "answer") if "</answer>" in text else None
    box = last_box(text if spoken is None else spoken)
    if box is not None:
        return box
    if spoken is not None:
        return said(spoken) or spoken
    if 'answer"' in text and (field := _json_answer(text)) is not None:
        return field
    if "####" in text:
        hashed = after(text, "####")
        if hashed is not None:
            return unmarked(hashed)
    return said(text)


_FIELD: Final = re.compile(
    r"""["'](?:final_?)?answer["']\s{0,4}:\s{0,4}(?:"(?P<text>(?:[^"\\]|\\.){1,400})"|(?P<bare>-?[\d.eE+]{1,40}))""",
    re.IGNORECASE,
)


def _json_answer(text: str) -> Span | None:
    """The last field `answer` of JSON in a text."""
    found = None
    for found in _FIELD.finditer(tail(text)):  # noqa: B007 - the last one is wanted
        pass
    if found is None:
        return None
    start, end = found.span("bare" if found["text"] is None else "text")
    return Span.cut(tail(text), start, end)


def mathematics(text: str) -> Span | None:
    r"""The last mathematics between `$`, `$$`, `\(…\)` or `\[…\]`.

    >>> mathematics(r"we get $x = 1$ and \[ y = 2 \]")
    'y = 2'
    """
    text = tail(text)
    places = [_delimited(text, "\\[", "\\]"), _delimited(text, "\\(", "\\)"), _dollars(text)]
    found = [place for place in places if place is not None]
    if not found:
        return None
    start, end = max(found, key=lambda place: place[1])
    return _trimmed(text, start, end)


def _delimited(text: str, opening: str, closing: str) -> tuple[int, int] | None:
    end = text.rfind(closing)
    start = text.rfind(opening, 0, end) if end >= 0 else -1
    return (start + len(opening), end) if start >= 0 else None


def _dollars(text: str) -> tuple[int, int] | None:
    """The last `$…$`; an odd dollar before a digit is money."""
    end = text.rfind("$")
    if end < 0:
        return None
    signs = [found.start() for found in _DOLLAR.finditer(text)]
    if len(signs) % 2 and len(signs) > 2 and text[signs[-1] + 1 : signs[-1] + 2].isdigit():
        signs.pop()
    for close, opening in zip(signs[::-2], signs[-2::-2], strict=False):
        width = 2 if text.startswith("$$", opening) else 1
        if text[opening + width : close].strip():
            return opening + width, close
    return None


def answer(text: str) -> Span | None:
    r"""The final answer by the usual habits, in this order: a box, `<answer>`, `####`, "the answer
    is …", mathematics between dollars, the last number. Thoughts do not count, nor does what the
    words beside it take back (`not 4`, `3 or 4`).

    >>> answer(r"<think>\boxed{3}</think>So the answer is 4."), answer("43 or 42")
    ('4', None)
    """
    spoken = strip_thoughts(text)
    if spoken is None:
        return None
    found = marked_answer(spoken)
    if found is not None:
        return found or None
    found = mathematics(spoken) or last_number(spoken)
    if found is None:
        return None
    start = found.start - spoken.start
    return None if changed(spoken, start, start + len(found)) else found


def _trimmed(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    left = len(part) - len(part.lstrip())
    return Span.cut(text, start + left, start + max(len(part.rstrip()), left))


_WHICH: Final = 'which: "last"|"first" = "last"'
RULES: tuple[Rule, ...] = (
    rule(
        f"extract.boxed(text: text, *, {_WHICH}) -> text?", RowKernel(boxed),
        r"What stands in the last (or first) \boxed{…}; null where there is none.",
        example=r'extract.boxed("so \boxed{42}")',
    ),
    rule(
        f"extract.tag(text: text, name: text, *, {_WHICH}) -> text?", RowKernel(tag),
        "What stands in the last (or first) <name>…</name>, trimmed.",
        example='extract.tag("<answer>4</answer>", "answer")',
    ),
    rule(
        f"extract.after(text: text, marker: text, *, {_WHICH}) -> text?",
        RowKernel(after), "The rest of the line after the last (or first) marker.",
        example='extract.after("#### 4", "####")',
    ),
    rule("extract.last_number(text: text) -> text?", RowKernel(last_number),
         "The last number, as it is written.", example='extract.last_number("3 or 4")'),
    rule("extract.first_number(text: text) -> text?", RowKernel(first_number),
         "The first number, as it is written.", example='extract.first_number("3 or 4")'),
    rule(
        f'extract.fence(text: text, *, language: text = "", {_WHICH}) -> text?',
        RowKernel(fence), "What stands in the last (or first) fenced code block.",
    ),
    rule(
        f"extract.regex(text: text, pattern: pattern, *, {_WHICH}, group: num = 0) -> text?",
        RowKernel(regex), "The last (or first) find of a pattern, or one of its groups.",
        example=r'extract.regex("a 12", re"\d+")',
    ),
    rule("extract.strip_thoughts(text: text) -> text?", RowKernel(strip_thoughts),
         "What follows the last </think>; null where a thought is open and never closed.",
         example='extract.strip_thoughts("<think>hm</think> 4")'),
    rule("extract.answer(text: text) -> text?", RowKernel(answer),
         "The final answer by the usual habits: box, <answer>, ####, the answer is, last number.",
         example='extract.answer("so the answer is 4.")'),
)  # fmt: skip
