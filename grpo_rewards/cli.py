"""The command line: `grpo-rewards VERB …`. Exit codes: 0 ok, 1 a finding, 2 wrong usage."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from grpo_rewards.audit import AttackReport
from grpo_rewards.audit import attack as run_attack
from grpo_rewards.audit import calibrate as run_calibrate
from grpo_rewards.audit import diff as run_diff
from grpo_rewards.check import check as check_ruleset
from grpo_rewards.errors import RewardError
from grpo_rewards.explain import explain_row, shorten
from grpo_rewards.fmt import format_text
from grpo_rewards.graph import Graph
from grpo_rewards.offline import Totals, read_row, read_rows, score_file
from grpo_rewards.rules import CATALOG
from grpo_rewards.ruletest import TestResult, run_tests
from grpo_rewards.scorer import Scorer, load, parse_file, read_text
from grpo_rewards.scores import as_floats

app = typer.Typer(
    name="grpo-rewards",
    help="Author, test and run reward rulesets for reinforcement learning on language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)

Files = Annotated[list[Path], typer.Argument(metavar="FILE…", help="Rulesets (*.reward).")]
File = Annotated[Path, typer.Argument(metavar="RULESET", help="A ruleset (*.reward).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Give a param another value. Repeatable."),
]
Mapping = Annotated[
    list[str] | None,
    typer.Option(
        "--map", metavar="INPUT=COLUMN", help="Bind an input; COLUMN may be a dotted path."
    ),
]
Step = Annotated[
    float | None, typer.Option("--step", help="The step that a scheduled ruleset is scored at.")
]


def main() -> None:
    """Entry point: what the library raises becomes one message and exit code 1."""
    try:
        app()
    except RewardError as error:
        err.print(str(error), markup=False)
        sys.exit(1)
    except BrokenPipeError:  # `| head` has seen enough
        sys.exit(0)


def _print_json(value: Any) -> None:
    print(json.dumps(_plain(value), ensure_ascii=False))  # noqa: T201 - a machine reads this


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _pairs(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """`["a=b"]` → `{"a": "b"}`."""
    pairs: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
        pairs[name.strip()] = value
    return pairs


@contextmanager
def _scorer(path: Path, settings: Sequence[str] | None, workers: int = 1) -> Iterator[Scorer]:
    with load(path, params=_pairs(settings, "--set"), workers=workers) as scorer:
        yield scorer


@app.command()
def check(files: Files, as_json: AsJson = False) -> None:
    """Parse and type-check rulesets; show the range and level of every score.

    Every mistake of a file is reported in one run, with its place and a hint.
    """
    failed = False
    for path in files:
        parsed = parse_file(path)
        graph, findings = check_ruleset(parsed)
        errors = [finding for finding in findings if finding.severity == "error"]
        failed |= bool(errors)
        if as_json:
            _print_json(_check_json(path, graph, findings, parsed.source))
            continue
        for finding in findings:
            err.print(finding.show(parsed.source), markup=False)
        if errors:
            plural = "s" if len(errors) > 1 else ""
            err.print(f"{path}: {len(errors)} error{plural}", markup=False)
        else:
            out.print(_check_table(path, graph))
    raise typer.Exit(1 if failed else 0)


def _check_json(path: Path, graph: Graph, findings: Sequence[Any], source: Any) -> dict[str, Any]:
    rows = []
    for finding in findings:
        line, column = source.line_col(finding.place.start)
        rows.append(
            {
                "code": finding.code, "severity": finding.severity, "message": finding.message,
                "line": line, "column": column, "hint": finding.hint,
            }
        )  # fmt: skip
    ok = not any(finding.severity == "error" for finding in findings)
    result: dict[str, Any] = {"file": str(path), "ok": ok, "findings": rows}
    if ok:
        result["hash"] = graph.hash()
        result["scores"] = {
            name: {
                "range": [graph.ranges[name].lo, graph.ranges[name].hi],
                "level": graph[number].level.label,
            }
            for name, number in graph.columns.items()
        }
    return result


def _check_table(path: Path, graph: Graph) -> Table:
    table = Table(title=f"{path}  {graph.name}  {graph.hash()[:12]}", title_justify="left")
    for heading in ("score", "range", "level", "cost"):
        table.add_column(heading)
    costs = ("arithmetic", "scan", "parse", "search")
    for name, number in graph.columns.items():
        node = graph[number]
        style = "bold" if name == "reward" else None
        table.add_row(
            name, str(graph.ranges[name]), node.level.label, costs[min(node.cost, 3)], style=style
        )
    return table


@app.command()
def fmt(
    files: Files,
    check_only: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 where a file would change.")
    ] = False,
) -> None:
    """Write rulesets in canonical form; comments are kept."""
    changed = False
    for path in files:
        text = read_text(path)
        formatted = format_text(text, name=str(path))
        if formatted == text:
            continue
        changed = True
        if not check_only:
            path.write_text(formatted, encoding="utf-8")
        out.print(f"{'would reformat' if check_only else 'reformatted'} {path}", markup=False)
    raise typer.Exit(1 if changed and check_only else 0)


@app.command()
def test(files: Files, settings: Settings = None, as_json: AsJson = False) -> None:
    """Run the test blocks of rulesets."""
    failed = False
    for path in files:
        with _scorer(path, settings) as scorer:
            results = run_tests(scorer, folder=path.parent)
        failed |= not all(result.passed for result in results)
        if as_json:
            _print_json({"file": str(path), "tests": [_test_json(result) for result in results]})
            continue
        for result in results:
            _show_test(path, result)
        passed = sum(result.passed for result in results)
        out.print(f"{path}: {passed} passed, {len(results) - passed} failed", markup=False)
    raise typer.Exit(1 if failed else 0)


def _test_json(result: TestResult) -> dict[str, Any]:
    failures = [
        {"expect": f.expect, "row": f.row, "scores": dict(f.scores)} for f in result.failures
    ]
    return {"name": result.name, "rows": result.rows, "ok": result.passed, "failures": failures}


def _show_test(path: Path, result: TestResult) -> None:
    if result.passed:
        return
    err.print(f'{path}: test "{result.name}" failed', markup=False)
    for failure in result.failures[:10]:
        where = f" (row {failure.row})" if result.rows > 1 else ""
        err.print(f"  {failure.expect}{where}", markup=False)
        for name, value in failure.scores.items():
            err.print(f"    {name} = {value}", markup=False)


@app.command()
def score(
    ruleset: File,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="JSONL (.gz, .zst) or Parquet.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help="JSONL or Parquet; by its ending."),
    ] = None,
    mapping: Mapping = None,
    settings: Settings = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="COLUMN", help="Group ids, one per prompt.")
    ] = None,
    step: Step = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Score this many rows.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes for slow checks; 0: none.")] = 1,
    skip_bad_lines: Annotated[
        bool, typer.Option("--skip-bad-lines", help="Count unreadable lines instead of stopping.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Score a dataset: the input's columns, then one per score, the reward and their status."""
    with _scorer(ruleset, settings, workers) as scorer, _progress(data, not as_json) as advance:
        totals = score_file(
            scorer,
            data,
            output,
            mapping=_pairs(mapping, "--map"),
            group=group,
            step=step,
            limit=limit,
            on_bad_line="skip" if skip_bad_lines else "error",
            progress=advance,
        )
    if as_json:
        _print_json(_totals_json(totals, scorer.hash, output))
    else:
        out.print(_totals_table(totals))
        out.print(f"{totals.rows:,} rows" + (f" → {output}" if output else ""), markup=False)


