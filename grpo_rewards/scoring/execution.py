"""Plan × columns → one column per output.

Every op fills one column for the whole batch, but only in the rows where it is needed: `if`, `and`,
`or` and `??` decide row by row which of their arguments run. Keyed ops run once per distinct
arguments and remember, within a bound, what they found.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from grpo_rewards.columns import Column, Outcome, Status, as_outcome
from grpo_rewards.compiler.graph import GraphNode
from grpo_rewards.compiler.plan import Plan
from grpo_rewards.errors import RuleError
from grpo_rewards.limits import MAX_MEMO_KEY_CHARS
from grpo_rewards.rules.nulls import ready_rows, strict
from grpo_rewards.rules.rule import (
    DEFERRED,
    ColumnKernel,
    DatasetKernel,
    GroupKernel,
    RowKernel,
    Rule,
)
from grpo_rewards.scoring.memo import Memo
from grpo_rewards.types import Type

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]


class Pool(Protocol):
    """What runs slow work: processes (`workers.pool.Workers`), or this one (`Inline`)."""

    def map(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """One result per argument tuple; a Status where the work was cut short."""
        ...


@dataclass(slots=True)
class OpStats:
    """What one op cost and came to: `hits` rows were answered from memory, `deferred` distinct
    items were handed to the pool, `kills` deadlines struck, `nulls` rows have no value."""

    seconds: float = 0.0
    rows: int = 0
    hits: int = 0
    deferred: int = 0
    kills: int = 0
    nulls: int = 0

    def add(self, other: OpStats) -> None:
        """Add what the same op cost in another batch."""
        self.seconds += other.seconds
        self.rows += other.rows
        self.hits += other.hits
        self.deferred += other.deferred
        self.kills += other.kills
        self.nulls += other.nulls


@dataclass(slots=True)
class _State:
    """A column being filled: `done` says in which rows."""

    values: npt.NDArray[Any]
    present: Mask
    status: npt.NDArray[np.uint8]
    done: Mask

    @staticmethod
    def empty(size: int, type_: Type) -> _State:
        values = np.full(size, _filler(type_), dtype_of(type_))
        return _State(values, np.zeros(size, bool), np.zeros(size, np.uint8), np.zeros(size, bool))

    @property
    def column(self) -> Column:
        return Column(self.values, self.present, self.status)

    def put(self, rows: Rows | Mask, column: Column) -> None:
        self.values[rows] = column.values
        self.present[rows] = column.present
        self.status[rows] = column.status
        self.done[rows] = True


def dtype_of(type_: Type) -> Any:
    """The numpy type that holds a type's values."""
    return {"num": np.float64, "bool": np.bool_}.get(type_.kind, object)


def _filler(type_: Type) -> Any:
    return {"num": 0.0, "bool": False}.get(type_.kind)


