"""The commands by which an author examines a ruleset: attack, diff, calibrate."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from grpo_rewards.audit.examine import AttackReport, attack, calibrate, diff
from grpo_rewards.cli.options import (
    AllowExtern,
    AsJson,
    File,
    Mapping,
    RunProgress,
    Settings,
    Step,
    err,
    mapped,
    opened,
    out,
    print_json,
)
from grpo_rewards.data.bindings import read_rows
from grpo_rewards.explain.row import shorten
from grpo_rewards.scoring.inputs import ambient
from grpo_rewards.scoring.scores import as_floats

BREACH_CHARS = 240  # of a completion that breaks a promise: enough to see how


def attack_command(
    ruleset: File,
    data: Annotated[Path | None, typer.Argument(metavar="[DATA]", help="Rows with golds.")] = None,
    mapping: Mapping = None,
    settings: Settings = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Attack this many rows.")] = 20,
    allow_extern: AllowExtern = False,
    as_json: AsJson = False,
) -> None:
    """Try families of reward hacks, drawn relative to each gold; report the highest reward that a
    completion without the right answer reached.

    Without DATA the golds of the file's tests are attacked. Exit 1 where an `attack` statement of
    the ruleset does not hold.
    """
    with opened(ruleset, settings, allow_extern=allow_extern) as scorer:
        rows = (
            read_rows(scorer, data, mapping=mapped(scorer, mapping), limit=limit)
            if data is not None
            else [dict(row) for test in scorer.tests for row in test.rows][:limit]
        )
        report = attack(scorer, rows)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        out.print(_attack_table(report, ruleset))
        for breach in report.breaches:
            err.print(f"{ruleset}: {breach.family} reached {breach.reward:.4g}", markup=False)
            err.print(f"  {breach.expect}", markup=False)
            err.print(f"  completion: {shorten(breach.completion, BREACH_CHARS)!r}", markup=False)
    raise typer.Exit(1 if report.breaches else 0)


def _attack_table(report: AttackReport, ruleset: Path) -> Table:
    table = Table(title=f"{ruleset}: hacks without the right answer", title_justify="left")
    for heading in ("family", "tried", "highest", "by"):
        table.add_column(heading, justify="right" if heading in ("tried", "highest") else "left")
    for row in report.families:
        shown = Text(repr(shorten(row.completion)))
        table.add_row(row.family, f"{row.tried:,}", f"{row.highest:.4g}", shown)
    return table


def diff_command(
    a: Annotated[Path, typer.Argument(metavar="A", help="A ruleset.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another, or another version of it.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="JSONL or Parquet.")],
    mapping: Mapping = None,
    settings: Settings = None,
    step: Step = None,
    progress: RunProgress = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Compare this many.")] = None,
    allow_extern: AllowExtern = False,
    as_json: AsJson = False,
) -> None:
    """Compare two rulesets over one dataset: which scores change, and the rows that change most."""
    with (
        opened(a, settings, allow_extern=allow_extern) as one,
        opened(b, settings, allow_extern=allow_extern) as other,
    ):
        rows = [
            {**left, **right, **ambient(step, progress)}
            for left, right in zip(
                read_rows(one, data, mapping=mapped(one, mapping), limit=limit),
                read_rows(other, data, mapping=mapped(other, mapping), limit=limit),
                strict=True,
            )
        ]
        found = diff(one, other, rows)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    table = Table(title=f"{found.size:,} rows: A = {a}, B = {b}", title_justify="left")
    for heading in ("score", "changed", "mean A", "mean B"):
        table.add_column(heading, justify="left" if heading == "score" else "right")
    for change in found.changes:
        changed = f"only {change.only_in}" if change.only_in else f"{change.changed:,}"
        table.add_row(change.name, changed, f"{change.mean_a:.4f}", f"{change.mean_b:.4f}")
    out.print(table)
    for row, left, right in found.rows:
        out.print(f"row {row}: {left:.4g} → {right:.4g}", markup=False)
    more = found.changes[-1].changed - len(found.rows)
    if more > 0:
        out.print(f"… and {more:,} {'row' if more == 1 else 'rows'} more", markup=False)


def calibrate_command(
    ruleset: File,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="JSONL or Parquet.")],
    label: Annotated[str, typer.Option("--label", metavar="COLUMN", help="True or false labels.")],
    score: Annotated[str, typer.Option("--score", help="Which score to compare.")] = "reward",
    mapping: Mapping = None,
    settings: Settings = None,
    step: Step = None,
    progress: RunProgress = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Compare this many.")] = None,
    allow_extern: AllowExtern = False,
    as_json: AsJson = False,
) -> None:
    """Hold a score against labels: AUC, kappa, precision and recall, and who disagrees."""
    with opened(ruleset, settings, allow_extern=allow_extern) as scorer:
        if score not in (*scorer.names, "reward"):
            known = ", ".join((*scorer.names, "reward"))
            raise typer.BadParameter(f"no score {score!r}; there are {known}", param_hint="--score")
        paths = mapped(scorer, mapping)
        rows = read_rows(scorer, data, mapping=paths, extra={"label": label}, limit=limit)
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        columns.update(ambient(step, progress))
        found = calibrate(as_floats(scorer(**columns).columns[score]), columns["label"])
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    out.print(f"{found.rows:,} rows, {found.null:,} null   AUC {found.auc:.4f}")
    table = Table(title=f"calling `{score}` ≥ t right", title_justify="left")
    for heading in ("t", "precision", "recall", "agreement"):
        table.add_column(heading, justify="right")
    for row in found.thresholds:
        cells = (f"{row.at:.4g}", f"{row.precision:.4f}", f"{row.recall:.4f}")
        table.add_row(*cells, f"{row.agreement:.4f}", style="bold" if row == found.best else None)
    out.print(table)
    out.print(f"kappa {found.kappa:.4f} at t = {found.best.at:.4g}")
    shown = ", ".join(map(str, found.disagreements[:20])) or "none"
    out.print(f"rows that disagree: {shown}", markup=False)
