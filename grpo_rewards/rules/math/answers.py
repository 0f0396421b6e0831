"""Which part of a completion is compared with a gold: `extract.answer`, with the gold in view.

A gold in words or letters is looked for differently than one in mathematics, and adjacent boxes
answer a list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from grpo_rewards.limits import MAX_ANSWER_CHARS, MAX_TOLD_CHARS
from grpo_rewards.rules import extract as places
from grpo_rewards.rules.math import numbers, symbols
from grpo_rewards.rules.math.choices import chosen_letter
from grpo_rewards.rules.math.compare.trees import EqualityOptions, compare_terms
from grpo_rewards.rules.math.hedges import changed, denied, offers
from grpo_rewards.rules.math.latex.parser import parse_math
from grpo_rewards.rules.math.latex.tree import Term
from grpo_rewards.rules.math.normalise import TEXT_COMMAND, has_prose, normalised, reads, squeezed
from grpo_rewards.rules.math.numbers import Number


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold, read once and reusable: its text, plain writing, number, tree and letter, and the
    integer where it is nothing else."""

    source: str
    text: str
    plain: str
    number: Number | None
    tree: Term | None
    letter: str | None
    is_text: bool
    problem: str
    whole: int | None = None

    @property
    def is_readable(self) -> bool:
        """Whether answers can be compared with it."""
        return not self.problem


def joins(gap: str) -> bool:
    """Whether the text between two boxes joins them into one list."""
    words = re.findall(
        r"[^\W\d_]+", TEXT_COMMAND.sub(lambda found: found[1], gap.replace("\\quad", " "))
    )
    joined = "," in gap or "\\quad" in gap or any(w.lower() in symbols.CONNECTIVES for w in words)
    return joined and len(gap) <= 60 and len(words) <= 4 and not re.search(r"[.!?]\s", gap)


def candidate(text: str, gold: Gold) -> str | None:
    """What a text answers, for this gold; the places of `extract.answer`, and the text itself."""
    if len(text) <= 60 and text.isascii() and text.replace(".", "", 1).strip("-").isdigit():
        return text
    if text == gold.source:
        return gold.text
    if "think>" in text:
        spoken = places.strip_thoughts(text)
        if spoken is None:
            return None
        text = spoken
    found = places.marked_answer(text)
    several = _several(text, gold) if found else None
    if several is not None:
        return several
    if found is not None:
        before = found.start - getattr(text, "start", 0) - 1
        boxed = before >= 0 and text[before] == "{"
        if not boxed:
            return _pruned(found, gold)
        return None if denied(text, before + 1, before + 1 + len(found)) else _one_box(text, found)
    return _unmarked(text, gold)


def _one_box(text: str, found: str) -> str:
    r"""The last box, unless the one before it counts too: `\boxed{1/3} \approx \boxed{0.333}` only
    restates it, `\boxed{2} or \boxed{3}` are two answers."""
    if text.count("boxed") < 2:
        return found
    last = places.boxes(text)[-2:]
    if len(last) < 2 or last[1][0] != found:
        return found
    (first, _), (_, gap) = last
    if gap.strip(" $") in ("\\approx", "≈"):
        return first
    return f"{first} or {found}" if offers(gap) and not _alike(first, found) else found


def _alike(one: str, other: str) -> bool:
    """Whether two answers say the same: `15\\frac{39}{40}`, or `\\frac{639}{40}`."""
    written = normalised(one), normalised(other)
    first, second = map(numbers.read_number, written)
    if first is not None and second is not None:
        return numbers.same_number(first, second) is True
    left, right = map(parse_math, written)
    if isinstance(left, Term) and isinstance(right, Term):
        return compare_terms(left, right, EqualityOptions()).yes
    return squeezed(written[0]) == squeezed(written[1])


