"""Whether an answer equals a gold: a ladder of rungs, each of which says yes, no or pass.

    text      the same writing
    number    exact numbers: integers, decimals, fractions, percentages, money, units
    choice    multiple choice by letter
    tree      the same canonical tree, or the same parts in the same shape
    numeric   the same values at unrelated points, to 60 digits
    pass      only SymPy can tell: `decide`, in a killable worker

The blame rule: a gold that cannot be read gives null; an answer that is missing, cannot be read or
is too large to compare is wrong. Nothing here evaluates text, and all bounds are counted, so a
verdict is the same on every machine and in every thread.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from grpo_rewards.columns import Outcome, Span, Status
from grpo_rewards.limits import MAX_ANSWER_CHARS, MAX_GOLDS, MAX_PLAIN_DIGITS
from grpo_rewards.rules import extract as places
from grpo_rewards.rules.math import numbers
from grpo_rewards.rules.math.answers import Gold, candidate, ending, joins
from grpo_rewards.rules.math.choices import chosen_letter, label, labelled
from grpo_rewards.rules.math.compare.trees import EqualityOptions, Rung, compare_terms
from grpo_rewards.rules.math.hedges import changes
from grpo_rewards.rules.math.latex.parser import parse_math
from grpo_rewards.rules.math.latex.rewrites import magnitude, stand_in
from grpo_rewards.rules.math.latex.tree import Term, ops
from grpo_rewards.rules.math.normalise import (
    TEXT_COMMAND,
    compared_words,
    has_prose,
    is_words,
    normalised,
    squeezed,
)
from grpo_rewards.rules.rule import DEFERRED, Mark, RowKernel, Rule, rule

Extract = Literal["auto", "none"]


class Verdict(NamedTuple):
    """`value` is True, False, or None: null (by `status`), or undecided where `rung` is "pass"."""

    value: bool | None
    status: Status
    rung: str
    reason: str
    answer: str | None = None

    @property
    def outcome(self) -> Outcome:
        """The value with its status, as a kernel returns it."""
        return Outcome(self.value, self.status)


#: Notes that datasets hold where an answer should be; no completion can equal them.
_NOTE: Final = re.compile(
    r"(?i)see (?:the )?(?:figure|diagram|graph|image|picture|table|solution|above|below|proof)"
    r"|n/?a|none given|not (?:given|provided|available)|proof|omitted|unknown|todo|\?+"
)


@functools.lru_cache(maxsize=MAX_GOLDS)
def compile_gold(gold: str) -> Gold:
    """A gold, a whole solution or a bare answer, read once.

    >>> compile_gold("2 + 2 = 4\\n#### 4").text, compile_gold("((").problem
    ('4', 'unbalanced brackets')
    """
    text = _gold_text(gold)
    plain = normalised(text)
    number = numbers.read_number(plain)
    scaled = magnitude(plain)
    if number is None and scaled is not None:
        plain = scaled[0]
        number = numbers.read_number(plain)
    letter, named = label(text), labelled(text)
    if named is not None:  # `(D) Alina`: the letter or what it stands for
        plain = normalised(named[1])
        number = numbers.read_number(plain)
    tree, problem = None, ""
    is_text = is_words(plain)
    if number is None or not number.sure or number.digits == "":
        read = parse_math(stand_in(plain))
        if isinstance(read, Term):
            tree = read
        elif number is None and letter is None and not is_text:
            problem = read.reason
    if tree is not None and letter is None and not is_text and number is None and has_prose(plain):
        tree, problem = None, "prose around the answer"
    if not any(map(str.isalnum, plain)) and tree is None and not problem:
        problem = "nothing there"
    if _NOTE.fullmatch(plain):
        problem = "a note, not an answer"
    return Gold(
        str(gold), str(text), plain, number, tree, letter, is_text, problem, numbers.whole(plain)
    )


def _gold_text(gold: str) -> str:
    """The answer inside a solution: its boxes, what it announces, its mathematics, or all of it."""
    spoken = places.marked_answer(gold)
    found = places.boxes(gold) if spoken and "\\" in gold else []
    if len(found) > 1 and all(joins(gap) for _, gap in found[1:]):
        return ", ".join(str(box) for box, _ in found)
    if spoken is not None:
        return spoken
    if "$" in gold or "\\" in gold or "\n" in gold:
        whole = parse_math(normalised(gold))
        if isinstance(whole, Term) and "text" not in ops(whole):
            return gold
        if gold.count("$") == 2 and not gold.strip().startswith("$"):
            return gold if len(gold) <= 60 else (places.mathematics(gold) or gold)
        if "\n" in gold or len(gold) > 120:
            return places.mathematics(gold) or gold
    plain = normalised(gold)
    if has_prose(plain) and not is_words(plain) and label(gold) is None:
        return ending(gold) or gold
    return gold


def equal(
    answer: str | None,
    gold: str | Gold,
    *,
    extract: Extract = "auto",
    units: Literal["lenient", "strict", "ignore"] = "lenient",
    decimals: float | None = None,
    rtol: float | None = None,
    figures: float = 6,
    evaluate: bool = False,
    positive: bool = False,
) -> Verdict:
    """The verdict of the rungs that run in process; rung "pass" asks for `decide`.

    `extract` is "auto": a mark (box, `<answer>`, `####`, "the answer is") is followed wherever
    there is one, prose is searched, and what reads as one answer is taken as it is; or "none": the
    text is the answer. `units`: a missing unit is accepted, required, or no unit counts.
    `decimals`, `rtol`: rounding that is accepted on top of decimals of `figures` significant
    digits. `evaluate`: an unevaluated sum, integral or limit may answer a closed form. `positive`:
    variables are positive.

    >>> equal("so x = 0.5", "1/2").value, equal("2", "").status.name
    (True, 'UNPARSED')
    """
    known = gold if isinstance(gold, Gold) else compile_gold(gold)
    if answer is None:
        return Verdict(False, Status.MISSING, "extract", "there is no answer")
    found = candidate(answer, known) if extract == "auto" else answer
    if known.problem and not (found and _same_writing(normalised(found), known)):
        return Verdict(None, Status.UNPARSED, "gold", f"the gold cannot be read: {known.problem}")
    if found is None or not found.strip():
        return Verdict(False, Status.MISSING, "extract", "there is no answer")
    options = EqualityOptions(units, decimals, rtol, int(figures), evaluate, positive)
    plain = normalised(found)
    step = _climb(plain, found, known, options)
    if step[0] is not False and step is not _SAME_TEXT and _is_changed(plain, known):
        step = _CHANGED
    return Verdict(*step, found)


def _is_changed(plain: str, gold: Gold) -> bool:
    """`less than 5` or `5 (wrong)` for 5: words that the comparison passed over."""
    if gold.letter is not None or not (_LETTER.search(plain) or _LETTER.search(gold.plain)):
        return False
    if stand_in(plain) != plain or stand_in(gold.plain) != gold.plain:
        return False  # `no solution` is a saying of its own
    return changes(plain) != changes(gold.plain)


_LETTER: Final = re.compile(r"[^\W\d_]")


def _same_writing(plain: str, gold: Gold) -> bool:
    return any(map(str.isalnum, plain)) and squeezed(plain) == squeezed(gold.plain)


_Step = tuple[bool | None, Status, str, str]
_SAME_TEXT: Final[_Step] = (True, Status.OK, "text", "the same text")
_SAME_NUMBER: Final[_Step] = (True, Status.OK, "number", "the same number")
_CHANGED: Final[_Step] = (False, Status.OK, "text", "words beside the answer change it")
_OTHER_NUMBER: Final[_Step] = (False, Status.OK, "number", "another number")


def _climb(plain: str, source: str, gold: Gold, options: EqualityOptions) -> _Step:
    if plain == gold.plain:
        return _SAME_TEXT
    if gold.whole is not None and options.exact:
        whole = numbers.whole(plain)
        if whole is not None:
            return _SAME_NUMBER if whole == gold.whole else _OTHER_NUMBER
    if squeezed(plain) == squeezed(gold.plain):
        return _SAME_TEXT
    if len(plain) > MAX_ANSWER_CHARS and not re.fullmatch(r"-?\d*\.?\d+", plain):
        return False, Status.TOO_LARGE, "guard", "the answer is too long"
    if gold.number is not None:
        by_number = _by_number(stand_in(plain), gold.number, options)
        if by_number is not None:
            return _SAME_NUMBER if by_number else _OTHER_NUMBER
    by_time = _by_time(plain, gold.plain)
    if by_time is not None:
        return by_time, Status.OK, "number", "times of day"
    if gold.letter is not None:
        letter = chosen_letter(source)
        if letter is not None:
            return letter == gold.letter, Status.OK, "choice", f"{letter} for {gold.letter}"
    if gold.is_text and is_words(plain):
        same = compared_words(stand_in(plain)) == compared_words(stand_in(gold.plain))
        if same or gold.tree is None or gold.tree.op == "text":
            return same, Status.OK, "text", "the same words" if same else "other words"
    return _by_tree(plain, gold, options)


def _by_number(plain: str, gold: numbers.Number, options: EqualityOptions) -> bool | None:
    if gold.digits and len(plain) > MAX_PLAIN_DIGITS:
        return False
    both = magnitude(plain)
    if both is not None:  # `5 million` may answer `5` where millions are asked for
        scaled, bare = (_by_number(one, gold, options) for one in both)
        return scaled or bare
    number = numbers.read_number(plain)
    if number is None:
        return None
    if options.units == "ignore":
        number, gold = number._replace(unit=""), gold._replace(unit="")
    elif options.units == "strict" and gold.unit and not number.unit:
        return False
    same = numbers.same_number(number, gold, figures=options.figures)
    if not same and (options.decimals is not None or options.rtol is not None):
        near = options.near(number.value, gold.value)
        return True if near else same
    return same


_TIME: Final = re.compile(r"(\d{1,2}):(\d{2})\s*([AaPp])?\.?\s*(?:[Mm]\.?)?")


def _by_time(plain: str, gold: str) -> bool | None:
    if ":" not in plain or ":" not in gold:
        return None
    both = [
        _TIME.fullmatch(TEXT_COMMAND.sub(lambda found: found[1], text).strip())
        for text in (plain, gold)
    ]
    if both[0] is None or both[1] is None:
        return None
    first, second = both[0], both[1]
    clock = any(m[3] or m[2] == "00" or m[1].startswith("0") for m in (first, second))
    if not clock:
        return None
    if bool(first[3]) != bool(second[3]) and max(int(first[1]), int(second[1])) <= 12:
        return (_minutes(first) - _minutes(second)) % 720 == 0  # the half of the day is left out
    return _minutes(first) == _minutes(second)


def _minutes(found: re.Match[str]) -> int:
    hour = int(found[1])
    if found[3]:
        hour = hour % 12 + (12 if found[3] in "Pp" else 0)
    return hour * 60 + int(found[2])


def _by_tree(plain: str, gold: Gold, options: EqualityOptions) -> _Step:
    read = parse_math(stand_in(plain))
    if not isinstance(read, Term):
        return False, Status.UNPARSED, "tree", f"the answer cannot be read: {read.reason}"
    if gold.tree is None:
        return False, Status.OK, "tree", "of another kind"
    rung = compare_terms(read, gold.tree, options)
    return _RESULTS[rung]


_RESULTS: Final[dict[Rung, _Step]] = {
    Rung.TREE: (True, Status.OK, "tree", "the same expression"),
    Rung.VALUE: (True, Status.OK, "numeric", "the same value"),
    Rung.SHAPE: (False, Status.OK, "tree", "of another kind"),
    Rung.DIFFERENT: (False, Status.OK, "numeric", "another value"),
    Rung.UNEVALUATED: (False, Status.OK, "tree", "a sum, integral or limit left to evaluate"),
    Rung.UNIT: (False, Status.OK, "tree", "another unit"),
    Rung.TOO_LARGE: (False, Status.TOO_LARGE, "numeric", "too large to compute"),
    Rung.PASS: (None, Status.OK, "pass", "only algebra can tell"),
}


def decide(answer: str | None, gold: str | Gold, **options: Any) -> Verdict:
    """`equal` with SymPy behind it, in this process: bounded by a worker's deadline only."""
    first = equal(answer, gold, **options)
    if first.value is not None or first.rung != "pass" or first.answer is None:
        return first
    from grpo_rewards.rules.math.compare.sympy_rung import same_by_algebra

    known = gold if isinstance(gold, Gold) else compile_gold(gold)
    read = parse_math(normalised(first.answer))
    if not isinstance(read, Term) or known.tree is None:
        return Verdict(False, Status.UNPARSED, "sympy", "cannot be read", first.answer)
    equal_ = same_by_algebra(read, known.tree)
    reason = {True: "the same by algebra", False: "not the same by algebra"}
    if equal_ is None:
        return Verdict(False, Status.UNPARSED, "sympy", "algebra cannot tell", first.answer)
    return Verdict(equal_, Status.OK, "sympy", reason[equal_], first.answer)


