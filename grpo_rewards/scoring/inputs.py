"""From what a caller passes to typed columns: the one place where a batch can be wrong.

A value of the wrong type is a fault of the batch and raises, with column and row. A value that is
absent (None, NaN, pandas' NA) is null, and a completion over the limit is an error in its row.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from grpo_rewards.columns import Column, Outcome, Status
from grpo_rewards.compiler.graph import InputSpec
from grpo_rewards.errors import BatchError
from grpo_rewards.limits import MAX_TEXT_CHARS
from grpo_rewards.types import Level

_DTYPES: dict[str, Any] = {"num": np.float64, "bool": np.bool_}


def batch_size(columns: Mapping[str, Any]) -> int:
    """The number of rows; BatchError where columns differ in length or are no columns."""
    lengths = {name: _length(name, values) for name, values in columns.items()}
    sized = {name: length for name, length in lengths.items() if length is not None}
    if len(set(sized.values())) > 1:
        shown = ", ".join(f"{name} has {length}" for name, length in sized.items())
        raise BatchError(f"columns differ in length: {shown}")
    if not sized:
        raise BatchError("no columns given", hint="scorer(completion=[…], gold=[…])")
    return next(iter(sized.values()))


def _length(name: str, values: Any) -> int | None:
    if isinstance(values, int | float) and not isinstance(values, bool):
        return None  # one number for all rows, as in step=100
    if isinstance(values, str) or not hasattr(values, "__len__"):
        kind = type(values).__name__
        raise BatchError(f"column `{name}` is a {kind}", hint="pass a list, one value a row")
    return len(values)


def ambient(step: float | None, progress: float | None) -> dict[str, float]:
    """The columns that tell where a run stands, as far as the caller knows."""
    given = {"step": step, "progress": progress}
    return {name: value for name, value in given.items() if value is not None}


def bind(spec: InputSpec, columns: Mapping[str, Any], size: int, *, limit_chars: int = 0) -> Column:
    """The column of one input; BatchError where it is missing or of another type."""
    for source in spec.names:
        if source in columns:
            values = columns[source]
            rows = [values] * size if isinstance(values, int | float) else values
            limit = limit_chars or MAX_TEXT_CHARS
            return _typed(spec, source, rows, limit)
    if spec.has_default:
        return _typed(spec, spec.name, [spec.default] * size, MAX_TEXT_CHARS)
    raise _missing(spec, list(columns))


def _missing(spec: InputSpec, columns: list[str]) -> BatchError:
    """The error of a batch that does not bring an input."""
    if spec.level == Level.CONST:
        value = 100 if spec.name == "step" else 0.5
        return BatchError(
            f"the ruleset is scheduled: its scores depend on `{spec.name}`",
            missing=spec.name,
            remedy=f"pass {spec.name}={value}",
        )
    wanted = " or ".join(f"`{source}`" for source in spec.names)
    close = difflib.get_close_matches(spec.name, columns, n=1)
    return BatchError(
        f"column {wanted} is missing; the batch has {', '.join(columns) or 'none'}",
        hint=f"did you mean `{close[0]}`?" if close else "",
        missing=spec.name,
        remedy=f"pass {spec.name}=[…]",
    )


def _typed(spec: InputSpec, source: str, values: Iterable[Any], limit: int) -> Column:
    rows: list[Any] = []
    plain = spec.type.kind in ("text", "chat")
    for i, value in enumerate(values):
        if plain and value.__class__ is str and len(value) <= limit:
            rows.append(value)
            continue
        if _is_absent(value):
            rows.append(None)
            continue
        try:
            row = _value(value, spec)
        except TypeError as error:
            message = f"column `{source}`: {error}, but the ruleset takes {spec.type}"
            raise BatchError(message, row=i) from None
        if isinstance(row, str) and len(row) > limit:
            # By the blame rule: a completion that is too long is an error, a gold is unreadable.
            fault = Status.TOO_LARGE if spec.level == Level.ROW else Status.UNPARSED
            row = Outcome(None, fault)
        rows.append(row)
    return Column.from_rows(rows, _DTYPES.get(spec.type.kind, object))


def _is_absent(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or type(value).__name__ in ("NAType", "NaTType")
    )


def _value(value: Any, spec: InputSpec) -> Any:
    """One value as the input's type asks; TypeError says what it is instead."""
    match spec.type.kind:
        case "num":
            return _number(value)
        case "bool":
            if isinstance(value, bool | np.bool_) or (_is_number(value) and value in (0, 1)):
                return bool(value)
        case "text":
            if isinstance(value, str):
                return value
            if _is_number(value):  # a gold of 42
                return repr(value.item() if isinstance(value, np.generic) else value)
            if isinstance(value, list):
                return chat_text(value, spec.role)
        case "chat":
            return value if isinstance(value, str) else chat_text(value, spec.role)
        case "list":
            if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
                return list(value)
        case "json" | "any":
            return value
    raise TypeError(f"a {type(value).__name__}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _number(value: Any) -> Any:
    if not _is_number(value) and not isinstance(value, bool | np.bool_):
        raise TypeError(f"a {type(value).__name__}")
    number = float(value)
    return number if math.isfinite(number) else Status.UNDEFINED


def chat_text(messages: Any, role: str = "assistant") -> str | None:
    """The text of the last message of a role; None where there is none, or it holds no text.

    >>> chat_text([{"role": "assistant", "content": "4"}, {"role": "tool", "content": "5"}])
    '4'
    """
    if not isinstance(messages, list | tuple | np.ndarray):
        raise TypeError(f"a {type(messages).__name__}")
    said: Mapping[str, Any] | None = None
    for message in messages:
        if not isinstance(message, Mapping):
            raise TypeError(f"a list with a {type(message).__name__} where a message should be")
        if message.get("role") == role:
            said = message
    return None if said is None else _content(said.get("content"))


def _content(content: Any) -> str | None:
    """A message's content: text, or parts of which the text ones count."""
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list | tuple | np.ndarray):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if texts else None
    raise TypeError(f"a message whose content is a {type(content).__name__}")


def text_of(value: Any, role: str = "assistant") -> str:
    """A text or a conversation as text, to be shown; what is neither as Python writes it."""
    if isinstance(value, str):
        return value
    try:
        return chat_text(value, role) or ""
    except TypeError:
        return "" if value is None else str(value)


def group_numbers(groups: Any, size: int) -> npt.NDArray[np.int64]:
    """Group ids of any hashable kind → 0, 1, … in the order of first appearance."""
    seen: dict[Any, int] = {}
    values = [seen.setdefault(group, len(seen)) for group in groups]
    if len(values) != size:
        raise BatchError(f"`group` has {len(values)} rows, the other columns {size}")
    return np.array(values, np.int64)
