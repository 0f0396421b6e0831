"""What the commands share: consoles, options, JSON on a line, a ruleset opened and closed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from grpo_rewards.scoring.scorer import Scorer, load

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
Group = Annotated[
    str | None, typer.Option("--group", metavar="COLUMN", help="Group ids, one per prompt.")
]
Step = Annotated[
    float | None, typer.Option("--step", help="The step that a scheduled ruleset is scored at.")
]
RunProgress = Annotated[
    float | None,
    typer.Option("--progress", min=0, max=1, help="The same, as a share of the whole run."),
]
AllowExtern = Annotated[
    bool,
    typer.Option(
        "--allow-extern",
        help="Run the Python functions that `extern` names; modules beside the ruleset are found.",
    ),
]


def print_json(value: Any) -> None:
    print(json.dumps(_plain(value), ensure_ascii=False))  # noqa: T201 - a machine reads this


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def pairs(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """`["a=b"]` → `{"a": "b"}`."""
    pairs: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
        pairs[name.strip()] = value
    return pairs


@contextmanager
def opened(
    path: Path,
    settings: Sequence[str] | None,
    workers: int = 1,
    *,
    allow_extern: bool = False,
    memo: Path | None = None,
) -> Iterator[Scorer]:
    if allow_extern:
        sys.path.insert(0, str(path.resolve().parent))
    params = pairs(settings, "--set")
    with load(path, params=params, workers=workers, allow_extern=allow_extern, memo=memo) as scorer:
        yield scorer
