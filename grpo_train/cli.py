"""`grpo-train`: run, resume, eval, show, demo. Exit 0 done, 1 a finding, 2 wrong usage."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from grpo_train.errors import ConfigError, DataError, TrainError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a language model with GRPO on the rewards of a ruleset.",
)
console = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.")]


def _run_folder(folder: Path) -> Path:
    """Typer's callback: a folder that holds a run."""
    if not (folder / "config.toml").is_file():
        found = (*folder.parent.glob("*/config.toml"), *Path("runs").glob("*/config.toml"))
        known = sorted({str(path.parent) for path in found})
        hint = f"\nhint: there is {', '.join(known[:8])}" if known else ""
        raise ConfigError(f"`{folder}` holds no run{hint}")
    return folder


Run = Annotated[
    Path,
    typer.Argument(help="A run folder, runs/<name>.", show_default=False, callback=_run_folder),
]

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="key=value…", help="Changes to the file: optim.lr=1e-5 steps=50"),
]


def main() -> None:
    """Entry point: errors that we raise on purpose are printed without a traceback."""
    # Set before torch starts its threads: spinning ones make a shared machine several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except SystemExit as done:
        if not done.code and "grpo_train.distributed" in sys.modules:
            sys.modules["grpo_train.distributed"].leave_processes()
        raise
    except (ConfigError, DataError) as error:
        _fail(error, 2)
    except TrainError as error:
        _fail(error, 1)


def _fail(error: TrainError, code: int) -> None:
    console.print(f"error: {error}", style="red", markup=False, highlight=False)
    sys.exit(code)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A TOML file.", show_default=False)],
    overrides: Overrides = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check, plan the memory, score one batch; train nothing."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train from a config file into runs/<name>."""
    from grpo_train.config import load_config
    from grpo_train.session import check_ready, open_session, start

    loaded = load_config(config, overrides or [])
    check_ready(loaded)
    _quiet()
    if dry_run:
        _rehearse(open_session(loaded), as_json=as_json)
    else:
        _train(start(loaded), as_json=as_json)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("config.toml"),
    as_json: Json = False,
) -> None:
    """Write a starter config: every field with its default, its unit and what 0 means."""
    from grpo_train.config_text import starter

    if path.exists():
        raise ConfigError(f"`{path}` exists already")
    path.write_text(starter(), encoding="utf-8")
    console.print(f"wrote {path}; fill in name, model, data.train and reward.ruleset")
    if as_json:
        _print_json({"path": str(path)})


@app.command(name="resume")
def resume_command(
    folder: Run,
    overrides: Overrides = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Go on even if config, ruleset or prompts have changed; "
            "start again where the checkpoints are lost.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Go on from a run's last whole checkpoint, exactly as if it had not stopped."""
    from grpo_train.session import resume

    _quiet()
    _train(resume(folder, overrides or [], force=force), as_json=as_json)


@app.command(name="eval")
def evaluate_command(
    folder: Run,
    samples: Annotated[int, typer.Option(help="Completions of each prompt.", min=1)] = 1,
    limit: Annotated[int, typer.Option(help="Number of prompts at most; 0 = all.", min=0)] = 0,
    model: Annotated[str, typer.Option(help="Another model than the run's own result.")] = "",
    as_json: Json = False,
) -> None:
    """Held-out accuracy of a run's policy: pass@1, pass@k and the scores."""
    from grpo_train.session import evaluate_run

    _quiet()
    result = evaluate_run(folder, samples=samples, limit=limit, model=model)
    table = Table("measure", "value [95% interval]")
    table.add_row("pass@1", f"{result.pass_at_1:.3f} [{result.low:.3f}, {result.high:.3f}]")
    for k, value in result.pass_at_k.items():
        low, high = result.intervals[k]
        table.add_row(f"pass@{k}", f"{value:.3f} [{low:.3f}, {high:.3f}]")
    for name, value in result.scores.items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)
    if as_json:
        _print_json(dataclasses.asdict(result))


