"""A ruleset, compiled and ready to score: `Scorer`, and the functions that make one."""

from __future__ import annotations

import functools
import importlib.metadata
import threading
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grpo_rewards.adapters.registry import AdapterMethods
from grpo_rewards.columns import Column
from grpo_rewards.compiler.externs import fingerprints, load_functions
from grpo_rewards.compiler.graph import Graph, TestCase
from grpo_rewards.compiler.plan import Plan
from grpo_rewards.compiler.statements import checked
from grpo_rewards.errors import BatchError, OverwriteError
from grpo_rewards.limits import MAX_WORKER_MB
from grpo_rewards.scoring.execution import Execution, Pool
from grpo_rewards.scoring.inputs import batch_size, bind, group_numbers
from grpo_rewards.scoring.memo import DiskMemo, Memo
from grpo_rewards.scoring.scores import Scores
from grpo_rewards.scoring.workers.pool import Inline, Workers
from grpo_rewards.syntax import tree as x
from grpo_rewards.syntax.builders import ruleset_of
from grpo_rewards.syntax.files import companions, parse_file
from grpo_rewards.syntax.parser import Parsed, parse_all
from grpo_rewards.types import Interval


class Scorer(AdapterMethods):
    """Scores batches: `scorer(completion=[…], gold=[…])` gives a `Scores`.

    Thread-safe, and picklable (it travels as its tree). `workers` is the number of processes for
    work of doubtful length (SymPy); 0 does that work in the calling process, within the counted
    bounds alone. `functions` are those of `extern` statements, by target; with `allow_extern` the
    ones that are not given are imported. `memo` names a folder that keeps what slow work came to,
    for other runs and processes. Use it as a context manager, or call `close`, to end the
    processes early.
    """

    def __init__(
        self,
        parsed: Parsed,
        *,
        params: Mapping[str, Any] | None = None,
        workers: int = 1,
        allow_extern: bool = False,
        functions: Mapping[str, Any] | None = None,
        memo: str | Path | None = None,
    ) -> None:
        self._parsed = parsed
        self._params = dict(params or {})
        self._workers = workers
        self._functions: dict[str, Any] = {}
        self._graph = checked(parsed, params=self._params, functions=self._functions)
        # after the check: what is wrong with the text is told before any code is loaded
        self._functions.update(load_functions(parsed, functions or {}, allow=allow_extern))
        self._plan = Plan.of(self._graph, self._graph.columns)
        self._memo_folder = memo
        disk = None if memo is None else DiskMemo(memo, versions=sorted(self.versions.items()))
        self._memo = Memo(disk=disk)
        self._pool: Pool | None = None
        self._lock = threading.RLock()

    # What the scorer is

    @property
    def ruleset(self) -> x.Ruleset:
        """The tree that was written."""
        return self._parsed.ruleset

    @property
    def graph(self) -> Graph:
        """What the tree means."""
        return self._graph

    def __str__(self) -> str:
        return str(self.ruleset)

    def save(self, path: str | Path) -> None:
        """Write the canonical text, and beside it the files that it names."""
        folder, beside = Path(path).parent, companions(self._parsed)
        if Path(path).name in beside:
            raise OverwriteError(f"{path}: it would overwrite a file that the ruleset names")
        for name, text in {Path(path).name: str(self), **beside}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")

    def __repr__(self) -> str:
        return f"<Scorer {self._graph.name} {self.hash[:12]}: reward in {self.ranges['reward']}>"

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of what is scored; see `Graph.hash` for what changes it."""
        return self._graph.hash()

    @property
    def versions(self) -> dict[str, str]:
        """Versions of all that a score can depend on besides the ruleset."""
        return {**dict(library_versions()), **fingerprints(self._functions)}

    @property
    def names(self) -> tuple[str, ...]:
        """The scores in order, without the reward."""
        return tuple(self._graph.scores)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that a batch has to bring (those with a default are optional)."""
        return self._plan.inputs

    @property
    def ranges(self) -> dict[str, Interval]:
        """What every score, and the reward, can be; inferred."""
        return dict(self._graph.ranges)

    @property
    def params(self) -> dict[str, Any]:
        """The params with the values they have here."""
        return dict(self._graph.params)

    @property
    def needs_groups(self) -> bool:
        """Whether the ruleset looks at whole groups: then batches bring `group` ids."""
        return self._plan.needs_groups

    @property
    def tests(self) -> list[TestCase]:
        """The file's `test` blocks; run them with `grpo-rewards test`."""
        return self._graph.tests

    def explain(self) -> str:
        """The plan: one op a line with its level, range and the way it runs."""
        lo_hi = f"reward in {self.ranges['reward']}"
        return f"{self._graph.name}  {self.hash[:12]}  {lo_hi}\n\n{self._plan.explain()}"

    # What the scorer does

    def __call__(self, **columns: Any) -> Scores:
        """The scores of a batch of columns, one value a row; columns it does not know are ignored.

        `group` holds group ids of any hashable kind; a ruleset that looks at whole groups needs
        it. A plain number (`step=100`) stands for all rows. Raises BatchError.
        """
        return self.scores_of(self.execute(self._plan, columns))

    def scores_of(self, execution: Execution) -> Scores:
        """Runs a batch and gives its scores, whatever else its plan puts out."""
        outputs = execution.run()
        named = {name: outputs[name] for name in self._graph.columns}
        seconds = _seconds_by_output(execution)
        return Scores(named, self.hash, self.versions, seconds, execution.stats)

    def execute(
        self, plan: Plan, columns: Mapping[str, Any], *, needs_groups: bool = False
    ) -> Execution:
        """A batch bound to a plan, ready to run, for callers who want more than its scores."""
        size = batch_size(columns)
        limit = self._graph.settings.limit_chars
        inputs: dict[str, Column] = {}
        for name in plan.inputs:
            inputs[name] = bind(self._graph.input(name), columns, size, limit_chars=limit)
        groups = None
        if "group" in columns:
            groups = group_numbers(columns["group"], size)
        elif plan.needs_groups or needs_groups:
            raise BatchError(
                "the ruleset looks at whole groups, and the batch has no `group` column",
                missing="group",
                remedy="pass group=[0, 0, 1, 1, …], one id per prompt",
            )
        return Execution(plan, inputs, size, groups, self._memo, self._get_pool())

    def _get_pool(self) -> Pool:
        with self._lock:
            if self._pool is None:
                deadline_s = self._graph.settings.timeout_s
                self._pool = (
                    Workers(processes=self._workers, deadline_s=deadline_s, memory_mb=MAX_WORKER_MB)
                    if self._workers
                    else Inline()
                )
            return self._pool

    def do_slow_work_in(self, pool: Pool) -> None:
        """Let work of doubtful length go through `pool` from now on, instead of through worker
        processes of its own: for a scorer that is in a worker process itself."""
        self.close()
        with self._lock:
            self._pool = pool

    def close(self) -> None:
        """End the worker processes; the next batch starts new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if isinstance(pool, Workers):
            pool.close()
        if self._memo.disk is not None:
            self._memo.disk.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., Scorer], tuple[Any, ...]]:
        state = (self._parsed, self._params, self._workers, self._functions, self._memo_folder)
        return _rebuild, state


def _rebuild(
    parsed: Parsed,
    params: dict[str, Any],
    workers: int,
    functions: dict[str, Any],
    memo: str | Path | None,
) -> Scorer:
    return Scorer(parsed, params=params, workers=workers, functions=functions, memo=memo)


def _seconds_by_output(execution: Execution) -> dict[str, float]:
    """Each op's time goes to the first output that rests on it."""
    counted: set[int] = set()
    seconds: dict[str, float] = {}
    for name, root in execution.plan.outputs.items():
        ops = set(execution.plan.graph.reachable([root])) - counted
        counted |= ops
        seconds[name] = sum(execution.stats[op].seconds for op in ops if op in execution.stats)
    return seconds