def _equal(answer: str | None, gold: str, **options: Any) -> Any:
    verdict = equal(answer, compile_gold(gold), **options)
    if verdict.value is None and verdict.rung == "pass":
        return DEFERRED
    return Outcome(verdict.value, verdict.status)


def _symbolic(answer: str, gold: str, options: Mapping[str, Any]) -> Any:
    """The last rung, for a worker: SymPy decides what `equal` passed."""
    return decide(answer, gold, **options).outcome


def _compared_answer(arguments: Sequence[Any], verdict: Any) -> list[Mark]:
    """The answer that was compared with the gold, where it was cut from the completion."""
    answer = arguments[0]
    if not isinstance(answer, Span):
        return []
    return [(answer.start, answer.end, "answer", "what was extracted")]


RULES: tuple[Rule, ...] = (
    rule(
        'math.equal(answer: text?, gold: text, *, extract: "auto"|"none" = "auto",'
        ' units: "lenient"|"strict"|"ignore" = "lenient", decimals: num = null, rtol: num = null,'
        " figures: num = 6, evaluate: bool = false, positive: bool = false) -> bool",
        RowKernel(_equal, keyed=True, finish=_symbolic),
        "Whether an answer equals the gold: as text, as an exact number, by algebra.\n\n"
        "A gold that cannot be read gives null; an answer that is missing or unreadable is wrong."
        " What counts as equal, and every option: docs/math.md.",
        cost=3, example='math.equal("1/2", "0.5")', marks=_compared_answer,
    ),
)  # fmt: skip