@dataclass(slots=True)
class Execution:
    """One batch going through one plan. `groups` [B] numbers the groups; None where unused.

    `given` holds columns [B] of nodes that are known already, such as the mean of a dataset.
    """

    plan: Plan
    inputs: Mapping[str, Column]
    size: int
    groups: npt.NDArray[np.int64] | None = None
    memo: Memo = field(default_factory=Memo)
    pool: Pool | None = None
    given: Mapping[int, Column] = field(default_factory=dict)
    stats: dict[int, OpStats] = field(default_factory=dict)
    _states: dict[int, _State] = field(default_factory=dict)

    def run(self) -> dict[str, Column]:
        """The outputs, each over all rows, in the plan's order."""
        everything = np.ones(self.size, bool)
        return {name: self.need(n, everything) for name, n in self.plan.outputs.items()}

    def need(self, number: int, rows: Mask) -> Column:
        """The column of a node, computed at least where `rows` says so."""
        state = self._states.get(number)
        node = self.plan.graph[number]
        if state is None:
            state = self._states[number] = self._start(number, node)
        todo = rows & ~state.done
        if todo.any():
            self._fill(number, node, state, todo)
        return state.column

    def computed(self, number: int) -> Mask:
        """In which rows a node was computed at all."""
        state = self._states.get(number)
        return state.done if state is not None else np.zeros(self.size, bool)

    def _start(self, number: int, node: GraphNode) -> _State:
        if node.op == "input" or number in self.given:
            known = number in self.given
            column = self.given[number] if known else self.inputs[node.option("name")]
            done = np.ones(self.size, bool)
            return _State(column.values, column.present, column.status, done)
        state = _State.empty(self.size, node.type)
        if node.op == "const":
            state.done[:] = True
            if node.value is not None:
                state.values[:] = node.value if node.type.is_numeric else [node.value] * self.size
                state.present[:] = True
        return state

    def _fill(self, number: int, node: GraphNode, state: _State, todo: Mask) -> None:
        match node.op:
            case "if":
                return self._if(node, state, todo)
            case "and" | "or":
                return self._logic(node, state, todo)
            case "??":
                return self._coalesce(node, state, todo)
            case "settle":
                return self._settle(node, state, todo)
        assert node.rule is not None
        if isinstance(node.rule.kernel, GroupKernel):
            assert self.groups is not None
            todo = np.isin(self.groups, self.groups[todo]) & ~state.done
        columns = [self.need(arg, todo) for arg in node.args]
        rows = np.flatnonzero(todo)
        started = time.perf_counter()
        stats = self.stats.setdefault(number, OpStats())
        if len(rows) < self.size:
            columns = [column.take(rows) for column in columns]
        result = self._kernel(number, node, columns, rows, stats)
        state.put(rows, result)
        stats.seconds += time.perf_counter() - started
        stats.rows += len(rows)
        stats.nulls += len(rows) - int(np.count_nonzero(result.present))

    # Lazy ops

    def _if(self, node: GraphNode, state: _State, todo: Mask) -> None:
        condition, yes, no = node.args
        column = self.need(condition, todo)
        state.put(todo, _absent(column, todo, node.type))
        known = todo & column.present
        truth = column.values.astype(bool)
        for branch, rows in ((yes, known & truth), (no, known & ~truth)):
            if rows.any():
                state.put(rows, _as_type(self.need(branch, rows), rows, node.type))

    def _logic(self, node: GraphNode, state: _State, todo: Mask) -> None:
        """Kleene's and, or; a deciding argument absorbs nulls and errors of the other."""
        deciding = node.op == "or"
        left, right = node.args
        graph = self.plan.graph
        # The cheaper argument runs first; where it decides, the other one does not run at all.
        first = right if graph[right].cost < graph[left].cost else left
        one = self.need(first, todo)
        decided = todo & one.present & (one.values.astype(bool) == deciding)
        rest = todo & ~decided
        size = int(todo.sum())
        state.put(todo, Column.of(np.full(size, deciding)))
        if not rest.any():
            return
        columns = (self.need(left, rest), self.need(right, rest))
        absorbed = np.zeros(self.size, bool)
        for column in columns:
            absorbed |= column.present & (column.values.astype(bool) == deciding)
        open_ = np.flatnonzero(rest & ~absorbed)
        present, status = strict(tuple(column.take(open_) for column in columns))
        state.put(open_, Column(present & (not deciding), present, status))

    def _coalesce(self, node: GraphNode, state: _State, todo: Mask) -> None:
        left, right = node.args
        column = self.need(left, todo)
        state.put(todo, _as_type(column, todo, node.type))
        nulls = todo & column.is_null
        if nulls.any():
            state.put(nulls, _as_type(self.need(right, nulls), nulls, node.type))

    def _settle(self, node: GraphNode, state: _State, todo: Mask) -> None:
        """The column of a named result, in which errors become what the policy says, else null."""
        column = self.need(node.args[0], todo)
        state.put(todo, _as_type(column, todo, node.type))
        for error, value in node.option("on_error"):
            rows = todo & column.is_error & (column.status == Status[error.upper()])
            state.values[rows] = value
            state.present[rows] = True

    # Kernels

    def _kernel(
        self, number: int, node: GraphNode, columns: list[Column], rows: Rows, stats: OpStats
    ) -> Column:
        rule = node.rule
        assert rule is not None
        options = dict(node.options)
        match rule.kernel:
            case ColumnKernel(function=function):
                with _row_of_the_batch(rows):
                    return function(*columns, **options)
            case GroupKernel(function=function):
                assert self.groups is not None
                return function(*columns, self.groups[rows], **options)
            case DatasetKernel():
                raise AssertionError(f"{rule.name} is given, not computed")
            case RowKernel() as kernel:
                return self._rows(number, node, rule, kernel, columns, options, stats)

    def _rows(
        self,
        number: int,
        node: GraphNode,
        rule: Rule,
        kernel: RowKernel,
        columns: list[Column],
        options: dict[str, Any],
        stats: OpStats,
    ) -> Column:
        """The column of a row kernel, which runs in the rows whose arguments its signature allows
        to be null, or that have them all."""
        ready, status = ready_rows(rule.types(len(columns)), columns)
        values: list[Any] = [None] * len(ready)
        codes: list[int] = status.tolist()
        function, memo = kernel.function, self.memo
        arguments = zip(*(_values(column) for column in columns), strict=True)
        deferred: dict[tuple[Any, ...], list[int]] = {}
        for i, (args, is_ready) in enumerate(zip(arguments, ready.tolist(), strict=True)):
            if not is_ready:
                continue
            key = (number, args) if kernel.keyed and _is_short(args) else None
            outcome = memo.get(key) if key is not None else None
            if outcome is not None:
                stats.hits += 1
            else:
                result = function(*args, **options)
                if result is DEFERRED:
                    deferred.setdefault(args, []).append(i)
                    continue
                outcome = _finite(as_outcome(result))
                if key is not None:
                    memo.put(key, outcome)
            values[i], codes[i] = outcome
        for args, outcome in self._finish(number, kernel, list(deferred), options, stats):
            for i in deferred[args]:
                values[i], codes[i] = outcome
        return _column(values, codes, node.type)

    def _finish(
        self,
        number: int,
        kernel: RowKernel,
        keys: list[tuple[Any, ...]],
        options: dict[str, Any],
        stats: OpStats,
    ) -> Iterator[tuple[tuple[Any, ...], Outcome]]:
        """The distinct arguments that need the slow half of a kernel, each with its outcome: from
        the memo on disk where it is there, else from the pool."""
        if not keys:
            return
        assert kernel.finish is not None and self.pool is not None
        disk = self.memo.disk
        found = {}
        if disk is not None:
            stored = ((key, disk.get(kernel.finish, (*key, options))) for key in keys)
            found = {key: outcome for key, outcome in stored if outcome is not None}
        todo = [key for key in keys if key not in found]
        stats.hits += len(found)
        stats.deferred += len(todo)
        for key, result in zip(
            todo, self.pool.map(kernel.finish, [(*key, options) for key in todo]), strict=True
        ):
            outcome = _finite(as_outcome(result))
            found[key] = outcome
            if outcome.status == Status.TIMEOUT:
                stats.kills += 1
            elif kernel.keyed and _is_short(key):
                self.memo.put((number, key), outcome)
            if disk is not None:
                disk.put(kernel.finish, (*key, options), outcome)
        yield from found.items()


