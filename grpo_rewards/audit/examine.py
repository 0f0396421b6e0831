"""What an author asks of a ruleset: can it be hacked, what did a change change, does it agree with
labels."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from grpo_rewards.compiler.plan import Plan
from grpo_rewards.errors import BatchError, Place
from grpo_rewards.rules.attack_families import FAMILIES, Target, as_record, layouts_for
from grpo_rewards.rules.math.equality import compile_gold
from grpo_rewards.scoring.inputs import ambient, text_of
from grpo_rewards.scoring.scorer import Scorer
from grpo_rewards.scoring.scores import as_floats

Row = Mapping[str, Any]

LAST_STEP = 1_000_000_000  # later than any schedule's last point


# Attack


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """The best that one family of hacks reached: the reward, the completion, and its row."""

    family: str
    tried: int
    highest: float
    completion: str
    row: int


@dataclass(frozen=True, slots=True)
class Breach:
    """An `attack` statement that did not hold, with the completion that broke it."""

    expect: str
    place: Place
    family: str
    reward: float
    completion: str


@dataclass(frozen=True, slots=True)
class AttackReport:
    """`families` in the order of what they reached, highest first; `breaches` of declared ceilings,
    the worst of each statement and family."""

    families: tuple[FamilyResult, ...]
    breaches: tuple[Breach, ...]


def attack(
    scorer: Scorer, rows: Sequence[Row], *, families: Iterable[str] | None = None
) -> AttackReport:
    """Tries every family of hacks against every row that has a gold.

    Rows hold the ruleset's inputs; `completion` is replaced. A scheduled ruleset is attacked at the
    beginning and at the end of a run, whatever step the rows are of. Raises BatchError where no row
    has a gold, or for an unknown family.
    """
    wanted = list(families or FAMILIES)
    unknown = [name for name in wanted if name not in FAMILIES]
    if unknown:
        hint = f"there are {', '.join(FAMILIES)}"
        raise BatchError(f"unknown attack `{unknown[0]}`", hint=hint)
    golds = [_gold_text(row.get("gold")) for row in rows]
    targets = [(i, rows[i], gold) for i, gold in enumerate(golds) if gold is not None]
    if not targets:
        hint = "give a dataset, or add tests"
        raise BatchError("an attack needs rows with a `gold`", hint=hint)
    layouts = layouts_of(scorer)
    scheduled = {"step", "progress"} & set(scorer.inputs)
    moments = [ambient(0, 0), ambient(LAST_STEP, 1)] if scheduled else [ambient(0, 0)]
    results, breaches = [], []
    for family in wanted:
        drawn: list[tuple[int, dict[str, Any]]] = []
        for i, row, gold in targets:
            target = Target(
                gold, text_of(row.get("prompt"), "user"), layouts, str(row.get("lang") or "en")
            )
            texts = dict.fromkeys(FAMILIES[family].draw(target))
            drawn += [(i, _hacked(row, text)) for text in texts]
        tried = [_try(scorer, family, drawn, moment) for moment in moments]
        results.append(max((result for result, _ in tried), key=lambda result: result.highest))
        breaches += max((broken for _, broken in tried), key=_worst)
    results.sort(key=lambda result: -result.highest)
    return AttackReport(tuple(results), tuple(breaches))


def _gold_text(gold: Any) -> str | None:
    """A gold as a completion would give it; None where there is none to hack around."""
    if gold is None or isinstance(gold, dict | list):
        return None if gold is None else json.dumps(gold, ensure_ascii=False)
    compiled = compile_gold(str(gold))
    if compiled.is_readable:
        return compiled.text
    return str(gold) if as_record(str(gold)) is not None else None


def layouts_of(scorer: Scorer) -> tuple[str, ...]:
    """Layouts that the ruleset's own params and formats ask for."""
    markers = [v for v in scorer.params.values() if isinstance(v, str) and len(v) <= 20]
    formats = [node.value for node in scorer.graph.nodes if node.type.kind == "format"]
    tags = [f.body.split() for f in formats if f.kind == "tags"]
    has_json = any(f.kind == "json" for f in formats)
    return layouts_for(markers, tags[0] if tags else (), fenced=has_json)


