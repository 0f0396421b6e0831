"""`grpo-rewards score`: a dataset of any size, scored into a file."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

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
from grpo_rewards.compiler.graph import Graph
from grpo_rewards.data.file_scoring import Stopped, Task, score_file
from grpo_rewards.data.processes import BatchExecutor, Processes
from grpo_rewards.data.reader import Reader, Shard
from grpo_rewards.data.resume import files_of
from grpo_rewards.data.speedscope import write_profile
from grpo_rewards.data.statistics import Totals
from grpo_rewards.errors import refuse_overwriting
from grpo_rewards.scoring.dataset_checks import CheckResult, Checks
from grpo_rewards.scoring.memo import database_files
from grpo_rewards.scoring.scorer import Scorer

INTERRUPTED = 130  # the exit code that shells give a program that ^C ended
_OP_CHARS = 24  # of an op in a table that fits 80 columns

Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="OUT", help="JSONL or Parquet; by its ending."),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Score this many rows.")]
ShardText = Annotated[
    str | None, typer.Option("--shard", metavar="I/N", help="Score part I of N, from 1/N to N/N.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where a run into OUT was stopped or killed.")
]
MemoFolder = Annotated[
    Path | None,
    typer.Option("--memo", metavar="DIR", help="Keep what slow checks came to, for other runs."),
]
SlowProcesses = Annotated[int, typer.Option("--workers", min=0, help="For slow checks; 0: none.")]
Scorers = Annotated[
    int | None,
    typer.Option("--processes", min=1, help="Score in so many processes; with Ray, actors."),
]
Where = Annotated[
    str, typer.Option("--engine", metavar="local|ray", help="Where batches are scored.")
]
Address = Annotated[
    str | None, typer.Option("--address", metavar="ADDRESS", help="A Ray cluster to join.")
]
SkipBadLines = Annotated[
    bool, typer.Option("--skip-bad-lines", help="Count unreadable lines instead of stopping.")
]
RunChecks = Annotated[
    bool, typer.Option("--check", help="Assert the ruleset's `check` statements.")
]
ShowOps = Annotated[bool, typer.Option("--ops", help="Show what each op of the plan cost.")]
Profile = Annotated[
    Path | None,
    typer.Option("--profile", metavar="FILE", help="Write where the time went, for speedscope."),
]


def score_command(
    ruleset: File,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="JSONL (.gz, .zst) or Parquet.")],
    output: Output = None,
    mapping: Mapping = None,
    settings: Settings = None,
    group: Group = None,
    step: Step = None,
    progress: RunProgress = None,
    limit: Limit = None,
    shard: ShardText = None,
    resume: Resume = False,
    workers: SlowProcesses = 1,
    processes: Scorers = None,
    engine: Where = "local",
    address: Address = None,
    memo: MemoFolder = None,
    skip_bad_lines: SkipBadLines = False,
    run_checks: RunChecks = False,
    ops: ShowOps = False,
    profile: Profile = None,
    allow_extern: AllowExtern = False,
    as_json: AsJson = False,
) -> None:
    """Score a dataset: the input's columns, then one per score, the reward and their status.

    Memory stays the same however long the file is. A run that is stopped keeps its scored rows:
    the same command with --resume goes on and gives the same file.
    """
    if resume and output is None:
        raise typer.BadParameter("there is no OUT to go on with", param_hint="--resume")
    refuse_overwriting([data, ruleset], _written(output, profile, memo))
    part = _shard(shard)
    with (
        opened(ruleset, settings, workers, allow_extern=allow_extern, memo=memo) as scorer,
        _ProgressBar(is_shown=not as_json) as bar,
        _stoppable(),
        _engine(scorer, engine, processes, address) as elsewhere,
    ):
        checks = Checks(scorer) if run_checks else None
        task = Task(
            mapping=mapped(scorer, mapping), group=group, step=step, progress=progress,
            limit=limit, shard=part, on_bad_line="skip" if skip_bad_lines else "error",
        )  # fmt: skip
        totals = score_file(
            scorer, data, output, task,
            resume=resume, checks=checks, executor=elsewhere,
            opened=bar.begin, progress=bar.advance,
        )  # fmt: skip
    if profile is not None:
        write_profile(profile, totals, scorer.graph)
    results = checks.results() if checks else []
    if as_json:
        counted = {"duplicate_keys": totals.duplicate_keys} if checks else {}
        print_json({**_as_json(totals, scorer, output, results), **counted})
    else:
        _show(totals, scorer.graph, output, ops=ops)
        for result in results:
            _show_check(result)
    raise typer.Exit(0 if all(result.verdict for result in results) else 1)


def _written(output: Path | None, profile: Path | None, memo: Path | None) -> list[Path]:
    """The files that the options name or imply."""
    if output is not None and profile is not None and output.resolve() == profile.resolve():
        raise typer.BadParameter("it is OUT", param_hint="--profile")
    found = [] if output is None else files_of(output)
    found += [] if memo is None else database_files(memo)
    return found if profile is None else [*found, profile]


def _engine(
    scorer: Scorer, kind: str, processes: int | None, address: str | None
) -> AbstractContextManager[BatchExecutor | None]:
    """What scores the batches; None stands for this process."""
    if kind not in ("local", "ray"):
        raise typer.BadParameter(f"{kind!r} is neither local nor ray", param_hint="--engine")
    if kind == "ray":
        from grpo_rewards.data.ray_data import RayActors

        return RayActors(scorer, actors=processes, address=address)
    if address is not None:
        raise typer.BadParameter("goes with --engine ray", param_hint="--address")
    return nullcontext() if processes is None or processes == 1 else Processes(scorer, processes)


def _shard(text: str | None) -> Shard | None:
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        message = f"{text!r} is not I/N with I from 1 to N"
        raise typer.BadParameter(message, param_hint="--shard")
    return Shard(int(match[1]) - 1, int(match[2]))


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turns an interrupt into a message that says what is kept, instead of a failure."""
    try:
        yield
    except Stopped as stopped:
        kept = f"; {stopped.rows:,} scored rows are kept\n  hint: go on with --resume"
        err.print("stopped" + (kept if stopped.rows else ""), markup=False)
        raise typer.Exit(INTERRUPTED) from None


