"""A user's own rule: a Python function with declared types and a declared range.

    @gr.rule(range=(0, 1))
    def brevity(text: str) -> float:
        return 1 / (1 + len(text) / 1000)

    scorer = gr.compile(reward=brevity(gr.completion))

A file names the same rule by a statement, and loads it only where the caller allows that:

    extern brevity(text): num in 0..1 from "my_rules:brevity"

The function runs in the scoring process, without a deadline. RuleError is raised where it raises,
returns a value of another type than declared, or a number outside the declared range.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import pickle
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grpo_rewards.columns import Column, Outcome, Status
from grpo_rewards.errors import Finding, RuleError, RulesetError
from grpo_rewards.rules.catalog import CATALOG
from grpo_rewards.rules.nulls import ready_rows
from grpo_rewards.rules.rule import ColumnKernel, Parameter, Rule, parse_type
from grpo_rewards.syntax import tree as x
from grpo_rewards.syntax.parser import Parsed
from grpo_rewards.types import BOOL, NUM, TEXT, Interval, Type

_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_KINDS: dict[Any, Type] = {float: NUM, int: NUM, bool: BOOL, str: TEXT}


@dataclass(frozen=True, slots=True)
class UserRule:
    """A function as a rule: calling it on expressions builds a `Call`.

    With `batch`, the function takes a list of values per parameter and returns a list, as a reward
    model needs that scores many rows at once. `statement` is the declaration in the language.
    """

    statement: x.Extern
    function: Callable[..., Any]
    batch: bool

    def __call__(self, *args: Any) -> x.Call:
        """The expression that applies this rule; types are checked by `compile`."""
        given = tuple(x.as_expr(arg) for arg in args)
        return x.Call(self.statement.name, given, declares=self.statement)

    def __repr__(self) -> str:
        return f"<rule {self.statement}>"

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        """Pickled by name, as functions are, so that other processes import it."""
        if "<locals>" in self.statement.target:
            where = "at the top of a module, so that other processes can import it"
            raise pickle.PicklingError(f"define the rule `{self.statement.name}` {where}")
        return _by_target, (self.statement.target,)


def rule(
    *, range: tuple[float, float] | None = None, batch: bool = False
) -> Callable[[Callable[..., Any]], UserRule]:
    """A decorator that makes a function a rule of the language.

    Types come from the annotations: str, float, bool, lists of these, `| None`. `range` bounds the
    numbers that the function returns. Where an argument is null, the result is null and the
    function is not called, unless the parameter is annotated `| None`. Returning None is null.

    >>> @rule(range=(0, 1))
    ... def half(value: float) -> float:
    ...     return value / 2
    >>> print(half.statement)
    extern half(num): num in 0..1 from "grpo_rewards.compiler.externs:half"
    """

    def decorate(function: Callable[..., Any]) -> UserRule:
        name = function.__name__
        if not _NAME.fullmatch(name) or name in x.RESERVED or name in CATALOG:
            raise ValueError(f"`{name}` cannot name a rule; rename the function")
        params, returns = _declared_types(function, batch=batch)
        if range is not None and returns.kind != "num":
            raise ValueError(f"`{name}` returns a {returns}, which has no range")
        bounds = None if range is None else x.Bounds(*(x.as_expr(end) for end in range))
        target = f"{function.__module__}:{function.__qualname__}"
        statement = x.Extern(name, params, str(returns.required), bounds, target, None)
        found = UserRule(statement, function, batch)
        object.__setattr__(statement, "function", found)  # frozen, and each refers to the other
        return found

    return decorate


def _declared_types(function: Callable[..., Any], *, batch: bool) -> tuple[tuple[str, ...], Type]:
    hints = typing.get_type_hints(function)
    names = list(inspect.signature(function).parameters)
    missing = [name for name in (*names, "return") if name not in hints]
    if missing or not names:
        what = f"annotate `{missing[0]}`" if missing else "a rule takes at least one argument"
        raise TypeError(f"{function.__name__}: {what}")
    read = _item_type if batch else _type_of
    return tuple(str(read(hints[name])) for name in names), read(hints["return"])


def _item_type(hint: Any) -> Type:
    """The type of one row's value, where a batch function takes or returns a list of them."""
    if typing.get_origin(hint) is not list:
        raise TypeError(f"a batch rule takes and returns lists, not {hint}")
    return _type_of(typing.get_args(hint)[0])


