"""Multiple choice: which letter a text picks."""

from __future__ import annotations

import re
from typing import Final

from grpo_rewards.limits import MAX_CHOICE_CHARS
from grpo_rewards.rules import extract
from grpo_rewards.rules.announcements import said, tail
from grpo_rewards.rules.math.hedges import denied
from grpo_rewards.rules.rule import RowKernel, Rule, rule

_LABEL: Final = re.compile(
    r"\W*(?:(?:the\s+)?(?:correct\s+)?(?:answer|option|choice)\s*(?:is)?\s*:?\s*)?"
    r"(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?[(\[]?\s*([A-J])\s*(?P<close>[)\]}.:,。、]+|$|\s)",
    re.IGNORECASE,
)
_BARE: Final = re.compile(r"[\s$({\[*`]*([A-J])[\s$)}\].,:*`]*", re.IGNORECASE)
_WRAPPED: Final = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|bf|rm)\s*\{([^{}]*)\}")
_PICKED: Final = re.compile(
    r"(?:(?i:\b(?:answer|option|choice|it's|it’s|it\s+is|is|be|pick|choose|est|ist|es)\b|答案(?:是|为|選|选)?|选|選|정답|답|答え(?:は)?|(?i:ответ|respuesta|réponse|antwort|resposta|risposta))\W{0,4}"
    r"|\()([A-J])(?![A-Za-z'’])"
)


_OTHER: Final = re.compile(r"[\W_]{0,6}(?:or|and|maybe|/|,)[\W_]{0,6}(?:maybe\W*)?\(?[A-J]\b")
_NEXT: Final = re.compile(r"\W{0,3}[A-J]\b")


def label(gold: str) -> str | None:
    """The letter of a gold that is a choice: `B`, `(D) Alina`, `C. Cecile`; None for anything else.

    >>> label("(D) Alina"), label("C Cecile"), label("x"), label("\\\\text{B}")
    ('D', 'C', None, 'B')
    """
    gold = _WRAPPED.sub(lambda found: found[1], gold.strip().strip("$*")).strip()
    found = _BARE.fullmatch(gold)
    if found is not None:
        return found[1] if found[1].isupper() else None
    named = labelled(gold)
    return named[0] if named else None


def labelled(gold: str) -> tuple[str, str] | None:
    """The letter and the text of a labelled choice.

    >>> labelled("(D) Alina"), labelled("C) 12"), labelled("(x)")
    (('D', 'Alina'), ('C', '12'), None)
    """
    gold = _WRAPPED.sub(lambda found: found[1], gold.strip().strip("$*")).strip()
    words = re.fullmatch(r"\(?([A-J])(?:[).:]\s*|\s+)([^\W\d_][\w '’.-]{1,60})", gold)
    if words is None:
        words = re.fullmatch(r"\(?([A-J])[).](?:\s|\\ )\s*([\w$\\].{0,60})", gold)
    return (words[1], words[2]) if words else None


def chosen_letter(text: str) -> str | None:
    """The letter that a completion picks; None where it picks none or more than one.

    >>> [chosen_letter(text) for text in ("It is (B).", "A. As B is not valid", "(A) or (B)")]
    ['B', 'A', None]
    """
    box = extract.last_box(text)
    if box == "":
        return None
    for part in (box or said(text), text):
        if part is None:
            continue
        plain = _WRAPPED.sub(lambda found: found[1], part.strip()).strip()
        bare = _BARE.fullmatch(plain)
        if bare is not None:
            return bare[1].upper()
        if len(plain) <= MAX_CHOICE_CHARS and (letter := _leading(plain)):
            return letter
    return _picked(tail(text))


def _leading(plain: str) -> str | None:
    """`A. Because …`, `option C`, `(B) 12`; not the article of `A cat`."""
    found = _LABEL.match(plain)
    named = found is not None and re.search("(?i)option|choice", found[0])
    if found is None or not (found[1].isupper() or named) or denied(plain, *found.span(1)):
        return None
    if found["close"].strip() or "(" in found[0] or named:
        rest = plain[found.end() :]
        hedged = _OTHER.match(rest) or ("," in found["close"] and _NEXT.match(rest))
        return None if hedged else found[1].upper()
    following = re.match(r"(?:non|not|nicht|because|since|as)\b", plain[found.end() :])
    return found[1].upper() if following else None


def _picked(text: str) -> str | None:
    found = [(hit.start(1), hit[1]) for hit in _PICKED.finditer(text)]
    if not found:
        return None
    end_of_last = found[-1][0]
    near = {letter for at, letter in found if end_of_last - at <= 40}
    if _OTHER.match(text[end_of_last + 1 : end_of_last + 30]):
        return None
    if denied(text, end_of_last, end_of_last + 1):
        return None
    if len(near) > 1 and re.search(
        r"\b(?:or|and|maybe|either)\b", text[end_of_last - 40 : end_of_last]
    ):
        return None
    return found[-1][1]


RULES: tuple[Rule, ...] = (
    rule("math.choice(text: text) -> text?", RowKernel(chosen_letter),
         "The letter of a multiple-choice answer: (B), B., option B.", cost=2,
         example='math.choice("The answer is (B).")'),
)  # fmt: skip
