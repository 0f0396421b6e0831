"""A rule: its name, signature, range, level, cost and kernel. Calling a rule builds a `Call`.

The signature is written as a ruleset's reader sees it:

    math.equal(answer: text?, gold: text, *, rtol: num = 0) -> bool

`?` after a parameter: the kernel takes nulls itself; elsewhere a null argument makes the result
null before the kernel is asked. `...` after a parameter: any number of them. After `*` stand
options, which are constants: known before a row is scored, given by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from grpo_rewards.columns import Column
from grpo_rewards.syntax.tree import Call, as_expr
from grpo_rewards.types import EVERYTHING, UNIT, Interval, Level, Type

#: Stands for "no default": the argument must be given.
REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a rule. `choices` lists the texts that an option may be, if it is closed."""

    name: str
    type: Type
    default: Any = REQUIRED
    is_option: bool = False
    is_variadic: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowKernel:
    """A function of one row's values: `function(*args, **options)`.

    `keyed` work is done once per distinct arguments and remembered. A result of `DEFERRED` asks
    for `finish(*args, **options)`, which may be slow and runs in a killable worker.
    """

    function: Callable[..., Any]
    keyed: bool = False
    finish: Callable[..., Any] | None = None


@dataclass(frozen=True, slots=True)
class ColumnKernel:
    """A function of whole columns: `function(*columns, **options) -> Column`."""

    function: Callable[..., Column]


@dataclass(frozen=True, slots=True)
class GroupKernel:
    """A function of whole groups: `function(*columns, groups, **options) -> Column`.

    `groups` [B] int64 numbers the groups 0, 1, …; rows of one group need not be adjacent.
    """

    function: Callable[..., Column]


class Accumulator(Protocol):
    """What is known of a dataset after some of its batches."""

    def add(self, *columns: Column, groups: npt.NDArray[np.int64] | None) -> None:
        """Take in one batch; `groups` [B] numbers its groups, which are whole."""
        ...

    def value(self) -> float | None:
        """The result over all that was added; None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class DatasetKernel:
    """A function of a whole dataset, batch by batch: `start()` gives an empty accumulator."""

    start: Callable[[], Accumulator]
    needs_groups: bool = False


class Deferred:
    """The one value `DEFERRED`: this row needs the kernel's `finish`."""

    def __repr__(self) -> str:
        return "DEFERRED"


DEFERRED = Deferred()

Kernel = RowKernel | ColumnKernel | GroupKernel | DatasetKernel
#: From the ranges of the arguments and the options to the range of the result.
RangeRule = Callable[[Sequence[Interval], Mapping[str, Any]], Interval]
#: A place in a completion: start and end, by code points; its kind (`foreign`, `fail` or `answer`);
#: and what to say of it.
Mark = tuple[int, int, str, str]
#: From a rule's arguments and its value in one row to the places to show.
Marker = Callable[[Sequence[Any], Any], list[Mark]]


@dataclass(frozen=True)
class Rule:
    """A named function of columns. See the module's docstring for the signature.

    `cost` orders the plan: 0 arithmetic on columns, 1 a scan of the text, 2 parsing, 3 search.
    `validate` gets the arguments that are constants (others None) and the options, and returns a
    complaint or None; it runs when a ruleset is checked. `marks` gets the arguments and the value
    of a row and returns what to point at in its completion. `identity` tells
    rules of one name apart that are not in the catalog: a user's own.
    """

    name: str
    signature: str
    params: tuple[Parameter, ...]
    returns: Type
    range: RangeRule
    cost: int
    kernel: Kernel
    doc: str
    example: str = ""
    commutes: bool = False
    validate: Callable[[Sequence[Any], Mapping[str, Any]], str | None] | None = None
    identity: str = ""
    marks: Marker | None = None

    @property
    def level(self) -> Level:
        """The level that the rule itself asks for; its arguments may ask for more."""
        if isinstance(self.kernel, DatasetKernel):
            return Level.DATASET
        return Level.GROUP if isinstance(self.kernel, GroupKernel) else Level.CONST

    @property
    def positional(self) -> tuple[Parameter, ...]:
        return tuple(param for param in self.params if not param.is_option)

    def types(self, count: int) -> list[Type]:
        """The types of this many arguments; a variadic parameter stands for the rest."""
        positional = self.positional
        return [positional[min(i, len(positional) - 1)].type for i in range(count)]

    @property
    def options(self) -> dict[str, Parameter]:
        return {param.name: param for param in self.params if param.is_option}

    def __call__(self, *args: Any, **options: Any) -> Call:
        """The expression that applies this rule; names and types are checked by `compile`.

        A positional parameter may be given by name, as in `length_relative(n, correct=c)`.
        """
        given = tuple((name, as_expr(value)) for name, value in options.items())
        return Call(self.name, tuple(as_expr(arg) for arg in args), given)

    def __repr__(self) -> str:
        return f"<rule {self.signature}>"


