"""What the commands share: consoles, options and their values, JSON on a line, an open ruleset."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from grpo_rewards.data.bindings import unknown_inputs
from grpo_rewards.errors import BatchError, RewardError
from grpo_rewards.json_text import json_safe
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
    """Print a value as one line of JSON, for a machine to read."""
    text = json.dumps(json_safe(value), ensure_ascii=False)
    # UTF-8 has no lone surrogates; what Python writes for one is also JSON's escape of it.
    print(text.encode("utf-8", "backslashreplace").decode())  # noqa: T201


def pairs(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """`["a=b"]` → `{"a": "b"}`."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
        found[name.strip()] = value
    return found


def mapped(scorer: Scorer, texts: Sequence[str] | None) -> dict[str, str]:
    """The values of `--map`: columns by the inputs of the ruleset that they feed."""
    mapping = pairs(texts, "--map")
    unknown = unknown_inputs(scorer, mapping)
    if unknown:
        message = f"the ruleset has no input {unknown[0]!r}; it has {', '.join(scorer.inputs)}"
        raise typer.BadParameter(message, param_hint="--map")
    return mapping


def tell_options(error: RewardError) -> None:
    """Let the hint of an error that misses an input name the option that passes it."""
    if isinstance(error, BatchError) and error.missing:
        options = {"step": "--step 100", "progress": "--progress 0.5", "group": "--group COLUMN"}
        option = options.get(error.missing, f"--map {error.missing}=COLUMN")
        error.tell_remedy(f"pass {option}")


@contextmanager
def opened(
    path: Path,
    settings: Sequence[str] | None,
    workers: int = 1,
    *,
    allow_extern: bool = False,
    memo: Path | None = None,
) -> Iterator[Scorer]:
    """The scorer of a ruleset with the params of `--set`, closed at the end."""
    if allow_extern:  # its modules may stand beside the ruleset
        sys.path.insert(0, str(path.resolve().parent))
    params = pairs(settings, "--set")
    with load(path, params=params, workers=workers, allow_extern=allow_extern, memo=memo) as scorer:
        yield scorer
