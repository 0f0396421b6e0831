"""Scoring a whole file: rows in, rows and scores out, a summary at the end; from any place on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grpo_rewards.data.extractions import Unfound, unfound
from grpo_rewards.data.group_ids import group_key
from grpo_rewards.data.processes import Engine, Pending
from grpo_rewards.data.reader import Batch, Position, Shard, open_dataset
from grpo_rewards.data.resume import Journal, files_of
from grpo_rewards.data.statistics import Totals
from grpo_rewards.data.writer import Output, open_output
from grpo_rewards.errors import BatchError, RewardError, RuleError, refuse_overwriting
from grpo_rewards.scoring.dataset_checks import Checks
from grpo_rewards.scoring.inputs import ambient
from grpo_rewards.scoring.memo import code_digest
from grpo_rewards.scoring.scorer import Scorer
from grpo_rewards.scoring.scores import Scores
from grpo_rewards.types import Level

BATCH_ROWS = 512  # large enough to pay for a batch, small enough to show progress


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


def column_paths(scorer: Scorer, mapping: Mapping[str, str], fields: list[str]) -> dict[str, str]:
    """Where each input of a ruleset comes from: what the caller maps, else the first of its
    sources that the file has, else its own name; the step of a run need not be in it."""
    paths: dict[str, str] = {}
    for name in scorer.inputs:
        spec = scorer.graph.inputs[name]
        mapped = [source for source in spec.names if source in mapping]
        present = [source for source in spec.names if source in fields]
        if mapped:
            paths[name] = mapping[mapped[0]]
        elif present:
            paths[name] = present[0]
        elif not spec.has_default and spec.level != Level.CONST:
            paths[name] = spec.sources[0]  # the dataset says that it is missing
    known = {source for name in scorer.inputs for source in scorer.graph.inputs[name].names}
    unknown = set(mapping) - known
    if unknown:
        hint = f"hint: it has {', '.join(scorer.inputs)}"
        raise BatchError(f"--map {min(unknown)}: the ruleset has no such input\n  {hint}")
    return paths


def score_file(
    scorer: Scorer,
    source: Path,
    target: Path | None,
    task: Task | None = None,
    *,
    resume: bool = False,
    checks: Checks | None = None,
    engine: Engine | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Totals:
    """Scores the rows of `source` into `target` (or nowhere), in constant memory.

    The file appears whole, at the end. A run that is stopped or fails keeps its scored rows beside
    `target`; with `resume` they are gone on from, and the file is what an uncut run gives, to the
    byte. `checks` are fed on the way; with an `engine`, which scores elsewhere, there can be none.
    Raises BatchError in one line for whatever is wrong with the data, OverwriteError where `target`
    is `source`, and `Stopped` for an interrupt.
    """
    if target is not None:
        refuse_overwriting([source], files_of(target))
    run = _Run(scorer, source, target, task or Task(), checks, engine)
    try:
        run.open(resume)
        progress(run.totals.rows)
        for rows in run.steps():
            progress(rows)
        return run.finish()
    except KeyboardInterrupt:
        raise Stopped(run.keep()) from None
    except RewardError as error:
        kept = run.keep()
        if not kept:
            raise
        hint = f"{kept:,} scored rows are kept: go on with --resume"
        raise type(error)(*_with_hint(error, hint)) from error
    except BaseException:
        run.keep()
        raise


def _with_hint(error: RewardError, hint: str) -> tuple[Any, ...]:
    """The arguments of the same error with one more hint."""
    if isinstance(error, RuleError):
        return error.rule, error.row, f"{error.cause}\n  hint: {hint}"
    return (f"{error}\n  hint: {hint}",)


class _Run:
    """One file being scored: where it is, what it came to, what is written."""

    def __init__(
        self,
        scorer: Scorer,
        source: Path,
        target: Path | None,
        task: Task,
        checks: Checks | None,
        engine: Engine | None,
    ) -> None:
        if checks is not None and engine is not None:
            hint = "hint: leave --processes and --engine away"
            raise BatchError(f"checks of a dataset are asserted in one process\n  {hint}")
        self._scorer = scorer
        self._task = task
        self._checks = checks
        self._engine = engine
        self.totals = Totals()
        self._dataset = open_dataset(source, on_bad_line=task.on_bad_line)
        self._paths = column_paths(scorer, task.mapping or {}, self._dataset.fields())
        self._group = self._group_column()
        self._position = Position()
        self._journal: Journal | None = None
        self._output: Output | None = None
        self._complete = False
        self._skipped_before = 0
        if target is not None:
            metadata: dict[str, Any] = {
                "ruleset": scorer.graph.name, "hash": scorer.hash, **scorer.engine
            }  # fmt: skip
            self._metadata = metadata
            self._output = open_output(target, self._dataset, scorer.graph, metadata)
            self._journal = Journal(target, self._identity())

    def _group_column(self) -> str | None:
        """The column of group ids where groups have to be whole."""
        needed = (self._checks or self._scorer).needs_groups
        if needed and self._task.group is None:
            raise BatchError(
                "the ruleset looks at whole groups, and no column of group ids is named"
                "\n  hint: name it with --group COLUMN"
            )
        return self._task.group if needed or self._task.shard is not None else None

    def _identity(self) -> dict[str, Any]:
        """All that the bytes of the output depend on, besides the rows."""
        task = self._task
        return {
            "ruleset": self._scorer.hash,
            "engine": {**self._scorer.engine, "rules": code_digest()},
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
        self._complete = bool(state.get("complete"))
        if "position" not in state:  # a shard without rows
            return
        assert self._output is not None
        self._position = Position(**state["position"])
        self.totals.skipped = self._skipped_before = self._position.skipped
        self.totals.restore(state["totals"])
        self._output.restore(state["output"])
        if self._checks is not None:
            self._checks.restore(state["checks"])

    def steps(self) -> Iterator[int]:
        """Scores a batch at a time; the number of its rows."""
        if self._complete:
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
        """Batches in order, with what the engine is making of each; as many as keep it busy."""
        batches = self._batches()
        flying: deque[tuple[Batch, Pending | None]] = deque()
        most = self._engine.ahead if self._engine is not None else 0
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
            pending = self._engine.submit(self._given(batch)) if self._engine is not None else None
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
        except BatchError as error:
            if error.row is None:
                raise
            message = str(error).replace(f", row {error.row}:", ":", 1)  # of the batch
            raise BatchError(f"{batch.place(error.row)}: {message}") from None
        except RuleError as error:
            cause = f"{error.cause} ({batch.place(error.row)})"
            raise RuleError(error.rule, self._position.rows + error.row, cause) from error

    def _write(self, batch: Batch, scores: Scores) -> None:
        self._position = batch.end
        if self._journal is None or self._output is None:
            return
        data = self._output.encode(batch, scores.to_columns())
        state = {
            "position": asdict(batch.end),
            "totals": self.totals.state(),
            "output": self._output.state(),
            "checks": None if self._checks is None else self._checks.state(),
        }
        self._journal.add(len(batch), data, batch.groups, state)

    def finish(self) -> Totals:
        """The output appears, with what there is to warn of."""
        found = unfound(self._scorer.graph, self.totals.stats)
        self.totals.warnings = [self._with_first_row(warning) for warning in found]
        if self._journal is not None and self._output is not None:
            if found:  # a report shows them
                self._metadata["warnings"] = [f"{w}. {w.hint}" for w in self.totals.warnings]
            with self.totals.timed("write"):
                self._journal.finish(self._output.write, self._metadata)
        return self.totals

    def _with_first_row(self, warning: Unfound) -> Unfound:
        """With what the first row of the file has where the extraction reads."""
        columns = {name: path for name, path in self._paths.items() if name == warning.reads}
        dataset = open_dataset(self._dataset.path, on_bad_line="skip")
        first = next(dataset.batches(1, columns=columns, limit=1), None) if columns else None
        return warning if first is None else warning.seen(first.columns[warning.reads][0])

    def keep(self) -> int:
        """The run fails: how many rows a later one need not score again."""
        return 0 if self._journal is None else self._journal.keep()


def read_rows(
    scorer: Scorer,
    source: Path,
    *,
    mapping: Mapping[str, str] | None = None,
    extra: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The inputs of a ruleset for the first rows of a dataset, a dict a row; `extra` names further
    columns by their paths."""
    dataset = open_dataset(source)
    paths = {**column_paths(scorer, mapping or {}, dataset.fields()), **(extra or {})}
    return [
        {name: values[i] for name, values in batch.columns.items()}
        for batch in dataset.batches(BATCH_ROWS, columns=paths, limit=limit)
        for i in range(len(batch))
    ]


def read_row(
    scorer: Scorer,
    source: Path,
    row: int,
    *,
    mapping: Mapping[str, str] | None = None,
    group: str | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The inputs of one row of a dataset, by its number from 0, and those of the other rows of its
    group, by a column of group ids."""
    extra = {} if group is None else {_KEY: group}
    limit = row + 1 if group is None else None
    rows = read_rows(scorer, source, mapping=mapping, extra=extra, limit=limit)
    if row >= len(rows):
        raise BatchError(f"{source}: there is no row {row}; it has {len(rows)}")
    keys = [group_key(one.pop(_KEY, None)) for one in rows]
    mates = [one for i, one in enumerate(rows) if group and i != row and keys[i] == keys[row]]
    return rows[row], mates


_KEY = "group id"  # no input has a name with a space
