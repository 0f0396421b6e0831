"""Whether an answer equals a gold: a ladder of rungs, each of which says yes, no or pass.

text → number → SymPy (in a killable worker). The blame rule: a gold that cannot be read gives
null; an answer that is missing or cannot be read is wrong.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from fractions import Fraction

from grpo_rewards.columns import Outcome, Status
from grpo_rewards.limits import MAX_ANSWER_CHARS
from grpo_rewards.rules import extract
from grpo_rewards.rules.algebra import Tree, Unreadable, parse, to_sympy
from grpo_rewards.rules.decimals import exact


@dataclass(frozen=True, slots=True)
class Verdict:
    """`value` is True, False, or None: null (by `status`), or undecided where `rung` is "pass"."""

    value: bool | None
    status: Status
    rung: str
    reason: str

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.value, self.status)


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold, read once: its text, its number and its tree where it has them."""

    text: str
    number: Fraction | None
    tree: Tree | None

    @property
    def is_readable(self) -> bool:
        return self.number is not None or self.tree is not None


@functools.lru_cache(maxsize=50_000)
def compile_gold(gold: str) -> Gold:
    """A gold, whole solution or bare answer, read once.

    >>> str(compile_gold("2 + 2 = 4\\n#### 4").number)
    '4'
    """
    return _read(_gold_answer(gold))


def _gold_answer(gold: str) -> str:
    """The answer inside a solution: its box, what follows `####` or a line `A:`, or all of it."""
    found = extract.boxed(gold) or extract.after(gold, "####")
    if found is None and "\n" in gold:
        lines = [line for line in gold.splitlines() if line.startswith("A:")]
        found = extract.after(lines[-1], "A:") if lines else None
    return found if found is not None else gold


def _read(text: str) -> Gold:
    plain = normalised(text)
    number = exact(plain)
    return Gold(plain, number, None if number is not None else parse(plain))


def normalised(text: str) -> str:
    r"""An answer without what does not count: white space, dollar signs, a box, a final stop.

    >>> normalised(r" $\boxed{\text{ Paris }}$. ")
    'Paris'
    """
    text = text.strip().rstrip(".").strip("$ ")
    inner = extract.boxed(text)
    if inner is not None:
        text = inner
    named = re.fullmatch(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", text.strip())
    return " ".join((named[1] if named else text).split()).strip("$ ")


def equal(answer: str | None, gold: str | Gold) -> Verdict:
    """The verdict of the rungs that run in process; rung "pass" asks for `symbolic`."""
    known = gold if isinstance(gold, Gold) else compile_gold(gold)
    if not known.is_readable:
        return Verdict(None, Status.UNPARSED, "gold", "the gold cannot be read")
    if answer is None or not answer.strip():
        return Verdict(False, Status.MISSING, "extract", "there is no answer")
    if len(answer) > MAX_ANSWER_CHARS:
        return Verdict(False, Status.TOO_LARGE, "guard", "the answer is too long")
    mine = _read(answer)
    if mine.text == known.text:
        return Verdict(True, Status.OK, "text", "the same text")
    if mine.number is not None and known.number is not None:
        same = mine.number == known.number
        return Verdict(same, Status.OK, "number", f"{mine.number} and {known.number}")
    if not mine.is_readable:
        return Verdict(False, Status.UNPARSED, "parse", "the answer cannot be read")
    return Verdict(None, Status.OK, "pass", "only algebra can tell")


def symbolic(answer: str, gold: str) -> Outcome:
    """The last rung, for a worker: SymPy decides whether the difference is zero."""
    import sympy

    mine, known = _read(answer), compile_gold(gold)
    try:
        left, right = (to_sympy(g.tree or ("num", str(g.number))) for g in (mine, known))
    except Unreadable:
        return Outcome(False, Status.TOO_LARGE)
    difference = left - right
    if difference == 0:
        return Outcome(True, Status.OK)
    return Outcome(bool(sympy.simplify(difference) == 0), Status.OK)