@contextmanager
def _row_of_the_batch(rows: Rows) -> Iterator[None]:
    """Renumbers the row of a RuleError: a kernel counts the rows that it was given, and the error
    is to name the row of the batch."""
    try:
        yield
    except RuleError as error:
        raise RuleError(error.rule, int(rows[error.row]), error.cause) from error


def _values(column: Column) -> list[Any]:
    """Plain Python values, None where there is none."""
    values: list[Any] = column.values.tolist()
    if column.present.all():
        return values
    return [value if there else None for value, there in zip(values, column.present, strict=True)]


def _absent(column: Column, rows: Mask, type_: Type) -> Column:
    """No values, for the reasons that another column gives."""
    size = int(rows.sum())
    values = np.full(size, _filler(type_), dtype_of(type_))
    return Column(values, np.zeros(size, bool), column.status[rows])


def _as_type(column: Column, rows: Mask, type_: Type) -> Column:
    """The given rows in the numpy type of another node (bool → num)."""
    values = column.values[rows]
    dtype = dtype_of(type_)
    if values.dtype != dtype:
        values = np.where(column.present[rows], values, _filler(type_)).astype(dtype)
    return Column(values, column.present[rows], column.status[rows])


def _is_short(args: tuple[Any, ...]) -> bool:
    size = 0
    for arg in args:
        if isinstance(arg, str):
            size += len(arg)
    return size <= MAX_MEMO_KEY_CHARS


def _column(values: list[Any], codes: list[int], type_: Type) -> Column:
    """A column of plain values, None where there is none, and their status."""
    dtype = dtype_of(type_)
    present = np.fromiter((value is not None for value in values), bool, len(values))
    filled = values
    if dtype is not object and not present.all():
        filler = _filler(type_)
        filled = [filler if value is None else value for value in values]
    array = np.empty(len(values), dtype)
    array[:] = filled  # an array of objects stays one, whatever they are
    return Column(array, present, np.array(codes, np.uint8))


def _finite(outcome: Outcome) -> Outcome:
    """The outcome, with UNDEFINED for a number that no float can hold."""
    value = outcome[0]
    if value is None or isinstance(value, bool | str):
        return outcome
    if isinstance(value, float) and math.isfinite(value):
        return outcome
    try:
        as_float = float(value)
    except OverflowError:
        return Outcome(None, Status.UNDEFINED)
    except (TypeError, ValueError):  # a match, a list
        return outcome
    return (
        Outcome(as_float, outcome.status)
        if math.isfinite(as_float)
        else Outcome(None, Status.UNDEFINED)
    )