@app.command()
def show(folder: Run, as_json: Json = False) -> None:
    """A run's metrics at its start and its end, its alarms, and its last samples."""
    from grpo_train.run.alarms import Alarm
    from grpo_train.run.record import Record

    record = Record(folder)
    rows = record.read()
    if not rows:
        raise ConfigError(f"{folder} holds no run: it has no metrics.jsonl")
    table = Table("metric", "first", "last", "lowest", "highest")
    for name in dict.fromkeys(key for row in rows for key in row if key != "step"):
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            shown = (values[0], values[-1], min(values), max(values))
            table.add_row(name, *(f"{value:.4g}" for value in shown))
    console.print(table)
    alarms = record.read("alarms.jsonl")
    for alarm in alarms:
        _print_alarm(Alarm(alarm["alarm"], alarm["step"], alarm["text"], alarm["rows"]))
    for sample in record.read("samples.jsonl")[-2:]:
        console.print_json(json.dumps(sample))
    try:
        console.print(f"curves: {record.report()}", highlight=False)
    except ConfigError as error:
        console.print(f"no curves: {error}", highlight=False, markup=False)
    if as_json:
        _print_json({"step": rows[-1]["step"], "last": rows[-1], "alarms": alarms})


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Seed of everything that is made.")] = 0,
    folder: Annotated[
        Path | None, typer.Option("--runs", help="Folder of run folders.", show_default="runs")
    ] = None,
    steps: Annotated[int, typer.Option(help="GRPO updates; 0 = the demo's own number.")] = 0,
    as_json: Json = False,
) -> None:
    """Make a tiny policy and its task on the spot, train it, and show accuracy before and after."""
    from grpo_train.demo import TinyConfig, demo_config, make_tiny
    from grpo_train.session import start

    started = time.perf_counter()
    _quiet()
    where = _free_folder((folder or Path("runs")) / f"demo-{seed}")
    tiny = TinyConfig()
    with _bar("warm start", tiny.warm_steps, ("loss",)) as advance:
        make_tiny(tiny, where, seed, lambda step, loss: advance(step, {"loss": float(loss)}))
    warm_seconds = time.perf_counter() - started
    config = demo_config(where, seed, steps)
    _train(start(config), as_json=as_json, warm_seconds=warm_seconds)


def _free_folder(folder: Path) -> Path:
    """The folder itself, or the first of `…-2`, `…-3` that does not exist yet."""
    number, free = 2, folder
    while free.exists():
        free, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return free


def _train(session: Any, *, as_json: bool, warm_seconds: float = 0.0) -> None:
    """Train a session with a progress bar, and print how it ended."""
    from grpo_train.train import train

    for note in session.notes:
        console.print(note, style="dim", markup=False, highlight=False)
    total = session.config.steps
    with _bar(
        "train", total, ("reward", "length", "tokens_per_s"), done=session.progress.step
    ) as advance:
        result = train(session, advance, _print_alarm)
    _print_scores(session.progress.history)
    accuracy = [row for row in session.progress.history if "eval/pass_at_1" in row]
    if len(accuracy) > 1:
        _print_accuracy(accuracy[0], accuracy[-1])
    folder = result.folder
    console.print(
        f"{result.steps} steps in {result.seconds:.0f} s"
        + (f" after a warm start of {warm_seconds:.0f} s" if warm_seconds else "")
        + f"\npolicy {folder}/model   samples {folder}/samples.jsonl"
        + (f"   curves {folder}/report.html" if (folder / "report.html").exists() else ""),
        highlight=False,
    )
    if result.stopped:
        console.print(
            f"stopped by {result.stopped}; go on with: grpo-train resume {folder}",
            highlight=False,
            soft_wrap=True,
        )
    if as_json:
        found: dict[str, Any] = {"run": str(folder), "steps": result.steps}
        found["seconds"] = round(result.seconds + warm_seconds, 2)
        if accuracy:
            found["pass_at_1_before"] = accuracy[0]["eval/pass_at_1"]
            found["pass_at_1_after"] = accuracy[-1]["eval/pass_at_1"]
        found["alarms"] = [row["alarm"] for row in session.record.read("alarms.jsonl")]
        found["stopped"] = result.stopped
        _print_json(found)


