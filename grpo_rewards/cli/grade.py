"""The commands that look at one text: grade (an answer against a gold) and format (a shape)."""

from __future__ import annotations

import inspect
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from grpo_rewards.cli.options import AsJson, File, err, opened, out, print_json
from grpo_rewards.data.bindings import BATCH_ROWS
from grpo_rewards.data.kinds import open_dataset
from grpo_rewards.errors import RewardError
from grpo_rewards.explain.row import shorten
from grpo_rewards.rules.format.matching import Format, Match
from grpo_rewards.rules.math.equality import equal
from grpo_rewards.scoring.grading import Grade, check_golds, grade_batch


def grade_command(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="Cases: gold, pred, expect (true, false) and options."
        ),
    ] = None,
    gold: Annotated[str | None, typer.Option("--gold", help="The right answer.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="A completion or an answer.")] = None,
    golds: Annotated[
        Path | None, typer.Option("--golds", metavar="DATA", help="List golds that cannot be read.")
    ] = None,
    column: Annotated[str, typer.Option("--column", help="Where DATA has its golds.")] = "gold",
    as_json: AsJson = False,
) -> None:
    """Grade an answer against a gold, a file of cases, or check the golds of a dataset.

    Exit 1 where a case fails or a gold cannot be read.
    """
    if golds is not None:
        _check_golds(golds, column, as_json)
    elif file is not None:
        _grade_file(file, as_json)
    elif gold is not None and text is not None:
        _grade_pair(gold, text, as_json)
    else:
        raise typer.BadParameter("give --gold and --text, a FILE of cases, or --golds DATA")


def _grade_pair(gold: str, text: str, as_json: bool) -> None:
    (found,) = grade_batch([gold], [text])
    if as_json:
        print_json({**found.to_dict(), "trees": found.trees})
        return
    verdict = {True: "correct", False: "wrong", None: "no verdict: the gold is at fault"}
    out.print(f"{verdict[found.correct]}: {found.reason} ({found.rung})", markup=False)
    place = "" if found.start is None else f"  at {found.start}..{found.end}"
    out.print(f"answer  {found.answer!r}{place}\n        {found.trees['answer']}", markup=False)
    out.print(f"gold    {found.gold!r}\n        {found.trees['gold']}", markup=False)


def _rows(file: Path) -> list[dict[str, Any]]:
    with open_dataset(file) as dataset:
        return [row for batch in dataset.batches(BATCH_ROWS, columns={}) for row in batch.rows]


def _grade_file(file: Path, as_json: bool) -> None:
    rows = _rows(file)
    answer = "answer" if rows and "answer" in rows[0] else "pred"
    lacking = {"gold", answer, "expect"} - set(rows[0] if rows else ())
    if lacking:
        raise RewardError(f"{file}: cases have gold, pred and expect; `{min(lacking)}` is missing")
    grades = _grades(rows, answer, file)
    failures = [i for i, row in enumerate(rows) if (grades[i].correct is True) != row["expect"]]
    if as_json:
        print_json(
            {"cases": len(rows), "failures": [_failure(rows[i], grades[i]) for i in failures]}
        )
    else:
        out.print(_kinds(rows, failures))
        for i in failures[:50]:
            row, found = rows[i], grades[i]
            name = row.get("id", i)
            out.print(
                f"{name}: gold {shorten(str(row['gold']))!r}, "
                f"answer {shorten(str(row[answer]))!r}: "
                f"{found.correct}, expected {row['expect']} ({found.reason})",
                markup=False,
            )
    raise typer.Exit(1 if failures else 0)


def _grades(rows: Sequence[dict[str, Any]], answer: str, file: Path) -> list[Grade]:
    """One grade a row, by the options that it brings."""
    alike: defaultdict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        alike[json.dumps(row.get("options") or {}, sort_keys=True)].append(i)
    grades: dict[int, Grade] = {}
    for text, places in alike.items():
        options = json.loads(text)
        for name in set(options) - set(inspect.signature(equal).parameters):
            raise RewardError(f"{file}: case {places[0]}: math.equal has no option `{name}`")
        golds = ["" if rows[i]["gold"] is None else str(rows[i]["gold"]) for i in places]
        texts = [None if rows[i][answer] is None else str(rows[i][answer]) for i in places]
        grades.update(zip(places, grade_batch(golds, texts, **options), strict=True))
    return [grades[i] for i in range(len(rows))]


def _failure(row: dict[str, Any], found: Grade) -> dict[str, Any]:
    return {"id": row.get("id"), "expect": row["expect"], **found.to_dict()}


def _kinds(rows: Sequence[dict[str, Any]], failures: Sequence[int]) -> Table:
    table = Table()
    table.add_column("kind")
    for heading in ("cases", "right", "paid wrongly", "missed"):
        table.add_column(heading, justify="right")
    failed = set(failures)
    for kind in sorted({str(row.get("kind", "")) for row in rows}):
        own = [i for i, row in enumerate(rows) if str(row.get("kind", "")) == kind]
        bad = [i for i in own if i in failed]
        missed = sum(bool(rows[i]["expect"]) for i in bad)
        cells = (len(own), len(own) - len(bad), len(bad) - missed, missed)
        table.add_row(kind or "all", *(f"{cell:,}" for cell in cells))
    return table


def _check_golds(data: Path, column: str, as_json: bool) -> None:
    with open_dataset(data) as dataset:
        batches = dataset.batches(BATCH_ROWS, columns={"gold": column})
        values = ["" if g is None else str(g) for batch in batches for g in batch.columns["gold"]]
    found = check_golds(values)
    if as_json:
        print_json({"golds": len(values), "unreadable": [list(row) for row in found]})
    else:
        for row, text, why in found:
            out.print(f"row {row}: {shorten(text)!r}: {why}", markup=False)
        out.print(f"{len(values):,} golds, {len(found):,} cannot be read")
    raise typer.Exit(1 if found else 0)


def format_command(
    ruleset: File,
    name: Annotated[str, typer.Argument(help="A format of the ruleset.")],
    text: Annotated[str, typer.Option("--text", help="What to match.")],
    as_json: AsJson = False,
) -> None:
    """Match a text against a format of a ruleset: captures, credit, and where it fails."""
    with opened(ruleset, None) as scorer:
        formats: dict[str, Format] = {
            node.value.name: node.value
            for node in scorer.graph.nodes
            if node.op == "const" and node.type.kind == "format"
        }
    if name not in formats:
        raise RewardError(f"{ruleset}: no format `{name}`; it has {', '.join(formats) or 'none'}")
    found = formats[name].match(text)
    if as_json:
        captures = {key: [[s.start, s.end] for s in spans] for key, spans in found.captures.items()}
        print_json({"ok": found.ok, "credit": found.credit, "captures": captures})
    else:
        _show_match(found, text)
    raise typer.Exit(0 if found.ok else 1)


def _show_match(found: Match, text: str) -> None:
    out.print(f"{'fits' if found.ok else 'does not fit'}, credit {found.credit:.3g}", markup=False)
    for key, spans in found.captures.items():
        for span in spans:
            out.print(f"  {key} {span.start}..{span.end}  {shorten(span)!r}", markup=False)
    if found.at is not None:
        wanted = ", ".join(found.at.expected)
        err.print(f"at {found.at.line}:{found.at.column}: wants {wanted}", markup=False)
        start = max(0, found.at.offset - 40)
        shown = text[start : found.at.offset + 40].replace("\n", " ")
        err.print(f"  {shown}\n  {' ' * (found.at.offset - start)}^", markup=False)
