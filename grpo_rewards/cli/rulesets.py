"""The commands over rulesets alone: check, fmt, test and rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from grpo_rewards.audit.test_blocks import TestResult, run_tests
from grpo_rewards.cli.options import (
    AllowExtern,
    AsJson,
    Files,
    Settings,
    err,
    opened,
    out,
    print_json,
)
from grpo_rewards.compiler.graph import Graph
from grpo_rewards.compiler.statements import check
from grpo_rewards.rules.catalog import CATALOG
from grpo_rewards.syntax.files import parse_file, read_text
from grpo_rewards.syntax.formatter import format_text


def check_command(files: Files, as_json: AsJson = False) -> None:
    """Parse and type-check rulesets; show the range and level of every score.

    Every mistake of a file is reported in one run, with its place and a hint.
    """
    failed = False
    for path in files:
        parsed = parse_file(path)
        graph, findings = check(parsed)
        errors = [finding for finding in findings if finding.severity == "error"]
        failed |= bool(errors)
        if as_json:
            print_json(_check_json(path, graph, findings, parsed.source))
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


def fmt_command(
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


def test_command(
    files: Files,
    settings: Settings = None,
    allow_extern: AllowExtern = False,
    as_json: AsJson = False,
) -> None:
    """Run the test blocks of rulesets."""
    failed = False
    for path in files:
        with opened(path, settings, allow_extern=allow_extern) as scorer:
            results = run_tests(scorer, folder=path.parent)
        failed |= not all(result.passed for result in results)
        if as_json:
            print_json({"file": str(path), "tests": [_test_json(result) for result in results]})
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


def rules_command(
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
            print_json({"name": rule.name, "signature": rule.signature, "doc": rule.doc})
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
