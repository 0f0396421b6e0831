"""The report of a scores file, or of two: what `grpo-rewards report` shows."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grpo_rewards.data.bindings import BATCH_ROWS, column_paths
from grpo_rewards.data.group_ids import group_key
from grpo_rewards.data.kinds import open_dataset
from grpo_rewards.data.reader import NOWHERE, Reader, lookup
from grpo_rewards.errors import DataError
from grpo_rewards.report import charts
from grpo_rewards.report.page import Report, ReportRow
from grpo_rewards.scoring.inputs import text_of
from grpo_rewards.scoring.scorer import Scorer

TEXTS = {"completion": ("completion", "response", "prediction"), "prompt": ("prompt", "question"),
         "gold": ("gold", "answer", "solution", "ground_truth")}  # fmt: skip
#: A group's key → the places of its rows and their inputs.
_Mates = dict[Any, list[tuple[int, dict[str, Any]]]]


@dataclass(slots=True)
class Scored:
    """A scores file in memory: every score of every row, the lengths of the completions, and the
    records of a sample of rows."""

    path: Path
    names: tuple[str, ...]
    values: dict[str, list[float | None]]
    status: dict[str, list[str]]
    lengths: list[float] = field(default_factory=list)
    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    ids: list[Hashable] = field(default_factory=list)  # a row's place, or its key and which of them
    meta: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()  # what `score` warned of
    keyed: bool = False  # whether a column tells rows apart

    def __len__(self) -> int:
        return len(self.values["reward"])

    def column(self, name: str) -> Any:
        """[B] float64, NaN where null."""
        return np.array([np.nan if v is None else v for v in self.values[name]], np.float64)

    def row(self, i: int) -> dict[str, float | None]:
        return {name: self.values[name][i] for name in self.names}


def read_scores(
    dataset: Reader,
    paths: Mapping[str, str] | None = None,
    *,
    sample: int = 0,
    keep: Collection[Hashable] = (),
    key: str | None = None,
) -> Scored:
    """A file that `grpo-rewards score -o` wrote, with the records of `sample` rows, drawn evenly,
    or of the rows to `keep`, by their ids: their place, or by a `key` column its value and how many
    rows before have it. `paths` names text columns. DataError where the file holds no scores."""
    path, fields = dataset.path, dataset.fields()
    names = tuple(name for name in fields if f"{name}_status" in fields)
    if "reward" not in names:
        hint = f"make it with: grpo-rewards score RULESET {path} -o SCORES.jsonl"
        raise DataError(f"{path}: no scores in it (no `reward_status`)", hint=hint)
    meta = dataset.metadata()
    warnings = meta.pop("warnings", ())
    found = Scored(
        path,
        names,
        {n: [] for n in names},
        {n: [] for n in names},
        meta={name: str(value) for name, value in meta.items()},
        warnings=tuple(map(str, warnings)) if isinstance(warnings, list) else (),
        keyed=key is not None,
    )
    texts = _text_columns(fields, paths or {})
    wanted = frozenset(keep)
    rng = random.Random(0)
    before: Counter[Hashable] = Counter()
    for batch in dataset.batches(BATCH_ROWS, columns={}):
        for record in batch.rows:
            number = len(found)
            for name in names:
                found.values[name].append(_number(record.get(name), path, number, name))
                found.status[name].append(str(record.get(f"{name}_status") or "ok"))
            found.lengths.append(float(len(text_of(record.get(texts["completion"])))))
            found.ids.append(number if key is None else _identity(record, key, path, before))
            if found.ids[-1] in wanted:
                found.records[number] = record
            elif sample:
                _keep(found.records, number, record, sample, rng)
    return found


def _identity(
    record: dict[str, Any], key: str, path: Path, before: Counter[Hashable]
) -> tuple[Hashable, int]:
    """The value under a key, and how many rows before had the same."""
    value = lookup(record, key)
    if value is NOWHERE:
        raise DataError(f"{path}: row {before.total()}: no column `{key}`", hint="see --key")
    name = group_key(value)
    before[name] += 1
    return name, before[name]


def _number(value: Any, path: Path, row: int, name: str) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, int | float):
        return float(value)
    raise DataError(f"{path}: row {row}: `{name}` is a {type(value).__name__}, not a number")


def _keep(
    kept: dict[int, dict[str, Any]], number: int, record: dict[str, Any], size: int, rng: Any
) -> None:
    """Keep a row or not, by algorithm R: every row of the file is equally likely to stay."""
    if len(kept) < size:
        kept[number] = record
        return
    place = rng.randrange(number + 1)
    if place < size:
        del kept[list(kept)[place]]
        kept[number] = record


def _text_columns(fields: Sequence[str], paths: Mapping[str, str]) -> dict[str, str]:
    return {
        name: paths.get(name) or next((c for c in known if c in fields), known[0])
        for name, known in TEXTS.items()
    }


def scores_report(
    files: Sequence[Path],
    scorer: Scorer | None = None,
    *,
    mapping: Mapping[str, str] | None = None,
    group: str | None = None,
    key: str | None = None,
    rows: int = 500,
    title: str = "",
) -> Report:
    """The page of one scores file, or of two over the same rows: rows of the same place, or with
    the same `key`. With the ruleset that scored them the table's rows have explain trees and marks
    in the text, and a chart says where formats are left; `group` is the column of group ids."""
    paths = dict(mapping or {})
    mates: _Mates = {}
    with open_dataset(files[0]) as dataset:
        if scorer is not None:
            paths = {**column_paths(scorer, paths, dataset.fields()), **paths}
        scored = read_scores(dataset, paths, sample=rows, key=key)
        report = Report(title or scored.meta.get("ruleset") or files[0].stem, facts=_facts(scored))
        report.notes += scored.warnings
        _add_charts(report, scored)
        if scorer is not None:
            mates = _add_rulesets_view(report, dataset, scored, scorer, paths, group)
    shown = _rows(scored, scorer, paths, group, mates)
    if len(files) == 2:
        keep = {scored.ids[i] for i in scored.records}
        with open_dataset(files[1]) as other:
            second = read_scores(other, paths, keep=keep, key=key)
        _compare(report, scored, second, shown, paths)
    report.rows(shown)
    return report


def _add_charts(report: Report, scored: Scored) -> None:
    """Adds what the scores alone tell."""
    report.scores({name: scored.column(name) for name in scored.names}, scored.status)
    lengths = np.array(scored.lengths)
    first = next(iter(scored.names))
    for name in dict.fromkeys((first, "reward")):
        chart = charts.by_length(lengths, scored.column(name), name)
        report.add("Against length", f"{name} against length", chart)


def _add_rulesets_view(
    report: Report,
    dataset: Reader,
    scored: Scored,
    scorer: Scorer,
    paths: Mapping[str, str],
    group: str | None,
) -> _Mates:
    """Adds where completions leave the ruleset's formats; gives the groups of the rows shown."""
    if scored.meta.get("hash", scorer.hash) != scorer.hash:
        report.notes.append("The ruleset has changed since: trees and marks are of the new one.")
    batches = dataset.batches(BATCH_ROWS, columns={})
    report.formats(scorer, (_inputs(row, paths) for batch in batches for row in batch.rows))
    if scorer.needs_groups and group is None:
        report.notes.append("The trees show each row as a group of its own: name --group.")
    return _groups(dataset, scored, group, paths) if scorer.needs_groups and group else {}