def _type_of(hint: Any) -> Type:
    if hint in _KINDS:
        return _KINDS[hint]
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and types.NoneType in parts:
        rest = [part for part in parts if part is not types.NoneType]
        if len(rest) == 1:
            return _type_of(rest[0]).or_null
    if typing.get_origin(hint) is list and len(parts) == 1:
        return Type("list", item=_type_of(parts[0]))
    raise TypeError(f"a rule's values are str, float, bool or lists of these, not {hint}")


# Statement → rule


def as_rule(statement: x.Extern, functions: Mapping[str, Any], interval: Interval) -> Rule:
    """The rule that a statement declares. Its target is looked up only when it is run."""
    params = tuple(
        Parameter(f"arg{i}", parse_type(text)) for i, text in enumerate(statement.params, 1)
    )
    returns = parse_type(statement.type)
    kernel = ColumnKernel(_Kernel(statement, functions, returns, interval))
    signature = f"{statement.name}({', '.join(statement.params)}) -> {returns}"
    doc = f"A rule of the user's own, from {statement.target}."
    identity = str(statement)

    def by_range(_args: Sequence[Interval], _options: Mapping[str, Any]) -> Interval:
        return interval

    return Rule(
        statement.name, signature, params, returns, by_range, 3, kernel, doc, identity=identity
    )


@dataclass(frozen=True, slots=True)
class _Kernel:
    """A kernel that calls a user's function. `functions` maps targets to functions or UserRules."""

    statement: x.Extern
    functions: Mapping[str, Any]
    returns: Type
    interval: Interval

    def __call__(self, *columns: Column) -> Column:
        declared = [parse_type(text) for text in self.statement.params]
        ready, status = ready_rows(declared, columns)
        rows = np.flatnonzero(ready).tolist()
        arguments = [[column.row(i) for i in rows] for column in columns]
        found = self.functions[self.statement.target]
        batch = isinstance(found, UserRule) and found.batch
        results = self._at_once(rows, arguments) if batch else self._by_row(rows, arguments)
        outcomes = [Outcome(None, Status(code)) for code in status]
        for i, result in zip(rows, results, strict=True):
            outcomes[i] = self._outcome(i, result)
        dtypes: dict[str, Any] = {"num": np.float64, "bool": np.bool_}
        return Column.from_rows(outcomes, dtypes.get(self.returns.kind, object))

    def _by_row(self, rows: Sequence[int], arguments: Sequence[list[Any]]) -> list[Any]:
        return [
            self._ask(i, self._function, *args)
            for i, args in zip(rows, zip(*arguments, strict=True), strict=True)
        ]

    def _at_once(self, rows: Sequence[int], arguments: Sequence[list[Any]]) -> list[Any]:
        if not rows:
            return []
        found = self._ask(rows[0], self._function, *arguments)
        if isinstance(found, str | bytes | Mapping) or not isinstance(found, Iterable):
            raise self._broken(rows[0], f"returned {found!r}, which is no list of values")
        results: list[Any] = self._ask(rows[0], list, found)
        if len(results) != len(rows):
            raise self._broken(rows[0], f"it returned {len(results)} values for {len(rows)} rows")
        return results

    @property
    def _function(self) -> Callable[..., Any]:
        found = self.functions[self.statement.target]
        function: Callable[..., Any] = found.function if isinstance(found, UserRule) else found
        return function

    def _ask(self, row: int, function: Callable[..., Any], *args: Any) -> Any:
        """What the user's code returns. RuleError names the row where it raises."""
        try:
            return function(*args)
        except Exception as error:
            raise RuleError(self.statement.name, row, repr(error)) from error

    def _outcome(self, row: int, result: Any) -> Outcome:
        """The outcome of one row. RuleError where the value is not of the declared type."""
        if result is None:
            return Outcome(None, Status.UNDEFINED)
        if self.returns.kind == "num":
            return self._number(row, result)
        if self.returns.kind == "bool" and isinstance(result, bool | np.bool_):
            return Outcome(bool(result), Status.OK)
        if self.returns.kind == "text" and isinstance(result, str):
            return Outcome(result, Status.OK)
        raise self._broken(row, f"returned {result!r}, which is no {self.returns}")

    def _number(self, row: int, result: Any) -> Outcome:
        if not isinstance(result, int | float | np.number | np.bool_):
            raise self._broken(row, f"returned {result!r}, which is no number")
        value = float(result)
        if not math.isfinite(value):
            return Outcome(None, Status.UNDEFINED)
        if not self.interval.covers(Interval(value, value)):
            raise self._broken(row, f"returned {value:.6g}, outside its declared {self.interval}")
        return Outcome(min(max(value, self.interval.lo), self.interval.hi), Status.OK)

    def _broken(self, row: int, cause: str) -> RuleError:
        return RuleError(self.statement.name, row, cause)


