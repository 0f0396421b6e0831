"""Scoring a whole file: rows in, rows and scores out, a summary at the end.

A run that stops can be resumed, and then gives the same file as a run that does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grpo_rewards.data.bindings import BATCH_ROWS, column_paths
from grpo_rewards.data.extractions import EmptyExtraction, empty_extractions
from grpo_rewards.data.kinds import open_dataset, open_writer
from grpo_rewards.data.processes import BatchExecutor, Pending
from grpo_rewards.data.reader import Batch, Position, Reader, Shard
from grpo_rewards.data.resume import Journal, files_of
from grpo_rewards.data.statistics import Totals
from grpo_rewards.data.writer import Output, Writer, bool_scores
from grpo_rewards.errors import BatchError, RewardError, RuleError, refuse_overwriting
from grpo_rewards.scoring.dataset_checks import Checks
from grpo_rewards.scoring.inputs import ambient
from grpo_rewards.scoring.memo import code_digest
from grpo_rewards.scoring.scorer import Scorer
from grpo_rewards.scoring.scores import Scores


class Stopped(KeyboardInterrupt):
    """An interrupt: `rows` scored rows are kept for `resume`."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        super().__init__(f"stopped; {rows:,} scored rows are kept")


@dataclass(frozen=True, slots=True)
class Task:
    """Which rows of a file are scored, and how. `mapping` binds inputs to columns, `group` names
    the column of group ids; a `limit` counts rows of the shard."""

    mapping: Mapping[str, str] | None = None
    group: str | None = None
    step: float | None = None
    progress: float | None = None
    limit: int | None = None
    shard: Shard | None = None
    on_bad_line: str = "error"
    batch_rows: int = BATCH_ROWS


