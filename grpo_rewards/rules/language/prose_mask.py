"""What is not prose, blanked out: mathematics, code, links, tags. Offsets stay what they were.

Letters that no formula is made of (neither Latin nor Greek) stay, also inside a mask, and so do
`\\text{…}` and runs of several words in a formula: prose does not become mathematics by dollars.
"""

from __future__ import annotations

import re

from grpo_rewards.limits import MAX_MASK_CHARS
from grpo_rewards.rules.language.scripts import PROSE_LETTER

_OPENER = re.compile(
    r"```|`|\$\$|\$|\\\[|\\\(|\\begin\{|https?://|www\.|</?[A-Za-z!]|\\[A-Za-z]+|@",
)
_CLOSERS = {"```": "```", "$$": "$$", "\\[": "\\]", "\\(": "\\)"}
_LINK = re.compile(r"[^\s<>\"]+")
_HOST = re.compile(r"@[\w-]{1,64}(?:\.[\w-]{1,64})+")
_MAILBOX = re.compile(r"[\w.+-]{1,64}$")
_TAG = re.compile(r"</?[A-Za-z!][^<>\n]{0,200}>")
_ENVIRONMENT = re.compile(r"\\begin\{([A-Za-z*]{1,30})\}")
_PROSE_COMMAND = re.compile(r"\\(?:text|mbox|textbf|textit|textrm|intertext)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}(?:[ ,]{1,2}[A-Za-z]{2,}){3,}")


def mask(text: str) -> str:
    r"""The text with blanks for all that is not prose; as long as the text.

    >>> mask(r"so $x^2 + \text{one apple}$ and `for i in x` it is")
    'so              one apple   and              it is'
    """
    if not _OPENER.search(text):
        return text
    parts: list[str] = []
    kept = pos = 0
    gone: set[str] = set()  # closers that do not come any more: never searched twice
    while found := _OPENER.search(text, pos):
        start, pos = found.start(), found.end()
        span = _span(text, found[0], start, pos, gone)
        if span is None:
            continue
        start, end, is_math = max(span[0], kept), span[1], span[2]
        parts += (text[kept:start], _blank(text[start:end], is_math))
        kept = pos = end
    return "".join((*parts, text[kept:]))


def _span(
    text: str, opener: str, start: int, after: int, gone: set[str]
) -> tuple[int, int, bool] | None:
    """Start, end, and whether it is mathematics, of what an opener opens; None for a plain one."""
    if opener in _CLOSERS:
        end = _closer(text, _CLOSERS[opener], after, gone)
        if end is None and opener == "```":
            end = len(text)  # code that was cut off
        return None if end is None else (start, end, opener != "```")
    if opener == "$":
        return _dollars(text, start)
    if opener == "`":
        end = text.find("`", after, after + MAX_MASK_CHARS)
        return None if end < 0 or "\n" in text[after:end] else (start, end + 1, False)
    if opener == "@":
        found = _HOST.match(text, start)
        box = _MAILBOX.search(text[max(start - 64, 0) : start]) if found else None
        return (start - len(box[0]), found.end(), False) if box and found else None
    if opener.startswith("<"):
        found = _TAG.match(text, start)
        return (start, found.end(), False) if found else None
    if opener == "\\begin{":
        found = _ENVIRONMENT.match(text, start)
        end = found and _closer(text, f"\\end{{{found[1]}}}", found.end(), gone)
        return (start, end, True) if end else (start, after, True)
    if opener.startswith("\\"):  # a command that stands in no formula
        return start, after, True
    found = _LINK.match(text, start)
    return (start, found.end(), False) if found else None


def _closer(text: str, closer: str, after: int, gone: set[str]) -> int | None:
    if closer in gone:
        return None
    end = text.find(closer, after)
    if end < 0:
        gone.add(closer)
        return None
    return end + len(closer)


def _dollars(text: str, start: int) -> tuple[int, int, bool] | None:
    """`$…$` by Pandoc's rule, so that `$5 and $10` is no formula."""
    if text[start + 1 : start + 2].isspace():
        return None
    end = text.find("$", start + 1, start + MAX_MASK_CHARS)
    if end < 0 or "\n\n" in text[start:end] or text[end - 1].isspace():
        return None
    return None if text[end + 1 : end + 2].isdigit() else (start, end + 1, True)


def _blank(part: str, is_math: bool) -> str:
    """Blanks, but for letters that no formula has and prose inside a formula."""
    kept = [found.span() for found in PROSE_LETTER.finditer(part)]
    if is_math:
        kept += [found.span(1) for found in _PROSE_COMMAND.finditer(part)]
        kept += [found.span() for found in _WORDS.finditer(part)]
    if not kept:
        return " " * len(part)
    blank = [" "] * len(part)
    for start, end in kept:
        blank[start:end] = part[start:end]
    return "".join(blank)