def _several(text: str, gold: Gold) -> str | None:
    """Adjacent boxes joined, where the gold is a list of that length."""
    kinds = ("list", "set", "tuple")
    if gold.tree is None or gold.tree.op not in kinds or text.count("boxed") < 2:
        return None
    wanted = len(gold.tree.args) - (2 if gold.tree.op == "tuple" else 0)
    found = places.boxes(text)[-wanted:]
    if len(found) == wanted and wanted > 1 and all(joins(gap) for _, gap in found[1:]):
        return ", ".join(f"{{{box}}}" for box, _ in found)
    return None


def _pruned(found: str, gold: Gold) -> str:
    """What an announcement says, without the prose around it."""
    plain = normalised(found)
    if gold.letter is not None or gold.is_text or reads(plain):
        return found
    last = ending(found)
    if last is not None:
        return last
    inside = places.mathematics(found)
    if inside is None and has_prose(plain):
        only = places.last_number(found)
        inside = only if only == places.first_number(found) else None
    return found if inside is None or _is_changed(found, inside) else inside


def _is_changed(text: str, part: str) -> bool:
    """Whether words beside a part that was cut out of a text change what it says."""
    start = getattr(part, "start", 0) - getattr(text, "start", 0)
    return changed(text, start, start + len(part))


#: A program is no answer, whatever number it ends in.
_CODE = re.compile(
    r"__\w+__|\b(?:import|lambda|exec|eval|getattr|open|system|def|return)\b\s*[('\"\w]"
)


def _unmarked(text: str, gold: Gold) -> str | None:
    """The answer of a text without marks: the text itself, its last mathematics or number."""
    plain = normalised(text)
    if reads(plain) or plain == gold.plain or squeezed(plain) == squeezed(gold.plain):
        return text
    if gold.letter is not None and chosen_letter(text) is not None:
        return text
    if gold.is_text and gold.number is None:
        judged = _JUDGED.match(text)
        said = judged[1] if judged else _last_words(text)
        return said if said is not None else text
    if _CODE.search(text):
        return text
    text = text.split("<|", 1)[0]
    number = places.last_number(text)
    end = ending(text)
    if end is not None:
        return end
    inside = places.mathematics(text)
    found: str | None = number
    if inside is not None and len(inside) <= MAX_ANSWER_CHARS:
        last = number is not None and number.start > inside.end
        if number is None or not (last and not text[number.end :].strip(" .\n*")):
            found = inside
    if found is not None:
        return None if _is_changed(text, found) else found
    return text if len(plain) <= 80 else None


def ending(text: str) -> str | None:
    """What stands after the last `is`, `=` or `equals` of a text, if it is mathematics."""
    last = text[-240:].rstrip(" .\n*`")
    if last.endswith(("\\]", "\\)", "$")):
        return None
    for verbs in _VERBS:
        found = verbs.match(last)
        rest = last[found.end() :] if found else ""
        if rest and reads(normalised(rest)):
            return None if changed(last, len(last) - len(rest), len(last)) else rest
    return None


#: `The roots are x = 1 and x = 2`: what the verb announces goes before what stands after a sign.
_VERBS = (
    re.compile(r"(?s).*(?:\bis\s+in|\bis|\bequals|\bare)[ \n]+"),
    re.compile(r"(?s).*(?:\bis|\bequals|\bare|=|:)[ \n]+"),
)


#: `Yes, because it converges.`
_JUDGED = re.compile(
    r"(?i)\W{0,6}(yes|no|true|false)\b(?=\W{0,3}[,.:;!]|\W{0,3}(?:because|since)\b)"
)


def _last_words(text: str) -> str | None:
    """`The capital of France is Paris.` says `Paris`."""
    if len(text) > MAX_TOLD_CHARS:
        return None
    found = re.search(
        r"(?s).*\b(?:is|are|was)\s+(?:the\s+|a\s+|an\s+)?([^\s][^.!?\n]{0,80})[.!?]?\s*$", text
    )
    return found[1] if found else None
