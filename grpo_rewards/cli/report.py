"""`grpo-rewards report`: scores as a page."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from grpo_rewards.cli.options import (
    AllowExtern,
    AsJson,
    Group,
    Mapping,
    Settings,
    opened,
    out,
    pairs,
    print_json,
)
from grpo_rewards.errors import RewardError, refuse_overwriting
from grpo_rewards.report.scores_page import scores_report


def report_command(
    scores: Annotated[
        list[Path],
        typer.Argument(metavar="SCORES [OTHER]", help="What `score -o` wrote; two are compared."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="The page.")] = Path(
        "report.html"
    ),
    ruleset: Annotated[
        Path | None,
        typer.Option("--ruleset", metavar="FILE", help="Adds why a row got its scores."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Completions in the table, drawn evenly.")] = 500,
    title: Annotated[str, typer.Option(help="Of the page; else the ruleset's name.")] = "",
    group: Group = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="COLUMN", help="What two files have in common; else places."),
    ] = None,
    mapping: Mapping = None,
    settings: Settings = None,
    allow_extern: AllowExtern = False,
    as_json: AsJson = False,
) -> None:
    """Show a scores file, or two over the same rows, as one self-contained HTML page."""
    if len(scores) > 2:
        raise RewardError("a report compares two files at most")
    refuse_overwriting([*scores, *([] if ruleset is None else [ruleset])], [output])
    opening = (
        opened(ruleset, settings, allow_extern=allow_extern)
        if ruleset is not None
        else nullcontext()
    )
    with opening as scorer:
        page = scores_report(
            scores,
            scorer,
            mapping=pairs(mapping, "--map"),
            group=group,
            key=key,
            rows=rows,
            title=title,
        )
    path = page.write(output)
    if as_json:
        print_json({"page": str(path), "bytes": path.stat().st_size})
    else:
        out.print(f"{path}  {path.stat().st_size / 2**20:.1f} MB", markup=False)
