"""Scoring a whole file: rows in, rows and scores out, a summary at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grpo_rewards.checks import Checks
from grpo_rewards.columns import Column, Status
from grpo_rewards.dataset import Writer, open_dataset
from grpo_rewards.errors import BatchError
from grpo_rewards.scorer import Scorer
from grpo_rewards.scores import Scores, Summary

BATCH_ROWS = 512  # large enough to pay for a batch, small enough to show progress


@dataclass(slots=True)
class _Tally:
    """Running sums of one score over all batches (Chan's update for the variance)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    null: int = 0
    error: int = 0
    seconds: float = 0.0

    def add(self, column: Column, seconds: float) -> None:
        values = column.values[column.present].astype(np.float64)
        absent = ~column.present
        errors = int((absent & (column.status >= Status.TIMEOUT)).sum())
        self.error += errors
        self.null += int(absent.sum()) - errors
        self.seconds += seconds
        if len(values):
            mean, n = float(values.mean()), len(values)
            delta, total = mean - self.mean, self.count + n
            self.squares += float(((values - mean) ** 2).sum()) + delta**2 * self.count * n / total
            self.mean += delta * n / total
            self.count = total


@dataclass(slots=True)
class Totals:
    """What scoring a file came to: `rows` scored and a summary per score, the reward last."""

    rows: int = 0
    tallies: dict[str, _Tally] = field(default_factory=dict)

    def add(self, scores: Scores) -> None:
        self.rows += len(scores)
        for name, column in scores.columns.items():
            self.tallies.setdefault(name, _Tally()).add(column, scores.seconds.get(name, 0.0))

    def summary(self) -> list[Summary]:
        return [
            Summary(
                name,
                self.rows,
                tally.mean if tally.count else float("nan"),
                (tally.squares / tally.count) ** 0.5 if tally.count else float("nan"),
                tally.null,
                tally.error,
                tally.seconds,
            )
            for name, tally in self.tallies.items()
        ]


def column_paths(scorer: Scorer, mapping: Mapping[str, str], fields: list[str]) -> dict[str, str]:
    """Where each input of a ruleset comes from: what the caller maps, else the first of its
    sources that the file has, else its own name."""
    paths: dict[str, str] = {}
    for name in scorer.inputs:
        spec = scorer.graph.inputs[name]
        mapped = [source for source in spec.names if source in mapping]
        present = [source for source in spec.names if source in fields]
        if mapped:
            paths[name] = mapping[mapped[0]]
        elif present:
            paths[name] = present[0]
        elif not spec.has_default:
            paths[name] = spec.sources[0]  # the dataset says that it is missing
    known = {source for name in scorer.inputs for source in scorer.graph.inputs[name].names}
    unknown = set(mapping) - known
    if unknown:
        hint = f"hint: it has {', '.join(scorer.inputs)}"
        raise BatchError(f"--map {min(unknown)}: the ruleset has no such input\n  {hint}")
    return paths


def score_file(
    scorer: Scorer,
    source: Path,
    target: Path | None,
    *,
    mapping: Mapping[str, str] | None = None,
    group: str | None = None,
    step: float | None = None,
    limit: int | None = None,
    on_bad_line: str = "error",
    checks: Checks | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Totals:
    """Scores every row of `source` into `target` (or nowhere). Atomic: a run that fails leaves no
    file. `checks` are fed on the way. Raises BatchError in one line for whatever is wrong with the
    data."""
    dataset = open_dataset(source, on_bad_line=on_bad_line)
    paths = column_paths(scorer, mapping or {}, dataset.fields())
    if group is not None:
        paths["group"] = group
    totals = Totals()
    meta = {"ruleset": scorer.graph.name, "hash": scorer.hash, **scorer.engine}
    writer = Writer(target, metadata=meta) if target is not None else None
    ambient: dict[str, Any] = {} if step is None else {"step": step}
    batches = dataset.batches(BATCH_ROWS, columns=paths, group=group)
    with writer or nullcontext():
        for batch in batches:
            left = None if limit is None else limit - totals.rows
            if left is not None and left <= 0:
                break
            part = batch if left is None or len(batch.rows) <= left else batch.head(left)
            scores = (checks or scorer)(**part.columns, **ambient)
            totals.add(scores)
            if writer is not None:
                writer.write(part.rows, scores.to_columns())
            progress(len(part.rows))
    return totals


def read_rows(
    scorer: Scorer,
    source: Path,
    *,
    mapping: Mapping[str, str] | None = None,
    extra: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The inputs of a ruleset for the first rows of a dataset, a dict a row; `extra` names further
    columns by their paths."""
    dataset = open_dataset(source)
    paths = {**column_paths(scorer, mapping or {}, dataset.fields()), **(extra or {})}
    rows: list[dict[str, Any]] = []
    for batch in dataset.batches(BATCH_ROWS, columns=paths):
        for i in range(len(batch.rows)):
            rows.append({name: values[i] for name, values in batch.columns.items()})
            if limit is not None and len(rows) >= limit:
                return rows
    return rows


def read_row(
    scorer: Scorer, source: Path, row: int, *, mapping: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The inputs of one row of a dataset, by its number from 0."""
    rows = read_rows(scorer, source, mapping=mapping, limit=row + 1)
    if row >= len(rows):
        raise BatchError(f"{source}: there is no row {row}; it has {len(rows)}")
    return rows[row]