def score_file(
    scorer: Scorer,
    source: Path,
    target: Path | None,
    task: Task | None = None,
    *,
    resume: bool = False,
    checks: Checks | None = None,
    executor: BatchExecutor | None = None,
    opened: Callable[[Reader], None] = lambda dataset: None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Totals:
    """Scores the rows of `source` into `target` (or nowhere), in constant memory.

    The file appears whole, at the end. A run that is stopped or fails keeps its scored rows beside
    `target`; with `resume` it goes on from there, and the file is what an uninterrupted run gives,
    to the byte. `checks` are fed on the way, and rows with a key that stands twice counted then;
    with an `executor`, which scores elsewhere, there can be none. `opened` is told the open dataset
    before the first row is scored, `progress` the number of rows of each batch. Raises BatchError,
    with the place where the data are at fault; OverwriteError where `target` is `source`; and
    `Stopped` for an interrupt.
    """
    task = task or Task()
    if checks is not None and executor is not None:
        hint = "leave --processes and --engine away"
        raise BatchError("checks of a dataset are asserted in one process", hint=hint)
    if target is not None:
        refuse_overwriting([source], files_of(target))
    with open_dataset(
        source, on_bad_line=task.on_bad_line, counts_duplicate_keys=checks is not None
    ) as dataset:
        opened(dataset)
        run = _FileScoring(scorer, dataset, target, task, checks, executor)
        try:
            run.open(resume)
            progress(run.totals.rows)
            for rows in run.steps():
                progress(rows)
            return run.finish()
        except KeyboardInterrupt:
            raise Stopped(run.keep()) from None
        except RewardError as error:
            if kept := run.keep():
                error.hints.append(f"{kept:,} scored rows are kept: go on with --resume")
            raise
        except BaseException:
            run.keep()
            raise


class _FileScoring:
    """One file being scored: where it is, what it came to, what is written."""

    def __init__(
        self,
        scorer: Scorer,
        dataset: Reader,
        target: Path | None,
        task: Task,
        checks: Checks | None,
        executor: BatchExecutor | None,
    ) -> None:
        self._scorer = scorer
        self._task = task
        self._checks = checks
        self._executor = executor
        self.totals = Totals()
        self._dataset = dataset
        self._paths = column_paths(scorer, task.mapping or {}, dataset.fields())
        self._group = self._group_column()
        self._position = Position()
        self._journal: Journal | None = None
        self._writer: Writer | None = None
        self._is_complete = False
        self._skipped_before = 0
        self._metadata: dict[str, Any] = {
            "ruleset": scorer.graph.name, "hash": scorer.hash, **scorer.versions
        }  # fmt: skip
        if target is not None:
            output = Output(dataset.schema, bool_scores(scorer.graph), self._metadata)
            self._writer = open_writer(target, output)
            self._journal = Journal(target, self._identity())

    def _group_column(self) -> str | None:
        """The column of group ids where groups have to be whole."""
        is_needed = (self._checks or self._scorer).needs_groups
        if is_needed and self._task.group is None:
            raise BatchError(
                "the ruleset looks at whole groups, and no column of group ids is named",
                missing="group",
                remedy='name it: Task(group="COLUMN")',
            )
        return self._task.group if is_needed or self._task.shard is not None else None

    def _identity(self) -> dict[str, Any]:
        """All that the bytes of the output depend on, besides the rows."""
        task = self._task
        return {
            "ruleset": self._scorer.hash,
            "engine": {**self._scorer.versions, "rules": code_digest()},
            "binding": self._paths,
            "group": self._group,
            "step": task.step,
            "progress": task.progress,
            "limit": task.limit,
            "shard": None if task.shard is None else f"{task.shard.index + 1}/{task.shard.count}",
            "batch size": task.batch_rows,
            "kind of input": self._dataset.kind,
            "checks": self._checks is not None,
        }

    def open(self, resume: bool) -> None:
        """Begin, or take up what an earlier run left."""
        state = self._journal.open(resume=resume) if self._journal is not None else None
        if not state:
            return
        self._is_complete = bool(state.get("complete"))
        if "position" not in state:  # a shard without rows
            return
        assert self._writer is not None
        self._position = Position(**state["position"])
        self.totals.restore(state["totals"])
        self.totals.skipped = self._skipped_before = self._position.skipped
        self.totals.duplicate_keys = self._position.duplicate_keys
        self._writer.restore(state["output"])
        if self._checks is not None:
            self._checks.restore(state["checks"])

    def steps(self) -> Iterator[int]:
        """Scores a batch at a time; gives the number of its rows."""
        if self._is_complete:
            return
        for batch, pending in self._ahead():
            with self.totals.timed("score"):
                scores = self._scored(batch, pending)
                self.totals.add(scores)
            with self.totals.timed("write"):
                self._write(batch, scores)
            yield len(batch)
        self.totals.skipped = self._skipped_before + self._dataset.skipped

    def _ahead(self) -> Iterator[tuple[Batch, Pending | None]]:
        """Batches in order, with what the executor is making of each; as many as keep it busy."""
        batches = self._batches()
        flying: deque[tuple[Batch, Pending | None]] = deque()
        most = self._executor.ahead if self._executor is not None else 0
        trouble: RewardError | None = None
        while True:
            try:
                with self.totals.timed("read"):
                    batch = next(batches, None)
            except RewardError as error:  # what was read before it is scored all the same
                trouble = error
                break
            if batch is None:
                break
            pending = (
                self._executor.submit(self._given(batch)) if self._executor is not None else None
            )
            flying.append((batch, pending))
            if len(flying) > most:
                yield flying.popleft()
        yield from flying
        if trouble is not None:
            raise trouble

    def _given(self, batch: Batch) -> dict[str, Any]:
        return {**batch.columns, **ambient(self._task.step, self._task.progress)}

    def _batches(self) -> Iterator[Batch]:
        return self._dataset.batches(
            self._task.batch_rows,
            columns=self._paths,
            group=self._group,
            limit=self._task.limit,
            shard=self._task.shard,
            start=self._position,
            seen=self._journal.groups() if self._journal is not None and self._group else b"",
        )

    def _scored(self, batch: Batch, pending: Pending | None) -> Scores:
        try:
            if pending is not None:
                return pending.result()
            return (self._checks or self._scorer)(**self._given(batch))
        except (BatchError, RuleError) as error:
            if error.row is not None:
                error.place = batch.place(error.row)
            raise

    def _write(self, batch: Batch, scores: Scores) -> None:
        self._position = batch.end
        self.totals.duplicate_keys = batch.end.duplicate_keys
        if self._journal is None or self._writer is None:
            return
        data = self._writer.encode(batch, scores.to_columns())
        state = {
            "position": asdict(batch.end),
            "totals": self.totals.state(),
            "output": self._writer.state(),
            "checks": None if self._checks is None else self._checks.state(),
        }
        self._journal.add(len(batch), data, batch.groups, state)

    def finish(self) -> Totals:
        """The output appears, with what there is to warn of."""
        found = empty_extractions(self._scorer.graph, self.totals.stats)
        self.totals.warnings = [self._with_first_row(warning) for warning in found]
        if self._journal is not None and self._writer is not None:
            if found:  # a report shows them
                self._metadata["warnings"] = [f"{w}. {w.hint}" for w in self.totals.warnings]
            with self.totals.timed("write"):
                self._journal.finish(self._writer.write, self._metadata)
        return self.totals

    def _with_first_row(self, warning: EmptyExtraction) -> EmptyExtraction:
        """With what the first row of the file has where the extraction reads."""
        columns = {name: path for name, path in self._paths.items() if name == warning.reads}
        first = next(self._dataset.batches(1, columns=columns, limit=1), None) if columns else None
        return warning if first is None else warning.seen(first.columns[warning.reads][0])

    def keep(self) -> int:
        """The run fails: how many rows a later one need not score again."""
        return 0 if self._journal is None else self._journal.keep()