# Files → functions


def load_functions(parsed: Parsed, known: Mapping[str, Any], *, allow: bool) -> dict[str, Any]:
    """Target → function, for the `extern` statements of a ruleset and of the files it imports.

    A target that is not `known` is imported if the caller allows it. Raises RulesetError if the
    caller does not, or if there is no such function.
    """
    found: dict[str, Any] = {}
    for statement in parsed.ruleset.of(x.Extern):
        target = statement.target
        if target not in known and not allow:
            module = target.partition(":")[0]
            message = f"`{statement.name}` runs Python code from `{module}`, and is not allowed to"
            hint = "if you trust it, pass allow_extern=True, or --allow-extern"
            raise _refused(parsed, statement, "T80", message, hint)
        found[target] = known[target] if target in known else _load(parsed, statement)
    for inner in parsed.imports.values():
        found.update(load_functions(inner, known, allow=allow))
    return found


def _by_target(target: str) -> Any:
    """The object that `module:name` refers to."""
    module, _, path = target.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _load(parsed: Parsed, statement: x.Extern) -> Any:
    hint = 'write "module:function"; the module has to be importable from here'
    try:
        found = _by_target(statement.target)
    except Exception as error:  # noqa: BLE001 - a module may raise anything while it is imported
        plain = isinstance(error, ImportError | AttributeError | ValueError)
        message = f"`{statement.target}` cannot be loaded: {error if plain else repr(error)}"
        raise _refused(parsed, statement, "N11", message, hint) from None
    if not callable(found):
        message = f"`{statement.target}` is no function"
        raise _refused(parsed, statement, "N11", message, hint)
    if isinstance(found, UserRule) and not _agree(found.statement, statement):
        message = f"`{statement.name}` is declared otherwise in Python"
        raise _refused(parsed, statement, "T81", message, f"there it is: {found.statement}")
    return found


def _agree(python: x.Extern, text: x.Extern) -> bool:
    mine, theirs = (
        (s.params, s.type, None if s.bounds is None else s.bounds.key()) for s in (python, text)
    )
    return mine == theirs


def _refused(
    parsed: Parsed, statement: x.Extern, code: str, message: str, hint: str
) -> RulesetError:
    return RulesetError.of(parsed.source, [Finding(code, message, statement.place, hint)])


def fingerprints(functions: Mapping[str, Any]) -> dict[str, str]:
    """`extern TARGET` → the first 12 hex digits of the SHA-256 of its source file."""
    found: dict[str, str] = {}
    for target, function in sorted(functions.items()):
        inner = function.function if isinstance(function, UserRule) else function
        try:
            source = inspect.getsource(inspect.getmodule(inner) or inner)
        except (OSError, TypeError):  # typed into an interpreter
            found[f"extern {target}"] = "unknown"
            continue
        found[f"extern {target}"] = hashlib.sha256(source.encode()).hexdigest()[:12]
    return found