def _rehearse(session: Any, *, as_json: bool) -> None:
    """Sample and score the first batch and print it; nothing is written."""
    import torch

    from grpo_train.objective.advantage import has_signal
    from grpo_train.rollout_batch import sample_batch

    for note in session.notes:
        console.print(note, markup=False, highlight=False)
    prompts, _, scored, spent = sample_batch(session)
    table = Table("completion", *scored.scores, "reward")
    for i in range(min(8, len(scored.texts))):
        cells = [f"{column[i]:.3g}" for column in (*scored.scores.values(), scored.reward)]
        table.add_row(Text(" ".join(scored.texts[i].split())[:200]), *cells)
    console.print(Text(prompts.text[0]))
    console.print(table)
    unequal = int(has_signal(torch.from_numpy(scored.reward).view(len(prompts), -1)).sum())
    console.print(
        f"{len(scored.texts)} completions of {len(prompts)} prompts in "
        f"{spent['seconds/generate']:.1f} s, scored in {spent['seconds/score']:.2f} s; "
        f"{unequal} of {len(prompts)} groups have unequal rewards, which is what GRPO learns from",
        highlight=False,
    )
    if as_json:
        _print_json({"scores": scored.means(), "notes": session.notes} | spent)


def _print_alarm(alarm: Any) -> None:
    console.print(str(alarm), style="yellow", markup=False, highlight=False, soft_wrap=True)


def _print_accuracy(first: dict[str, Any], last: dict[str, Any]) -> None:
    for row in (first, last):
        console.print(
            f"held-out pass@1 at step {row['step']:>4}: {row['eval/pass_at_1']:.3f}  "
            f"95% interval [{row['eval/low']:.3f}, {row['eval/high']:.3f}]",
            highlight=False,
        )


def _print_scores(rows: list[dict[str, Any]]) -> None:
    """Mean reward and scores over the first and the last tenth of the run."""
    steps = [row for row in rows if "reward" in row]
    if not steps:
        return
    size = max(1, len(steps) // 10)
    table = Table("score", f"first {size}", f"last {size}")
    for name in steps[0]:
        if name == "reward" or name.startswith("score/"):
            first = _mean([row.get(name) for row in steps[:size]])
            last = _mean([row.get(name) for row in steps[-size:]])
            table.add_row(name.removeprefix("score/"), first, last)
    console.print(table)


def _mean(values: list[float | None]) -> str:
    present = [value for value in values if value is not None]
    return f"{sum(present) / len(present):.3f}" if present else "null"


@contextmanager
def _bar(
    title: str, total: int, names: tuple[str, ...], *, done: int = 0
) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A progress bar with some metrics; without a terminal, a line for every tenth of the steps."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    )
    facts: dict[str, float] = {}
    every = max(1, total // 10)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total, completed=done, facts="")

        def advance(step: int, metrics: dict[str, float]) -> None:
            facts.update({name: metrics[name] for name in names if name in metrics})
            text = "  ".join(f"{name} {_short(value)}" for name, value in facts.items())
            progress.update(task, completed=step, facts=text)
            if not console.is_terminal and step % every == 0:
                console.print(f"{title} {step}/{total}  {text}", highlight=False)

        yield advance


def _short(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) and abs(value) >= 100 else f"{value:.3g}"


def _print_json(value: dict[str, Any]) -> None:
    if console.quiet:
        return
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _quiet() -> None:
    """Silence the progress bars and warnings of transformers, beside our own."""
    import transformers

    log: Any = transformers.utils.logging
    log.set_verbosity_error()
    log.disable_progress_bar()
    console.quiet = (
        os.environ.get("RANK", "0") != "0"
    )  # under torchrun only the first process prints


if __name__ == "__main__":  # torchrun -m grpo_train.cli
    main()