@contextmanager
def _progress(data: Path, visible: bool) -> Iterator[Any]:
    """A bar of rows on standard error."""
    from grpo_rewards.dataset import open_dataset

    columns = (
        TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, disable=not visible, transient=True) as bar:
        total = open_dataset(data).count() if visible and err.is_terminal else None
        task = bar.add_task("score", total=total)
        yield lambda rows: bar.advance(task, rows)


def _totals_table(totals: Totals) -> Table:
    table = Table()
    table.add_column("score")
    for heading in ("mean", "std", "null", "error", "seconds"):
        table.add_column(heading, justify="right")
    for row in totals.summary():
        cells = (f"{row.mean:.4f}", f"{row.std:.4f}", f"{row.null:,}", f"{row.error:,}")
        style = "bold" if row.name == "reward" else None
        table.add_row(row.name, *cells, f"{row.seconds:.2f}", style=style)
    return table


def _totals_json(totals: Totals, digest: str, output: Path | None) -> dict[str, Any]:
    rows = {
        row.name: {
            "mean": row.mean, "std": row.std, "null": row.null, "error": row.error,
            "seconds": round(row.seconds, 4),
        }
        for row in totals.summary()
    }  # fmt: skip
    return {"rows": totals.rows, "hash": digest, "output": str(output or ""), "scores": rows}


@app.command()
def explain(
    ruleset: File,
    data: Annotated[Path | None, typer.Argument(metavar="[DATA]", help="A dataset.")] = None,
    row: Annotated[int, typer.Option("--row", min=0, help="Which row of it, from 0.")] = 0,
    mapping: Mapping = None,
    settings: Settings = None,
    step: Step = None,
) -> None:
    """Show why a row of a dataset got its reward; without one, the plan of the ruleset."""
    with _scorer(ruleset, settings) as scorer:
        if data is None:
            out.print(scorer.explain(), markup=False)
            return
        columns = read_row(scorer, data, row, mapping=_pairs(mapping, "--map"))
        if step is not None:
            columns["step"] = step
        for explanation in explain_row(scorer, columns):
            out.print(explanation.to_tree())


