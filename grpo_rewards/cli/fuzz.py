"""The command `fuzz`: the laws of a sound reward against drawn examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from grpo_rewards.audit.laws import LAWS, LawBroken
from grpo_rewards.cli.options import (
    AllowExtern,
    AsJson,
    Files,
    Mapping,
    Settings,
    err,
    mapped,
    opened,
    out,
    print_json,
)
from grpo_rewards.data.bindings import read_rows
from grpo_rewards.errors import RewardError

if TYPE_CHECKING:
    from grpo_rewards.testing.fuzz import LawResult

SEEDS = 200  # rows of a dataset that examples start from
SHOWN_CHARS = 2_000  # of a completion that breaks a law


def fuzz_command(
    files: Files,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DATA", help="Rows to start from.")
    ] = None,
    mapping: Mapping = None,
    examples: Annotated[int, typer.Option("--examples", min=1, help="Examples of each law.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="The same seed, the same examples.")] = 0,
    law: Annotated[
        list[str] | None, typer.Option("--law", help="Try this law only. Repeatable.")
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="LAW", help="Do not try this law. Repeatable."),
    ] = None,
    settings: Settings = None,
    allow_extern: AllowExtern = False,
    as_json: AsJson = False,
) -> None:
    """Draw completions that try to break the laws of a sound reward; show the smallest that does.

    Completions come from the ruleset's own formats, its tests and DATA, and from mutations of
    these. A law is silent where no example was such that it says something. Exit 1 where a law is
    broken.
    """
    for name, option in [(n, "--law") for n in law or ()] + [(n, "--skip") for n in skip or ()]:
        if name not in LAWS:
            raise typer.BadParameter(
                f"no law {name!r}; there are {', '.join(LAWS)}", param_hint=option
            )
    try:
        from grpo_rewards.testing.fuzz import fuzz
    except RewardError as missing:  # Hypothesis is not installed
        err.print(str(missing), markup=False)
        raise typer.Exit(2) from None
    broken = False
    for path in files:
        with opened(path, settings, allow_extern=allow_extern) as scorer:
            rows = (
                read_rows(scorer, data, mapping=mapped(scorer, mapping), limit=SEEDS)
                if data is not None
                else []
            )
            results = fuzz(
                scorer, rows, examples=examples, seed=seed, only=law or (), skip=skip or ()
            )
        broken |= any(result.failure is not None for result in results)
        if as_json:
            print_json({"file": str(path), "laws": [_as_json(result) for result in results]})
        else:
            _show(path, results)
    raise typer.Exit(1 if broken else 0)


def _show(path: Path, results: Sequence[LawResult]) -> None:
    table = Table(title=str(path), title_justify="left")
    for heading in ("law", "examples", "applied", "outcome"):
        table.add_column(heading, justify="right" if heading in ("examples", "applied") else "left")
    for result in results:
        style = {"broken": "bold red", "silent": "yellow"}.get(result.outcome)
        cells = (f"{result.examples:,}", f"{result.applied:,}", result.outcome)
        table.add_row(result.law, *cells, style=style)
    out.print(table)
    for result in results:
        if result.failure is not None:
            _show_failure(path, result, result.failure)


def _show_failure(path: Path, result: LawResult, broken: LawBroken) -> None:
    err.print(f"{path}: {broken}", markup=False)
    err.print(f"  the law: {LAWS[result.law].says}", markup=False)
    shown = broken.rows if len(broken.rows) == 2 else [broken.rows[broken.row]]
    for row in shown:
        for name, value in row.items():
            text = repr(value)
            cut = "" if len(text) <= SHOWN_CHARS else f" … {len(text):,} characters"
            err.print(f"  {name}: {text[:SHOWN_CHARS]}{cut}", markup=False)
        err.print()
    for explanation in result.explanation:
        err.print(explanation.to_tree())


def _as_json(result: LawResult) -> dict[str, Any]:
    found: dict[str, Any] = {
        "law": result.law, "outcome": result.outcome, "examples": result.examples,
        "applied": result.applied,
    }  # fmt: skip
    if result.failure is not None:
        failure = result.failure
        found.update(message=failure.message, rows=failure.rows, row=failure.row)
    return found
