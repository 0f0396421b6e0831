"""How answers are written: what in their writing means nothing, and what is prose."""

from __future__ import annotations

import re
from typing import Final

from grpo_rewards.limits import MAX_BARE_CHARS
from grpo_rewards.rules import extract
from grpo_rewards.rules.math import numbers, symbols, units
from grpo_rewards.rules.math.latex.letter_runs import split_word
from grpo_rewards.rules.math.latex.parser import parse_math
from grpo_rewards.rules.math.latex.rewrites import magnitude, rewritten
from grpo_rewards.rules.math.latex.tree import Term, ops

_WRAPPERS: Final = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\[", "\\]"),
    ("\\(", "\\)"),
    ("**", "**"),
)
TEXT_COMMAND: Final = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf|mbox|textrm|textit|textnormal)\s*\{([^{}]*)\}"
)


def normalised(text: str) -> str:
    r"""An answer without what does not count: space around, dollars, a box, a final stop.

    >>> normalised(r" $\boxed{\text{ Paris }}$. "), normalised("**42**")
    ('Paris', '42')
    """
    text = text.strip()
    if text.isalnum():
        return rewritten(text) if "C" in text or "P" in text else text
    for _ in range(6):
        before = text
        text = text.rstrip(".,;:\\ \n\t。") if not text.endswith(("..", "\\)", "\\]")) else text
        for left, right in _WRAPPERS:
            inside = len(text) >= len(left) + len(right) and text.startswith(left)
            if inside and text.endswith(right) and left not in text[len(left) : -len(right)]:
                text = text[len(left) : -len(right)].strip()
        if text.startswith(("\\boxed", "\\fbox")) and (inner := extract.boxed(text)) is not None:
            text = str(inner).strip()
        if text.startswith("\\text") or text.startswith("\\math"):
            whole = TEXT_COMMAND.fullmatch(text)
            text = whole[1].strip() if whole else text
        if text == before:
            break
    lone = text.count("$") == 1 and text.endswith("$") and not text.endswith("\\$")
    return rewritten(text[:-1] if lone else text)


def is_words(plain: str) -> bool:
    """A short answer in words: a name, `even`, `no solution`."""
    plain = TEXT_COMMAND.sub(lambda found: f" {found[1]} ", plain)
    return (
        len(plain) <= 80
        and re.fullmatch(r"[^\W\d_]+(?:[ '’.-]+[^\W\d_]+){0,5}", plain.strip()) is not None
    )


def squeezed(plain: str) -> str:
    """The writing without white space and other habits that mean nothing."""
    if plain.isalnum():
        return plain
    if "\\" in plain:
        plain = _NOTHING.sub("", plain)
        plain = plain.replace("dfrac", "frac").replace("tfrac", "frac")
        plain = TEXT_COMMAND.sub(lambda found: found[1], plain)
    if _APART.search(plain):
        return " ".join(plain.split())  # `1 2` is not `12`
    return "".join(plain.split())


_APART: Final = re.compile(r"\d\s+\d")
_NOTHING: Final = re.compile(r"\\(?:left|right)(?![a-z])|\\[,;:! ]|\\displaystyle")


def compared_words(plain: str) -> str:
    """The words of an answer in words, for comparison; the case of one letter counts."""
    if len(plain) == 1:
        return plain
    plain = TEXT_COMMAND.sub(lambda found: f" {found[1]} ", plain)
    found = re.findall(r"\w+", plain.casefold())
    return " ".join(found[1:] if len(found) > 1 and found[0] in ("a", "an", "the") else found)


_OUTSIDE: Final = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf|mbox|textrm|textit|textnormal|operatorname"
    r"|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+"
)
_LONG_WORD: Final = re.compile(r"(?<![A-Za-z_])[A-Za-z][A-Za-z'’]+(?![A-Za-z_])")
_STOP: Final = frozenset(
    "is are was the that then thus so we get it its it's of by to for this these be an at as has if"
    " not no in on with from have find answer value got let you she her his our can had has may"
    " ans out".split()
)


def has_prose(plain: str) -> bool:
    """Whether words stand outside `\\text{}` that are no function, letter name, unit or connective.

    >>> has_prose("so x = 2"), has_prose("sin x or 5 square units"), has_prose(r"x \\text{ so}")
    (True, False, False)
    """
    outside = _OUTSIDE.sub(" ", plain)
    for found in _LONG_WORD.finditer(outside):
        word = found[0].lower()
        if word in _STOP:
            if word == "in" and outside[found.end() : found.end() + 1] == "^":
                continue  # cubic inches
            return True
        if word in symbols.CONNECTIVES or units.is_word(word) or word in ("percent", "pct"):
            continue
        if split_word(found[0], call=True) is None:
            return True
    return any(ord(char) > 0x2E80 for char in plain)


_CLOCK: Final = re.compile(r"\d{1,2}:\d{2}\s*[AaPp]\.?\s?[Mm]\.?")


def reads(plain: str) -> bool:
    """Whether a text is one answer in mathematics, without words."""
    if len(plain) > MAX_BARE_CHARS:
        return False
    if numbers.read_number(plain) is not None or magnitude(plain) or _CLOCK.fullmatch(plain):
        return True
    if plain.startswith("\\begin") and plain.endswith("}"):
        return isinstance(parse_math(plain), Term)
    if has_prose(plain) or "$" in plain.strip("$"):
        return not has_prose(plain) and isinstance(parse_math(plain), Term)
    read = parse_math(plain)
    return isinstance(read, Term) and not ops(read) & {"text"}