def _hacked(row: Row, text: str) -> dict[str, Any]:
    tokens = max(1, len(text) // 4)  # what a tokenizer makes of it, roughly
    return {**row, "completion": text, "n_tokens": tokens, "truncated": False}


def _worst(breaches: Iterable[Breach]) -> float:
    return max((breach.reward for breach in breaches), default=-math.inf)


def _try(
    scorer: Scorer,
    family: str,
    drawn: Sequence[tuple[int, dict[str, Any]]],
    moment: Mapping[str, float],
) -> tuple[FamilyResult, list[Breach]]:
    cases = [case for case in scorer.graph.attacks if family in case.families]
    outputs = {f"attack {i}": case.expect for i, case in enumerate(cases)}
    plan = Plan.of(scorer.graph, {**scorer.graph.columns, **outputs})
    names = {name for _, row in drawn for name in row}
    columns: dict[str, Any] = {name: [row.get(name) for _, row in drawn] for name in names}
    columns.update(group=list(range(len(drawn))), **moment)
    found = scorer.execute(plan, columns).run()
    reward = as_floats(found["reward"])
    best = int(np.argmax(np.nan_to_num(reward, nan=-math.inf)))
    row, hacked = drawn[best]
    result = FamilyResult(family, len(drawn), float(reward[best]), hacked["completion"], row)
    breaches = []
    for i, case in enumerate(cases):
        held = found[f"attack {i}"]
        broken = np.flatnonzero(held.present & ~held.values.astype(bool))
        if len(broken):
            worst = int(broken[np.argmax(np.nan_to_num(reward[broken], nan=-math.inf))])
            text = drawn[worst][1]["completion"]
            breaches.append(Breach(case.text, case.place, family, float(reward[worst]), text))
    return result, breaches


# Diff


@dataclass(frozen=True, slots=True)
class Change:
    """How one score differs between two rulesets over the same rows; `only_in` is "A", "B" or ""
    where both have it."""

    name: str
    changed: int
    mean_a: float
    mean_b: float
    only_in: str = ""


@dataclass(frozen=True, slots=True)
class Diff:
    """`changes` per score, the reward last; `rows` whose reward changed most, with both rewards."""

    size: int
    changes: tuple[Change, ...]
    rows: tuple[tuple[int, float, float], ...]


def diff(a: Scorer, b: Scorer, rows: Sequence[Row], *, most: int = 10) -> Diff:
    """Two rulesets, or two versions of one, over one dataset; null counts as a value of its own."""
    found_a, found_b = _score(a, rows), _score(b, rows)
    names = [*dict.fromkeys([*a.names, *b.names]), "reward"]
    changes = []
    for name in names:
        left, right = found_a.get(name), found_b.get(name)
        only = ""
        if left is None or right is None:
            only = "A" if right is None else "B"
        changed = 0 if only else int(_differs(left, right).sum())
        changes.append(Change(name, changed, _mean(left), _mean(right), only))
    left, right = found_a["reward"], found_b["reward"]
    gap = np.where(_differs(left, right), np.abs(np.nan_to_num(left) - np.nan_to_num(right)), -1.0)
    order = [int(i) for i in np.argsort(-gap, kind="stable") if gap[i] >= 0][:most]
    return Diff(len(rows), tuple(changes), tuple((i, left[i], right[i]) for i in order))


def _score(scorer: Scorer, rows: Sequence[Row]) -> dict[str, npt.NDArray[np.float64]]:
    names = {name for row in rows for name in row}
    columns = {name: [row.get(name) for row in rows] for name in names}
    return {name: as_floats(column) for name, column in scorer(**columns).columns.items()}


def _differs(left: Any, right: Any) -> npt.NDArray[np.bool_]:
    same = np.isclose(left, right, rtol=1e-9, atol=1e-12, equal_nan=True)
    return np.asarray(~same, bool)


def _mean(values: npt.NDArray[np.float64] | None) -> float:
    if values is None or np.isnan(values).all():
        return math.nan
    return float(np.nanmean(values))


# Calibrate


@dataclass(frozen=True, slots=True)
class Threshold:
    """What comes of calling right whatever scores at least `at`."""

    at: float
    precision: float
    recall: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a score agrees with labels: area under the ROC curve, Cohen's kappa at the best
    threshold, precision and recall at up to ten thresholds, and the rows that disagree there."""

    rows: int
    null: int
    auc: float
    kappa: float
    thresholds: tuple[Threshold, ...]
    best: Threshold
    disagreements: tuple[int, ...]


def calibrate(scores: npt.NDArray[np.float64], labels: Sequence[Any]) -> Calibration:
    """Agreement of scores [B] (NaN: null, left out and counted) with labels [B], true or false.

    BatchError where the labels are all alike, for then nothing can be told.
    """
    truth = np.array([bool(label) for label in labels])
    known = ~np.isnan(scores)
    values, right = scores[known], truth[known]
    if not len(values) or right.all() or not right.any():
        raise BatchError("the labels of the scored rows are all alike: nothing to compare")
    steps = np.unique(values)
    if len(steps) > 10:
        steps = np.unique(np.quantile(values, np.linspace(0, 1, 10)))
    thresholds = tuple(_threshold(values, right, float(at)) for at in steps)
    best = max(thresholds, key=lambda threshold: threshold.agreement)
    called = values >= best.at
    rows = np.flatnonzero(known)[called != right]
    return Calibration(
        len(scores), int((~known).sum()), _auc(values, right), _kappa(called, right), thresholds,
        best, tuple(int(row) for row in rows),
    )  # fmt: skip


def _threshold(values: Any, right: Any, at: float) -> Threshold:
    called = values >= at
    hits = float((called & right).sum())
    precision = hits / called.sum() if called.any() else math.nan
    return Threshold(
        at, float(precision), hits / float(right.sum()), float((called == right).mean())
    )


def _auc(values: Any, right: Any) -> float:
    """The probability that a right row scores above a wrong one, ties counted half."""
    order = np.sort(values[~right])
    below = np.searchsorted(order, values[right], "left")
    upto = np.searchsorted(order, values[right], "right")
    return float((below + upto).mean() / 2 / len(order))


def _kappa(called: Any, right: Any) -> float:
    """Cohen's kappa (Cohen 1960): agreement beyond what chance would give."""
    agree = float((called == right).mean())
    chance = float(called.mean() * right.mean() + (1 - called.mean()) * (1 - right.mean()))
    return 1.0 if chance == 1 else (agree - chance) / (1 - chance)
