"""The command `explain`: why a row got its reward."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grpo_rewards.cli.options import (
    AllowExtern,
    AsJson,
    File,
    Group,
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
from grpo_rewards.data.bindings import read_row
from grpo_rewards.explain.marks import look, marked_text, marks, remarks
from grpo_rewards.explain.row import explain_row
from grpo_rewards.scoring.inputs import ambient, text_of


def explain_command(
    ruleset: File,
    data: Annotated[Path | None, typer.Argument(metavar="[DATA]", help="A dataset.")] = None,
    row: Annotated[int, typer.Option("--row", min=0, help="Which row of it, from 0.")] = 0,
    mapping: Mapping = None,
    settings: Settings = None,
    step: Step = None,
    progress: RunProgress = None,
    group: Group = None,
    allow_extern: AllowExtern = False,
    as_json: AsJson = False,
) -> None:
    """Show why a row of a dataset got its reward: the tree, and what is wrong in the completion
    (another language, the place where a format is left; in colour on a terminal).

    Without a dataset, the plan of the ruleset.
    """
    with opened(ruleset, settings, allow_extern=allow_extern) as scorer:
        if data is None:
            if as_json:
                print_json({"plan": scorer.explain()})
            else:
                out.print(scorer.explain(), markup=False)
            return
        columns, mates = read_row(scorer, data, row, mapping=mapped(scorer, mapping), group=group)
        if scorer.needs_groups and group is None:
            hint = "name the column of group ids with --group"
            err.print(f"the ruleset looks at groups: {hint}; here the row is alone", markup=False)
        columns.update(ambient(step, progress))
        if as_json:
            why, found = look(scorer, columns, mates)
            print_json({"why": why, "marks": found})
            return
        for explanation in explain_row(scorer, columns, mates):
            out.print(explanation.to_tree())
        text = text_of(columns.get("completion"))
        found = marks(scorer, columns, mates)
        if out.is_terminal:
            out.print(marked_text(text, found))
        for line in remarks(text, found):
            out.print(line, markup=False)
