"""Fuzzing a ruleset: every law against examples that Hypothesis draws and shrinks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grpo_rewards import testing
from grpo_rewards.audit import laws  # testing first: it says what to install
from grpo_rewards.audit.examine import Row
from grpo_rewards.errors import BatchError
from grpo_rewards.explain.row import Explanation, explain_row
from grpo_rewards.scoring.scorer import Scorer

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings  # isort: skip
from hypothesis import strategies as st  # isort: skip
from hypothesis.errors import Flaky  # isort: skip

Outcome = Literal["holds", "broken", "silent", "skipped"]

_SPAWNED_ROWS = 200  # the most that are carried into a spawned process


@dataclass(frozen=True, slots=True)
class LawResult:
    """What became of a law. `applied` of the `examples` were such that it says something: `silent`
    where none was. A broken law has the smallest `failure` that was found and its explanation."""

    law: str
    outcome: Outcome
    examples: int = 0
    applied: int = 0
    failure: laws.LawBroken | None = None
    explanation: tuple[Explanation, ...] = ()


@dataclass(slots=True)
class _Tally:
    """Counts what is tried, and keeps the last failure, which is the smallest."""

    law: laws.Law
    scorer: Scorer
    examples: int = 0
    applied: int = 0
    failure: laws.LawBroken | None = None

    def ask(self, case: tuple[Any, ...]) -> None:
        self.examples += self.failure is None
        try:
            said = self.law.function(self.scorer, *case)
        except laws.LawBroken as broken:
            self.failure = broken
            raise
        self.applied += self.failure is None and said is not False


def fuzz(
    scorer: Scorer,
    rows: Sequence[Row] = (),
    *,
    examples: int = 200,
    seed: int = 0,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
) -> list[LawResult]:
    """Every law, or `only` some, against `examples` drawn from the ruleset, its tests and `rows`.

    The same seed draws the same examples. BatchError for a law that does not exist.
    """
    wanted, skipped = list(only) or list(laws.LAWS), set(skip)
    for name in (*wanted, *skipped):
        if name not in laws.LAWS:
            raise BatchError(f"no law `{name}`", hint=f"there are {', '.join(laws.LAWS)}")
    return [
        LawResult(name, "skipped")
        if name in skipped
        else _try(laws.LAWS[name], scorer, rows, examples, seed)
        for name in laws.LAWS
        if name in wanted
    ]


def _try(
    law: laws.Law, scorer: Scorer, rows: Sequence[Row], examples: int, number: int
) -> LawResult:
    tally = _Tally(law, scorer)
    if law.function is laws.spawns_the_same:
        _spawn(tally, rows, min(examples, _SPAWNED_ROWS), number)
    else:
        _search(tally, _cases(law, scorer, rows), examples, number)
    broken = tally.failure
    if broken is None:
        outcome: Outcome = "holds" if tally.applied else "silent"
        return LawResult(law.name, outcome, tally.examples, tally.applied)
    told = tuple(_explained(scorer, broken))
    return LawResult(law.name, "broken", tally.examples, tally.applied, broken, told)


def _explained(scorer: Scorer, broken: laws.LawBroken) -> list[Explanation]:
    """Why the row got its reward; nothing where scoring it is what fails."""
    if broken.law == "no_text_raises":
        return []
    return explain_row(scorer, broken.rows[broken.row])


def _cases(
    law: laws.Law, scorer: Scorer, rows: Sequence[Row]
) -> st.SearchStrategy[tuple[Any, ...]]:
    """The arguments that a law takes behind the scorer."""
    function = law.function
    batches = testing.batches(scorer, rows)
    if function in (laws.rows_permute, laws.group_members_permute):
        return batches.flatmap(
            lambda batch: st.tuples(st.just(batch), st.permutations(range(len(batch))))
        )
    complete = testing.complete_rows(scorer, rows)
    if function is laws.appending_never_pays:
        return complete.flatmap(lambda row: _with_texts(scorer, row))
    if function is laws.second_answer_never_pays:
        return complete.flatmap(lambda row: st.tuples(st.just(row), testing.wrong_answers(row)))
    return st.tuples(batches)


def _with_texts(scorer: Scorer, row: dict[str, Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    drawn = st.lists(testing.texts_behind(scorer, row), max_size=3)
    return drawn.map(lambda texts: (row, *texts, *testing.usual_tails(scorer, row)))


def _search(
    tally: _Tally, cases: st.SearchStrategy[tuple[Any, ...]], examples: int, number: int
) -> None:
    test = seed(number)(_settings(examples)(given(cases)(tally.ask)))
    try:
        test()
    except laws.LawBroken:
        pass  # the tally has it
    except Flaky:
        if tally.failure is None:
            raise


def _spawn(tally: _Tally, rows: Sequence[Row], examples: int, number: int) -> None:
    """One process for all examples: starting it is what takes long."""
    drawn: list[Row] = []

    def keep(row: dict[str, Any]) -> None:
        drawn.append({**row, "group": len(drawn)})

    draw = _settings(examples, Phase.generate)
    seed(number)(draw(given(testing.rows(tally.scorer, rows))(keep)))()
    tally.examples = tally.applied = len(drawn)
    try:
        laws.spawns_the_same(tally.scorer, drawn)
    except laws.LawBroken as broken:
        tally.failure = broken


def _settings(examples: int, *phases: Phase) -> settings:
    return settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=False,
        phases=phases or (Phase.generate, Phase.shrink),
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
