"""JSON without its traps, and JSON Schema: no network, no backtracking patterns, no quadratic
uniqueness.

A schema is checked when it is compiled. References stay inside the schema; `pattern` runs on RE2;
`uniqueItems` compares canonical values.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from grpo_rewards.rules.text import compile_pattern


class SchemaError(ValueError):
    """A schema that cannot be used: what, and where in its text."""

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.message, self.offset = message, offset


class RepeatedKey(ValueError):
    """An object has a key twice, so that readers differ in what it says."""


def read_json(text: str) -> Any:
    """JSON whose objects have each key once, at any depth and however the key is spelled; no NaN.
    ValueError for all else, RecursionError where it is too deep.

    >>> read_json('{"a": [1, 2]}')
    {'a': [1, 2]}
    """
    return _DECODER.decode(text)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise RepeatedKey(f"each key once, not {twice[:40]!a} twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_each_once)


@functools.lru_cache(maxsize=64)
def compile_schema(body: str) -> Any:
    """A validator with `is_valid` and `iter_errors`; SchemaError where the text is no schema."""
    import jsonschema
    import referencing

    try:
        schema = json.loads(body)
        cls = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
        cls.check_schema(schema)
    except json.JSONDecodeError as error:
        raise SchemaError(f"the schema is not JSON: {error.msg}", error.pos) from None
    except (jsonschema.SchemaError, RecursionError) as error:
        raise SchemaError(f"not a JSON Schema: {getattr(error, 'message', error)}") from None
    _check(schema)
    extend: Any = jsonschema.validators.extend  # untyped
    safe = extend(
        cls,
        {"pattern": _pattern, "patternProperties": _pattern_properties, "uniqueItems": _unique},
    )
    return safe(schema, registry=referencing.Registry())


def refers(body: str) -> bool:
    """Whether a schema refers to itself, so that a deep text may take long."""
    return '"$ref"' in body or '"$dynamicRef"' in body or '"$recursiveRef"' in body


def properties(body: str) -> tuple[str, ...]:
    """The names of a schema's top-level properties that can be written as captures."""
    schema = json.loads(body)
    named = schema.get("properties", {}) if isinstance(schema, dict) else {}
    return tuple(name for name in named if name.isidentifier())


def satisfied(validator: Any, value: Any) -> float:
    """The share of a schema's top-level demands that a value meets, in [0, 1).

    Of an object: each property that is required or declared and there. Of all else: nothing.
    """
    schema = validator.schema
    if not isinstance(schema, dict) or not isinstance(value, dict):
        return 0.0
    declared = schema.get("properties", {})
    required = schema.get("required", [])
    wanted = {*required, *(name for name in declared if name in value)}
    if not wanted:
        return 0.0
    met = sum(
        name in value and validator.evolve(schema=declared.get(name, True)).is_valid(value[name])
        for name in wanted
    )
    return float(met) / (len(wanted) + 1)


def value_spans(text: str) -> dict[str, tuple[int, int]]:
    """Where the values of a JSON object stand, strings without their quotes; {} for all else.

    >>> value_spans('{"a": 12, "b": "xy"}')
    {'a': (6, 8), 'b': (16, 18)}
    """
    decoder = json.JSONDecoder()
    found: dict[str, tuple[int, int]] = {}
    pos = _blank(text, 0)
    if text[pos : pos + 1] != "{":
        return found
    pos = _blank(text, pos + 1)
    while text[pos : pos + 1] == '"':
        key, pos = decoder.raw_decode(text, pos)
        start = _blank(text, _blank(text, pos) + 1)
        _, end = decoder.raw_decode(text, start)
        quoted = text[start] == '"'
        found[key] = (start + quoted, end - quoted)
        pos = _blank(text, _blank(text, end) + 1)
    return found


def _blank(text: str, pos: int) -> int:
    while pos < len(text) and text[pos] in " \t\n\r":
        pos += 1
    return pos


def _check(schema: Any) -> None:
    """Refuse what would leave the schema or backtrack."""
    queue = [schema]
    while queue:
        node = queue.pop()
        if isinstance(node, list):
            queue += node
        if not isinstance(node, dict):
            continue
        queue += node.values()
        target = node.get("$ref", "#")
        if isinstance(target, str) and not target.startswith("#"):
            raise SchemaError(f"the schema refers to {target}; it may refer to itself only")
        patterns = [node["pattern"]] if isinstance(node.get("pattern"), str) else []
        inner = node.get("patternProperties")
        for pattern in [*patterns, *(inner if isinstance(inner, dict) else ())]:
            try:
                compile_pattern(pattern)
            except ValueError as error:
                raise SchemaError(str(error)) from None


def _found(pattern: str, text: str) -> bool:
    try:
        return compile_pattern(pattern).search(text) is not None
    except (UnicodeError, ValueError):  # a lone surrogate is no character of any pattern
        return False


def _pattern(_validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(value, str) and not _found(pattern, value):
        yield ValidationError("a text does not match its pattern")


def _pattern_properties(validator: Any, patterns: Any, value: Any, _schema: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for pattern, inner in patterns.items():
            for key, part in value.items():
                if _found(pattern, key):
                    yield from validator.descend(part, inner, path=key, schema_path=pattern)


def _unique(_validator: Any, wanted: bool, value: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if wanted and isinstance(value, list) and len(set(map(_canonical, value))) < len(value):
        yield ValidationError("an item stands twice")


def _canonical(value: Any) -> Any:
    """Equal for values that JSON Schema calls equal: 1 and 1.0, but not 1 and true."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return type(value).__name__, value
    if isinstance(value, list):
        return "list", tuple(map(_canonical, value))
    if isinstance(value, dict):
        return "dict", frozenset((key, _canonical(part)) for key, part in value.items())
    return "number", value