def rule(
    signature: str,
    kernel: Kernel,
    doc: str,
    *,
    range: Interval | RangeRule | None = None,
    cost: int = 1,
    example: str = "",
    commutes: bool = False,
    validate: Callable[[Sequence[Any], Mapping[str, Any]], str | None] | None = None,
    marks: Marker | None = None,
) -> Rule:
    """A rule from its signature. `range` defaults to 0..1 for a bool and everything for a num."""
    name, params, returns = parse_signature(signature)
    default = UNIT if returns.kind == "bool" else EVERYTHING
    fixed = default if range is None else range
    by_range: RangeRule = (lambda _args, _options: fixed) if isinstance(fixed, Interval) else fixed
    return Rule(
        name, signature, params, returns, by_range, cost, kernel, doc, example, commutes, validate,
        marks=marks,
    )  # fmt: skip


#: The range of what is counted: 0, 1, 2, …
COUNT = Interval(0)


def as_argument(ranges: Sequence[Interval], _options: Mapping[str, Any]) -> Interval:
    """The range of a result that lies among the values of the first argument, as a mean does."""
    return ranges[0]


_SIGNATURE = re.compile(r"([a-z_.0-9*/+<>=!?-]+)\((.*)\) -> (\S+)")
_PARAMETER = re.compile(r"(\w+): ([^=]+?)(\.\.\.)?(?: = (.+))?")


def parse_signature(signature: str) -> tuple[str, tuple[Parameter, ...], Type]:
    """Name, parameters and result of a written signature.

    >>> name, params, returns = parse_signature('f(a: text?, b: num..., *, w: "x"|"y" = "x") -> num')
    >>> [(p.name, str(p.type), p.is_option, p.is_variadic, p.choices) for p in params][1:]
    [('b', 'num', False, True, ()), ('w', 'text', True, False, ('x', 'y'))]
    """  # noqa: E501 - one signature, one line
    found = _SIGNATURE.fullmatch(signature)
    if not found:
        raise ValueError(f"not a signature: {signature}")
    params: list[Parameter] = []
    is_option = False
    for part in re.split(r", (?![^\[]*\])", found[2]) if found[2] else []:
        if part == "*":
            is_option = True
            continue
        params.append(_parse_parameter(part, is_option))
    return found[1], tuple(params), parse_type(found[3])


def _parse_parameter(text: str, is_option: bool) -> Parameter:
    found = _PARAMETER.fullmatch(text)
    if not found:
        raise ValueError(f"not a parameter: {text}")
    name, kind, dots, default = found.groups()
    choices = tuple(part.strip('"') for part in kind.split("|")) if '"' in kind else ()
    type_ = parse_type("text" if choices else kind)
    value = REQUIRED if default is None else _constant(default)
    return Parameter(name, type_, value, is_option, bool(dots), choices)


def _constant(text: str) -> Any:
    plain = {"null": None, "true": True, "false": False}
    if text in plain:
        return plain[text]
    if text.startswith('"'):
        return text.strip('"')
    return float(text) if "." in text else int(text)


def parse_type(text: str) -> Type:
    """`list[num]?` → Type.

    >>> parse_type("list[num]?") == Type("list", item=Type("num"), nullable=True)
    True
    """
    if text.endswith("?"):
        return parse_type(text[:-1]).or_null
    if text.startswith("list[") and text.endswith("]"):
        return Type("list", item=parse_type(text[5:-1]))
    return Type(text)