@app.command()
def attack(
    ruleset: File,
    data: Annotated[Path | None, typer.Argument(metavar="[DATA]", help="Rows with golds.")] = None,
    mapping: Mapping = None,
    settings: Settings = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Attack this many rows.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Try families of reward hacks, drawn relative to each gold; report the highest reward that a
    completion without the right answer reached.

    Without DATA the golds of the file's tests are attacked. Exit 1 where an `attack` statement of
    the ruleset does not hold.
    """
    with _scorer(ruleset, settings) as scorer:
        rows = (
            read_rows(scorer, data, mapping=_pairs(mapping, "--map"), limit=limit)
            if data is not None
            else [dict(row) for test in scorer.tests for row in test.rows][:limit]
        )
        report = run_attack(scorer, rows)
    if as_json:
        _print_json(dataclasses.asdict(report))
    else:
        out.print(_attack_table(report, ruleset))
        for breach in report.breaches:
            err.print(f"{ruleset}: {breach.family} reached {breach.reward:.4g}", markup=False)
            err.print(f"  {breach.expect}", markup=False)
            err.print(f"  completion: {shorten(breach.completion)!r}", markup=False)
    raise typer.Exit(1 if report.breaches else 0)


def _attack_table(report: AttackReport, ruleset: Path) -> Table:
    table = Table(title=f"{ruleset}: hacks without the right answer", title_justify="left")
    for heading in ("family", "tried", "highest", "by"):
        table.add_column(heading, justify="right" if heading in ("tried", "highest") else "left")
    for row in report.families:
        shown = Text(repr(shorten(row.completion)))
        table.add_row(row.family, f"{row.tried:,}", f"{row.highest:.4g}", shown)
    return table


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A ruleset.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another, or another version of it.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="JSONL or Parquet.")],
    mapping: Mapping = None,
    settings: Settings = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Compare this many.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two rulesets over one dataset: which scores change, and the rows that change most."""
    with _scorer(a, settings) as one, _scorer(b, settings) as other:
        pairs = _pairs(mapping, "--map")
        rows = [
            {**left, **right}
            for left, right in zip(
                read_rows(one, data, mapping=pairs, limit=limit),
                read_rows(other, data, mapping=pairs, limit=limit),
                strict=True,
            )
        ]
        found = run_diff(one, other, rows)
    if as_json:
        _print_json(dataclasses.asdict(found))
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


@app.command()
def calibrate(
    ruleset: File,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="JSONL or Parquet.")],
    label: Annotated[str, typer.Option("--label", metavar="COLUMN", help="True or false labels.")],
    score: Annotated[str, typer.Option("--score", help="Which score to compare.")] = "reward",
    mapping: Mapping = None,
    settings: Settings = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Compare this many.")] = None,
    as_json: AsJson = False,
) -> None:
    """Hold a score against labels: AUC, kappa, precision and recall, and who disagrees."""
    with _scorer(ruleset, settings) as scorer:
        if score not in (*scorer.names, "reward"):
            known = ", ".join((*scorer.names, "reward"))
            raise typer.BadParameter(f"no score {score!r}; there are {known}", param_hint="--score")
        pairs = _pairs(mapping, "--map")
        rows = read_rows(scorer, data, mapping=pairs, extra={"label": label}, limit=limit)
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        found = run_calibrate(as_floats(scorer(**columns).columns[score]), columns["label"])
    if as_json:
        _print_json(dataclasses.asdict(found))
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


@app.command()
def rules(
    name: Annotated[str | None, typer.Argument(help="A rule, or the start of its name.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the catalog of rules: signature, range, cost and an example."""
    found = [rule for key, rule in sorted(CATALOG.items()) if key.startswith(name or "")]
    if not found:
        err.print(f"no rule `{name}`\n  hint: `grpo-rewards rules` lists them", markup=False)
        raise typer.Exit(1)
    if as_json:
        for rule in found:
            _print_json({"name": rule.name, "signature": rule.signature, "doc": rule.doc})
        return
    if name in CATALOG:
        rule = CATALOG[name]
        out.print(f"{rule.signature}\n\n{rule.doc}", markup=False)
        if rule.example:
            out.print(f"\nexample: {rule.example}", markup=False)
        return
    table = Table()
    table.add_column("rule")
    table.add_column("what it gives")
    for rule in found:
        table.add_row(rule.signature, rule.doc.split("\n")[0])
    out.print(table)
