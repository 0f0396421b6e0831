"""Runs the `test` blocks of a ruleset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_rewards.columns import Column, Status
from grpo_rewards.compiler.graph import TestCase
from grpo_rewards.compiler.plan import Plan
from grpo_rewards.errors import BatchError, Place
from grpo_rewards.scoring.scorer import Scorer


@dataclass(frozen=True, slots=True)
class FailedExpectation:
    """An expectation that did not hold: its text, the row, and what every score was there."""

    expect: str
    place: Place
    row: int
    value: Any
    scores: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test block, over all its rows."""

    __test__ = False
    name: str
    rows: int
    failures: tuple[FailedExpectation, ...]

    @property
    def passed(self) -> bool:
        return not self.failures


def run_tests(scorer: Scorer, *, folder: Path | None = None) -> list[TestResult]:
    """Every test of the ruleset, in order. `folder` is where `each from` looks for its files."""
    return [run_test(scorer, test, folder or Path()) for test in scorer.tests]


def run_test(scorer: Scorer, test: TestCase, folder: Path) -> TestResult:
    """One test block; raises BatchError where its rows do not fit the ruleset's inputs."""
    rows: Sequence[Mapping[str, Any]] = test.rows
    if test.each_from:
        rows = [{**test.rows[0], **row} for row in _read_rows(folder, test.each_from)]
    outputs = {f"expect {i}": number for i, (number, _, _) in enumerate(test.expects)}
    plan = Plan.of(scorer.graph, {**scorer.graph.columns, **outputs})
    columns: dict[str, Any] = {
        name: [row.get(name) for row in rows]
        for name in sorted({name for row in rows for name in row})
    }
    for name in plan.inputs:
        spec = scorer.graph.input(name)
        if not spec.has_default and not any(source in columns for source in spec.names):
            columns[name] = [None] * len(rows)  # a test need not mention every column
    columns["group"] = [0 if test.is_group else i for i in range(len(rows))]
    try:
        found = scorer.execute(plan, columns).run()
    except BatchError as error:
        row = "" if error.row is None else f", row {error.row}"
        error.place = f'test "{test.name}"{row}'
        raise
    scores = {name: found[name] for name in scorer.graph.columns}
    failures = [
        FailedExpectation(text, place, row, value, _shown(scores, row))
        for i, (_, text, place) in enumerate(test.expects)
        for row in range(len(rows))
        if (value := found[f"expect {i}"].row(row)) is None or not value
    ]
    return TestResult(test.name, len(rows), tuple(failures))


def _shown(scores: Mapping[str, Column], row: int) -> dict[str, str]:
    """`{"correct": "null (missing)", "reward": "1.1"}`"""
    return {name: show_value(column, row) for name, column in scores.items()}


def show_value(column: Column, row: int) -> str:
    """One value of a column as a person reads it, with its status where that says more."""
    value = column.row(row)
    status = Status(int(column.status[row]))
    if value is None:
        text = "null"
    else:
        text = str(bool(value)).lower() if column.values.dtype == bool else f"{value:.6g}"
    return text if status == Status.OK else f"{text} ({status.label})"


def _read_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a file beside the ruleset or below: a stranger's ruleset reads no others."""
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        raise BatchError(f"{name}: outside of the ruleset's folder tree")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a JSON text may hold U+2028
        rows = [json.loads(line) for line in lines if line.strip()]
    except OSError as error:
        raise BatchError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise BatchError(f"{path}: not JSON lines: {error}") from None
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise BatchError(f"{path}: no rows; each line is a JSON object with the columns of a row")
    return rows
