"""Grading a completion against a gold outside of any ruleset.

grade("1/2", "so the answer is 0.5")         one pair
grade_batch(golds, completions)              many, with one worker for what only SymPy can tell
check_golds(golds)                           which golds cannot be read, before training
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from grpo_rewards.columns import Outcome, Span, Status
from grpo_rewards.errors import BatchError
from grpo_rewards.limits import MAX_GRADE_S
from grpo_rewards.rules.math import equality
from grpo_rewards.rules.math.answers import Gold
from grpo_rewards.rules.math.equality import Verdict, compile_gold
from grpo_rewards.rules.math.latex.parser import parse_math
from grpo_rewards.rules.math.normalise import normalised
from grpo_rewards.scoring.workers.pool import Inline, Workers

__all__ = ["Grade", "check_golds", "compile_gold", "grade", "grade_batch"]


@dataclass(frozen=True, slots=True)
class Grade:
    """`correct` is None where the gold is at fault; `reason`, `rung` and `status` say why.

    `answer` is what was compared, `start` and `end` its place in the completion where it was cut
    from there; `gold` is what the gold was read as.
    """

    correct: bool | None
    reason: str
    rung: str
    status: Status
    answer: str | None
    gold: str
    start: int | None = None
    end: int | None = None

    @property
    def trees(self) -> dict[str, str]:
        """The trees of both sides as text, or why there is none."""
        sides = {"answer": self.answer or "", "gold": self.gold}
        return {name: str(parse_math(normalised(text))) for name, text in sides.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "status": self.status.label}


_SHARED: Workers | None = None
_LOCK = threading.Lock()
_PROCESSES = 2  # so that one is ready while the other, killed at its deadline, is replaced


def _workers() -> Workers:
    """The workers of this process, started when a pair first needs them, which takes a second."""
    global _SHARED
    with _LOCK:
        if _SHARED is None:
            _SHARED = Workers(processes=_PROCESSES, deadline_s=MAX_GRADE_S)
        return _SHARED


def grade(
    gold: str | Gold,
    completion: str | None,
    *,
    workers: Workers | Inline | None = None,
    **options: Any,
) -> Grade:
    r"""Whether a completion answers the gold. `options` are those of `math.equal`.

    >>> grade("1/2", r"Therefore $\boxed{0.5}$.").correct, grade("((", "5").correct
    (True, None)
    """
    return grade_batch([gold], [completion], workers=workers, **options)[0]


def grade_batch(
    golds: Sequence[str | Gold],
    completions: Sequence[str | None],
    *,
    workers: Workers | Inline | None = None,
    **options: Any,
) -> list[Grade]:
    """One grade a pair, in order. Raises BatchError where the lengths differ.

    >>> [g.correct for g in grade_batch(["4", "x^2"], ["2+2 = 4", "$x \\cdot x$"])]
    [True, True]
    """
    if len(golds) != len(completions):
        raise BatchError(f"{len(golds)} golds for {len(completions)} completions")
    known = [gold if isinstance(gold, Gold) else compile_gold(gold) for gold in golds]
    verdicts = [
        equality.equal(text, gold, **options) for text, gold in zip(completions, known, strict=True)
    ]
    open_ = [row for row, verdict in enumerate(verdicts) if verdict.rung == "pass"]
    if open_:
        pool = workers or _workers()
        tasks = [(verdicts[row].answer, known[row].source, options) for row in open_]
        for row, result in zip(open_, pool.map(settle, tasks), strict=True):
            verdicts[row] = _settled(result, verdicts[row])
    return [_grade(verdict, gold) for verdict, gold in zip(verdicts, known, strict=True)]


def settle(answer: str, gold: str, options: dict[str, Any]) -> Outcome:
    """The slow half of one pair, for a worker."""
    return equality.decide(answer, gold, **{**options, "extract": "none"}).outcome


def _settled(result: Outcome | Status, verdict: Verdict) -> Verdict:
    """What a worker found; a pair that it lost is not correct, and says why."""
    if isinstance(result, Status):
        return Verdict(False, result, "sympy", f"algebra gave up: {result.label}", verdict.answer)
    value, status = result
    reason = "the same by algebra" if value else "not the same by algebra"
    if status is not Status.OK:
        reason = "algebra cannot tell"
    return Verdict(value, status, "sympy", reason, verdict.answer)


def _grade(verdict: Verdict, gold: Gold) -> Grade:
    answer, start, end = verdict.answer, None, None
    if isinstance(answer, Span):
        start, end, answer = answer.start, answer.end, str(answer)
    return Grade(
        verdict.value, verdict.reason, verdict.rung, verdict.status, answer, gold.text, start, end
    )


def check_golds(golds: Iterable[str]) -> list[tuple[int, str, str]]:
    """The golds that no answer can equal: (row, gold, why).

    >>> check_golds(["4", "((", r"\\frac{1}{2}"])
    [(1, '((', 'unbalanced brackets')]
    """
    read = ((row, gold, compile_gold(gold).problem) for row, gold in enumerate(golds))
    return [(row, gold, problem) for row, gold, problem in read if problem]
