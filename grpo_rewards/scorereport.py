"""The report of a scores file, or of two: what `grpo-rewards report` shows."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grpo_rewards import charts
from grpo_rewards.batch import chat_text
from grpo_rewards.dataset import open_dataset
from grpo_rewards.errors import BatchError
from grpo_rewards.offline import BATCH_ROWS, column_paths
from grpo_rewards.report import Report, ReportRow
from grpo_rewards.scorer import Scorer

TEXTS = {"completion": ("completion", "response", "prediction"), "prompt": ("prompt", "question"),
         "gold": ("gold", "answer", "solution", "ground_truth")}  # fmt: skip


@dataclass(slots=True)
class Scored:
    """A scores file: every score of every row, the lengths, and the records of a sample of rows."""

    path: Path
    names: tuple[str, ...]
    values: dict[str, list[float | None]]
    status: dict[str, list[str]]
    lengths: list[float] = field(default_factory=list)
    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values["reward"])

    def column(self, name: str) -> Any:
        """[B] float64, NaN where null."""
        return np.array([np.nan if v is None else v for v in self.values[name]], np.float64)

    def row(self, i: int) -> dict[str, float | None]:
        return {name: self.values[name][i] for name in self.names}


def read_scores(
    path: Path,
    paths: Mapping[str, str] | None = None,
    *,
    sample: int = 0,
    keep: Collection[int] = (),
) -> Scored:
    """A file that `grpo-rewards score -o` wrote, with the records of `sample` rows, drawn evenly,
    or of the rows to `keep`. `paths` names text columns. BatchError where it holds no scores."""
    dataset = open_dataset(path)
    fields = dataset.fields()
    names = tuple(name for name in fields if f"{name}_status" in fields)
    if "reward" not in names:
        hint = f"make it with: grpo-rewards score RULESET {path} -o SCORES.jsonl"
        raise BatchError(f"{path}: no scores in it (no `reward_status`)\n  hint: {hint}")
    found = Scored(path, names, {n: [] for n in names}, {n: [] for n in names}, meta=_meta(path))
    texts = _text_columns(fields, paths or {})
    wanted = frozenset(keep)
    rng = random.Random(0)
    for batch in dataset.batches(BATCH_ROWS, columns={}):
        for record in batch.rows:
            number = len(found)
            for name in names:
                found.values[name].append(_number(record.get(name), path, number, name))
                found.status[name].append(str(record.get(f"{name}_status") or "ok"))
            found.lengths.append(float(len(text_of(record.get(texts["completion"])))))
            if number in wanted:
                found.records[number] = record
            elif sample:
                _keep(found.records, number, record, sample, rng)
    return found


def _number(value: Any, path: Path, row: int, name: str) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, int | float):
        return float(value)
    raise BatchError(f"{path}: row {row}: `{name}` is a {type(value).__name__}, not a number")


def _keep(
    kept: dict[int, dict[str, Any]], number: int, record: dict[str, Any], size: int, rng: Any
) -> None:
    """Algorithm R: every row of the file is as likely to stay."""
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


def _meta(path: Path) -> dict[str, str]:
    """What `score` wrote down about the ruleset, where it is there."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        stored = (pq.read_schema(path).metadata or {}).get(b"grpo_rewards", b"{}").decode()
    else:
        beside = Path(f"{path}.meta.json")
        stored = beside.read_text("utf-8") if beside.is_file() else "{}"
    try:
        found = json.loads(stored)
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def text_of(value: Any) -> str:
    """A text or a chat as text; empty where it is neither."""
    if isinstance(value, str):
        return value
    try:
        return chat_text(value) or ""
    except TypeError:
        return "" if value is None else str(value)


def scores_report(
    files: Sequence[Path],
    scorer: Scorer | None = None,
    *,
    mapping: Mapping[str, str] | None = None,
    rows: int = 500,
    title: str = "",
) -> Report:
    """The page of one scores file, or of two over the same rows. With the ruleset that scored them
    the table's rows have explain trees and marks in the text."""
    paths = dict(mapping or {})
    if scorer is not None:
        paths = {**column_paths(scorer, paths, open_dataset(files[0]).fields()), **paths}
    scored = read_scores(files[0], paths, sample=rows)
    report = Report(title or scored.meta.get("ruleset") or files[0].stem, facts=_facts(scored))
    if scorer is not None and scored.meta.get("hash", scorer.hash) != scorer.hash:
        report.notes.append("The ruleset has changed since: trees and marks are of the new one.")
    report.scores({name: scored.column(name) for name in scored.names}, scored.status)
    lengths = np.array(scored.lengths)
    first = next(iter(scored.names))
    for name in dict.fromkeys((first, "reward")):
        chart = charts.by_length(lengths, scored.column(name), name)
        report.add("Against length", f"{name} against length", chart)
    shown = _rows(scored, scorer, paths)
    if len(files) == 2:
        _compare(report, scored, read_scores(files[1], paths, keep=scored.records), shown, paths)
    report.rows(shown)
    return report


def _facts(scored: Scored) -> dict[str, str]:
    facts = {"file": scored.path.name, "rows": f"{len(scored):,}"}
    if len(scored.records) < len(scored):
        facts["in the table"] = f"{len(scored.records):,}"
    if "hash" in scored.meta:
        facts["ruleset"] = scored.meta["hash"][:12]
    if "grpo-rewards" in scored.meta:
        facts["grpo-rewards"] = scored.meta["grpo-rewards"]
    return facts


def _rows(scored: Scored, scorer: Scorer | None, paths: Mapping[str, str]) -> list[ReportRow]:
    fields = list(next(iter(scored.records.values()), {}))
    texts = _text_columns(fields, paths)
    rows = []
    for i in sorted(scored.records):
        record = scored.records[i]
        status = {n: scored.status[n][i] for n in scored.names if scored.status[n][i] != "ok"}
        row = ReportRow(i, text_of(record.get(texts["completion"])), scored.row(i), status)
        row.prompt = text_of(record.get(texts["prompt"]))
        gold = record.get(texts["gold"])
        row.gold = None if gold is None else text_of(gold)
        if scorer is not None:
            columns = {name: record.get(path) for name, path in paths.items() if path in record}
            row.explain(scorer, columns)
        rows.append(row)
    return rows


def _compare(
    report: Report, a: Scored, b: Scored, shown: list[ReportRow], paths: Mapping[str, str]
) -> None:
    """Adds what a second run changed: matched by place, so both have the same rows."""
    if len(a) != len(b):
        hint = "score the same file, or as many completions of the same prompts"
        message = f"{a.path} has {len(a):,} rows, {b.path} {len(b):,}"
        raise BatchError(f"{message}\n  hint: {hint}")
    left, right = a.column("reward"), b.column("reward")
    same = np.isclose(left, right, rtol=1e-9, atol=1e-12, equal_nan=True)
    report.facts |= {"B": b.path.name, "rewards changed": f"{int((~same).sum()):,}"}
    report.add("A and B", "rewards of the same rows", charts.against(left, right))
    report.add("A and B", "reward in B minus A", charts.histogram("change", right - left))
    texts = _text_columns(list(next(iter(b.records.values()), {})), paths)
    for row in shown:
        row.b = b.row(row.row)
        row.other = text_of(b.records[row.row].get(texts["completion"]))