class _ProgressBar:
    """A bar of scored rows on standard error, where somebody sees it."""

    def __init__(self, *, is_shown: bool) -> None:
        columns = (
            TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"),
            TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Progress(*columns, console=err, disable=not is_shown, transient=True)
        self._task = self._bar.add_task("score", total=None)
        self._counts = is_shown and err.is_terminal  # counting the rows of a long file takes time

    def begin(self, dataset: Reader) -> None:
        """Say how many rows there will be."""
        if self._counts:
            self._bar.update(self._task, total=dataset.count())

    def advance(self, rows: int) -> None:
        """Add rows that are scored."""
        self._bar.advance(self._task, rows)

    def __enter__(self) -> _ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _show(totals: Totals, graph: Graph, output: Path | None, *, ops: bool) -> None:
    out.print(_table(totals, graph))
    if ops:
        out.print(_ops_table(totals, graph))
    skipped = f", {totals.skipped:,} unreadable lines passed over" if totals.skipped else ""
    doubled = f", {totals.duplicate_keys:,} with a key twice" if totals.duplicate_keys else ""
    arrow = f" → {output}" if output else ""
    out.print(f"{totals.rows:,} rows{doubled}{skipped}{arrow}", markup=False)
    for warning in totals.warnings:
        hint = f"\n  hint: {warning.hint}" if warning.hint else ""
        out.print(f"warning: {warning}{hint}", markup=False, highlight=False, soft_wrap=True)


def _table(totals: Totals, graph: Graph) -> Table:
    table = Table()
    table.add_column("score")
    for heading in ("mean", "std", "null", "error", "hits", "kills", "seconds"):
        table.add_column(heading, justify="right")
    for row in totals.summary(graph):
        counts = (f"{n:,}" for n in (row.null, row.error, row.hits, row.kills))
        cells = (f"{row.mean:.4f}", f"{row.std:.4f}", *counts, f"{row.seconds:.2f}")
        table.add_row(row.name, *cells, style="bold" if row.name == "reward" else None)
    return table


def _ops_table(totals: Totals, graph: Graph) -> Table:
    """A row per op; `slow` counts the distinct items that went to worker processes."""
    table = Table()
    table.add_column("op", no_wrap=True)
    for heading in ("rows", "hits", "slow", "nulls", "kills", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for op in totals.ops(graph):
        stats = op.stats
        counts = (stats.rows, stats.hits, stats.deferred, stats.nulls, stats.kills)
        cells = (f"{count:,}" for count in counts)
        does = textwrap.shorten(op.does, _OP_CHARS, placeholder="…")
        table.add_row(escape(f"%{op.number} {does}"), *cells, f"{stats.seconds:.2f}")
    return table


def _as_json(
    totals: Totals, scorer: Scorer, output: Path | None, results: list[CheckResult]
) -> dict[str, Any]:
    scores = {}
    for row in totals.summary(scorer.graph):
        scores[row.name] = dataclasses.asdict(row)
        del scores[row.name]["name"], scores[row.name]["rows"]
    return {
        "rows": totals.rows,
        "skipped": totals.skipped,
        "hash": scorer.hash,
        "output": str(output or ""),
        "scores": scores,
        "ops": [
            {"op": op.number, "does": op.does, "score": op.score, **dataclasses.asdict(op.stats)}
            for op in totals.ops(scorer.graph)
        ],
        "stages": totals.stages,
        "warnings": [dataclasses.asdict(warning) for warning in totals.warnings],
        "checks": [dataclasses.asdict(result) for result in results],
    }


def _show_check(result: CheckResult) -> None:
    """`check signal failed: group.fraction_zero_std(reward) <= 0.8`, and the values beneath."""
    verdict = {True: "holds", False: "failed", None: "has no answer"}[result.verdict]
    console = out if result.verdict else err
    console.print(f"check {result.name} {verdict}: {result.text}", markup=False)
    for text, value in result.values.items():
        console.print(f"  {text} = {'null' if value is None else f'{value:.6g}'}", markup=False)
