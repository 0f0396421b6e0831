"""The laws that every sound reward keeps, as plain functions that raise `LawBroken`.

A law takes a scorer and rows, each a dict of the ruleset's inputs; `group` ids are optional, and
rows without them are one group. What a deadline cut short is compared with nothing: the wall clock
keeps no laws. The strategies that draw such rows are in `grpo_rewards.testing`.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import pickle
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from grpo_rewards.audit.examine import Row, layouts_of
from grpo_rewards.columns import Column, Status
from grpo_rewards.compiler.plan import Plan
from grpo_rewards.errors import RewardError, RuleError
from grpo_rewards.rules.attack_families import Target, altered, as_record
from grpo_rewards.rules.extract import fence
from grpo_rewards.rules.math.equality import compile_gold
from grpo_rewards.scoring.inputs import text_of
from grpo_rewards.scoring.scorer import Scorer
from grpo_rewards.types import Interval, Level, Type

Found = Mapping[str, Column]

#: Answers that are tried in the gold's place to see whether a completion is paid for its answer.
_OTHER_GOLDS = ("0", "A", "B")
_EPSILON = 1e-9
MOMENT = {"step": 100.0, "progress": 0.5}  # of rows that say nothing


class LawBroken(AssertionError):
    """A law did not hold: its name, the rows that were scored, and which of them shows it."""

    def __init__(self, law: str, message: str, rows: Sequence[Row], row: int = 0) -> None:
        self.law, self.message, self.rows, self.row = law, message, tuple(rows), row
        super().__init__(f"{law}: {message}")

    @property
    def completion(self) -> str:
        """The completion that shows it."""
        return text_of(self.rows[self.row].get("completion"))


# Laws of scoring


def in_range(scorer: Scorer, rows: Sequence[Row]) -> None:
    """Every value is finite and inside the range that `check` inferred for its score."""
    for name, column in _score(scorer, rows).items():
        interval = scorer.ranges[name]
        for i in range(len(rows)):
            value = float(column.values[i]) if column.present[i] else None
            if value is not None and not _covers(interval, value):
                raise LawBroken("in_range", f"{name} = {value!r}, outside {interval}", rows, i)


def deterministic(scorer: Scorer, rows: Sequence[Row]) -> None:
    """The same rows score the same again, whether or not their work is remembered."""
    first = _score(scorer, rows)
    _equal("deterministic", rows, first, _score(scorer, rows), "scored twice")
    _equal("deterministic", rows, first, _score(scorer, rows, fresh=True), "with nothing kept")


def alone_as_in_a_batch(scorer: Scorer, rows: Sequence[Row]) -> None:
    """A row (for rulesets over groups: a group) scores alone what it scores in a batch."""
    whole = _score(scorer, rows)
    for members in _groups(rows) if scorer.needs_groups else [[i] for i in range(len(rows))]:
        part = [dict(rows[i]) for i in members]
        if not scorer.needs_groups:
            part[0].pop("group", None)
        alone = _score(scorer, part, fresh=True)
        _equal("alone_as_in_a_batch", part, _at(whole, members), alone, "in a batch and alone")


def rows_permute(scorer: Scorer, rows: Sequence[Row], order: Sequence[int] | None = None) -> None:
    """Rows in another order have the same scores, in that order; reversed where none is given."""
    order = order if order is not None else range(len(rows))[::-1]
    shuffled = [rows[i] for i in order]
    moved = _at(_score(scorer, rows), order)
    again = _score(scorer, shuffled, fresh=True)
    _equal("rows_permute", shuffled, moved, again, "before and after the rows moved")


def group_members_permute(
    scorer: Scorer, rows: Sequence[Row], order: Sequence[int] | None = None
) -> None:
    """The members of a group in another order have the same scores, in that order."""
    rank = {row: i for i, row in enumerate(order if order is not None else range(len(rows))[::-1])}
    places = list(range(len(rows)))
    for members in _groups(rows):
        for place, member in zip(members, sorted(members, key=rank.__getitem__), strict=True):
            places[place] = member
    shuffled = [rows[i] for i in places]
    moved = _at(_score(scorer, rows), places)
    again = _score(scorer, shuffled, fresh=True)
    _equal("group_members_permute", shuffled, moved, again, "before and after the members moved")


def groups_split(scorer: Scorer, rows: Sequence[Row]) -> None:
    """A batch cut in two between groups scores what it scores whole. Groups lie together."""
    whole = _score(scorer, rows)
    ids = [row.get("group", 0) for row in rows]
    for cut in (i for i in range(1, len(rows)) if ids[i] != ids[i - 1]):
        for part in (range(cut), range(cut, len(rows))):
            half = [rows[i] for i in part]
            found = _score(scorer, half, fresh=True)
            _equal("groups_split", half, _at(whole, part), found, "whole and split")


def spawns_the_same(scorer: Scorer, rows: Sequence[Row]) -> None:
    """The scorer pickles, and scores the same in a process that was started afresh (a second)."""
    law = "spawns_the_same"
    try:
        parcel = pickle.dumps(scorer)
    except (pickle.PicklingError, RewardError, AttributeError, TypeError) as error:
        raise LawBroken(law, f"it does not pickle: {error}", rows) from None
    here = _score(scorer, rows)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        there = pool.submit(_score_parcel, parcel, list(rows)).result()
    _equal(law, rows, here, there, "here and in a spawned process", shortest=True)


def _score_parcel(parcel: bytes, rows: list[Row]) -> dict[str, Column]:
    with pickle.loads(parcel) as scorer:
        return dict(_score(scorer, rows))


# Laws of paying


def appending_never_pays(scorer: Scorer, row: Row, *texts: str) -> bool:
    """Text behind a complete answer never raises the reward.

    Tells whether the law said anything: it is silent unless the row `is_complete`. Where n_tokens
    is an input it grows with the text.
    """
    return _never_pays("appending_never_pays", "text behind it", scorer, row, texts)


def second_answer_never_pays(scorer: Scorer, row: Row, answer: str) -> bool:
    """Another answer behind a complete one, in any layout, never raises the reward.

    Tells whether the law said anything, as `appending_never_pays` does.
    """
    texts = [
        separator + layout.replace("{thought}", "Or rather:").replace("{answer}", answer)
        for layout in layouts_of(scorer)
        for separator in ("", "\n")
    ]
    return _never_pays("second_answer_never_pays", "a second answer", scorer, row, texts)


def is_complete(scorer: Scorer, row: Row) -> bool:
    """Whether a row holds all that its ruleset pays an answer for: it is not truncated, it fits
    every format that the reward rests on, and another gold in the place of its own would lower the
    reward and none would raise it, so that it is its answer that is paid, and all of it."""
    if row.get("truncated"):
        return False
    if "gold" not in scorer.inputs or row.get("gold") is None or not _fits(scorer, row):
        return False
    others = _other_golds(scorer.graph.inputs["gold"].type, row["gold"])
    others += _own_record(text_of(row.get("completion")))  # pays more where it is partly right
    others = [gold for gold in others if gold != row["gold"]]
    before, *after = _rewards(scorer, [row, *({**row, "gold": gold} for gold in others)])
    lowers = any(other < before - _EPSILON for other in after)
    return lowers and not any(other > before + _EPSILON for other in after)


def _never_pays(law: str, what: str, scorer: Scorer, row: Row, texts: Sequence[str]) -> bool:
    if not is_complete(scorer, row):
        return False
    longer = [_longer(row, text) for text in texts]
    before, *after = _rewards(scorer, [row, *longer])
    for extended, reward in zip(longer, after, strict=True):
        if reward > before + _EPSILON:
            message = f"{what} raises the reward from {before:.6g} to {reward:.6g}"
            raise LawBroken(law, message, [row, extended], 1)
    return True


def _longer(row: Row, text: str) -> dict[str, Any]:
    longer = {**row, "completion": text_of(row["completion"]) + text}
    if row.get("n_tokens") is not None:
        longer["n_tokens"] = row["n_tokens"] + max(1, len(text) // 4)
    return longer


def _other_golds(type_: Type, gold: Any) -> list[Any]:
    """Golds of the same type that are likely to be wrong."""
    match type_.kind:
        case "num":
            return [gold + 1, 0]
        case "bool":
            return [not gold]
        case "list":
            return [[], [0]]
        case "json":
            record = as_record(gold) if isinstance(gold, str) else gold
            other = altered(record)
            return [{}, [], 0, json.dumps(other) if isinstance(gold, str) else other]
    text = str(gold)
    return [Target(compile_gold(text).text or text, "", ()).wrong, *_OTHER_GOLDS]


def _own_record(completion: str) -> list[Any]:
    """The JSON that a completion is, or has in a fence."""
    text = completion.rpartition("</think>")[2]
    record = as_record(str(fence(text) or text))
    return [] if record is None else [record]


def _fits(scorer: Scorer, row: Row) -> bool:
    """Whether the row fits every format that the reward rests on."""
    graph = scorer.graph
    matches = [n for n in graph.reachable([graph.reward]) if graph[n].type.kind == "match"]
    plan = Plan.of(graph, {str(number): number for number in matches})
    found = scorer.execute(plan, _columns(scorer, [row])).run()
    return all(getattr(column.row(0), "ok", False) for column in found.values())


def _rewards(scorer: Scorer, rows: Sequence[Row]) -> list[float]:
    """The reward of every row in a group of its own; NaN where it is null or timed out."""
    found = _score(scorer, [{**row, "group": i} for i, row in enumerate(rows)])
    reward, late = found["reward"], _late(found)
    return [
        float(reward.values[i]) if reward.present[i] and not late[i] else math.nan
        for i in range(len(rows))
    ]


# What the laws share


def _score(scorer: Scorer, rows: Sequence[Row], *, fresh: bool = False) -> Found:
    """Every score of the rows, the reward among them; `fresh` without what was kept of earlier
    work. A rule that raises breaks a law of its own: a completion is data, whatever it says."""
    plan = Plan.of(scorer.graph, scorer.graph.columns)
    execution = scorer.execute(plan, _columns(scorer, rows))
    if fresh:
        execution.memo = type(execution.memo)()
    try:
        return execution.run()
    except RuleError as error:
        raise LawBroken("no_text_raises", str(error), rows, error.row) from error


def _columns(scorer: Scorer, rows: Sequence[Row]) -> dict[str, Any]:
    columns: dict[str, Any] = {
        name: [row.get(name) for row in rows] for name in {name for row in rows for name in row}
    }
    for name in scorer.inputs:
        if scorer.graph.inputs[name].level == Level.CONST:  # one for the whole batch
            columns[name] = columns[name][0] if name in columns else MOMENT[name]
    columns.setdefault("group", [0] * len(rows))
    return columns


def _groups(rows: Sequence[Row]) -> list[list[int]]:
    """The rows of every group, groups in the order of their first row."""
    found: dict[Hashable, list[int]] = {}
    for i, row in enumerate(rows):
        found.setdefault(row.get("group", 0), []).append(i)
    return list(found.values())


def _at(found: Found, rows: Sequence[int]) -> dict[str, Column]:
    places = list(rows)
    return {
        name: Column(column.values[places], column.present[places], column.status[places])
        for name, column in found.items()
    }


def _late(found: Found) -> list[bool]:
    """Rows of which a deadline cut something short."""
    statuses = zip(*(column.status.tolist() for column in found.values()), strict=True)
    return [Status.TIMEOUT in row for row in statuses]


def _equal(
    law: str, rows: Sequence[Row], left: Found, right: Found, how: str, *, shortest: bool = False
) -> None:
    """Raises for the first row, or the one with the shortest completion, that differs."""
    if any(_late(left)) or any(_late(right)):
        return
    differing = {
        i: f"{name} is {_shown(column, i)} and {_shown(right[name], i)}"
        for name, column in reversed(list(left.items()))
        for i in range(len(rows))
        if not _same(column, right[name], i)
    }
    if differing:
        length = (lambda i: len(text_of(rows[i].get("completion")))) if shortest else int
        row = min(differing, key=length)
        raise LawBroken(law, f"{differing[row]}, {how}", rows, row)


def _same(left: Column, right: Column, row: int) -> bool:
    if left.present[row] != right.present[row] or left.status[row] != right.status[row]:
        return False
    values = float(left.values[row]), float(right.values[row])
    return not left.present[row] or math.isclose(*values, rel_tol=1e-9, abs_tol=1e-12)


def _shown(column: Column, row: int) -> str:
    value = f"{float(column.values[row]):.9g}" if column.present[row] else "null"
    return f"{value} ({Status(int(column.status[row])).label})"


def _covers(interval: Interval, value: float) -> bool:
    return math.isfinite(value) and interval.covers(Interval(value, value))


@dataclass(frozen=True, slots=True)
class Law:
    """A law by its name: what it says in one line, and the function that asks it."""

    function: Callable[..., bool | None]

    @property
    def name(self) -> str:
        return str(self.function.__name__)

    @property
    def says(self) -> str:
        """The first sentence of what is written at the function."""
        return str(self.function.__doc__).partition("\n")[0].rstrip(".")


LAWS: dict[str, Law] = {
    function.__name__: Law(function)
    for function in (
        in_range, deterministic, alone_as_in_a_batch, rows_permute, group_members_permute,
        groups_split, appending_never_pays, second_answer_never_pays, spawns_the_same,
    )
}  # fmt: skip