def load(
    path: str | Path,
    *,
    params: Mapping[str, Any] | None = None,
    workers: int = 1,
    allow_extern: bool = False,
    memo: str | Path | None = None,
) -> Scorer:
    """The scorer of a `.reward` file. RulesetError tells everything that is wrong with it.

    `params` overrides declared params, as in `gr.load(path, params={"marker": "A:"})`.
    `allow_extern` lets the file run the Python functions that its `extern` statements name.
    """
    parsed = parse_file(path)
    return Scorer(parsed, params=params, workers=workers, allow_extern=allow_extern, memo=memo)


def loads(
    text: str,
    *,
    name: str = "ruleset",
    params: Mapping[str, Any] | None = None,
    workers: int = 1,
    allow_extern: bool = False,
    memo: str | Path | None = None,
) -> Scorer:
    """The scorer of a ruleset given as text; see `load`."""
    parsed = parse_all(text, name=name)
    return Scorer(parsed, params=params, workers=workers, allow_extern=allow_extern, memo=memo)


def compile(  # the field's word, as in re.compile
    *,
    reward: Any,
    name: str = "",
    params: Mapping[str, Any] | None = None,
    workers: int = 1,
    bounds: tuple[float, float] | None = None,
    policy: Mapping[str, Any] | None = None,
    memo: str | Path | None = None,
    **scores: Any,
) -> Scorer:
    """The scorer of expressions built in Python: `gr.compile(correct=…, reward=…)`.

    Keyword arguments name scores, in order; an expression that occurs inside a later one is
    referred to by its name, as it would be in a file. `bounds` declares the reward's range,
    `policy` what a file's `policy` says: `{"timeout": 2, "on error": None, "limit chars": 60_000}`.
    """
    ruleset = ruleset_of(scores, reward, name=name, bounds=bounds, policy=policy)
    functions = {item.target: item.function for item in ruleset.of(x.Extern)}
    parsed = parse_all(str(ruleset), name=name or "ruleset")
    return Scorer(parsed, params=params, workers=workers, functions=functions, memo=memo)


@functools.cache
def library_versions() -> tuple[tuple[str, str], ...]:
    """The versions of the packages that scores depend on, and of the Unicode table."""
    packages: Sequence[str] = ("grpo-rewards", "sympy", "lark", "langdetect", "google-re2")
    versions = [(name, version_of(name)) for name in packages]
    return (*versions, ("unicode", unicodedata.unidata_version), ("numpy", np.__version__))


def version_of(package: str) -> str:
    """A package's version; "unknown" for one that is imported from where nobody installed it, as a
    checkout on PYTHONPATH is."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