def _facts(scored: Scored) -> dict[str, str]:
    facts = {"file": scored.path.name, "rows": f"{len(scored):,}"}
    if len(scored.records) < len(scored):
        facts["in the table"] = f"{len(scored.records):,}"
    if "hash" in scored.meta:
        facts["ruleset"] = scored.meta["hash"][:12]
    if "grpo-rewards" in scored.meta:
        facts["grpo-rewards"] = scored.meta["grpo-rewards"]
    return facts


def _groups(dataset: Reader, scored: Scored, group: str, paths: Mapping[str, str]) -> _Mates:
    """The rows' inputs of every group that has a row in the table, with their places."""
    wanted = {group_key(lookup(record, group)) for record in scored.records.values()}
    found: _Mates = {name: [] for name in wanted}
    number = 0
    for batch in dataset.batches(BATCH_ROWS, columns={}):
        for record in batch.rows:
            name = group_key(lookup(record, group))
            if name in found:
                found[name].append((number, _inputs(record, paths)))
            number += 1
    return found


def _inputs(record: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    """The ruleset's inputs in a record."""
    found = {name: lookup(record, path) for name, path in paths.items()}
    return {name: value for name, value in found.items() if value is not NOWHERE}


def _rows(
    scored: Scored,
    scorer: Scorer | None,
    paths: Mapping[str, str],
    group: str | None,
    mates: _Mates,
) -> list[ReportRow]:
    fields = list(next(iter(scored.records.values()), {}))
    texts = _text_columns(fields, paths)
    rows = []
    for i in sorted(scored.records):
        record = scored.records[i]
        status = {n: scored.status[n][i] for n in scored.names if scored.status[n][i] != "ok"}
        row = ReportRow(i, text_of(record.get(texts["completion"])), scored.row(i), status)
        row.prompt = text_of(record.get(texts["prompt"]), "user")
        gold = record.get(texts["gold"])
        row.gold = None if gold is None else text_of(gold)
        if scorer is not None:
            others = mates.get(group_key(lookup(record, group)), ()) if mates else ()
            row.explain(scorer, _inputs(record, paths), [one for n, one in others if n != i])
        rows.append(row)
    return rows


def _compare(
    report: Report, a: Scored, b: Scored, shown: list[ReportRow], paths: Mapping[str, str]
) -> None:
    """Adds what a second run changed, over the rows that both have."""
    if len(a) != len(b) and not a.keyed:
        hint = "score the same file, or name a column that tells rows apart with --key"
        raise DataError(f"{a.path} has {len(a):,} rows, {b.path} {len(b):,}", hint=hint)
    place = {name: i for i, name in enumerate(b.ids)}
    there = [name in place for name in a.ids]
    left = a.column("reward")[there]
    right = b.column("reward")[[place[name] for name in a.ids if name in place]]
    if len(left) < max(len(a), len(b)):
        lost = (len(a) - len(left), len(b) - len(left))
        report.notes.append(f"{lost[0]:,} rows are only in A, {lost[1]:,} only in B.")
    same = np.isclose(left, right, rtol=1e-9, atol=1e-12, equal_nan=True)
    report.facts |= {"B": b.path.name, "rewards changed": f"{int((~same).sum()):,}"}
    report.add("A and B", "rewards of the same rows", charts.against(left, right))
    report.add("A and B", "reward in B minus A", charts.histogram("change", right - left))
    texts = _text_columns(list(next(iter(b.records.values()), {})), paths)
    for row in shown:
        i = place.get(a.ids[row.row])
        if i is not None:
            row.b = b.row(i)
            row.other = text_of(b.records[i].get(texts["completion"]))
