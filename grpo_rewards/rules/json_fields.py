"""JSON against JSON, field by field: the F1 that information extraction is measured by.

A field is a leaf with its path: `{"a": {"b": [1, 2]}}` has `a.b[] = 1` and `a.b[] = 2`. Lists count
as bags, so their order does not matter. 1 and 1.0 are one value; 1, true and "1" are three.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np

from grpo_rewards.columns import Outcome, Status
from grpo_rewards.limits import MAX_JSON_CHARS, MAX_JSON_DEPTH, MAX_JSON_FIELDS
from grpo_rewards.rules.format.json_schema import read_json
from grpo_rewards.rules.rule import RowKernel, Rule, rule
from grpo_rewards.types import UNIT


class _Unreadable(ValueError):
    """Not JSON."""


def f1(text: str, gold: Any) -> Outcome:
    """2 · |fields in both| / (|fields of one| + |fields of the other|), in [0, 1].

    `gold` is JSON as text, or a value that was read already. A text that is no JSON earns 0; a gold
    that is none is null.

    >>> f1('{"name": "Ada", "age": 37}', '{"name": "Ada", "age": 36}').value
    0.5
    """
    try:
        wanted = _fields(_value(gold) if isinstance(gold, str) else gold)
    except _Unreadable:
        return Outcome(None, Status.UNPARSED)
    try:
        found = _fields(_value(text))
    except _Unreadable:
        return Outcome(0.0, Status.UNPARSED)
    if wanted is None:  # the blame rule: a gold of too many fields is no gold
        return Outcome(None, Status.UNPARSED)
    if found is None:
        return Outcome(0.0, Status.TOO_LARGE)
    total = found.total() + wanted.total()
    shared = (found & wanted).total()
    return Outcome(2 * shared / total if total else 1.0, Status.OK)


def text_of(value: Any) -> Outcome:
    """A JSON value as text, which formats can read; null for what is none, as a gold may be.

    `value` is JSON as text, which stays as it is, or a value that was read already.

    >>> text_of({"name": "Ada"}).value
    '{"name": "Ada"}'
    >>> text_of("see figure").value is None
    True
    """
    try:
        if isinstance(value, str):
            _value(value)
            return Outcome(value, Status.OK)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except (ValueError, TypeError, RecursionError):
        return Outcome(None, Status.UNPARSED)
    # one over the limit is unread too, not an error: nobody who answers is at fault
    known = len(text) <= MAX_JSON_CHARS
    return Outcome(text, Status.OK) if known else Outcome(None, Status.UNPARSED)


def _plain(value: Any) -> Any:
    """Lists and numbers of numpy, as Parquet files give them."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError


def _value(text: str) -> Any:
    if len(text) > MAX_JSON_CHARS:
        raise _Unreadable
    try:
        return read_json(text)
    except (ValueError, RecursionError):
        raise _Unreadable from None


def _fields(value: Any) -> Counter[tuple[Any, ...]] | None:
    """The leaves with their paths; None where there are too many."""
    found: Counter[tuple[Any, ...]] = Counter()
    queue: list[tuple[tuple[str, ...], Any]] = [((), value)]
    steps = 0
    while queue:
        path, node = queue.pop()
        steps += 1
        if steps > MAX_JSON_FIELDS or len(path) > MAX_JSON_DEPTH:
            return None
        if isinstance(node, dict) and node:
            queue += [((*path, f".{key}"), part) for key, part in node.items()]
        elif isinstance(node, list | tuple | np.ndarray) and len(node):
            queue += [((*path, "[]"), part) for part in node]
        else:
            found[(path, *_leaf(node))] += 1
    return found


def _leaf(value: Any) -> tuple[str, Any]:
    """Equal for equal values, and only for those: 1 is 1.0, but not true."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return type(value).__name__, value
    if isinstance(value, dict | list | tuple | np.ndarray):
        return "empty", isinstance(value, dict)
    return "number", value


RULES: tuple[Rule, ...] = (
    rule("json.field_f1(text: text, gold: any) -> num?", RowKernel(f1),
         "The F1 of a JSON text's fields against those of the gold; 0 for what is no JSON.",
         range=UNIT, cost=2, example='json.field_f1("[1, 2]", "[2, 3]")'),
    rule("json.text(value: any) -> text?", RowKernel(text_of),
         "A JSON value as text, which a format can be matched with; null for what is no JSON.",
         example='json.text("[1, 2]")'),
)  # fmt: skip
