"""Arrow tables of plain rows, and the narrowest schema that holds all of them.

Rows of JSON lines bring no types: each batch has the types that its rows need, and a file gets the
narrowest schema that holds all batches. A number where text stood before fits none; that is an
error with the place of the row, not a guess.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_rewards.errors import DataError

HINT = "write JSON lines instead: -o OUT.jsonl"
#: What pyarrow raises for values that have no type in common, and for types that have none.
_MISFITS = (ValueError, TypeError, NotImplementedError, OverflowError)


def infer_table(rows: Sequence[Mapping[str, Any]], place: Callable[[int], str]) -> Any:
    """A `pyarrow.Table` of plain rows. DataError with the `place` of the first row that fits no
    type with those before it."""
    import pyarrow as pa

    names = list(dict.fromkeys(name for row in rows for name in row))
    arrays = []
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            arrays.append(_array(values))
        except _MISFITS as error:
            cause = str(error).splitlines()[0]
            row = _first_misfit(values, _array)
            message = f"{place(row)}: column `{name}` fits no one type: {cause}"
            raise DataError(message, hint=HINT) from None
    return pa.table(dict(zip(map(_encodable, names), arrays, strict=True)))


def joined_schema(known: Any, table: Any, place: Callable[[int], str]) -> Any:
    """The narrowest schema for the rows before, whose schema is `known` (or None), and those of a
    table. DataError with the `place` of the first row that fits no type with those before."""
    import pyarrow as pa

    found = table.schema
    if known is None or known.equals(found):
        return found
    try:
        return pa.unify_schemas([known, found], promote_options="permissive")
    except _MISFITS:
        for name in set(known.names) & set(found.names):
            before, now = known.field(name).type, found.field(name).type
            try:
                _join(before, now)
            except _MISFITS:
                values = table.column(name).to_pylist()
                row = _first_misfit(values, functools.partial(_join_values, before))
                message = f"{place(row)}: column `{name}` is {now}, before it was {before}"
                raise DataError(message, hint=HINT) from None
        raise


def _join_values(type_: Any, values: list[Any]) -> None:
    _join(type_, _array(values).type)


def _join(type_: Any, other: Any) -> None:
    """Raises one of the misfits where no type holds the values of both."""
    import pyarrow as pa

    schemas = [pa.schema([("x", one)]) for one in (type_, other)]
    pa.unify_schemas(schemas, promote_options="permissive")


def _first_misfit(values: list[Any], attempt: Callable[[list[Any]], Any]) -> int:
    """The first value with which an attempt on all values up to it fails; it does with all."""
    low, high = 0, len(values)  # the attempt is known to fail on the first `high` values
    while high - low > 1:
        middle = (low + high) // 2
        try:
            attempt(values[:middle])
            low = middle
        except _MISFITS:
            high = middle
    return high - 1


def _array(values: list[Any]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values)
    except UnicodeEncodeError:
        return pa.array([_encodable(value) for value in values])


def _encodable(value: Any) -> Any:
    """A value with the replacement character for lone surrogates, which UTF-8 does not have."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value
